// Package network plays the wires between the members of a lab, and between
// them and their clients, in user space: no privileges, no kernel modules,
// stock etcd, and TLS goes through as it is.
//
// Who talks to whom is known for every connection. Each host has a SOCKS
// listener of its own, and the host's etcd is told by its environment to reach
// everybody through it; since etcd's peer transports all honour the proxy
// settings, and only loopback addresses are exempt, a connection that comes to
// the listener of m1 and asks for the address of m2 is m1 talking to m2.
// Clients have a plain listener per host. Each connection is two flows, one
// per direction, and each flow obeys the rules of its ordered pair of ends.
//
// A flow copies what it reads at once while no rule is set. When one is, what
// is read goes through a queue, and the rules say when the head of the queue
// goes on. The queue holds a bounded number of bytes, as a TCP window does.
//
// What the end of a connection means travels like data: a member that dies
// behind a cut link tells nobody.
//
// Known differences to a real network: a client's connection to a host is
// accepted even when the link is cut, and then stays silent; bytes that were
// on their way when a link was cut arrive when it is whole again, as after a
// retransmission, even when that is long after TCP would have given up.
package network

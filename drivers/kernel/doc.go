// Package kernel plays the wires of a lab's host with the host's own kernel, as
// an operator would: packets are dropped and connections reset by nft, or by
// iptables where there is no nft, and made late, lost or slow by tc. Package
// network does the same in user space, and does it where the kernel cannot.
//
// All rules of a host are one table of nft (two chains of iptables) that
// carries the lab's name, and at most one root qdisc per device, whose handle
// is made from it. Each change writes the table anew from the whole set of
// rules, in one transaction. Without rules there is no table and no qdisc.
//
// A rule matches TCP between two addresses of the lab at ports of the lab, one
// direction of it, and nothing else: not ssh, not the agent, not another lab.
// Clients are whoever is not another host of the lab, the host itself included:
// through a tunnel they come from there. What leaves a host is stopped there,
// and once more where it arrives, so that a cut holds while one end is gone.
// The rules know of no established connections: they bite on open ones (FF7).
//
// What differs from a proxy: a cut direction takes TCP's acknowledgements of the
// other one with it, so that what goes the other way arrives until the sender's
// window is full, and no further. After a cut an open connection goes on with
// the next retransmission, which may be as late as the cut was long. A rule that
// refuses connections refuses both directions of them.
//
// Counters are bytes on the wire, headers and retransmissions included.
package kernel

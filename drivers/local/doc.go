// Package local is the driver that needs nothing: a lab is a directory, its
// hosts are directories in it, and its members are real etcd processes of this
// machine, run by the user who asked for them. No container, no root, no
// network beyond loopback.
//
//	ROOT/labs/ID/           a lab: lab.json, the ledger, pki/, supervisor.log
//	ROOT/labs/ID/hosts/m1/  a host: bin/, etcd.yaml, data/, pki/, etcd.log
//
// Each lab has one supervisor, the same executable called with
// [SuperviseWord]. It is the parent of the members, never restarts one, plays
// the network between them (package network), serves their names where the lab
// has any (package names), runs the tracer, and ends all of it when it ends
// itself; and it ends when the process that made the lab ends, unless the lab
// was made to stay. Driver, Proc, Links, DNS and Tracer are calls to it over a
// unix socket, so any process of the same user can use a lab.
//
// Every process of a lab carries the lab's directory in its environment
// ([LabelDir]). That label, not a list of pids, is what Down goes by.
package local

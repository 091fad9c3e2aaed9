// Package vault keeps states of a lab, and goes back to them.
//
// A [State] is one consistent epoch of all hosts together: the data of the
// cluster, each host's configuration, its unit where it has one, its
// certificates, who voted and under which ids, versions and hashes. A snapshot
// alone brings data back; a state brings back who had it, and how.
//
// [Save] makes one and keeps it in a [Store] on this machine. Of a cluster that
// serves the data is a snapshot, proved as package snapshot does it. Of one
// that does not, the directories of stopped members are archived as they are,
// what the best survivor knows is salvaged, and what is missing is written down:
// a state is wanted most when the cluster is broken. Private keys are kept only
// where somebody is named who can read them; otherwise a state knows their
// checksums.
//
// [Restore] goes back, as an operation (see package operation): to the same
// hosts or after some have left and others joined, by difference. Parts of two
// states never mix: every part carries the epoch it is of, and [Store.Sound]
// compares that, and what is inside of the parts, before anything is touched.
// Going back moves revisions backwards, so it is a restore to a new cluster
// with a new token above all old revisions; the state that is replaced is
// itself saved first, see [Ahead].
//
// [Export] and [Import] carry a state elsewhere, as one archive that is taken
// whole or not at all. [Diff] says what two states, or one and the lab as it
// stands, have not in common; [Prune] lets old ones go.
package vault

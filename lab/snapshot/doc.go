// Package snapshot takes snapshots that one can trust, keeps them, and says of
// any whether it can be trusted still.
//
// A snapshot is trusted for what was seen of it, never for what a tool said
// when it was made: [Save] looks at the cluster before, reads the file itself
// afterwards, and boots a throwaway member from it to compare keys and hash
// with the source. What it saw it writes into a [Sidecar], and keeps
// both in a [Store] on this machine. [Verify] looks again, at any time, and
// refuses with the reason; [Diff] says what two of them, or one and the running
// cluster, have not in common; [Prune] lets old ones go, never the last good
// one.
//
// Taking a snapshot changes nothing in the cluster, so it is no operation of
// package operation, which could be resumed: one that was killed is not there,
// under any name, and what it left on a host goes with the lab.
package snapshot

// Package lab is the heart of etcdrill: its words and its engine.
//
// A [Drill] is a file that provisions a cluster, puts load on it, breaks it,
// brings it back and says what must be true at the end. [Run] is the one
// straight function that performs a drill:
//
//	refuse or bring up → steady state → load → step by step → heal → judge → take down
//
// Everything else here is a word that Run speaks:
//
//   - a [Host] runs a command and moves a file; a [Driver] makes hosts and a
//     [Cluster] on them; a [Proc] is a member's process, whatever supervises it;
//   - a verb is a struct whose exported fields are its arguments: an [Action]
//     does, a [Fault] breaks and heals, a [Check] holds or does not;
//   - the [Journal] records what happens while it happens, the [Ledger] what
//     must be undone before it is done, an [Op] what one client saw;
//   - a [Report] is computed from journal and history and from nothing else, so
//     it can be computed again.
//
// Three rules run through the package. "No" and "could not tell" are different
// answers: only a [*Failure] fails a drill, every other error makes it an
// error, and neither is green. No fault without its cure: the cure is booked in
// the ledger before the fault is tried. Roles such as "leader" are resolved at
// the moment of injection, with the drill's seed, and recorded.
//
// This package imports nothing else of this module, so that drivers, verbs,
// load, judge and renderers can all be built on it without knowing each other.
// What the engine needs from them it gets as a [Kit].
package lab

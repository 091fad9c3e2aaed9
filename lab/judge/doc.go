// Package judge turns what was recorded into findings.
//
// [Judge] reads a run's journal and history and computes its report. It is a
// pure function of those two files: the same files give the same report, on
// any machine, as often as one likes. There is no timeout that decides, only
// budgets counted in steps of work.
//
// Each judge is a function of a [Record], the history sorted for judging:
//
//	Outages       times in which no client got an answer
//	Lost          acknowledged writes the store does not contain in the end
//	Revisions     revisions that go back, or are given out twice
//	Watch         what watchers missed, got twice or in the wrong order
//	Linearizable  whether there is an order that explains what clients saw
//	WholeStore    the same for all keys together, for small histories
//
// All of them keep three rules. What nobody looked at is an error, never a
// pass: without a final read nobody knows what is lost. What could not be
// decided is unknown, never a pass. And a finding is only what cannot be
// otherwise: an operation without an answer may have happened, at any time
// after it was called, and never counts against the store.
package judge

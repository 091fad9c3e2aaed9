// Package fault holds what `break:` can do, one file per fault.
//
// # Adding a fault
//
// The smallest one is [Stop]: a struct whose fields are its arguments, and the
// five methods of [lab.Fault].
//
//	type Stop struct {
//		Member lab.Target `need:"yes" doc:"whose process is asked to end"`
//	}
//
//	func (*Stop) Doc() string       { return "ask a member's process to end …" }
//	func (*Stop) Needs() []lab.Cap  { return []lab.Cap{lab.CapSignal} }
//	func (f *Stop) Inject(ctx, e) … // SIGTERM
//	func (f *Stop) Prove(ctx, e) …  // not running and its port refuses: bites
//	func (f *Stop) Heal(ctx, e) …   // start
//
// Add it to the one table of words in package lab/verbs and it is in every
// drill, in the schema, in the help and on the command line. Then add what the
// fault needs:
//
//   - Valid() error, when some arguments do not go together. It is asked when a
//     drill is read, before anything starts, and sees roles, not names.
//   - Shell() (do, undo []string), the commands an operator would type, for
//     `etcdrill plan`.
//   - Something put aside, such as a directory: name it after Env.Owner
//     with aside, so that another process finds it and Down removes it.
//   - Something opened in this process, such as clients: keep it in
//     Env.Held under Env.Owner, and let it die with the process.
//
// # The rules
//
// THE CURE IS BOOKED FIRST. The engine writes a fault into the ledger, with
// its fields as they are then, before it calls Inject. What Inject learns and
// stores in the struct is therefore lost when Heal is called. Everything Heal
// and Prove need is a field, follows from Env (Owner and Before are the same
// again), or is read from the world.
//
// HEAL MUST BE ABLE TO RUN on a fault that was never injected, that was half
// injected, that is healed already, and in a process that has never seen it.
// So Heal asks the world what is broken and mends that. It never asks whether
// Inject had succeeded.
//
// HEAL WHO CAN BE HEALED. A host that cannot be reached does not keep the others
// broken: every and mend go on after an error.
//
// WHEN NOBODY HEALS, because etcdrill or the way to a host is gone, the host's
// dead man's switch stops the member, paused or not, clears the rules of its
// links and detaches its tracer; a stranger at a port and an overload die with
// the connection they came over. What outlives all that is armed before it is
// done (arm) and disarmed when it is healed: a filled disk, a stepped clock.
// What lies in the lab's directory goes with the lab. A host that is switched
// off cannot help itself: `etcdrill gc` switches it on, by the ledger.
//
// PROVE CHANGES NOTHING, and it can say three things. Bites: the effect was
// seen. Gone: the effect is away and what it hit works. Unclear: neither,
// look again. An error means that we could not look. Where a fault shows only
// under traffic, Prove may make some that leaves nothing: a transaction that
// can never hold, which passes through consensus and into every WAL (nudge), or
// a lease that is taken back at once, which goes into every database (touch).
//
// A FAULT THAT DOES NOTHING IS NEVER PROVED. Look for the effect, not for the
// deed: not "the rule is set" but "the probe gets no answer and the rule held
// it back". Every fault here has a test in which Inject is made to do nothing,
// and one in which what Inject uses does nothing; Bites there is a bug.
//
// A healed member need not be a healthy one: Gone means that the fault is
// away, and the checks of a drill say how the cluster is. A member that was
// removed from the cluster in the meantime is not brought back at all.
package fault

package lab

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// Verbs is the table of all words a drill can use. There is one, lab/verbs;
// nothing registers itself. Each function returns a new verb to be filled.
type Verbs struct {
	Do    map[string]func() Action
	Break map[string]func() Fault
	Check map[string]func() Check
}

// A verb is a pointer to a struct. Its exported fields are its arguments: a
// field's name in lower case, or its yaml tag, is the word in the drill, the
// doc tag its documentation, the default tag its default, and `need:"yes"`
// makes it required. Field types: string, bool, int, int64, float64,
// time.Duration, Bytes, Target, []string and maps of strings. The engine
// resolves every Target before it calls a verb.
//
// A verb may have a method Valid() error that refuses impossible combinations
// of arguments when the drill is read, and Needs() []Cap.

// Action changes the cluster the way an operator would.
type Action interface {
	// Doc is one sentence for lists and help, in lower case, no full stop.
	Doc() string
	// Do runs the tools an operator would run. It returns *ExitError when the
	// tool refused, *Failure when the effect is not what the tool claimed,
	// and any other error when we cannot tell.
	Do(ctx context.Context, e *Env) error
}

// Fault breaks something and can bring it back.
type Fault interface {
	Doc() string
	// Needs lists the abilities it must have; without them the drill is
	// skipped before anything starts.
	Needs() []Cap
	// Inject breaks. It may have had half an effect when it fails.
	Inject(ctx context.Context, e *Env) error
	// Prove looks whether the fault bites. It is asked after Inject until it
	// says Bites and after Heal until it says Gone, and changes nothing.
	Prove(ctx context.Context, e *Env) (Proof, error)
	// Heal takes the fault away, also a half injected one, also one that is
	// healed already, also when called by a process that has never seen it
	// injected: the struct's exported fields and Env are all it may use.
	Heal(ctx context.Context, e *Env) error
}

// Proof is what a look at a fault found.
type Proof struct {
	State    ProofState
	Evidence string // what was seen, for journal and report
}

// ProofState is the outcome of Fault.Prove.
type ProofState int

const (
	Unclear ProofState = iota // neither: still taking hold, or still going away
	Bites                     // the fault has its effect
	Gone                      // the effect is away and what it hit works again
)

func (s ProofState) String() string { return [...]string{"unclear", "bites", "gone"}[s] }

// Check asks whether something holds.
type Check interface {
	Doc() string
	// Holds returns nil when it holds, *Failure when it does not, and any
	// other error when we could not tell. It looks once; the engine repeats it
	// for `within:` (until it holds) and `for:` (as long as it must hold).
	Holds(ctx context.Context, e *Env) error
}

// Failure is an explicit finding that something is not as promised. Only a
// Failure makes a drill fail.
type Failure struct {
	What string // what was looked at
	Want string
	Got  string
}

// Error reads "what: want …, got …".
func (f *Failure) Error() string {
	s := f.What
	if f.Want != "" {
		s += ": want " + f.Want
	}
	if f.Got != "" {
		if f.Want != "" {
			s += ","
		}
		s += " got " + f.Got
	}
	return s
}

// Failf is a Failure with nothing but a sentence.
func Failf(format string, args ...any) error { return &Failure{What: fmt.Sprintf(format, args...)} }

// Env is what a verb may use.
type Env struct {
	*Cluster
	// Kit looks and loads; see Kit.
	Kit Kit
	// Rand is the drill's seeded source. Only the engine's goroutine uses it.
	Rand *rand.Rand
	// Journal takes what the verb does and sees.
	Journal *Journal
	// Owner names the step or fault in rules, files and injections. It is the
	// same again when a fault is healed by another process.
	Owner string
	// Before is how the cluster looked right before the last break.
	Before []Status
	// Watch is the load that runs beside the drill, nil without one.
	Load Load
	// Held keeps what verbs opened for later steps, by name, such as a watch.
	// The engine closes it all at the end of the run. It is nil when verbs are
	// called by hand on a lab that stays.
	Held *Held
	// For is the step's `for:` and Within its `within:`, 0 when absent.
	For, Within time.Duration
}

// Run runs a command on a host and journals it: argv, time, exit, output.
func (e *Env) Run(ctx context.Context, h Host, c Cmd) (Output, error) {
	start := time.Now()
	out, err := h.Run(ctx, c)
	ev := Event{Kind: EventCommand, Host: h.Name(), Argv: c.Argv, Env: c.Env, Seconds: time.Since(start).Seconds(),
		Output: clip(string(out.Stdout)+string(out.Stderr), 4096)}
	var exit *ExitError
	switch {
	case asExit(err, &exit):
		ev.Exit = exit.Code
	case err != nil:
		ev.Exit, ev.Error = -1, err.Error()
	}
	e.Journal.Add(ev)
	return out, err
}

// Note journals a sentence about what the verb did to host (may be empty).
func (e *Env) Note(host, format string, args ...any) {
	e.Journal.Add(Event{Kind: EventNote, Host: host, Text: fmt.Sprintf(format, args...)})
}

// Look asks every seat for its status; see Kit.Look.
func (e *Env) Look(ctx context.Context) []Status { return e.Kit.Look(ctx, e.Cluster) }

// Until calls try until it returns nil, waiting a few milliseconds between
// two tries, and returns its last error when ctx ends. The error says what was
// waited for.
func Until(ctx context.Context, what string, try func(ctx context.Context) error) error {
	wait := 5 * time.Millisecond
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-time.After(wait):
		}
		wait = min(wait*3/2, 50*time.Millisecond)
	}
}

// Kit is what the engine needs from the packages built on this one. Package
// lab/verbs fills it.
type Kit struct {
	Verbs Verbs
	// Look asks every seat of a cluster for its status, in the order of Seats,
	// within about a second. It never fails: what it could not see it says.
	Look func(ctx context.Context, c *Cluster) []Status
	// Load starts clients against a cluster. They write every operation to j
	// and events to journal, until Stop.
	Load func(ctx context.Context, c *Cluster, spec LoadSpec, history *History, journal *Journal, seed uint64) (Load, error)
	// Watch observes members until ctx ends and journals every change of a
	// member's status as EventStatus.
	Watch func(ctx context.Context, c *Cluster, journal *Journal)
	// Judge computes the report of a saved run from its directory alone.
	Judge func(ctx context.Context, dir string) (*Report, error)
	// Machine is a machine outside of the lab, by its name in the inventory, for
	// what is kept there. The caller closes nothing.
	Machine func(name string) (Host, error)
	// Final performs the end check of a run: see End.
	Final func(ctx context.Context, c *Cluster, end End) error
}

// Load is a workload that runs.
type Load interface {
	// Rate returns the acknowledged operations per second of the last second.
	Rate() float64
	// Acked returns how many writes were acknowledged so far.
	Acked() int
	// Stop ends the clients. It then writes one marker, reads the whole store
	// linearizably and lets the watchers catch up, as long as ctx allows, and
	// records all that in the history: what it could not do is missing there,
	// and the judge will say so.
	Stop(ctx context.Context) error
}

// Held is a set of named things to close in the end. Safe for concurrent use.
type Held struct {
	mu sync.Mutex
	m  map[string]io.Closer
}

// Put keeps c under name; what had that name before is closed.
func (h *Held) Put(name string, c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil {
		h.m = map[string]io.Closer{}
	}
	if old := h.m[name]; old != nil {
		old.Close()
	}
	h.m[name] = c
}

// Get finds what was kept under name, nil when nothing was.
func (h *Held) Get(name string) io.Closer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m[name]
}

// Close closes everything.
func (h *Held) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.m {
		c.Close()
	}
	h.m = nil
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Options say how Run performs a drill.
type Options struct {
	Out  string // directory that gets a directory per run; made when absent
	ID   string // name of the run, see NewID
	Seed uint64
	Keep Keep
	Tell func(Event) // gets every event as it happens, one at a time; may be nil
	// Command and Environment are recorded.
	Command     []string
	Environment map[string]string
}

// Keep says whether a lab stays after its drill.
type Keep string

// When a lab stays.
const (
	KeepNever     Keep = "never"
	KeepOnFailure Keep = "on-failure" // when the verdict is anything but pass or skip
	KeepAlways    Keep = "always"
)

// NewID names a run after its drill, its start and its seed.
func NewID(drill string, start time.Time, seed uint64) string {
	return fmt.Sprintf("%s-%s-%04x", drill, start.UTC().Format("20060102-150405"), seed&0xffff)
}

// The deadlines of a run's phases.
const (
	deadlineUp     = 3 * time.Minute
	deadlineSteady = 30 * time.Second
	deadlineSettle = 2 * time.Minute  // all open faults healed
	deadlineQuiet  = 60 * time.Second // load ended and read back
	deadlineDown   = time.Minute
)

// Run performs a drill on a driver and leaves everything it saw in
// Out/ID: events.ndjson, history.jsonl and, of every host, logs and
// configuration. The report is computed from those files.
//
// When ctx ends the run is over: faults are healed and the lab is taken down
// all the same, and the report says that it was interrupted. The same when the
// record cannot be written: the report is of what there is of it, and an error.
// The error is for what kept Run from having a report at all.
func Run(ctx context.Context, d *Drill, drv Driver, kit Kit, o Options) (*Report, error) {
	dir := filepath.Join(o.Out, o.ID)
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	start := time.Now()
	events, err := os.OpenFile(filepath.Join(dir, "events.ndjson"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	journal := NewJournal(events, start, o.Tell)
	history, err := NewHistory(filepath.Join(dir, "history.jsonl"), start)
	if err != nil {
		return nil, errors.Join(err, journal.Close())
	}
	r := &run{drill: d, driver: drv, kit: kit, opts: o, dir: dir, journal: journal, history: history}
	journal.Add(Event{Kind: EventRun, Run: &RunInfo{ID: o.ID, Drill: d, Driver: drv.Name(), Seed: o.Seed, Command: o.Command, Environment: o.Environment}})
	verdict, err := r.perform(ctx)
	end := Event{Kind: EventEnd, Verdict: verdict}
	if err != nil {
		end.Error = err.Error()
	}
	switch {
	case ctx.Err() != nil:
		end.Text = EndInterrupted
	case r.halted:
		end.Text = EndHalted
	}
	journal.Add(end)
	broken := errors.Join(history.Close(), journal.Close())
	link := filepath.Join(o.Out, "latest")
	os.Remove(link)
	os.Symlink(o.ID, link) // a convenience; some filesystems have none
	report, err := kit.Judge(context.WithoutCancel(ctx), dir)
	if broken == nil {
		return report, err
	}
	broken = fmt.Errorf("the record of the run is not whole: %w", broken)
	if err != nil {
		return nil, errors.Join(broken, err)
	}
	// What it has may look good, and what is missing is not known.
	report.Verdict, report.Reason = Error, broken.Error()
	return report, nil
}

type run struct {
	drill   *Drill
	driver  Driver
	kit     Kit
	opts    Options
	dir     string
	journal *Journal
	history *History
	halted  bool // by the lab, see Cluster.Halts
}

func (r *run) phase(name string) { r.journal.Add(Event{Kind: EventPhase, Text: name}) }

// perform is the drill. It returns the verdict of what was done; what the
// judges find in the history comes on top.
func (r *run) perform(ctx context.Context) (verdict Verdict, err error) {
	if err := r.drill.Refused(); err != nil {
		return Error, err
	}
	if lacks := r.driver.Caps(ctx).Lacks(r.drill.AllNeeds()); len(lacks) > 0 {
		return Skip, fmt.Errorf("not possible with driver %s here: %s", r.driver.Name(), strings.Join(lacks, "; "))
	}
	lasting := context.WithoutCancel(ctx) // for all that must happen however the run ends

	if n := r.drill.Cluster.Slower; n > 0 {
		r.journal.Add(Event{Kind: EventNote, Text: fmt.Sprintf("for slow machines: all times of the drill are %d times as long, and its load is as much thinner", n)})
	}
	r.phase("up")
	start := time.Now()
	var c *Cluster
	err = within(ctx, r.drill.Cluster.Long(deadlineUp), func(ctx context.Context) (err error) {
		c, err = r.driver.Up(ctx, r.opts.ID, r.drill.Cluster)
		return err
	})
	if err != nil {
		r.down(lasting, Error)
		return Error, fmt.Errorf("could not bring the lab up: %w", err)
	}
	asked := ctx
	ctx, halt := context.WithCancelCause(asked)
	var cleanup error
	defer func() {
		if r.halted = ctx.Err() != nil && asked.Err() == nil; r.halted {
			// What that did to the steps is no finding.
			verdict, err = Error, errors.Join(fmt.Errorf("the drill was stopped: %w", context.Cause(ctx)), cleanup)
		}
		halt(nil)
		r.collect(lasting, c)
		r.down(lasting, verdict)
	}()
	r.journal.Add(Event{Kind: EventUp, Text: c.LinksBy, Statuses: r.kit.Look(ctx, c), Seconds: time.Since(start).Seconds()})
	for _, line := range c.Found {
		r.journal.Add(Event{Kind: EventNote, Text: line})
	}
	if c.Spec.Adopt != nil { // only now it is known what can be done there
		if lacks := c.Caps.Lacks(r.drill.AllNeeds()); len(lacks) > 0 {
			return Skip, fmt.Errorf("not possible with %s: %s", c.Spec.Adopt.Name, strings.Join(lacks, "; "))
		}
	}
	for _, wait := range c.Halts {
		go func() {
			if why := wait(ctx); why != nil {
				halt(why)
			}
		}()
	}
	watching, stopWatching := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); r.kit.Watch(watching, c, r.journal) }()
	defer func() { stopWatching(); <-watched }()

	hands := &Hands{Cluster: c, Kit: r.kit, Journal: r.journal, Ledger: OpenLedger(c.Dir), Seed: r.opts.Seed, Held: &Held{}}
	defer hands.Held.Close()

	r.phase("steady")
	if err := r.state(ctx, c, "start", End{Voters: c.Spec.Members}, r.drill.Cluster.Long(deadlineSteady)); err != nil {
		// A lab that is not well before anything was done to it says nothing
		// about etcd's behaviour under faults.
		return Error, fmt.Errorf("the cluster is not steady before the drill: %w", err)
	}
	if r.drill.Load != nil {
		if hands.Load, err = r.kit.Load(ctx, c, *r.drill.Load, r.history, r.journal, r.opts.Seed); err != nil {
			return Error, fmt.Errorf("could not load the cluster: %w", err)
		}
		if err := pause(ctx, r.drill.Load.Warmup); err != nil {
			err = errors.Join(err, r.quiet(lasting, hands))
			return Error, err
		}
	}

	r.phase("steps")
	for i := range r.drill.Steps {
		s := &r.drill.Steps[i]
		if err = hands.Step(ctx, s, fmt.Sprint(i+1)); err != nil {
			err = fmt.Errorf("%s:%d: %s %s: %w", filepath.Base(r.drill.File), s.Line, s.Word, s.Verb, err)
			verdict = VerdictOf(err)
			break
		}
	}

	r.phase("heal")
	healed := within(lasting, r.drill.Cluster.Long(deadlineSettle), hands.HealAll)
	r.phase("end")
	quiet := r.quiet(lasting, hands)
	hands.Held.Close()
	if err == nil && healed == nil && r.drill.End.Skip == "" && ctx.Err() == nil {
		end := r.drill.End
		if end.Voters == 0 {
			end.Voters = c.Spec.Members
		}
		err = r.state(ctx, c, "end", end, r.drill.Cluster.Long(deadlineSteady))
	}
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	cleanup = errors.Join(healed, quiet)
	return Worst(VerdictOf(err), VerdictOf(hide(cleanup))), errors.Join(err, cleanup)
}

// hide keeps a Failure inside clean-up from being a finding of the drill.
func hide(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.Error())
}

// quiet ends the load.
func (r *run) quiet(ctx context.Context, h *Hands) error {
	if h.Load == nil {
		return nil
	}
	if err := within(ctx, r.drill.Cluster.Long(deadlineQuiet), h.Load.Stop); err != nil {
		return fmt.Errorf("the load could not read everything back: %w", err)
	}
	return nil
}

// state checks how the cluster stands, as a step of its own in the record.
func (r *run) state(ctx context.Context, c *Cluster, index string, want End, limit time.Duration) error {
	j := r.journal.At(index, "")
	j.Add(Event{Kind: EventStep, Word: "check", Verb: "state",
		Text: fmt.Sprintf("voters: %d, learners: %d, one leader, no alarm, equal hashes", want.Voters, want.Learners)})
	start := time.Now()
	err := within(ctx, limit, func(ctx context.Context) error { return r.kit.Final(ctx, c, want) })
	e := Event{Kind: EventDone, Verdict: VerdictOf(err), Seconds: time.Since(start).Seconds()}
	if err != nil {
		e.Error = err.Error()
	}
	j.Add(e)
	return err
}

// collect saves logs and configurations before the lab goes.
func (r *run) collect(ctx context.Context, c *Cluster) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for _, m := range c.Seats {
		dir := filepath.Join(r.dir, "hosts", m.Name)
		files := map[string]func() ([]byte, error){
			"etcd.log":  func() ([]byte, error) { return m.Proc.Log(ctx, 4<<20) },
			"etcd.yaml": func() ([]byte, error) { return m.Host.Get(ctx, m.Config) },
		}
		for name, get := range files {
			data, err := get()
			if err != nil || len(data) == 0 {
				continue // a host without a member has neither
			}
			if err = os.MkdirAll(dir, 0o755); err == nil {
				err = os.WriteFile(filepath.Join(dir, name), data, 0o644)
			}
			if err != nil {
				r.journal.Add(Event{Kind: EventNote, Host: m.Name, Text: "could not save " + name + ": " + err.Error()})
			}
		}
	}
}

// down takes the lab away, or leaves it when it is to stay. What is left all
// the same is journaled: it does not change what the drill has shown.
func (r *run) down(ctx context.Context, verdict Verdict) {
	r.phase("down")
	ctx, cancel := context.WithTimeout(ctx, r.drill.Cluster.Long(deadlineDown))
	defer cancel()
	if r.opts.Keep == KeepAlways || r.opts.Keep == KeepOnFailure && verdict != Pass {
		err := r.driver.Keep(ctx, r.opts.ID)
		if err == nil {
			r.journal.Add(Event{Kind: EventNote, Text: fmt.Sprintf("the lab stays: etcdrill status %s; etcdrill down %s", r.opts.ID, r.opts.ID)})
			return
		}
		r.journal.Add(Event{Kind: EventNote, Text: "the lab cannot stay: " + err.Error()})
	}
	left := func(format string, args ...any) {
		r.journal.Add(Event{Kind: EventLeft, Text: fmt.Sprintf(format, args...)})
	}
	if err := r.driver.Down(ctx, r.opts.ID); err != nil {
		left("%s", err)
	}
	labs, err := r.driver.Left(ctx)
	if err != nil {
		left("could not look for what is left: %s", err)
	}
	for _, l := range labs {
		if l.ID == r.opts.ID {
			left("lab %s", l.ID)
			for _, w := range l.What {
				left("%s", w)
			}
		}
	}
}

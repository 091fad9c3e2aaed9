package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// The world is a driver and a cluster in memory, for testing the engine: what
// is broken in it is a set of words, and everything that happens is told.
type world struct {
	t      *testing.T
	dir    string
	mu     sync.Mutex
	broken map[string]bool
	told   []string
	caps   lab.Caps
	upErr  error
	kept   bool
	labs   map[string]bool
	stays  []string // what Down does not get rid of

	forbids func(member, fault string) bool
	halts   []func(context.Context) error
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: t.TempDir(), broken: map[string]bool{}, labs: map[string]bool{}, caps: lab.Caps{lab.CapSignal: ""}}
}

func (w *world) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprintf(format, args...))
}

func (w *world) set(name string, broken bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[name] = broken
}

func (w *world) is(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken[name]
}

func (w *world) Name() string                  { return "world" }
func (w *world) Caps(context.Context) lab.Caps { return w.caps }
func (w *world) Up(_ context.Context, id string, s lab.Spec) (*lab.Cluster, error) {
	if w.upErr != nil {
		return nil, w.upErr
	}
	w.tell("up %d", s.Members)
	w.labs[id] = true
	c := &lab.Cluster{ID: id, Driver: "world", Spec: s, Dir: w.dir, Forbids: w.forbids, Halts: w.halts}
	for i := range s.Members + s.Spares {
		h := host{name: fmt.Sprintf("m%d", i+1), dir: w.dir}
		c.Hosts = append(c.Hosts, h)
		c.Seats = append(c.Seats, &lab.Member{Name: h.name, Host: h, Proc: proc{}, Config: "etcd.yaml"})
	}
	return c, nil
}
func (w *world) Open(context.Context, string) (*lab.Cluster, error) { return nil, fs.ErrNotExist }
func (w *world) Keep(context.Context, string) error                 { w.kept = true; return nil }
func (w *world) Down(_ context.Context, id string) error {
	w.tell("down")
	if len(w.stays) == 0 {
		delete(w.labs, id)
	}
	return nil
}
func (w *world) Left(context.Context) ([]lab.Left, error) {
	var out []lab.Left
	for id := range w.labs {
		out = append(out, lab.Left{ID: id, What: w.stays})
	}
	return out, nil
}

type host struct{ name, dir string }

func (h host) Name() string { return h.name }
func (h host) Addr() string { return h.name }
func (h host) Dir() string  { return h.dir }
func (h host) Run(_ context.Context, c lab.Cmd) (lab.Output, error) {
	if c.Argv[0] == "false" {
		return lab.Output{Stderr: []byte("no luck\n")}, &lab.ExitError{Host: h.name, Argv: c.Argv, Code: 1, Output: lab.Output{Stderr: []byte("no luck\n")}}
	}
	return lab.Output{}, nil
}
func (h host) Put(context.Context, string, fs.FileMode, []byte) error { return nil }
func (h host) Get(context.Context, string) ([]byte, error)            { return []byte("name: " + h.name), nil }
func (h host) Dial(context.Context, string) (net.Conn, error)         { return nil, errors.New("no network") }

type proc struct{}

func (proc) Start(context.Context) error                  { return nil }
func (proc) Stop(context.Context) error                   { return nil }
func (proc) Signal(context.Context, string) error         { return nil }
func (proc) State(context.Context) (lab.ProcState, error) { return lab.ProcState{}, nil }
func (proc) Log(context.Context, int) ([]byte, error)     { return []byte("a line\n"), nil }

// The verbs of the world.

type act struct {
	w    *world
	Say  string `need:"yes" doc:"what to say"`
	Fail string `doc:"how it goes wrong: exit, find, error, panic"`
}

func (*act) Doc() string { return "says something" }
func (a *act) Do(ctx context.Context, e *lab.Env) error {
	a.w.tell("say %s", a.Say)
	switch a.Fail {
	case "exit":
		_, err := e.Run(ctx, e.Seats[0].Host, lab.Cmd{Argv: []string{"false"}})
		return err
	case "find":
		return lab.Failf("found it wanting")
	case "error":
		return errors.New("could not look")
	case "panic":
		panic("at the disco")
	}
	return nil
}

type fault struct {
	w      *world
	Member lab.Target `default:"leader" doc:"whom"`
	Fail   string     `doc:"inject, dull (does nothing), or sticky (cannot be healed)"`
}

// renamed is a fault of names.
type renamed struct{ fault }

func (*renamed) Needs() []lab.Cap { return []lab.Cap{lab.CapDNS} }

func (*fault) Doc() string      { return "breaks" }
func (*fault) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }
func (f *fault) Inject(_ context.Context, e *lab.Env) error {
	open, err := lab.OpenLedger(f.w.dir).Open()
	if err != nil || len(open) == 0 || open[0].Owner != e.Owner {
		f.w.t.Errorf("inject before the cure was booked: ledger %v, %v", open, err)
	}
	f.w.tell("inject %s", f.Member.Names[0])
	if f.Fail != "dull" {
		f.w.set(f.Member.Names[0], true)
	}
	if f.Fail == "inject" {
		return errors.New("half way")
	}
	return nil
}
func (f *fault) Prove(context.Context, *lab.Env) (lab.Proof, error) {
	if f.w.is(f.Member.Names[0]) {
		return lab.Proof{State: lab.Bites, Evidence: "broken"}, nil
	}
	return lab.Proof{State: lab.Gone, Evidence: "whole"}, nil
}
func (f *fault) Heal(context.Context, *lab.Env) error {
	f.w.tell("heal %s", f.Member.Names[0])
	if f.Fail != "sticky" {
		f.w.set(f.Member.Names[0], false)
	}
	return nil
}

type check struct {
	w     *world
	After int `doc:"holds from this look on"`
	Until int `doc:"holds up to this look"`
	Fail  string
	looks *int
}

func (*check) Doc() string { return "looks" }
func (c *check) Holds(ctx context.Context, _ *lab.Env) error {
	*c.looks++
	switch {
	case c.Fail == "error":
		return errors.New("could not look")
	case c.Fail == "hang":
		<-ctx.Done()
		return ctx.Err()
	case *c.looks < c.After || c.Until > 0 && *c.looks > c.Until:
		return &lab.Failure{What: "looks", Want: "enough", Got: fmt.Sprint(*c.looks)}
	}
	return nil
}

func (w *world) verbs() lab.Verbs {
	looks := new(int)
	return lab.Verbs{
		Do:    map[string]func() lab.Action{"say": func() lab.Action { return &act{w: w} }},
		Break: map[string]func() lab.Fault{"hurt": func() lab.Fault { return &fault{w: w} }, "rename": func() lab.Fault { return &renamed{fault{w: w}} }},
		Check: map[string]func() lab.Check{"look": func() lab.Check { return &check{w: w, looks: looks} }},
	}
}

func (w *world) kit() lab.Kit {
	return lab.Kit{
		Verbs: w.verbs(),
		Look: func(_ context.Context, c *lab.Cluster) []lab.Status {
			var out []lab.Status
			for i, m := range c.Seats {
				s := lab.Status{Name: m.Name, Up: !w.is(m.Name), Role: "follower", Term: 2}
				if i == 0 {
					s.Role = "leader"
				}
				out = append(out, s)
			}
			return out
		},
		Watch: func(ctx context.Context, _ *lab.Cluster, _ *lab.Journal) { <-ctx.Done() },
		Final: func(_ context.Context, _ *lab.Cluster, end lab.End) error {
			w.tell("final %d", end.Voters)
			return nil
		},
		Judge: func(_ context.Context, dir string) (*lab.Report, error) {
			events, err := lab.ReadEvents(filepath.Join(dir, "events.ndjson"))
			if err != nil {
				return nil, err
			}
			last := events[len(events)-1]
			r := &lab.Report{Verdict: last.Verdict, Reason: last.Error, Interrupted: last.Text == "interrupted"}
			for _, e := range events {
				if e.Kind == lab.EventLeft {
					r.Left = append(r.Left, e.Text)
				}
			}
			return r, nil
		},
	}
}

func (w *world) drill(steps string) *lab.Drill {
	w.t.Helper()
	d, err := lab.Parse("drill.yaml", []byte("apiVersion: etcdrill/v1\nkind: Drill\nname: d\ntitle: D\nsteps:\n"+steps), w.verbs(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) run(ctx context.Context, steps string, keep lab.Keep) *lab.Report {
	w.t.Helper()
	out := filepath.Join(w.t.TempDir(), "runs")
	r, err := lab.Run(ctx, w.drill(steps), w, w.kit(), lab.Options{Out: out, ID: "r1", Keep: keep})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(out, "latest", "history.jsonl")); err != nil {
		w.t.Errorf("latest does not lead to the run: %v", err)
	}
	return r
}

var _ = time.Second

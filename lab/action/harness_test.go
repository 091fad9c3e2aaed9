package action_test

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/drivers/local/tools"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func TestMain(m *testing.M) {
	if handled, code := tools.Main(os.Args); handled {
		os.Exit(code)
	}
	// Built with -race this binary, and so every etcdctl, would sleep a second
	// before it ends.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// bench is a lab under test.
type bench struct {
	limit time.Duration // deadline of actions, 30 s when 0
	*lab.Cluster
	eyes *etcd.Observer
	held *lab.Held
	rand *rand.Rand
	mu   sync.Mutex
	seen []lab.Event
}

// up makes a lab for one test, with short ticks.
func up(t *testing.T, members, spares int, change func(*lab.Spec)) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	var spec lab.Spec
	lab.Defaults(&spec)
	spec.Members, spec.Spares = members, spares
	spec.Heartbeat, spec.Election = 50*time.Millisecond, 500*time.Millisecond
	if change != nil {
		change(&spec)
	}
	d := local.New(local.Options{Root: t.TempDir(), Drill: t.Name(), Binary: os.Getenv("ETCDRILL_BINARY")})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := d.Up(ctx, "t", spec)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Cluster: c, eyes: &etcd.Observer{}, held: &lab.Held{}, rand: rand.New(rand.NewPCG(1, 2))}
	t.Cleanup(func() {
		b.held.Close()
		b.eyes.Close()
		if err := d.Down(context.Background(), "t"); err != nil {
			t.Error(err)
		}
	})
	return b
}

// do performs an action the way the engine does: arguments from words,
// defaults, validation, targets resolved by a look.
func (b *bench) do(t *testing.T, v lab.Action, args ...string) error {
	t.Helper()
	fill(t, v, args...)
	if c, ok := v.(interface{ Valid() error }); ok {
		if err := c.Valid(); err != nil {
			t.Fatalf("%T: %s", v, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(b.limit, 30*time.Second))
	defer cancel()
	for _, target := range lab.Targets(v) {
		err := lab.Until(ctx, "somebody to be "+target.Role, func(ctx context.Context) (err error) {
			target.Names, err = lab.Pick(target.Role, b.eyes.Look(ctx, b.Cluster), b.rand)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	journal := lab.NewJournal(discard{}, time.Now(), func(e lab.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.seen = append(b.seen, e)
	})
	e := &lab.Env{Cluster: b.Cluster, Kit: lab.Kit{Look: b.eyes.Look}, Rand: b.rand, Journal: journal, Owner: t.Name(), Held: b.held}
	return v.Do(ctx, e)
}

// fill sets arguments written as key=value.
func fill(t *testing.T, v any, args ...string) {
	t.Helper()
	lab.Defaults(v)
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		found := false
		for _, f := range lab.Fields(v) {
			if f.Key == key {
				found = true
				if err := f.Set(value); err != nil {
					t.Fatalf("%T: %s: %s", v, a, err)
				}
			}
		}
		if !found {
			t.Fatalf("%T has no argument %q", v, key)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// must fails the test unless an action went well.
func (b *bench) must(t *testing.T, v lab.Action, args ...string) {
	t.Helper()
	if err := b.do(t, v, args...); err != nil {
		t.Fatalf("%T %v: %s", v, args, err)
	}
}

// refused wants the tool to refuse, or us, and to say text.
func (b *bench) refused(t *testing.T, text string, v lab.Action, args ...string) {
	t.Helper()
	err := b.do(t, v, args...)
	var exit *lab.ExitError
	var fail *lab.Failure
	switch {
	case err == nil:
		t.Fatalf("%T %v: done, want a refusal that says %q", v, args, text)
	case errors.As(err, &exit) && strings.Contains(exit.Text(), text), errors.As(err, &fail) && strings.Contains(fail.Error(), text):
	default:
		t.Fatalf("%T %v: want a refusal that says %q, got %T: %s", v, args, text, err, err)
	}
}

// notes returns what was journaled since the last call.
func (b *bench) notes() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, e := range b.seen {
		if e.Kind == lab.EventNote {
			out = append(out, e.Text)
		}
	}
	b.seen = nil
	return strings.Join(out, "\n")
}

// commands returns the commands journaled since the last call of notes.
func (b *bench) commands() []lab.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []lab.Event
	for _, e := range b.seen {
		if e.Kind == lab.EventCommand {
			out = append(out, e)
		}
	}
	return out
}

// status is what a look says of one seat.
func (b *bench) status(t *testing.T, name string) lab.Status {
	t.Helper()
	for _, s := range b.eyes.Look(t.Context(), b.Cluster) {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no seat %s", name)
	return lab.Status{}
}

// leader waits for a leader and names it.
func (b *bench) leader(t *testing.T) string {
	t.Helper()
	name := ""
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := lab.Until(ctx, "a leader", func(ctx context.Context) error {
		names, err := lab.Pick("leader", b.eyes.Look(ctx, b.Cluster), b.rand)
		if err == nil {
			name = names[0]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// other is a seat that is none of the given, in order of name.
func (b *bench) other(not ...string) *lab.Member {
	for _, m := range b.Seats[:b.Spec.Members] {
		if !strings.Contains(strings.Join(not, ","), m.Name) {
			return m
		}
	}
	return nil
}

// Package labtest is what tests of verbs and operations begin with: a lab on
// this machine that ends with its test, and what the engine hands to a verb.
package labtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/drivers/local/tools"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Main is all that a TestMain does: the binary of the tests is etcd and its
// tools as well, where ETCDRILL_BINARY names no other one.
func Main(m *testing.M) {
	if handled, code := tools.Main(os.Args); handled {
		os.Exit(code)
	}
	// Built with -race this binary, and so every etcdctl, would sleep a second
	// before it ends.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// Lab is a lab under test, as the engine hands it to a verb.
type Lab struct {
	*lab.Env
	seen events
}

type events struct {
	mu  sync.Mutex
	all []lab.Event
}

// Up makes a lab with short ticks. change may want other things of it; nil: it
// does not. The lab is taken down with the test.
func Up(t testing.TB, members, spares int, change func(*lab.Spec)) *Lab {
	t.Helper()
	var spec lab.Spec
	lab.Defaults(&spec)
	spec.Members, spec.Spares = members, spares
	spec.Heartbeat, spec.Election = 50*time.Millisecond, 500*time.Millisecond
	if change != nil {
		change(&spec)
	}
	d := local.New(local.Options{Root: t.TempDir(), Drill: t.Name(), Binary: os.Getenv("ETCDRILL_BINARY")})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := d.Up(ctx, "t", spec)
	if err != nil {
		t.Fatal(err)
	}
	eyes, held := &etcd.Observer{}, &lab.Held{}
	t.Cleanup(func() {
		held.Close()
		eyes.Close()
		if err := d.Down(context.Background(), "t"); err != nil {
			t.Error(err)
		}
	})
	l := &Lab{}
	l.Env = &lab.Env{
		Cluster: c, Kit: lab.Kit{Look: eyes.Look}, Rand: rand.New(rand.NewPCG(1, 2)), Owner: strings.ReplaceAll(t.Name(), "/", "-"), Held: held,
		Journal: lab.NewJournal(nowhere{}, time.Now(), func(e lab.Event) {
			l.seen.mu.Lock()
			defer l.seen.mu.Unlock()
			l.seen.all = append(l.seen.all, e)
		}),
	}
	return l
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// Notes are the notes in the journal since the last call, a line each.
func (l *Lab) Notes() string {
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	var out []string
	for _, e := range l.seen.all {
		if e.Kind == lab.EventNote {
			out = append(out, e.Text)
		}
	}
	l.seen.all = nil
	return strings.Join(out, "\n")
}

// Commands are those in the journal since the last call of Notes.
func (l *Lab) Commands() []lab.Event {
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	var out []lab.Event
	for _, e := range l.seen.all {
		if e.Kind == lab.EventCommand {
			out = append(out, e)
		}
	}
	return out
}

// Fill makes a verb of words as the engine does: defaults, arguments written as
// key=value, validation.
func Fill(v any, args ...string) error {
	lab.Defaults(v)
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		found := false
		for _, f := range lab.Fields(v) {
			if f.Key == key {
				found = true
				if err := f.Set(value); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("%T has no argument %q", v, key)
		}
	}
	if c, ok := v.(interface{ Valid() error }); ok {
		return c.Valid()
	}
	return nil
}

// Aim resolves a verb's targets by looks, until there is somebody.
func (l *Lab) Aim(ctx context.Context, v any) error {
	for _, target := range lab.Targets(v) {
		err := lab.Until(ctx, "somebody to be "+target.Role, func(ctx context.Context) (err error) {
			target.Names, err = lab.Pick(target.Role, l.Look(ctx), l.Rand)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Client calls do with a client of the members that run.
func (l *Lab) Client(t testing.TB, do func(ctx context.Context, cli *clientv3.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cli, err := etcd.Client(l.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	if err := do(ctx, cli); err != nil {
		t.Fatal(err)
	}
}

// Put writes keys and their values, in turn.
func (l *Lab) Put(t testing.TB, kv ...string) {
	t.Helper()
	l.Client(t, func(ctx context.Context, cli *clientv3.Client) error {
		for i := 0; i < len(kv); i += 2 {
			if _, err := cli.Put(ctx, kv[i], kv[i+1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Has wants a key to have a value, "" for none.
func (l *Lab) Has(t testing.TB, key, want string) {
	t.Helper()
	l.Client(t, func(ctx context.Context, cli *clientv3.Client) error {
		r, err := cli.Get(ctx, key)
		if err != nil {
			return err
		}
		got := ""
		if len(r.Kvs) > 0 {
			got = string(r.Kvs[0].Value)
		}
		if got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
		return nil
	})
}

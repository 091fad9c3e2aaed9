package action_test

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// bench is a lab under test.
type bench struct {
	*labtest.Lab
	limit time.Duration // deadline of actions, 30 s when 0
}

// up makes a lab for one test, with short ticks.
func up(t *testing.T, members, spares int, change func(*lab.Spec)) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	return &bench{Lab: labtest.Up(t, members, spares, change)}
}

// do performs an action the way the engine does.
func (b *bench) do(t *testing.T, v lab.Action, args ...string) error {
	t.Helper()
	if err := labtest.Fill(v, args...); err != nil {
		t.Fatalf("%T: %s", v, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(b.limit, 30*time.Second))
	defer cancel()
	if err := b.Aim(ctx, v); err != nil {
		t.Fatal(err)
	}
	return v.Do(ctx, b.Env)
}

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

// status is what a look says of one seat.
func (b *bench) status(t *testing.T, name string) lab.Status {
	t.Helper()
	for _, s := range b.Look(t.Context()) {
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
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := lab.Until(ctx, "a leader", func(ctx context.Context) error {
		names, err := lab.Pick("leader", b.Look(ctx), b.Rand)
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

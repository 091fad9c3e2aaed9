package operation_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// world is what an operation of these tests works on.
type world struct {
	have  []string // what is done, in order
	calls []string
}

// build makes things one after the other, each of which needs the one before.
type build struct {
	Things []string
	Point  string // the thing behind which nothing is undone
	Token  string // decided

	w       *world
	fail    string // Do of this thing fails once it has had its effect
	refuse  error
	noquota bool
}

func (b *build) Decide(context.Context, *lab.Env) error {
	b.Token = "drawn"
	return b.refuse
}

func (b *build) Steps(*lab.Env) ([]operation.Step, error) {
	if b.Token == "" {
		return nil, errors.New("nothing was decided")
	}
	var out []operation.Step
	for i, t := range b.Things {
		s := operation.Step{
			Name: "make " + t,
			Before: func(context.Context, *lab.Env) error {
				want := b.Things[:i]
				if !slices.Equal(b.w.have, want) && !slices.Equal(b.w.have, b.Things[:i+1]) {
					return &lab.Failure{What: "things", Want: fmt.Sprint(want), Got: fmt.Sprint(b.w.have)}
				}
				return nil
			},
			Do: func(context.Context, *lab.Env) error {
				b.w.calls = append(b.w.calls, "+"+t)
				if !slices.Contains(b.w.have, t) {
					b.w.have = append(b.w.have, t)
				}
				if b.fail == t {
					return &lab.Failure{What: t, Want: "luck", Got: "none"}
				}
				return nil
			},
			Gate: func(context.Context, *lab.Env) error {
				if !slices.Contains(b.w.have, t) {
					return lab.Failf("%s is not there", t)
				}
				return nil
			},
			Undo: func(context.Context, *lab.Env) error {
				b.w.calls = append(b.w.calls, "-"+t)
				b.w.have = slices.DeleteFunc(b.w.have, func(h string) bool { return h == t })
				return nil
			},
		}
		if t == b.Point {
			s.Point = "it was sold"
		}
		if b.noquota {
			s.Forecast = &operation.Forecast{Voters: 3, Up: 1}
		}
		out = append(out, s)
	}
	return out, nil
}

func env(t *testing.T) *lab.Env {
	return &lab.Env{Cluster: &lab.Cluster{ID: "test", Dir: t.TempDir()}}
}

func kinds(w *world) operation.Kinds {
	return func(name string) (operation.Operation, bool) { return &build{w: w}, name == "build" }
}

var abc = []string{"a", "b", "c"}

// TestKilledAnywhere cuts an operation after every record, and the way back as
// well, and goes on or back from there.
func TestKilledAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		for _, way := range []string{"resume", "rollback"} {
			w, e := &world{}, env(t)
			err := operation.Run(t.Context(), e, "build", &build{Things: abc, w: w}, operation.Options{Written: operation.Cut(n)})
			if !operation.WasCut(err) {
				t.Fatalf("cut after %d records: %v", n, err)
			}
			if s, err := operation.Unfinished(e.Cluster); err != nil {
				t.Fatal(err)
			} else if s == nil { // the last record was the end
				if n != 8 || !slices.Equal(w.have, abc) {
					t.Errorf("over after %d records with %v", n, w.have)
				}
				return
			}
			next, want := operation.Resume, abc
			if way == "rollback" {
				next, want = operation.Rollback, nil
			}
			for cut := n + 2; cut < 60; cut += 3 { // the second one is killed as well, again and again
				if err = next(t.Context(), e, kinds(w), operation.Options{Written: operation.Cut(cut)}); !operation.WasCut(err) {
					break
				}
				if s, _ := operation.Unfinished(e.Cluster); s == nil {
					err = nil
					break
				}
				next = operation.Resume // whichever way it was on
			}
			if err != nil || !slices.Equal(w.have, want) {
				t.Errorf("%s after %d records: %v, have %v", way, n, err, w.have)
			}
			if s, err := operation.Unfinished(e.Cluster); err != nil || s != nil {
				t.Errorf("%s after %d records left %v, %v", way, n, s, err)
			}
		}
	}
}

func TestFailedStepGoesBack(t *testing.T) {
	w, e := &world{}, env(t)
	err := operation.Run(t.Context(), e, "build", &build{Things: abc, w: w, fail: "c"}, operation.Options{})
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "everything was undone") || len(w.have) != 0 {
		t.Errorf("%v, have %v", err, w.have)
	}
	if want := []string{"+a", "+b", "+c", "-c", "-b", "-a"}; !slices.Equal(w.calls, want) {
		t.Errorf("calls %v, want %v", w.calls, want)
	}
	all, err := operation.List(e.Cluster)
	if err != nil || len(all) != 1 || !all[0].Over || !all[0].Back || all[0].Reason == "" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestNoWayBackBehindThePoint(t *testing.T) {
	w, e := &world{}, env(t)
	op := &build{Things: abc, Point: "b", w: w, fail: "c"}
	err := operation.Run(t.Context(), e, "build", op, operation.Options{})
	if err == nil || !strings.Contains(err.Error(), "it was sold") || !slices.Equal(w.have, abc) {
		t.Errorf("%v, have %v", err, w.have)
	}
	if err := operation.Rollback(t.Context(), e, kinds(w), operation.Options{}); err == nil || !slices.Equal(w.have, abc) {
		t.Errorf("went back behind the point: %v, have %v", err, w.have)
	}
	if err := operation.Resume(t.Context(), e, kinds(w), operation.Options{}); err != nil {
		t.Error(err)
	}
}

func TestInterruptedIsUnfinished(t *testing.T) {
	w, e := &world{}, env(t)
	ctx, cancel := context.WithCancel(t.Context())
	op := &build{Things: abc, w: w, fail: "b"}
	op.Things = abc
	err := operation.Run(ctx, e, "build", op, operation.Options{Written: func(n int) error {
		if n == 4 { // b is begun
			cancel()
		}
		return nil
	}})
	if err == nil || !slices.Equal(w.have, []string{"a", "b"}) {
		t.Fatalf("%v, have %v", err, w.have)
	}
	err = operation.Run(t.Context(), e, "build", op, operation.Options{})
	if err == nil || !strings.Contains(err.Error(), "no unfinished operation") {
		t.Errorf("another one was begun: %v", err)
	}
	w.have = []string{"x"}
	err = operation.Resume(t.Context(), e, kinds(w), operation.Options{})
	if err == nil || !strings.Contains(err.Error(), "got [x]") || !slices.Equal(w.have, []string{"x"}) {
		t.Errorf("resumed in another world: %v, have %v", err, w.have)
	}
}

func TestNothingTouched(t *testing.T) {
	w, e := &world{}, env(t)
	for _, op := range []*build{
		{Things: abc, w: w, refuse: lab.Failf("no")},
		{Things: abc, w: w, noquota: true},
		{Things: []string{"a", "a"}, w: w},
	} {
		if err := operation.Run(t.Context(), e, "build", op, operation.Options{}); err == nil {
			t.Errorf("%+v was done", op)
		}
	}
	if all, err := operation.List(e.Cluster); len(w.calls) > 0 || len(all) > 0 || err != nil {
		t.Errorf("calls %v, operations %v, %v", w.calls, all, err)
	}
	if err := operation.Run(t.Context(), e, "build", &build{Things: abc, w: w, noquota: true}, operation.Options{BreakQuorum: true}); err != nil {
		t.Errorf("with leave to break the quorum: %v", err)
	}
}

func TestOneAtATime(t *testing.T) {
	w, e := &world{}, env(t)
	second := errors.New("not tried")
	op := &build{Things: abc, w: w}
	err := operation.Run(t.Context(), e, "build", op, operation.Options{Written: func(n int) error {
		if n == 3 {
			second = operation.Resume(t.Context(), e, kinds(w), operation.Options{})
		}
		return nil
	}})
	if err != nil || second == nil || !strings.Contains(second.Error(), "another process") {
		t.Errorf("first %v, second %v", err, second)
	}
}

func TestTornRecord(t *testing.T) {
	w, e := &world{}, env(t)
	operation.Run(t.Context(), e, "build", &build{Things: abc, w: w}, operation.Options{Written: operation.Cut(4)})
	files, _ := filepath.Glob(filepath.Join(e.Dir, "operations", "*.ndjson"))
	if len(files) != 1 {
		t.Fatal(files)
	}
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"mark":"do`)
	f.Close()
	if err := operation.Resume(t.Context(), e, kinds(w), operation.Options{}); err != nil || !slices.Equal(w.have, abc) {
		t.Errorf("%v, have %v", err, w.have)
	}
}

func TestPlan(t *testing.T) {
	var b strings.Builder
	operation.Plan(&b, "grow", []operation.Step{
		{Name: "add m2", Shell: []string{"etcdctl member add m2 --learner"}, ShellUndo: []string{"etcdctl member remove ID"}, Forecast: &operation.Forecast{Voters: 1, Up: 1, Learners: 1}},
		{Name: "promote m2", Forecast: &operation.Forecast{Voters: 2, Up: 2}, Point: "it votes"},
	})
	want := `grow: 2 steps
  1  add m2
       $ etcdctl member add m2 --learner
       undo $ etcdctl member remove ID
       then 1 of 1 voters up, quorum 1, none may fail, 1 learner
  2  promote m2
       then 2 of 2 voters up, quorum 2, none may fail
       from here only forward: it votes
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

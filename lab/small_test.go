package lab_test

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

var t0 = time.Now()

type nopCloser struct{}

func (nopCloser) Write(p []byte) (int, error) { return len(p), nil }
func (nopCloser) Close() error                { return nil }

func TestPick(t *testing.T) {
	look := []lab.Status{
		{Name: "m1", Up: true, Role: "follower", Term: 3},
		{Name: "m2", Up: true, Role: "leader", Term: 2}, // deposed, does not know it
		{Name: "m3", Up: true, Role: "leader", Term: 3},
		{Name: "m4", Up: false},
		{Name: "m5", Up: true, Role: "follower", Term: 3},
		{Name: "m6", Up: true, Role: "learner", Term: 3},
		{Name: "m7", Absent: true},
	}
	for role, want := range map[string]string{
		"leader": "m3", "followers": "m1 m2 m4 m5", "learner": "m6", "voters": "m1 m2 m3 m4 m5", "all": "m1 m2 m3 m4 m5 m6",
		"spare": "m7", "down": "m4", "up": "m1 m2 m3 m5 m6", "m2, m4": "m2 m4", "m1": "m1",
	} {
		got, err := lab.Pick(role, look, rand.New(rand.NewPCG(1, 2)))
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, %v; want %s", role, got, err, want)
		}
	}
	for role, n := range map[string]int{"minority": 2, "majority": 3, "follower": 1, "random": 1} {
		for seed := range uint64(10) {
			got, err := lab.Pick(role, look, rand.New(rand.NewPCG(seed, 0)))
			if err != nil || len(got) != n {
				t.Errorf("%s: got %v, %v; want %d names", role, got, err, n)
			}
			if (role == "minority" || role == "majority") && !slices.Contains(got, "m3") {
				t.Errorf("%s without the leader: %v", role, got)
			}
			if role == "follower" && slices.Contains(got, "m4") {
				t.Errorf("follower: m4 is down, nobody knows whether it follows")
			}
		}
	}
	for _, role := range []string{"leader", "followers", "follower", "learner", "spare", "m9", "minority"} {
		if got, err := lab.Pick(role, []lab.Status{{Name: "m1", Up: true, Role: "none"}}, rand.New(rand.NewPCG(1, 2))); err == nil {
			t.Errorf("%s: picked %v where nobody is", role, got)
		}
	}
}

func TestQuorumIsMoreThanHalf(t *testing.T) {
	for n, want := range map[int][2]int{1: {1, 0}, 2: {2, 0}, 3: {2, 1}, 4: {3, 1}, 5: {3, 2}} {
		if lab.Quorum(n) != want[0] || lab.Tolerates(n) != want[1] {
			t.Errorf("%d members: quorum %d, may lose %d; want %v", n, lab.Quorum(n), lab.Tolerates(n), want)
		}
	}
}

func TestWorst(t *testing.T) {
	for _, c := range []struct {
		in   []lab.Verdict
		want lab.Verdict
	}{
		{[]lab.Verdict{lab.Pass, lab.Undecided, lab.Error, lab.Fail}, lab.Fail},
		{[]lab.Verdict{lab.Pass, lab.Undecided, lab.Error}, lab.Error},
		{[]lab.Verdict{lab.Pass, lab.Undecided}, lab.Undecided},
		{[]lab.Verdict{lab.Skip, lab.Pass}, lab.Pass},
		{[]lab.Verdict{lab.Skip}, lab.Skip},
	} {
		if got := lab.Worst(c.in...); got != c.want {
			t.Errorf("%v: got %q, want %q", c.in, got, c.want)
		}
	}
}

func TestLedgerOpensTheLastFirst(t *testing.T) {
	dir := t.TempDir()
	l := lab.OpenLedger(dir)
	for _, n := range []string{"a", "b", "c"} {
		if err := l.Book(lab.Debt{Name: n, Owner: n + "-1", Verb: "cut"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Pay("b-1"); err != nil {
		t.Fatal(err)
	}
	open, err := lab.OpenLedger(dir).Open() // as another process
	if err != nil || len(open) != 2 || open[0].Name != "c" || open[1].Name != "a" {
		t.Errorf("got %v, %v; want c, a", open, err)
	}
	if open, err := lab.OpenLedger(filepath.Join(dir, "nowhere")).Open(); err != nil || len(open) > 0 {
		t.Errorf("no ledger: got %v, %v; want nothing", open, err)
	}
}

func TestQuote(t *testing.T) {
	if got, want := lab.Quote([]string{"etcdctl", "put", "a b", "it's", "", "x=1"}), `etcdctl put 'a b' 'it'\''s' '' x=1`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExpectMet(t *testing.T) {
	for text, c := range map[string]struct {
		v   float64
		met bool
	}{
		"outage.first < 5s": {4.9, true}, "rto <= 1s": {1, true}, "lost == 0": {1, false}, "lost > 0": {1, true},
		"latency.p99 < 300ms": {0.3, false}, "acked >= 100": {100, true}, "unknown != 0": {0, false},
	} {
		e, err := lab.ParseExpect(text)
		if err != nil || e.Met(c.v) != c.met {
			t.Errorf("%s with %g: met %v, %v; want %v", text, c.v, e.Met(c.v), err, c.met)
		}
	}
	for _, text := range []string{"", "lots == 0", "lost", "lost = 0", "lost == few", "outage < 5s", "rto.first < 5s", "rto < 5", "linearizable == 1"} {
		if e, err := lab.ParseExpect(text); err == nil {
			t.Errorf("%q: accepted as %+v", text, e)
		}
	}
}

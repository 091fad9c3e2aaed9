package judge

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Histories of a linearizable store pass every judge, however many answers
// were lost and however many clients there were.
func TestGoodHistoriesPass(t *testing.T) {
	for seed := range uint64(40) {
		s := sim{seed: seed, ops: 1500, clients: 1 + int(seed%16), keys: 1 + int(seed*seed%20), watchers: 2, unknown: float64(seed%4) * 0.03, probes: seed%2 == 0}
		r := NewRecord(s.history())
		if l := Linearizable(context.Background(), r, 1_000_000); l.Answer != "yes" {
			t.Errorf("%v: linearizable %s: bad %v, over budget %v", s, l.Answer, l.Bad, l.Unknown)
		}
		if l := Lost(r); !l.Looked || len(l.Lost)+len(l.Resurrected) > 0 {
			t.Errorf("%v: lost %v, resurrected %v", s, l.Lost, l.Resurrected)
		}
		if o := Revisions(r); o.Count > 0 {
			t.Errorf("%v: revisions %v", s, o.Findings)
		}
		if w := Watch(r); w.Count > 0 || w.Watchers != 2 || len(w.Behind) > 0 {
			t.Errorf("%v: watch %v, behind %v", s, w.Findings, w.Behind)
		}
	}
}

// The guess by revisions proves nothing that the search denies, and the other
// way round; the same history without revisions, where only the search can
// tell, gets the same answer.
func TestGuessAndSearchAgree(t *testing.T) {
	answers := map[string]int{}
	for seed := range uint64(300) {
		s := sim{seed: seed, ops: 150, clients: 1 + int(seed%6), keys: 1 + int(seed%3), unknown: float64(seed%3) * 0.05}
		ops := s.history()
		if seed%4 > 0 {
			damage(rand.New(rand.NewPCG(seed, 2)), ops)
		}
		r := NewRecord(ops)
		with, without := linearizable(context.Background(), r, 1_000_000, true), linearizable(context.Background(), r, 1_000_000, false)
		if with.Answer != without.Answer || !slices.Equal(with.Bad, without.Bad) {
			t.Errorf("%v: %s %v with the guess, %s %v by search alone", s, with.Answer, with.Bad, without.Answer, without.Bad)
		}
		answers[with.Answer]++
	}
	if answers["yes"] < 75 || answers["no"] < 50 {
		t.Errorf("answers %v: want many of both", answers)
	}
}

// damage makes some reads stale, as a bad store would.
func damage(r *rand.Rand, ops []lab.Op) {
	type seen struct {
		value string
		mod   int64
	}
	past := map[string][]seen{}
	for i := range ops {
		op := &ops[i]
		switch {
		case wrote(op):
			past[op.Key] = append(past[op.Key], seen{op.Value, op.Revision})
		case op.Kind == lab.OpGet && r.IntN(20) == 0 && len(past[op.Key]) > 1:
			p := past[op.Key][len(past[op.Key])-1-r.IntN(2)]
			op.Value, op.Mod = p.value, p.mod
		}
	}
}

// Too much to decide is unknown, said by key, and ends when its budget does.
func TestTooLargeIsUnknown(t *testing.T) {
	// Everything at the same time, and one read that no order explains: the
	// search would have to try them all.
	var ops []lab.Op
	for i := range 40 {
		ops = append(ops, lab.Op{Client: i + 1, Kind: lab.OpPut, Key: "k", Value: "v" + strconv.Itoa(i), Call: int64(i), Return: 1000, Outcome: lab.OK})
	}
	ops = append(ops, contradiction("k")...)
	r := NewRecord(ops)
	l := Linearizable(context.Background(), r, 10_000)
	if l.Answer != "unknown" || !slices.Equal(l.Unknown, []string{"k"}) {
		t.Errorf("answer %s, unknown %v", l.Answer, l.Unknown)
	}
	c := &court{opts: Options{Steps: 10_000}, story: tell(nil), rec: r}
	c.hear(context.Background())
	text, v := c.measure(lab.Expect{Term: "linearizable"})
	if v != lab.Undecided || !strings.Contains(text, "budget of 10000 steps: k") {
		t.Errorf("%s: %s", v, text)
	}
	// Without a budget to speak of, the context ends it.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if l := Linearizable(ctx, r, 1<<40); l.Answer != "unknown" {
		t.Errorf("answer %s", l.Answer)
	}
}

// contradiction reads v1, v2 and v1 again after all writes are over, and one
// read all the while, so that nothing is alone.
func contradiction(key string) []lab.Op {
	get := func(c int, v string, call, ret int64) lab.Op {
		return lab.Op{Client: c, Kind: lab.OpGet, Key: key, Value: v, Call: call, Return: ret, Outcome: lab.OK}
	}
	return []lab.Op{get(50, "v1", 1001, 1002), get(50, "v2", 1003, 1004), get(50, "v1", 1005, 1006), get(51, "v1", 900, 2000)}
}

// A budget used up by one key must not hide the violation of another.
func TestNoBeatsUnknown(t *testing.T) {
	ops := []lab.Op{
		{Client: 1, Kind: lab.OpPut, Key: "a", Value: "a1", Call: 1, Return: 2, Outcome: lab.OK},
		{Client: 1, Kind: lab.OpGet, Key: "a", Call: 3, Return: 4, Outcome: lab.OK},
	}
	for i := range 30 {
		ops = append(ops, lab.Op{Client: i + 1, Kind: lab.OpPut, Key: "b", Value: "v" + strconv.Itoa(i), Call: 1, Return: 1000, Outcome: lab.OK})
	}
	ops = append(ops, contradiction("b")...)
	l := Linearizable(context.Background(), NewRecord(ops), 1000)
	if l.Answer != "no" || !slices.Equal(l.Bad, []string{"a"}) || !slices.Equal(l.Unknown, []string{"b"}) {
		t.Errorf("%+v", l)
	}
}

// What an operation without an answer may and may not excuse.
func TestUnknownOperations(t *testing.T) {
	put := func(c int, v string, call, ret int64, o lab.Outcome) lab.Op {
		return lab.Op{Client: c, Kind: lab.OpPut, Key: "k", Value: v, Call: call, Return: ret, Outcome: o}
	}
	get := func(v string, call, ret int64) lab.Op {
		return lab.Op{Client: 9, Kind: lab.OpGet, Key: "k", Value: v, Call: call, Return: ret, Outcome: lab.OK}
	}
	del := func(call, ret int64, o lab.Outcome) lab.Op {
		return lab.Op{Client: 8, Kind: lab.OpDelete, Key: "k", Call: call, Return: ret, Outcome: o}
	}
	swap := func(prev, v string, call, ret int64, o lab.Outcome, did bool) lab.Op {
		return lab.Op{Client: 7, Kind: lab.OpTxn, Key: "k", Prev: prev, Value: v, Call: call, Return: ret, Outcome: o, Swapped: did}
	}
	for name, c := range map[string]struct {
		want string
		ops  []lab.Op
	}{
		"never seen":                  {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), put(2, "b", 3, 4, lab.Unknown), get("a", 5, 6), get("a", 7, 8)}},
		"seen late":                   {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), put(2, "b", 3, 4, lab.Unknown), get("a", 5, 6), get("b", 100, 101)}},
		"seen, then gone again":       {"no", []lab.Op{put(1, "a", 1, 2, lab.OK), put(2, "b", 3, 4, lab.Unknown), get("b", 5, 6), get("a", 7, 8)}},
		"seen before it was called":   {"no", []lab.Op{get("b", 1, 2), put(2, "b", 3, 4, lab.Unknown)}},
		"refused, yet seen":           {"no", []lab.Op{put(2, "b", 1, 2, lab.Refused), get("b", 3, 4)}},
		"deletion happened":           {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), del(3, 4, lab.Unknown), get("a", 5, 6), get("", 7, 8)}},
		"one deletion, twice absent":  {"no", []lab.Op{put(1, "a", 1, 2, lab.OK), del(3, 4, lab.Unknown), get("", 5, 6), put(1, "c", 7, 8, lab.OK), get("", 9, 10)}},
		"two deletions, twice absent": {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), del(3, 4, lab.Unknown), del(3, 4, lab.Unknown), get("", 5, 6), put(1, "c", 7, 8, lab.OK), get("", 9, 10)}},
		"deletion later than that":    {"no", []lab.Op{put(1, "a", 1, 2, lab.OK), get("", 3, 4), del(5, 6, lab.Unknown)}},
		"swap happened":               {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), swap("a", "b", 3, 4, lab.Unknown, false), get("b", 5, 6)}},
		"swap without its value":      {"no", []lab.Op{put(1, "a", 1, 2, lab.OK), swap("x", "b", 3, 4, lab.Unknown, false), get("b", 5, 6)}},
		"chain of unknown swaps":      {"yes", []lab.Op{put(1, "a", 1, 2, lab.Unknown), swap("a", "b", 3, 4, lab.Unknown, false), swap("b", "c", 5, 6, lab.Unknown, false), get("c", 7, 8)}},
		"failed swap saw it":          {"yes", []lab.Op{put(1, "a", 1, 2, lab.OK), put(2, "b", 3, 4, lab.Unknown), swap("a", "b", 5, 6, lab.OK, false), get("b", 7, 8)}},
		"failed swap, no reason":      {"no", []lab.Op{put(1, "a", 1, 2, lab.OK), swap("a", "", 3, 4, lab.OK, false)}},
		"swap from absent":            {"yes", []lab.Op{swap("", "a", 1, 2, lab.OK, true), get("a", 3, 4)}},
		"two swaps from absent":       {"no", []lab.Op{swap("", "a", 1, 2, lab.OK, true), swap("", "b", 3, 4, lab.OK, true)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRecord(c.ops)
			for _, guess := range []bool{true, false} {
				if l := linearizable(context.Background(), r, 100_000, guess); l.Answer != c.want {
					t.Errorf("answer %s, want %s (guess %v)", l.Answer, c.want, guess)
				}
			}
			if got := WholeStore(context.Background(), r, 100_000); got != c.want {
				t.Errorf("as a whole store %s, want %s", got, c.want)
			}
		})
	}
}

// A picture shows the contradiction and not the haystack.
func TestPictureIsSmall(t *testing.T) {
	seen := 0
	for seed := range uint64(60) {
		ops := sim{seed: seed, ops: 2000, clients: 8, keys: 4, unknown: 0.02}.history()
		damage(rand.New(rand.NewPCG(seed, 3)), ops)
		r := NewRecord(ops)
		l := Linearizable(context.Background(), r, 1_000_000)
		if l.Answer != "no" {
			continue
		}
		seen++
		p := l.Picture
		if len(p.Ops) > 2*maxPicture || p.Bad >= len(p.Ops) || p.Cut < 0 {
			t.Errorf("seed %d: %d operations, bad %d, cut %d", seed, len(p.Ops), p.Bad, p.Cut)
		}
		// The picture by itself is not linearizable either.
		if again := Linearizable(context.Background(), NewRecord(p.Ops), 1_000_000); again.Answer != "no" {
			t.Errorf("seed %d: the picture proves nothing: %s\n%+v", seed, p.Text, p.Ops)
		}
	}
	if seen < 30 {
		t.Errorf("only %d pictures", seen)
	}
}

// Across keys: each key by itself has an order, both together have none.
func TestWholeStoreSeesMore(t *testing.T) {
	op := func(c int, kind, key, value string, call, ret, rev int64) lab.Op {
		return lab.Op{Client: c, Kind: kind, Key: key, Value: value, Call: call, Return: ret, Outcome: lab.OK, Revision: rev}
	}
	ops := []lab.Op{
		op(1, lab.OpPut, "x", "x1", 1, 100, 2),
		op(2, lab.OpPut, "y", "y1", 1, 100, 3),
		op(3, lab.OpGet, "y", "y1", 10, 20, 3),
		op(3, lab.OpGet, "x", "", 30, 40, 3), // at revision 3, yet without x of revision 2
	}
	r := NewRecord(ops)
	if l := Linearizable(context.Background(), r, 1000); l.Answer != "yes" {
		t.Errorf("key by key %s", l.Answer)
	}
	if got := WholeStore(context.Background(), r, 1000); got != "no" {
		t.Errorf("as a whole %s", got)
	}
	if got := WholeStore(context.Background(), NewRecord(sim{seed: 1, ops: 500, clients: 5, keys: 8, unknown: 0.01}.history()), 100_000); got != "yes" {
		t.Errorf("a good history %s", got)
	}
	c := &court{opts: Options{Steps: 1000, WholeStore: 10}, story: tell(nil), rec: r}
	c.hear(context.Background())
	if text, v := c.measure(lab.Expect{Term: "linearizable"}); v != lab.Fail {
		t.Errorf("promise %s: %s", v, text)
	}
}

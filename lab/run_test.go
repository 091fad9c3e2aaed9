package lab_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/etcdrill/etcdrill/lab"
)

// Each row is a drill on the world of fake_test.go: what happened, in order,
// and how it ended.
func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		steps   string
		verdict lab.Verdict
		reason  string // part of it
		told    []string
	}{
		"passes": {
			steps:   "- do: say\n  say: hello\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "say hello", "final 3", "down"},
		},
		"heals by name": {
			steps:   "- break: hurt\n  as: a\n- do: say\n  say: x\n- heal: a\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "inject m1", "say x", "heal m1", "final 3", "down"},
		},
		"heals the last first, by itself": {
			steps:   "- break: hurt\n  member: m1\n- break: hurt\n  member: m2\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "inject m1", "inject m2", "heal m2", "heal m1", "final 3", "down"},
		},
		"heals after for": {
			steps:   "- break: hurt\n  for: 1s\n- do: say\n  say: x\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "inject m1", "heal m1", "say x", "final 3", "down"},
		},
		"a finding fails and stops, and what is broken is healed": {
			steps:   "- break: hurt\n- do: say\n  say: x\n  fail: find\n- do: say\n  say: never\n",
			verdict: lab.Fail, reason: "drill.yaml:7: do say: found it wanting",
			told: []string{"up 3", "final 3", "inject m1", "say x", "heal m1", "down"},
		},
		"could not look is an error, not a fail": {
			steps:   "- check: look\n  fail: error\n  within: 1s\n",
			verdict: lab.Error, reason: "could not look",
			told: []string{"up 3", "final 3", "down"},
		},
		"a tool that refuses is an error": {
			steps:   "- do: say\n  say: x\n  fail: exit\n",
			verdict: lab.Error, reason: "no luck",
			told: []string{"up 3", "final 3", "say x", "down"},
		},
		"a refusal that was asked for": {
			steps:   "- do: say\n  say: x\n  fail: exit\n  refused: no luck\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "say x", "final 3", "down"},
		},
		"another refusal than the one asked for": {
			steps:   "- do: say\n  say: x\n  fail: exit\n  refused: bad luck\n",
			verdict: lab.Fail, reason: `want a refusal that says "bad luck"`,
			told: []string{"up 3", "final 3", "say x", "down"},
		},
		"no refusal where one was asked for": {
			steps:   "- do: say\n  say: x\n  refused: no luck\n",
			verdict: lab.Fail, reason: "it was done",
			told: []string{"up 3", "final 3", "say x", "down"},
		},
		"could not tell is no refusal": {
			steps:   "- do: say\n  say: x\n  fail: error\n  refused: could not look\n",
			verdict: lab.Error, reason: "could not look",
			told: []string{"up 3", "final 3", "say x", "down"},
		},
		"a fault without bite is an error": {
			steps:   "- break: hurt\n  fail: dull\n",
			verdict: lab.Error, reason: "waiting for the fault to be bites",
			told: []string{"up 3", "final 3", "inject m1", "heal m1", "down"},
		},
		"a fault that fails half way is healed": {
			steps:   "- break: hurt\n  fail: inject\n",
			verdict: lab.Error, reason: "half way",
			told: []string{"up 3", "final 3", "inject m1", "heal m1", "down"},
		},
		"a fault that cannot be healed is an error, tried again at the end": {
			steps:   "- break: hurt\n  fail: sticky\n",
			verdict: lab.Error, reason: "heal hurt (hurt)",
			told: []string{"up 3", "final 3", "inject m1", "heal m1", "down"},
		},
		"a panic is an error, and heals": {
			steps:   "- break: hurt\n- do: say\n  say: x\n  fail: panic\n",
			verdict: lab.Error, reason: "panic in do say: at the disco",
			told: []string{"up 3", "final 3", "inject m1", "say x", "heal m1", "down"},
		},
		"repeat": {
			steps:   "- repeat: 2\n  steps:\n  - break: hurt\n    as: k\n  - heal: k\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "inject m1", "heal m1", "inject m1", "heal m1", "final 3", "down"},
		},
		"a finding inside parallel and repeat stays a finding": {
			steps:   "- parallel:\n  - repeat: 1\n    steps:\n    - do: say\n      say: x\n      fail: find\n",
			verdict: lab.Fail, reason: "line 9: found it wanting",
			told: []string{"up 3", "final 3", "say x", "down"},
		},
		"a check within a time": {
			steps:   "- check: look\n  after: 3\n  within: 5s\n",
			verdict: lab.Pass,
			told:    []string{"up 3", "final 3", "final 3", "down"},
		},
		"a check that never holds": {
			steps:   "- check: look\n  after: 1000000\n  within: 2s\n",
			verdict: lab.Fail, reason: "within 2s: looks: want enough",
			told: []string{"up 3", "final 3", "down"},
		},
		"a look cut short by our own deadline is no answer": {
			steps:   "- check: look\n  fail: hang\n  within: 2s\n",
			verdict: lab.Error, reason: "deadline",
			told: []string{"up 3", "final 3", "down"},
		},
		"a check for a time": {
			steps:   "- check: look\n  until: 5\n  for: 2s\n",
			verdict: lab.Fail, reason: "into the 2s for which it must hold",
			told: []string{"up 3", "final 3", "down"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				r := w.run(t.Context(), c.steps, lab.KeepNever)
				if r.Verdict != c.verdict || !strings.Contains(r.Reason, c.reason) {
					t.Errorf("got %s: %s\nwant %s: … %s …", r.Verdict, r.Reason, c.verdict, c.reason)
				}
				if !slices.Equal(slices.Compact(w.told), slices.Compact(c.told)) {
					t.Errorf("happened: %q\nwant:     %q", w.told, c.told)
				}
				if c.steps != "" && w.is("m1") && !strings.Contains(c.steps, "sticky") {
					t.Error("m1 is still broken")
				}
			})
		})
	}
}

func TestRunSkipsBeforeAnythingStarts(t *testing.T) {
	w := newWorld(t)
	w.caps = lab.Caps{lab.CapSignal: "no signals on this planet"}
	r := w.run(t.Context(), "- break: hurt\n", lab.KeepNever)
	if r.Verdict != lab.Skip || !strings.Contains(r.Reason, "no signals on this planet") || len(w.told) > 0 {
		t.Errorf("got %s: %s, happened %q", r.Verdict, r.Reason, w.told)
	}
}

func TestRunWithoutLab(t *testing.T) {
	w := newWorld(t)
	w.upErr = errors.New("no room")
	r := w.run(t.Context(), "- break: hurt\n", lab.KeepNever)
	if r.Verdict != lab.Error || !strings.Contains(r.Reason, "could not bring the lab up: no room") {
		t.Errorf("got %s: %s", r.Verdict, r.Reason)
	}
}

// A fault that the owner of a host does not want there is refused before
// anything is booked or done.
func TestForbiddenFault(t *testing.T) {
	w := newWorld(t)
	w.forbids = func(member, fault string) bool { return member == "m1" && fault == "hurt" }
	r := w.run(t.Context(), "- break: hurt\n  member: leader\n", lab.KeepNever)
	if r.Verdict != lab.Error || !strings.Contains(r.Reason, "does not allow it on the host of m1") || slices.Contains(w.told, "inject m1") {
		t.Errorf("got %s: %s, happened %q", r.Verdict, r.Reason, w.told)
	}
	w = newWorld(t)
	w.forbids = func(member, _ string) bool { return member == "m1" }
	if r := w.run(t.Context(), "- break: hurt\n  member: m2\n  as: a\n- heal: a\n", lab.KeepNever); r.Verdict != lab.Pass {
		t.Errorf("on another host: got %s: %s", r.Verdict, r.Reason)
	}
}

func TestInterruptHealsAndTakesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait() // until the drill waits in its check
			cancel()
		}()
		r := w.run(ctx, "- break: hurt\n- check: look\n  fail: hang\n", lab.KeepNever)
		if r.Verdict != lab.Error || !r.Interrupted {
			t.Errorf("got %s, interrupted %v: %s", r.Verdict, r.Interrupted, r.Reason)
		}
		if want := []string{"up 3", "final 3", "inject m1", "heal m1", "down"}; !slices.Equal(w.told, want) {
			t.Errorf("happened %q, want %q", w.told, want)
		}
	})
}

// A lab that is of no more use ends its drill at once: what is broken is healed,
// the lab goes down, and what the steps found meanwhile is no finding.
func TestHalt(t *testing.T) {
	for name, steps := range map[string]string{
		"a step that waits": "- break: hurt\n- check: look\n  fail: hang\n",
		"a step that fails": "- break: hurt\n- check: look\n  after: 1000000\n  within: 1h\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				hurt := func(ctx context.Context) error {
					return lab.Until(ctx, "m1 to be hurt", func(context.Context) error {
						if !w.is("m1") {
							return errors.New("not yet")
						}
						return nil
					})
				}
				w.halts = []func(context.Context) error{
					func(ctx context.Context) error { <-ctx.Done(); return nil },
					func(ctx context.Context) error {
						if hurt(ctx) != nil {
							return nil
						}
						return errors.New("m2 is somebody else")
					},
				}
				r := w.run(t.Context(), steps, lab.KeepNever)
				if r.Verdict != lab.Error || r.Interrupted || !strings.Contains(r.Reason, "stopped: m2 is somebody else") {
					t.Errorf("got %s, interrupted %v: %s", r.Verdict, r.Interrupted, r.Reason)
				}
				if want := []string{"up 3", "final 3", "inject m1", "heal m1", "down"}; !slices.Equal(w.told, want) {
					t.Errorf("happened %q, want %q", w.told, want)
				}
			})
		})
	}
}

func TestKeep(t *testing.T) {
	for _, c := range []struct {
		keep  lab.Keep
		steps string
		kept  bool
	}{
		{lab.KeepNever, "- do: say\n  say: x\n  fail: find\n", false},
		{lab.KeepOnFailure, "- do: say\n  say: x\n", false},
		{lab.KeepOnFailure, "- do: say\n  say: x\n  fail: find\n", true},
		{lab.KeepAlways, "- do: say\n  say: x\n", true},
	} {
		w := newWorld(t)
		w.run(t.Context(), c.steps, c.keep)
		if w.kept != c.kept || slices.Contains(w.told, "down") == c.kept {
			t.Errorf("--keep %s: kept %v, happened %q", c.keep, w.kept, w.told)
		}
	}
}

func TestLeftBehindIsReported(t *testing.T) {
	w := newWorld(t)
	w.stays = []string{"process 4711 (m1)"}
	r := w.run(t.Context(), "- do: say\n  say: x\n", lab.KeepNever)
	if r.Verdict != lab.Pass || !slices.Contains(r.Left, "process 4711 (m1)") {
		t.Errorf("got %s, left %q", r.Verdict, r.Left)
	}
}

// The same seed picks the same members, another one others, whatever else
// happens in between.
func TestSeedDecides(t *testing.T) {
	pick := func(seed uint64) string {
		w := newWorld(t)
		h := &lab.Hands{Kit: w.kit(), Seed: seed, Journal: lab.NewJournal(nopCloser{}, t0, nil), Ledger: lab.OpenLedger(w.dir)}
		h.Cluster, _ = w.Up(t.Context(), "x", lab.Spec{Members: 9})
		d := w.drill("- break: hurt\n  member: random\n")
		if err := h.Step(t.Context(), &d.Steps[0], "1"); err != nil {
			t.Fatal(err)
		}
		return w.told[len(w.told)-1]
	}
	seen := map[string]bool{}
	for seed := range uint64(20) {
		a, b := pick(seed), pick(seed)
		if a != b {
			t.Errorf("seed %d: %s, then %s", seed, a, b)
		}
		seen[a] = true
	}
	if len(seen) < 3 {
		t.Errorf("20 seeds hit only %v", seen)
	}
}

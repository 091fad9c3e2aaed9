package judge

import (
	"context"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

// restored is a history in which the store is put back from revision 13 to
// revision 11 and goes on from revision 1011. change may spoil it.
func restored(change func(ops map[string]*lab.Op)) []lab.Op {
	op := func(client int, kind, key, value string, call, rev int64) *lab.Op {
		o := &lab.Op{Client: client, Kind: kind, Key: key, Value: value, Call: call, Return: call + 1, Outcome: lab.OK, Revision: rev}
		if kind == lab.OpGet || kind == lab.OpFinal && key != "" {
			o.Mod, o.Revision = rev, max(rev, 1013)
		}
		return o
	}
	all := []*lab.Op{
		op(1, lab.OpPut, "a", "1.1", 10, 10),
		op(1, lab.OpPut, "b", "1.2", 20, 11),
		op(1, lab.OpPut, "a", "1.3", 30, 12), // undone
		op(1, lab.OpPut, "c", "1.4", 40, 13), // undone
		op(1, lab.OpGet, "a", "1.3", 50, 12), // of the old life
		op(1, lab.OpGet, "a", "1.1", 60, 10), // of the new one
		op(1, lab.OpPut, "c", "1.5", 70, 1012),
		op(0, lab.OpMarker, "marker", "end", 80, 1013),
		op(0, lab.OpFinal, "a", "1.1", 90, 10),
		op(0, lab.OpFinal, "b", "1.2", 90, 11),
		op(0, lab.OpFinal, "c", "1.5", 90, 1012),
		op(0, lab.OpFinal, "marker", "end", 90, 1013),
		op(0, lab.OpFinal, "", "", 90, 1013),
	}
	all[4].Revision, all[5].Revision = 13, 1011
	names := []string{"a1", "b", "a2", "c1", "old", "new", "c2", "marker", "fa", "fb", "fc", "fm", "final"}
	byName := map[string]*lab.Op{}
	for i, n := range names {
		byName[n] = all[i]
	}
	change(byName)
	var out []lab.Op
	for _, o := range all {
		if o.Kind != "" {
			out = append(out, *o)
		}
	}
	return out
}

func TestReturn(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(map[string]*lab.Op)
		returns []lab.Return
		broken  not
		undone  int
	}{
		"as intended": {func(map[string]*lab.Op) {}, []lab.Return{{Revision: 11, From: 1011}}, not{"undone == 0": fail}, 2},
		// Nobody said that the store was to go back.
		"unsaid": {func(map[string]*lab.Op) {}, nil, not{lost: fail, linear: fail, revisions: fail}, 0},
		// The snapshot had it, the restored store has not.
		"lost all the same": {func(ops map[string]*lab.Op) { ops["fb"].Kind = "" }, []lab.Return{{Revision: 11, From: 1011}}, not{lost: fail, linear: fail, "undone == 0": fail}, 2},
		"lost afterwards":   {func(ops map[string]*lab.Op) { ops["fc"].Kind = "" }, []lab.Return{{Revision: 11, From: 1011}}, not{lost: fail, linear: fail, "undone == 0": fail}, 2},
		// The old life lied by itself.
		"stale before": {func(ops map[string]*lab.Op) { ops["old"].Value, ops["old"].Mod = "1.1", 10 }, []lab.Return{{Revision: 11, From: 1011}}, not{linear: fail, revisions: fail, "undone == 0": fail}, 2},
	} {
		d := &lab.Drill{Name: "restored", Load: &lab.LoadSpec{}}
		events := []lab.Event{{Kind: lab.EventRun, Run: &lab.RunInfo{Drill: d}}}
		for _, r := range c.returns {
			events = append(events, lab.Event{Kind: lab.EventReturn, Return: &r}, lab.Event{Kind: lab.EventReturn, Return: &r})
		}
		events = append(events, lab.Event{Kind: lab.EventEnd, Verdict: lab.Pass})
		rep := Default().Report(context.Background(), events, restored(c.change))
		got := broken(rep)
		delete(got, "watch") // there is none in this history
		if len(got) != len(c.broken) || rep.UndoneWrites != c.undone {
			t.Errorf("%s: broken %v, undone %d; want %v, %d", name, got, rep.UndoneWrites, c.broken, c.undone)
		}
		for text, v := range c.broken {
			if got[text] != v {
				t.Errorf("%s: %s: %q, want %q", name, text, got[text], v)
			}
		}
	}
}

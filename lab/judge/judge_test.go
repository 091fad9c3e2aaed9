package judge

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

// recorded puts a history and a journal of testdata together as a run's
// directory.
func recorded(t *testing.T, history, events string) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{history + ".jsonl": "history.jsonl", events + ".events.ndjson": "events.ndjson"} {
		data, err := os.ReadFile(filepath.Join("testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func judged(t *testing.T, history, events string) *lab.Report {
	t.Helper()
	rep, err := Judge(context.Background(), recorded(t, history, events))
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// broken lists the promises that were not kept, with their verdicts.
func broken(rep *lab.Report) map[string]lab.Verdict {
	out := map[string]lab.Verdict{}
	for _, e := range rep.Expect {
		if e.Verdict != lab.Pass {
			out[e.Text] = e.Verdict
		}
	}
	return out
}

const (
	pass, fail, errd, unknown, skip = lab.Pass, lab.Fail, lab.Error, lab.Undecided, lab.Skip

	lost, back, linear, revisions, watch = "lost == 0", "resurrected == 0", "linearizable", "revisions", "watch"
)

type not = map[string]lab.Verdict

// A judge that has never said no is not yet believed: one recording for every
// kind of violation, each with what exactly must be said of it.
func TestRecordedHistories(t *testing.T) {
	for name, c := range map[string]struct {
		verdict lab.Verdict
		broken  not
		lost    []string // keys
		says    string   // in the first finding of the picture
	}{
		"clean":              {pass, not{}, nil, ""},
		"serializable-stale": {pass, not{}, nil, ""}, // a serializable read may be old
		"unknown-happened":   {pass, not{}, nil, ""},
		"unknown-deletion":   {pass, not{}, nil, ""}, // excuses what is not there
		"watch-compacted":    {pass, not{}, nil, ""}, // etcd said so
		"watch-resumed":      {pass, not{}, nil, ""},

		"lost-probe":          {fail, not{lost: fail, linear: fail}, []string{"p2"}, `put of "p.2", acknowledged at revision 9, is not there`},
		"lost-overwritten":    {fail, not{lost: fail, linear: fail}, []string{"k3"}, `put of "c2.6", acknowledged at revision 12, is not there: "c1.4" of revision 7 stands`},
		"resurrected":         {fail, not{back: fail, linear: fail}, nil, "deletion, acknowledged at revision 5, is undone"},
		"rolled-back":         {fail, not{lost: fail, linear: fail, revisions: fail, watch: errd}, []string{"p1", "p2"}, `put of "p.1"`},
		"rolled-back-covered": {fail, not{lost: fail, revisions: fail, watch: errd}, []string{"k1", "k2"}, `put of "c1.8"`},
		"swapped-twice":       {fail, not{lost: fail, linear: fail, revisions: fail, watch: errd}, []string{"k1"}, `txn of "c1.9"`},
		"reordered":           {fail, not{lost: fail, linear: fail, revisions: fail}, []string{"k3"}, `put of "c1.7"`},

		"stale-read":       {fail, not{linear: fail, revisions: fail}, nil, `client 1 found "c1.4"`},
		"future-read":      {fail, not{linear: fail, revisions: fail}, nil, `client 2 found "c2.6"`},
		"unwritten-read":   {fail, not{linear: fail}, nil, `client 2 found "c7.7"`},
		"comparison-wrong": {fail, not{linear: fail}, nil, "comparison failed"},
		"refused-happened": {fail, not{linear: fail, watch: fail}, nil, `found "p.3"`},
		"duplicated":       {fail, not{revisions: fail, watch: fail}, nil, `"p.1" was acknowledged at revision 8 and read at mod_revision 11`},
		"mod-wrong":        {fail, not{revisions: fail}, nil, "mod_revision 5"},
		"revision-back":    {fail, not{revisions: fail}, nil, "answered at revision 9, but before"},

		"watch-gap":        {fail, not{watch: fail}, nil, "through m1 never got the event of revision 6"},
		"watch-duplicate":  {fail, not{watch: fail}, nil, "through m1 got the event of revision 6 twice"},
		"watch-disorder":   {fail, not{watch: fail}, nil, "through m1 got the event of revision 6 after that of revision 7"},
		"watch-divergence": {fail, not{watch: fail}, nil, `"c9.9" at k2, but "c2.3" at k2 was acknowledged`},
		"watcher-behind":   {unknown, not{watch: unknown}, nil, ""}, // its member was up

		"unwatched":     {errd, not{watch: errd}, nil, ""},
		"no-final-read": {errd, not{lost: errd, back: errd}, nil, ""},
		"never-over": {errd, not{lost: errd, back: errd, watch: errd,
			"outage.first < 2s": unknown, "read-outage.first < 2s": unknown, "rto < 2s": unknown}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			rep := judged(t, name, "clean")
			if rep.Verdict != c.verdict {
				t.Errorf("verdict %s (%s), want %s", rep.Verdict, rep.Reason, c.verdict)
			}
			if got := broken(rep); !maps.Equal(got, c.broken) {
				t.Errorf("promises not kept: %v, want %v", got, c.broken)
			}
			var keys []string
			for _, f := range rep.Lost {
				keys = append(keys, f.Key)
			}
			if slices.Sort(keys); !slices.Equal(keys, c.lost) {
				t.Errorf("lost %v, want %v", keys, c.lost)
			}
			switch {
			case c.says == "" && rep.Picture != nil:
				t.Errorf("a picture of nothing: %s", rep.Picture.Text)
			case c.says != "" && rep.Picture == nil:
				t.Error("no picture")
			case c.says != "":
				p := rep.Picture
				if !strings.Contains(p.Text, c.says) {
					t.Errorf("picture says %q, want %q", p.Text, c.says)
				}
				if len(p.Ops) == 0 || len(p.Ops) > maxPicture || p.Bad < 0 || p.Bad >= len(p.Ops) {
					t.Errorf("picture of %d operations, the bad one is number %d", len(p.Ops), p.Bad)
				}
			}
			if (rep.LostWrites == nil) != (c.broken[lost] == errd) || rep.LostWrites != nil && *rep.LostWrites != len(c.lost) {
				t.Errorf("lost_writes %v, want %d", rep.LostWrites, len(c.lost))
			}
			if n := len(rep.Lost) + len(rep.Findings); (n > 0) != (c.verdict == fail) {
				t.Errorf("%d findings", n)
			}
		})
	}
}

func TestRecordedJournals(t *testing.T) {
	for name, c := range map[string]struct {
		verdict lab.Verdict
		broken  not
		reason  string
	}{
		"clean":         {pass, not{}, "longest time without an accepted write was 750ms; 0 of 11 acknowledged writes lost"},
		"left":          {pass, not{}, ""},            // only the exit code shows it
		"no-watch":      {pass, not{watch: skip}, ""}, // nobody asked for one
		"killed":        {errd, not{}, "killed"},
		"interrupted":   {errd, not{}, "interrupted"},
		"not-bitten":    {errd, not{}, "fault first was not proved to bite"},
		"not-gone":      {errd, not{}, "cannot start m1"},
		"no-lab":        {errd, nil, "could not bring the lab up"},
		"no-such-fault": {errd, not{"outage.second < 2s": errd}, "fault second was never injected"},
		"step-failed":   {fail, not{}, "want accepted, got refused"},
		"too-long":      {fail, not{"outage.first < 300ms": fail}, "promised outage.first < 300ms, measured 750ms"},
		"skipped":       {skip, nil, "not offered by this driver"},
		"too-slow": {errd, not{"outage.first < 2s": errd, "read-outage.first < 2s": errd, "rto < 2s": errd},
			"machine too slow: 9 operations per second before the first break, the gate is 100"},
	} {
		t.Run(name, func(t *testing.T) {
			history := "clean"
			switch name {
			case "skipped", "no-lab":
				history = "no-operations"
			case "no-watch":
				history = "unwatched"
			}
			rep := judged(t, history, name)
			if rep.Verdict != c.verdict || !strings.Contains(rep.Reason, c.reason) {
				t.Errorf("verdict %s (%s), want %s (%s)", rep.Verdict, rep.Reason, c.verdict, c.reason)
			}
			if strings.Contains(rep.Reason, "\n") || rep.Reason == "" {
				t.Errorf("reason %q: want a sentence", rep.Reason)
			}
			if c.broken != nil {
				if got := broken(rep); !maps.Equal(got, c.broken) {
					t.Errorf("promises not kept: %v, want %v", got, c.broken)
				}
			}
		})
	}
}

// A watcher on a member that is down cannot come to the end.
func TestWatcherOfADeadMember(t *testing.T) {
	if rep := judged(t, "watcher-behind", "member-down"); rep.Verdict != pass {
		t.Errorf("verdict %s: %s", rep.Verdict, rep.Reason)
	}
}

func TestReportTellsTheStory(t *testing.T) {
	rep := judged(t, "clean", "clean")
	if len(rep.Steps) != 2 || rep.Steps[0].Target != "leader (m1)" || rep.Steps[0].Verdict != pass || rep.Steps[0].Why != "no goodbye" || rep.Steps[1].Line != 12 {
		t.Errorf("steps %+v", rep.Steps)
	}
	f := rep.Faults
	if len(f) != 1 || f[0].Name != "first" || !slices.Equal(f[0].Targets, []string{"m1"}) || f[0].Start != 1.05 || *f[0].Bites != 1.06 || *f[0].Heal != 2.05 || *f[0].Gone != 2.1 || f[0].Proof == "" || f[0].Cure == "" {
		t.Errorf("faults %+v", f)
	}
	want := []lab.Outage{
		{Kind: "write", Start: 1.05, End: 1.8, Duration: 0.75, During: "first"},
		{Kind: "read", Start: 1.05, End: 1.81, Duration: 0.76, During: "first"},
	}
	if len(rep.Outages) != 2 || !near(rep.Outages[0], want[0]) || !near(rep.Outages[1], want[1]) {
		t.Errorf("outages %+v", rep.Outages)
	}
	if rep.RTO == nil || *rep.RTO != rep.Outages[0].Duration || rep.Resolution != 0.11 {
		t.Errorf("rto %v, resolution %v", rep.RTO, rep.Resolution)
	}
	m := rep.Members
	if len(m) != 2 || !slices.Equal(m[0].Terms, []uint64{2}) || !slices.Equal(m[1].Terms, []uint64{3}) || m[1].Version != "3.7.3" || m[1].ID != "a2" {
		t.Errorf("members %+v", m)
	}
	if rep.AckedWrites != 11 || rep.UnknownWrites != 1 || rep.Ops != 21 || rep.Duration != 2.5 || rep.Environment["os"] != "linux" || rep.Environment["links"] != "nft+netem" {
		t.Errorf("report %+v", rep)
	}
	if left := judged(t, "clean", "left").Left; !slices.Equal(left, []string{"process 4711 (m1)"}) {
		t.Errorf("left behind %v", left)
	}
}

func near(a, b lab.Outage) bool {
	d := func(x, y float64) bool { return x-y < 1e-9 && y-x < 1e-9 }
	return a.Kind == b.Kind && d(a.Start, b.Start) && d(a.End, b.End) && d(a.Duration, b.Duration) && a.During == b.During && a.Open == b.Open
}

// The same directory gives the identical report, as often as one likes.
func TestJudgeAgain(t *testing.T) {
	for _, name := range []string{"clean", "rolled-back", "watch-divergence", "stale-read"} {
		dir := recorded(t, name, "clean")
		var first string
		for range 5 {
			rep, err := Judge(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(rep)
			if err != nil {
				t.Fatal(err)
			}
			if first == "" {
				first = string(data)
			}
			if string(data) != first {
				t.Fatalf("%s: judged again:\n%s\nbefore:\n%s", name, data, first)
			}
		}
	}
}

func TestJudgeCannotRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Judge(context.Background(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory without a journal: %v", err)
	}
	events, err := os.ReadFile("testdata/clean.events.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "events.ndjson"), events, 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := Judge(context.Background(), dir) // a run that failed early has no history
	if err != nil || rep.Verdict != errd || rep.LostWrites != nil || rep.RTO != nil || rep.Linearizable != "unknown" {
		t.Errorf("without a history: %+v, %v", rep, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "history.jsonl"), []byte("{\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Judge(context.Background(), dir); err == nil || !strings.Contains(err.Error(), "history.jsonl:1") {
		t.Errorf("a broken history: %v", err)
	}
}

// Whatever stands in the two files, Judge returns.
func FuzzJudge(f *testing.F) {
	events, err := os.ReadFile("testdata/clean.events.ndjson")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"clean", "rolled-back", "swapped-twice"} {
		history, err := os.ReadFile(filepath.Join("testdata", name+".jsonl"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(events, history)
		f.Add(events[:len(events)/2], history[:len(history)/2])
	}
	f.Fuzz(func(t *testing.T, events, history []byte) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "events.ndjson"), events, 0o600), os.WriteFile(filepath.Join(dir, "history.jsonl"), history, 0o600)); err != nil {
			t.Fatal(err)
		}
		rep, err := Options{Steps: 1000, WholeStore: 100}.Judge(context.Background(), dir)
		if err == nil && rep.Verdict == "" {
			t.Fatal("no verdict")
		}
	})
}

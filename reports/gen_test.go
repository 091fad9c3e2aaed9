package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// The runs below are made up, but look like real ones in every field.

var began = time.Date(2026, 11, 12, 14, 3, 7, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// sample is a run directory in the making.
type sample struct {
	events []lab.Event
	ops    []lab.Op
	report *lab.Report
}

func (s *sample) add(t float64, e lab.Event) {
	e.T, e.Wall = t, began.Add(time.Duration(t*1e9))
	s.events = append(s.events, e)
}

// save writes the records and returns the directory.
func (s *sample) save(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	slices.SortStableFunc(s.events, func(a, b lab.Event) int { return int(math.Copysign(1, a.T-b.T)) * btoi(a.T != b.T) })
	write(t, filepath.Join(dir, fileEvents), s.events)
	if s.ops != nil {
		slices.SortStableFunc(s.ops, func(a, b lab.Op) int { return int(a.Return - b.Return) })
		h, err := lab.NewHistory(filepath.Join(dir, fileHistory), began)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range s.ops {
			h.Add(op)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func write[T any](t testing.TB, path string, lines []T) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	enc := json.NewEncoder(f)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			t.Fatal(err)
		}
	}
}

type crashArgs struct {
	Member lab.Target `yaml:"member"`
}

type putArgs struct {
	Key, Value string
	Through    lab.Target
}

type leaderArgs struct{ Changed bool }

type writesArgs struct{ Accepted, Refused bool }

type membersArgs struct {
	Healthy int
	Equal   string
}

func role(r string) lab.Target { return lab.Target{Role: r} }

func theDrill() *lab.Drill {
	step := func(word, verb string, line int, args any) lab.Step {
		return lab.Step{Word: word, Verb: verb, Line: line, Args: args}
	}
	d := &lab.Drill{APIVersion: lab.APIVersion, Kind: lab.Kind, Name: "leader-kill", Title: "Lose the leader, then the quorum",
		Why:  "Three members outlive one leader. After the second loss the rest must refuse rather than lie, and whoever comes back must catch up.",
		Tags: []string{"quorum", "teaching"}, Cluster: lab.Spec{Members: 3, TLS: "mutual"},
		Load: &lab.LoadSpec{Clients: 4, Rate: 400, Keys: 64, Timeout: time.Second},
		Steps: []lab.Step{
			step("do", "put", 12, &putArgs{Key: "Gabon", Value: "Bona nit"}),
			step("break", "crash", 15, &crashArgs{role("leader")}),
			step("check", "leader", 19, &leaderArgs{Changed: true}),
			step("break", "crash", 22, &crashArgs{role("leader")}),
			step("check", "writes", 25, &writesArgs{Refused: true}),
			step("heal", "first", 28, nil),
			step("check", "writes", 29, &writesArgs{Accepted: true}),
			step("heal", "second", 32, nil),
			step("check", "members", 33, &membersArgs{3, "hash"}),
		},
	}
	d.Steps[1].As, d.Steps[1].Why = "first", "kill -9, no goodbye; a polite stop would hand leadership over"
	d.Steps[2].Within = 5 * time.Second
	d.Steps[3].As = "second"
	d.Steps[4].For = 3 * time.Second
	d.Steps[6].Within = 5 * time.Second
	d.Steps[8].Within = 10 * time.Second
	return d
}

func member(name, role string, term uint64) lab.Status {
	s := lab.Status{Name: name, Up: role != "", Role: role, Term: term, ID: "8e9e05c52164694" + name[1:], Version: "3.7.3"}
	if role == "" {
		s.Error = "context deadline exceeded"
	}
	return s
}

// traffic makes up what clients saw: rate operations a second, unless a gap
// says that nobody was answered.
func (s *sample) traffic(from, to, rate float64, clients int, seed uint64, gaps ...[2]float64) {
	r := rand.New(rand.NewPCG(seed, 2))
	for c := 1; c <= clients; c++ {
		for t := from + float64(c)/rate; t < to; {
			op := lab.Op{Client: c, Kind: lab.OpPut, Key: fmt.Sprintf("k%02d", r.IntN(64)), Value: fmt.Sprintf("%d-%06d", c, len(s.ops)), Outcome: lab.OK, Call: int64(t * 1e9)}
			lat := 0.0021 * math.Exp(r.NormFloat64()*.35)
			switch p := r.Float64(); {
			case p < .3:
				op.Kind, op.Value, lat = lab.OpGet, "seen", lat*.45
			case p < .32:
				op.Kind, op.Value = lab.OpDelete, ""
			case p < .37:
				op.Kind, op.Swapped = lab.OpTxn, true
			}
			if r.Float64() < .004 {
				lat *= 12
			}
			for _, g := range gaps {
				if t+lat >= g[0] && t < g[1] {
					switch {
					case g[1]-t < .9 && g[1]-t > .0: // it outlives the gap
						lat = g[1] - t + .02*r.Float64()
					case r.Float64() < .35:
						op.Outcome, op.Error, lat = lab.Refused, "etcdserver: no leader", .003
					default:
						op.Outcome, op.Error, lat = lab.Unknown, "context deadline exceeded", 1
					}
				}
			}
			op.Return = op.Call + int64(lat*1e9)
			s.ops = append(s.ops, op)
			if op.Outcome != lab.OK {
				t += lat + .05
				continue
			}
			t = max(t+lat, t+float64(clients)/rate*(.85+.3*r.Float64()))
		}
	}
}

func (s *sample) count(r *lab.Report) {
	for _, op := range s.ops {
		if !isWrite(op) && !isRead(op) {
			continue
		}
		r.Ops++
		if isWrite(op) && op.Outcome == lab.OK {
			r.AckedWrites++
		}
		if isWrite(op) && op.Outcome == lab.Unknown {
			r.UnknownWrites++
		}
	}
}

// passing is the drill of the design document, passed.
func passing() *sample {
	s := &sample{}
	d := theDrill()
	s.add(0, lab.Event{Kind: lab.EventRun, Run: &lab.RunInfo{ID: "leader-kill-20261112-140307-7f3a", Drill: d, Driver: "local", Seed: 42,
		Command:     []string{"etcdrill", "run", "leader-kill", "--seed", "42", "--out", "my runs"},
		Environment: map[string]string{"etcd": "3.7.3", "os": "linux", "cpus": "2"}}})
	s.add(.01, lab.Event{Kind: lab.EventPhase, Text: "up"})
	s.add(2.38, lab.Event{Kind: lab.EventUp, Seconds: 2.37, Statuses: []lab.Status{member("m1", "leader", 2), member("m2", "follower", 2), member("m3", "follower", 2)}})
	s.add(2.39, lab.Event{Kind: lab.EventPhase, Text: "steady"})
	s.add(2.6, lab.Event{Kind: lab.EventPhase, Text: "load"})
	s.add(3.15, lab.Event{Kind: lab.EventPhase, Text: "steps"})
	rates := []float64{398, 392, 61, 297, 384, 140, 0, 0, 10, 405, 399, 398}
	for i, r := range rates {
		s.add(3.6+float64(i), lab.Event{Kind: lab.EventLoad, Rate: r})
	}
	steps := []struct {
		at, took float64
		target   *lab.Target
		text     string
	}{
		{3.2, .031, nil, ""},
		{4.1, .062, ptr(role("leader")), d.Steps[1].Why},
		{4.17, 1.243, nil, ""},
		{7.0, .071, ptr(role("leader")), ""},
		{7.08, 3.0, nil, ""},
		{10.09, .412, nil, ""},
		{10.51, .824, nil, ""},
		{12.2, .386, nil, ""},
		{12.6, 1.31, nil, ""},
	}
	for i, st := range steps {
		ds := d.Steps[i]
		s.add(st.at, lab.Event{Kind: lab.EventStep, Step: fmt.Sprint(i + 1), Line: ds.Line, Word: ds.Word, Verb: ds.Verb, Target: st.target, Text: st.text})
		s.add(st.at+st.took, lab.Event{Kind: lab.EventDone, Step: fmt.Sprint(i + 1), Verdict: lab.Pass, Seconds: st.took})
	}
	cmd := func(t float64, step, host string, took float64, exit int, out string, argv ...string) {
		s.add(t, lab.Event{Kind: lab.EventCommand, Step: step, Host: host, Argv: argv, Exit: exit, Output: out, Seconds: took})
	}
	cmd(3.23, "1", "m2", .028, 0, "OK\n", "/lab/hosts/m2/bin/etcdctl", "--endpoints=https://127.0.0.1:32379", "--", "put", "Gabon", "Bona nit")
	s.add(4.102, lab.Event{Kind: lab.EventAim, Step: "2", Target: &lab.Target{Role: "leader", Names: []string{"m1"}}})
	s.add(4.11, lab.Event{Kind: lab.EventFault, Step: "2", Fault: "first", Verb: "crash", Target: &lab.Target{Role: "leader", Names: []string{"m1"}}})
	s.add(4.16, lab.Event{Kind: lab.EventBites, Step: "2", Fault: "first", Text: "process 4711 of m1 is gone, its client port refuses", Seconds: .05})
	s.add(4.2, lab.Event{Kind: lab.EventStatus, Host: "m1", Status: ptr(member("m1", "", 0))})
	s.add(5.1, lab.Event{Kind: lab.EventStatus, Host: "m2", Status: ptr(member("m2", "none", 2))})
	s.add(5.11, lab.Event{Kind: lab.EventStatus, Host: "m3", Status: ptr(member("m3", "none", 2))})
	s.add(5.38, lab.Event{Kind: lab.EventStatus, Host: "m3", Status: ptr(member("m3", "leader", 3))})
	s.add(5.4, lab.Event{Kind: lab.EventStatus, Host: "m2", Status: ptr(member("m2", "follower", 3))})
	s.add(7.002, lab.Event{Kind: lab.EventAim, Step: "4", Target: &lab.Target{Role: "leader", Names: []string{"m3"}}})
	s.add(7.01, lab.Event{Kind: lab.EventFault, Step: "4", Fault: "second", Verb: "crash", Target: &lab.Target{Role: "leader", Names: []string{"m3"}}})
	s.add(7.06, lab.Event{Kind: lab.EventBites, Step: "4", Fault: "second", Text: "process 4733 of m3 is gone, its client port refuses", Seconds: .05})
	s.add(7.1, lab.Event{Kind: lab.EventStatus, Host: "m3", Status: ptr(member("m3", "", 0))})
	s.add(8.1, lab.Event{Kind: lab.EventStatus, Host: "m2", Status: ptr(member("m2", "none", 3))})
	cmd(9.0, "5", "m2", 1.0, 1, "{\"level\":\"warn\",\"msg\":\"retrying of unary invoker failed\"}\nError: context deadline exceeded\n", "etcdctl", "--command-timeout", "1s", "put", "probe", "1")
	s.add(10.1, lab.Event{Kind: lab.EventHeal, Step: "6", Fault: "first"})
	cmd(10.14, "6", "m1", .03, 0, "", "etcd", "--config-file", "/lab/m1/etcd.yaml")
	s.add(10.48, lab.Event{Kind: lab.EventGone, Step: "6", Fault: "first", Text: "process 4790 of m1 listens", Seconds: .38})
	s.add(10.5, lab.Event{Kind: lab.EventStatus, Host: "m1", Status: ptr(member("m1", "none", 3))})
	s.add(11.2, lab.Event{Kind: lab.EventStatus, Host: "m2", Status: ptr(member("m2", "leader", 5))})
	s.add(11.22, lab.Event{Kind: lab.EventStatus, Host: "m1", Status: ptr(member("m1", "follower", 5))})
	s.add(12.21, lab.Event{Kind: lab.EventHeal, Step: "8", Fault: "second"})
	s.add(12.56, lab.Event{Kind: lab.EventGone, Step: "8", Fault: "second", Text: "process 4801 of m3 listens", Seconds: .35})
	s.add(12.6, lab.Event{Kind: lab.EventStatus, Host: "m3", Status: ptr(member("m3", "follower", 5))})
	s.add(13.95, lab.Event{Kind: lab.EventPhase, Text: "heal"})
	s.add(13.96, lab.Event{Kind: lab.EventPhase, Text: "end"})
	s.add(14.4, lab.Event{Kind: lab.EventPhase, Text: "down"})
	s.add(14.7, lab.Event{Kind: lab.EventEnd, Verdict: lab.Pass})
	s.traffic(2.65, 13.9, 400, 4, 1, [2]float64{4.11, 5.42}, [2]float64{7.01, 11.29})

	r := &lab.Report{SchemaVersion: 1, ID: "leader-kill-20261112-140307-7f3a", Drill: d.Name, Title: d.Title, Why: d.Why, Tags: d.Tags, Driver: "local",
		Verdict: lab.Pass, Reason: "all 9 steps held, and all 6 promises", Seed: 42, Started: began, Duration: 14.7,
		Resolution: .022, LostWrites: ptr(0), Linearizable: "yes", RTO: ptr(4.283),
		Outages: []lab.Outage{
			{Kind: "write", Start: 4.112, End: 5.428, Duration: 1.316, During: "first"},
			{Kind: "read", Start: 4.112, End: 5.411, Duration: 1.299, During: "first"},
			{Kind: "write", Start: 7.012, End: 11.295, Duration: 4.283, During: "second"},
			{Kind: "read", Start: 7.012, End: 11.281, Duration: 4.269, During: "second"},
		},
		Faults: []lab.FaultReport{
			{Name: "first", Verb: "crash", Targets: []string{"m1"}, Start: 4.11, Bites: ptr(4.16), Heal: ptr(10.1), Gone: ptr(10.48), Proof: "process 4711 of m1 is gone, its client port refuses", Cure: "process 4790 of m1 listens"},
			{Name: "second", Verb: "crash", Targets: []string{"m3"}, Start: 7.01, Bites: ptr(7.06), Heal: ptr(12.21), Gone: ptr(12.56), Proof: "process 4733 of m3 is gone, its client port refuses", Cure: "process 4801 of m3 listens"},
		},
		Expect: []lab.ExpectReport{
			{Text: "outage.first < 5s", Measured: "1.316s ± 0.022s", Verdict: lab.Pass},
			{Text: "lost == 0", Measured: "0 of 1,902 acknowledged writes", Verdict: lab.Pass},
			{Text: "linearizable", Measured: "yes, 64 keys, 2,707 operations", Verdict: lab.Pass},
			{Text: "resurrected == 0", Measured: "0", Verdict: lab.Pass, Standing: true},
			{Text: "revisions", Measured: "never went back", Verdict: lab.Pass, Standing: true},
			{Text: "watch", Measured: "3 watchers saw all 1,910 events", Verdict: lab.Pass, Standing: true},
		},
		Latency: map[string]lab.Latency{"write": {Count: 1902, P50: .0021, P95: .0038, P99: .0062, Max: .91}, "read": {Count: 805, P50: .00095, P95: .0018, P99: .0031, Max: .9}},
		Members: []lab.MemberReport{
			{Name: "m1", ID: "8e9e05c521646941", Version: "3.7.3", Terms: []uint64{2}},
			{Name: "m2", ID: "8e9e05c521646942", Version: "3.7.3", Terms: []uint64{5}},
			{Name: "m3", ID: "8e9e05c521646943", Version: "3.7.3", Terms: []uint64{3}},
		},
		Environment: map[string]string{"etcd": "3.7.3 (embedded)", "etcdrill": "0.1.0", "os": "linux/amd64", "kernel": "6.1.0", "cpus": "2", "filesystem": "ext4", "fsync p99": "3.1ms", "go": "go1.26.8"},
	}
	for i, st := range steps {
		ds := d.Steps[i]
		sr := lab.StepReport{Index: fmt.Sprint(i + 1), Line: ds.Line, Word: ds.Word, Verb: ds.Verb, Why: ds.Why, Verdict: lab.Pass, Start: st.at, Duration: st.took}
		if st.target != nil {
			sr.Target = "leader (" + r.Faults[i/3].Targets[0] + ")"
		}
		r.Steps = append(r.Steps, sr)
	}
	s.count(r)
	s.report = r
	return s
}

// hostile is text that every format must survive.
const hostile = "\x1b[31mred\x1b[0m </script><img src=x onerror=alert(1)> | `tick` *bold* \x07\x00 \u202eevil ]]> &amp; \x1b]0;title\x07end"

const privateKey = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIDsecretsecretsecretAAA\n-----END EC PRIVATE KEY-----"

// failing lost writes and answered out of order, and foreign text is hostile.
func failing() *sample {
	s := passing()
	r := s.report
	r.Verdict, r.Reason = lab.Fail, "3 acknowledged writes are gone after step 8, and what clients saw is not linearizable"
	r.LostWrites, r.Linearizable = ptr(3), "no"
	r.Lost = []lab.Finding{
		{Judge: "lost", Key: "k17", What: "value 2-001893 was acknowledged at revision 1903 and is not there in the end", At: 9.96, Client: 2},
		{Judge: "lost", Key: "k09", What: "value 1-001894 was acknowledged at revision 1904 and is not there in the end", At: 9.97, Client: 1},
		{Judge: "lost", Key: "k55", What: "value 3-001899 was acknowledged at revision 1905 and is not there in the end", At: 9.99, Client: 3},
	}
	r.Findings = []lab.Finding{
		{Judge: "linearizable", Key: "k17", What: "client 1 read 1-001640 after client 2 had written 2-001893", At: 10.6, Client: 1},
		{Judge: "watch", Key: hostile, What: "an event for " + hostile, At: 11.4},
	}
	r.Expect[1].Measured, r.Expect[1].Verdict = "3 of 1,902 acknowledged writes", lab.Fail
	r.Expect[2].Measured, r.Expect[2].Verdict = "no, key k17", lab.Fail
	r.Expect[5].Measured, r.Expect[5].Verdict = "1 event of unknown origin", lab.Undecided
	r.Steps[8].Verdict, r.Steps[8].Reason = lab.Fail, "members: want the same hash on 3 members, got 9a3c17f2 on m1 and m2, 77d0e1b5 on m3 at revision 1911 "+hostile
	r.Picture = &lab.Picture{Judge: "linearizable", Key: "k17", Bad: 5, Cut: 12,
		Text: "Client 1 reads a value that was overwritten before its read began.",
		Ops: []lab.Op{
			{Client: 1, Kind: lab.OpPut, Key: "k17", Value: "1-001640", Call: 9_800_000_000, Return: 9_804_000_000, Outcome: lab.OK, Revision: 1880},
			{Client: 3, Kind: lab.OpGet, Key: "k17", Value: "1-001640", Call: 9_801_000_000, Return: 9_806_000_000, Outcome: lab.OK, Revision: 1880},
			{Client: 4, Kind: lab.OpPut, Key: "k17", Value: "4-001700", Call: 9_805_000_000, Return: 10_805_000_000, Outcome: lab.Unknown, Error: "context deadline exceeded"},
			{Client: 2, Kind: lab.OpPut, Key: "k17", Value: "2-001893", Call: 9_955_000_000, Return: 9_960_000_000, Outcome: lab.OK, Revision: 1903},
			{Client: 3, Kind: lab.OpGet, Key: "k17", Value: "2-001893", Call: 9_970_000_000, Return: 9_972_000_000, Outcome: lab.OK, Revision: 1903},
			{Client: 1, Kind: lab.OpGet, Key: "k17", Value: "1-001640", Call: 10_600_000_000, Return: 10_602_000_000, Outcome: lab.OK, Revision: 1902},
			{Client: 2, Kind: lab.OpTxn, Key: "k17", Prev: "2-001893", Value: "2-001999", Call: 10_601_000_000, Return: 10_640_000_000, Outcome: lab.OK, Revision: 1906},
		}}
	r.Left = []string{"process 4801 (m3) " + hostile, "directory /lab/m3"}
	r.Faults[1].Gone = nil
	s.add(12.9, lab.Event{Kind: lab.EventCommand, Step: "9", Host: "m3", Argv: []string{"etcdctl", "--user", "root:hunter2", "--password", "hunter3", "get", "it's", "</script>"},
		Env: []string{"ETCDCTL_PASSWORD=hunter4"}, Exit: 1, Output: hostile + "\n" + privateKey + "\ntoken: abcdef.0123456789abcdef\n", Seconds: .2})
	s.add(13.2, lab.Event{Kind: lab.EventCommand, Step: "9", Host: "m3", Argv: []string{"etcdctl", "endpoint", "hashkv"}, Output: "m3, 77d0e1b5\n", Seconds: .02})
	for i, e := range s.events {
		if e.Kind == lab.EventDone && e.Step == "9" {
			s.events[i].Verdict, s.events[i].Error = lab.Fail, r.Steps[8].Reason
		}
		if e.Kind == lab.EventGone && e.Fault == "second" {
			s.events[i] = lab.Event{T: e.T, Kind: lab.EventStuck, Fault: "second", Error: "m3 exited with 1: " + hostile}
		}
	}
	s.add(14.5, lab.Event{Kind: lab.EventLeft, Text: r.Left[0]})
	return s
}

// broken could not be set up: hardly any data, and no history.
func broken() *sample {
	s := &sample{}
	d := theDrill()
	s.add(0, lab.Event{Kind: lab.EventRun, Run: &lab.RunInfo{ID: "leader-kill-x", Drill: d, Driver: "docker", Seed: 7, Environment: map[string]string{}}})
	s.add(.01, lab.Event{Kind: lab.EventPhase, Text: "up"})
	s.add(1.2, lab.Event{Kind: lab.EventCommand, Host: "m1", Argv: []string{"docker", "pull", "node"}, Exit: 1, Output: "no space left on device\n", Seconds: 1.1})
	s.add(1.3, lab.Event{Kind: lab.EventEnd, Verdict: lab.Error, Error: "bring up: m1: docker pull node: exit 1: no space left on device"})
	s.report = &lab.Report{SchemaVersion: 1, ID: "leader-kill-x", Drill: d.Name, Title: d.Title, Driver: "docker", Verdict: lab.Error,
		Reason: "the lab could not be brought up: m1: docker pull node: exit 1: no space left on device", Seed: 7, Started: began, Duration: 1.3, Linearizable: "unknown"}
	return s
}

// skipped was not possible.
func skipped() *sample {
	s := &sample{events: []lab.Event{}}
	s.report = &lab.Report{SchemaVersion: 1, ID: "slow-disk-x", Drill: "slow-disk", Title: "A disk that takes its time", Driver: "local", Verdict: lab.Skip,
		Reason: "the local driver cannot do it here: trace: strace is not installed", Seed: 1, Started: began, Linearizable: "unknown"}
	return s
}

// long ran ten minutes at 500 operations a second, with many faults, steps and
// commands.
func long() *sample {
	s := passing()
	r := s.report
	r.Duration, r.Title = 620, "Ten minutes of pauses"
	s.events = slices.DeleteFunc(s.events, func(e lab.Event) bool { return e.T > 3.1 })
	s.ops, r.Steps, r.Faults, r.Outages, r.Ops, r.AckedWrites, r.UnknownWrites = nil, nil, nil, nil, 0, 0, 0
	term := uint64(2)
	lead, second, third := "m1", "m2", "m3"
	var gaps [][2]float64
	for i := range 40 {
		t := 10 + float64(i)*15
		n := 3*i + 1
		term++
		end := t + 1.2 + float64(i%7)*.3
		gaps = append(gaps, [2]float64{t, end})
		for k, word := range []string{"break", "check", "heal"} {
			at := t + []float64{0, .1, 8}[k]
			verb := []string{"pause", "leader", fmt.Sprintf("pause-%d", i+1)}[k]
			r.Steps = append(r.Steps, lab.StepReport{Index: fmt.Sprintf("1.%d", n+k), Line: 10 + k, Word: word, Verb: verb, Verdict: lab.Pass, Start: at, Duration: .5 + float64(k)})
			for range 6 {
				s.add(at+.2, lab.Event{Kind: lab.EventCommand, Step: fmt.Sprintf("1.%d", n+k), Host: lead, Argv: []string{"etcdctl", "endpoint", "status", "--cluster", "-w", "table"}, Output: string(make([]byte, 0)) + fmt.Sprintf("%04000d\n", i), Seconds: .03})
			}
		}
		r.Faults = append(r.Faults, lab.FaultReport{Name: fmt.Sprintf("pause-%d", i+1), Verb: "pause", Targets: []string{lead}, Start: t, Bites: ptr(t + 1), Heal: ptr(t + 8), Gone: ptr(t + 8.2), Proof: "m1 does not answer", Cure: "m1 answers"})
		r.Outages = append(r.Outages, lab.Outage{Kind: "write", Start: t, End: end, Duration: end - t, During: fmt.Sprintf("pause-%d", i+1)})
		s.add(t+.1, lab.Event{Kind: lab.EventStatus, Host: lead, Status: ptr(member(lead, "", 0))})
		s.add(end, lab.Event{Kind: lab.EventStatus, Host: second, Status: ptr(member(second, "leader", term))})
		s.add(end+.01, lab.Event{Kind: lab.EventStatus, Host: third, Status: ptr(member(third, "follower", term))})
		s.add(t+8.1, lab.Event{Kind: lab.EventStatus, Host: lead, Status: ptr(member(lead, "follower", term))})
		lead, second, third = second, third, lead
	}
	s.add(618, lab.Event{Kind: lab.EventPhase, Text: "down"})
	s.traffic(3, 617, 500, 8, 3, gaps...)
	s.count(r)
	r.RTO = ptr(3.0)
	return s
}

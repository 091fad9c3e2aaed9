package reports

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// saved is a run as read from its directory, clean, with what several formats
// derive from it.
type saved struct {
	Report *lab.Report
	Events []lab.Event
	Info   *lab.RunInfo // nil when the journal does not begin with one
	Ops    []lab.Op
	Files  []string // records that are there
	Unread []string // records that could not be read, and why
	Ran    []ran    // the runbook: every command, in order
	End    float64  // seconds: of whatever was last
}

func open(dir string, r *lab.Report) *saved {
	s := &saved{Report: tidy(r)}
	events, err := lab.ReadEvents(filepath.Join(dir, fileEvents))
	s.unread(fileEvents, err)
	s.Events = scrub(events)
	s.Ops, err = lab.ReadHistory(filepath.Join(dir, fileHistory))
	s.unread(fileHistory, err)

	s.End = r.Duration
	for _, e := range s.Events {
		if e.Run != nil && s.Info == nil {
			s.Info = e.Run
		}
		if e.Kind == lab.EventCommand {
			s.Ran = append(s.Ran, ranOf(e))
		}
		s.End = max(s.End, e.T)
	}
	for _, op := range s.Ops {
		s.End = max(s.End, float64(op.Return)/1e9)
	}
	return s
}

func (s *saved) unread(name string, err error) {
	switch {
	case err == nil:
		s.Files = append(s.Files, name)
	case errors.Is(err, fs.ErrNotExist):
		if s.Report.Verdict != lab.Skip {
			s.Unread = append(s.Unread, name+" was not written")
		}
	default:
		s.Unread = append(s.Unread, oneLine(fmt.Sprintf("%s could not be read whole: %v", name, err)))
	}
}

// drillStep finds what the drill says about a step that ran.
func drillStep(d *lab.Drill, line int, word, verb string) *lab.Step {
	if d == nil {
		return nil
	}
	for s := range d.Each {
		if s.Line == line && s.Word == word && s.Verb == verb {
			return s
		}
	}
	return nil
}

func (s *saved) drill() *lab.Drill {
	if s.Info == nil {
		return nil
	}
	return s.Info.Drill
}

// again is the command that performs the same drill with the same seed.
func (s *saved) again() []string { return again(s.Report, s.Info) }

func again(r *lab.Report, info *lab.RunInfo) []string {
	name := r.Drill
	var keep []string
	if info != nil {
		for i, a := range info.Command {
			if info.Drill != nil && info.Drill.File != "" && a == info.Drill.File {
				name = a // it was run from a file, not by name
			}
			for _, flag := range []string{"--set", "--inventory", "--etcd-dir"} {
				if a == flag && i+1 < len(info.Command) {
					keep = append(keep, a, info.Command[i+1])
				} else if strings.HasPrefix(a, flag+"=") {
					keep = append(keep, a)
				}
			}
		}
	}
	if name == "" {
		name = "NAME"
	}
	argv := []string{"etcdrill", "run", name}
	if r.Driver != "" {
		argv = append(argv, "--driver", r.Driver)
	}
	return append(append(argv, "--seed", fmt.Sprint(r.Seed)), keep...)
}

// ran is a command as the runbook shows it.
type ran struct {
	T, Seconds float64
	Step       string
	Host       string
	Line       string // as one would type it, environment included
	Brief      string // the same without where the program lies and what it is told with a path or an address
	Exit       int
	Error      string
	Output     string
}

func ranOf(e lab.Event) ran {
	line := command(e.Argv)
	if len(e.Env) > 0 {
		line = command(append([]string{"env"}, append(slices.Clone(e.Env), e.Argv...)...))
	}
	return ran{T: max(0, e.T-e.Seconds), Seconds: e.Seconds, Step: e.Step, Host: oneLine(e.Host), Line: line, Brief: brief(e.Argv),
		Exit: e.Exit, Error: oneLine(e.Error), Output: strings.TrimRight(clean(e.Output), "\n")}
}

// brief is what matters of a command to someone who reads rather than types.
func brief(argv []string) string {
	var out []string
	for i, a := range argv {
		switch {
		case i == 0:
			out = append(out, path.Base(a))
		case strings.HasPrefix(a, "-") && strings.Contains(a, "/"), a == "--":
		default:
			out = append(out, a)
		}
	}
	return command(out)
}

// Ended says in words how a command ended.
func (c ran) Ended() string {
	switch {
	case c.Error != "":
		return "could not tell: " + c.Error
	case c.Exit < 0:
		return "killed by a signal"
	default:
		return fmt.Sprintf("exit %d", c.Exit)
	}
}

// Well tells whether a command ended as its author hoped.
func (c ran) Well() bool { return c.Exit == 0 && c.Error == "" }

// seat is what is known of a member during a while.
type seat struct {
	From, To float64
	State    string // leader, follower, learner, none, down, paused, …
	Term     uint64
}

// Up tells whether the member answered.
func (s seat) Up() bool {
	switch s.State {
	case "leader", "follower", "learner", "no leader":
		return true
	}
	return false
}

// lane is one member over the run.
type lane struct {
	Name  string
	Seats []seat
}

// lanes follows every member through the journal. A member that does not
// answer is called by what was done to it, where that is known.
func (s *saved) lanes() []lane {
	type look struct {
		t float64
		lab.Status
	}
	seen := map[string][]look{}
	var names []string
	add := func(t float64, st lab.Status) {
		if st.Name == "" {
			return
		}
		if seen[st.Name] == nil {
			names = append(names, st.Name)
		}
		seen[st.Name] = append(seen[st.Name], look{t, st})
	}
	end := s.End
	for _, e := range s.Events {
		switch {
		case e.Kind == lab.EventStatus && e.Status != nil:
			st := *e.Status
			if st.Name == "" {
				st.Name = e.Host
			}
			add(e.T, st)
		case e.Kind == lab.EventUp:
			for _, st := range e.Statuses {
				add(e.T, st)
			}
		case e.Kind == lab.EventPhase && e.Text == "down":
			end = e.T
		}
	}
	for _, m := range s.Report.Members {
		if m.Name != "" && seen[m.Name] == nil {
			names = append(names, m.Name)
			seen[m.Name] = []look{}
		}
	}
	slices.Sort(names)
	var out []lane
	for _, n := range names {
		l := lane{Name: n}
		for i, k := range seen[n] {
			to := end
			if i+1 < len(seen[n]) {
				to = seen[n][i+1].t
			}
			if to <= k.t {
				continue
			}
			s.sit(&l, seat{From: k.t, To: to, State: state(k.Status), Term: k.Term})
		}
		out = append(out, l)
	}
	return out
}

// sit adds a while to a lane. Silence is named after the faults in force, and
// split where one of them begins.
func (s *saved) sit(l *lane, w seat) {
	if w.State != "no answer" {
		l.join(w)
		return
	}
	cuts := []float64{w.To}
	for _, f := range s.Report.Faults {
		if slices.Contains(f.Targets, l.Name) && f.Start > w.From && f.Start < w.To {
			cuts = append(cuts, f.Start)
		}
	}
	slices.Sort(cuts)
	for _, to := range cuts {
		w.State, w.To, w.Term = s.silence(l.Name, w.From, to), to, 0
		l.join(w)
		w.From = to
	}
}

func (l *lane) join(w seat) {
	if n := len(l.Seats); n > 0 {
		last := &l.Seats[n-1]
		if last.State == w.State && last.Term == w.Term && last.To == w.From {
			last.To = w.To
			return
		}
	}
	l.Seats = append(l.Seats, w)
}

// silence names why a member does not answer: by the youngest fault that was
// in force on it.
func (s *saved) silence(member string, from, to float64) string {
	word, start := "no answer", -1.0
	for _, f := range s.Report.Faults {
		until := s.End
		if f.Gone != nil {
			until = *f.Gone
		}
		if !slices.Contains(f.Targets, member) || f.Start >= to || until < from || f.Start < start {
			continue
		}
		start = f.Start
		switch f.Verb {
		case "pause":
			word = "paused"
		case "crash":
			word = "crashed"
		case "stop":
			word = "stopped"
		case "destroy", "wipe":
			word = "lost"
		case "cut":
			word = "cut off"
		default:
			word = "no answer"
		}
	}
	return word
}

// state is a member's role in one word.
func state(st lab.Status) string {
	switch {
	case st.Absent:
		return "no member"
	case !st.Up:
		return "no answer"
	case st.Role == "" || st.Role == "none":
		return "no leader"
	}
	return st.Role
}

// reign is one leader in one term.
type reign struct {
	T      float64
	Member string
	Term   uint64
}

// reigns lists who led, in order. A leader seen with an older term than one
// before it is deposed and does not know yet: that is no reign.
func reigns(lanes []lane) []reign {
	var all []reign
	for _, l := range lanes {
		for _, w := range l.Seats {
			if w.State == "leader" {
				all = append(all, reign{w.From, l.Name, w.Term})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b reign) int { return cmp.Compare(a.T, b.T) })
	var out []reign
	for _, r := range all {
		if n := len(out); n > 0 && (r.Term < out[n-1].Term || r.Term == out[n-1].Term && r.Member == out[n-1].Member) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// window is the part of the run that is worth looking at first: from when the
// cluster was up until it is taken down.
func (s *saved) window() (from, to float64) {
	from, to = 0, s.End
	for _, e := range s.Events {
		switch {
		case e.Kind == lab.EventUp:
			from = max(from, e.T)
		case e.Kind == lab.EventPhase && e.Text == "down" && e.T > from:
			to = e.T
		}
	}
	if to <= from {
		from, to = 0, s.End
	}
	if to <= 0 {
		to = 1
	}
	pad := (to - from) / 50
	return max(0, from-pad), min(max(s.End, to), to+pad)
}

// isWrite and isRead sort what the drill's clients did. Events and bookkeeping
// are neither, and the probers, which measure outages beside the load, would
// drown what they measure.
func isWrite(op lab.Op) bool {
	return op.Client > 0 && (op.Kind == lab.OpPut || op.Kind == lab.OpDelete || op.Kind == lab.OpTxn)
}

func isRead(op lab.Op) bool { return op.Client > 0 && op.Kind == lab.OpGet }

// series is what clients saw, in buckets of equal width.
type series struct {
	From, Width float64
	Buckets     []bucket
}

type bucket struct {
	Writes, Reads    int // acknowledged
	Refused, Unknown int
	Quantiles        [3]float64 // p50, p95, p99 of acknowledged writes in seconds; 0 without any
	lat              []float64
}

// widths are the bucket widths to choose from, in seconds.
var widths = [...]float64{0.25, 0.5, 1, 2, 5, 10, 30, 60, 300}

// seriesOf counts operations by the time they ended.
func seriesOf(ops []lab.Op, from, to float64, most int) series {
	s := series{From: math.Floor(from), Width: widths[len(widths)-1]}
	for _, w := range widths {
		if (to-s.From)/w <= float64(most) {
			s.Width = w
			break
		}
	}
	s.Buckets = make([]bucket, int(math.Ceil((to-s.From)/s.Width)))
	for _, op := range ops {
		i := int((float64(op.Return)/1e9 - s.From) / s.Width)
		if i < 0 || i >= len(s.Buckets) || !isWrite(op) && !isRead(op) {
			continue
		}
		b := &s.Buckets[i]
		switch {
		case op.Outcome == lab.Refused:
			b.Refused++
		case op.Outcome != lab.OK:
			b.Unknown++
		case isWrite(op):
			b.Writes++
			b.lat = append(b.lat, float64(op.Return-op.Call)/1e9)
		default:
			b.Reads++
		}
	}
	for i := range s.Buckets {
		b := &s.Buckets[i]
		slices.Sort(b.lat)
		for q, p := range [3]float64{.5, .95, .99} {
			if n := len(b.lat); n > 0 {
				b.Quantiles[q] = b.lat[min(n-1, int(math.Ceil(p*float64(n)))-1)]
			}
		}
		b.lat = nil
	}
	return s
}

// short is a time for people, three digits at most: "840µs", "21ms", "1.31s".
func short(v float64) string { return duration(v, "") }

func duration(v float64, gap string) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "?"
	case a == 0:
		return "0" + gap + "s"
	case a < 0.00095:
		return fmt.Sprintf("%.0f%sµs", v*1e6, gap)
	case a < 0.00995:
		return fmt.Sprintf("%.1f%sms", v*1e3, gap)
	case a < 0.9995:
		return fmt.Sprintf("%.0f%sms", v*1e3, gap)
	case a < 9.995:
		return fmt.Sprintf("%.2f%ss", v, gap)
	case a < 59.95:
		return fmt.Sprintf("%.1f%ss", v, gap)
	}
	d := time.Duration(v * 1e9).Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%d%sm%s%02d%ss", int(d.Minutes()), gap, gap, int(d.Seconds())%60, gap)
	}
	return fmt.Sprintf("%d%sh%s%02d%sm", int(d.Hours()), gap, gap, int(d.Minutes())%60, gap)
}

// grouped writes a number with commas.
func grouped(n int) string {
	if n < 0 {
		return "-" + grouped(-n)
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted is a number with its noun: "1 write", "3 writes".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return grouped(n) + " " + noun + "s"
}

// longest returns the longest outage of a kind, or of any when kind is empty.
func longest(outages []lab.Outage, kind string) *lab.Outage {
	var best *lab.Outage
	for i, o := range outages {
		if (kind == "" || o.Kind == kind) && (best == nil || o.Duration > best.Duration) {
			best = &outages[i]
		}
	}
	return best
}

// lostText says how many acknowledged writes are gone.
func lostText(r *lab.Report) string {
	if r.LostWrites == nil {
		return "not counted"
	}
	return fmt.Sprintf("%s of %s", grouped(*r.LostWrites), grouped(r.AckedWrites))
}

// rtoText is the RTO without its resolution.
func rtoText(r *lab.Report, gap string) string {
	if r.RTO == nil {
		return "not measured"
	}
	t := duration(*r.RTO, gap)
	if o := longest(r.Outages, "write"); o != nil && o.Open {
		t = "over " + t
	}
	return t
}

// word is a verdict as it is shown: the good ones quiet, the bad one loud.
func word(v lab.Verdict) string {
	switch v {
	case lab.Pass:
		return "ok"
	case lab.Fail:
		return "FAIL"
	case "":
		return "not run"
	}
	return string(v)
}

package reports

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Story tells a drill while it happens. Give its method Tell to the engine as
// the journal's callback, and Close it when the run is over.
//
// What went well is told in a line; the commands of a step are kept back, and
// printed when the step does not pass.
//
// All methods may be called concurrently.
type Story struct {
	w    io.Writer
	o    Options
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	told   time.Time // when the last event came
	t      float64   // its time
	live   bool      // a status line stands on the screen
	drill  *lab.Drill
	steps  map[string]*telling
	faults map[string]fault
	forced []string // names of faults in force, in order
	seats  map[string]lab.Status
	names  []string
	leader lab.Status // the youngest leader seen
	alone  float64    // since when nobody leads, negative = somebody does
	rate   float64
	fed    bool    // load events have come
	over   bool    // the steps are over: what is seen from here on is the taking down
	dry    float64 // since when nothing is acknowledged, negative = something is
	last   string  // the youngest fault or heal, for "after"
	lastT  float64
}

// telling is a step under way.
type telling struct {
	title  string
	start  float64
	ran    []ran
	failed map[string]int // refused commands told so far
}

type fault struct {
	verb  string
	names []string
	heal  float64
}

// NewStory begins a story. With o.Live a goroutine keeps the status line's
// clock going until Close.
func NewStory(w io.Writer, o Options) *Story {
	s := &Story{w: w, o: o, steps: map[string]*telling{}, faults: map[string]fault{}, seats: map[string]lab.Status{}, alone: -1, dry: -1}
	if o.Live {
		s.stop, s.done = make(chan struct{}), make(chan struct{})
		go s.tick(s.stop, s.done)
	}
	return s
}

func (s *Story) tick(stop <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			s.mu.Lock()
			if s.t > 0 {
				s.draw(s.t + now.Sub(s.told).Seconds())
			}
			s.mu.Unlock()
		}
	}
}

// Close takes the status line away. It may be called twice.
func (s *Story) Close() {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		close(stop)
		<-s.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipe()
	s.o.Live = false
}

// Tell tells an event. Events of one run come in order.
func (s *Story) Tell(e lab.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told, s.t = time.Now(), e.T
	s.tell(e)
	if s.live {
		s.draw(e.T)
	}
}

func (s *Story) tell(e lab.Event) {
	switch e.Kind {
	case lab.EventRun:
		if e.Run != nil {
			s.header(e.Run)
		}
	case lab.EventPhase:
		s.phase(e)
	case lab.EventUp:
		for _, st := range e.Statuses {
			s.see(st)
		}
		text := "the cluster is up"
		if e.Seconds > 0 {
			text += ", after " + short(e.Seconds)
		}
		if l := s.lead(); l.Name != "" {
			text += fmt.Sprintf("; %s leads, term %d", l.Name, l.Term)
			if l.Version != "" {
				text += ", etcd " + l.Version
			}
			s.leader = l
		}
		s.say(e.T, "up", "up", text)
	case lab.EventStep:
		s.begin(e)
	case lab.EventAim:
		if e.Target != nil {
			s.say(e.T, "aim", "faint", fmt.Sprintf("%s is %s", e.Target.Role, strings.Join(e.Target.Names, ", ")))
		}
	case lab.EventFault:
		f := fault{verb: e.Verb}
		if e.Target != nil {
			f.names = e.Target.Names
		}
		s.faults[e.Fault] = f
		s.forced = append(s.forced, e.Fault)
		s.last, s.lastT = e.Fault, e.T
		s.say(e.T, "fault", "fault", s.name(e.Fault)+" injected")
	case lab.EventBites:
		s.say(e.T, "proved", "fault", fmt.Sprintf("%s bites, after %s%s", e.Fault, short(e.Seconds), because(e.Text)))
	case lab.EventHeal:
		f := s.faults[e.Fault]
		f.heal = e.T
		s.faults[e.Fault] = f
		s.last, s.lastT = "healing "+e.Fault, e.T
		s.say(e.T, "heal", "", s.name(e.Fault))
	case lab.EventGone:
		s.forced = slices.DeleteFunc(s.forced, func(n string) bool { return n == e.Fault })
		s.say(e.T, "gone", "ok", fmt.Sprintf("%s is gone, after %s%s", e.Fault, short(e.Seconds), because(e.Text)))
	case lab.EventStuck:
		s.say(e.T, "STUCK", "FAIL", fmt.Sprintf("%s could not be healed%s", e.Fault, because(e.Error)))
	case lab.EventCommand:
		s.ran(e)
	case lab.EventStatus:
		s.status(e)
	case lab.EventLoad:
		s.load(e)
	case lab.EventNote:
		text := e.Text
		if e.Host != "" {
			text = e.Host + ": " + text
		}
		s.say(e.T, "note", "faint", text)
	case lab.EventDone:
		s.finish(e)
	case lab.EventLeft:
		s.say(e.T, "LEFT", "FAIL", "left behind: "+e.Text)
	case lab.EventEnd:
		if e.Error != "" && e.Verdict != lab.Pass {
			s.say(e.T, word(e.Verdict), word(e.Verdict), e.Error)
		}
	}
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// name is a fault with what it is and whom it hit.
func (s *Story) name(n string) string {
	f, ok := s.faults[n]
	if !ok {
		return n
	}
	text := f.verb
	if len(f.names) > 0 {
		text += " of " + strings.Join(f.names, ", ")
	}
	if n == f.verb {
		return text
	}
	return n + " (" + text + ")"
}

func (s *Story) header(run *lab.RunInfo) {
	s.wipe()
	d := run.Drill
	if d == nil {
		d = &lab.Drill{Name: "drill"}
	}
	s.drill = d
	fmt.Fprintf(s.w, "%s  %s\n", s.o.paint(oneLine(d.Name), "bold"), oneLine(d.Title))
	for _, l := range wrap(d.Why, min(s.o.width(), 100)-2) {
		fmt.Fprintf(s.w, "  %s\n", s.o.paint(l, "faint"))
	}
	facts := []string{run.Driver + " driver", fmt.Sprintf("seed %d", run.Seed)}
	if a := d.Cluster.Adopt; a != nil {
		facts = append(facts, a.Name+", adopted"+map[bool]string{true: " to be looked at"}[a.ReadOnly()])
	} else if n := d.Cluster.Members; n > 0 {
		text := counted(n, "member")
		if d.Cluster.Spares > 0 {
			text += " and " + counted(d.Cluster.Spares, "spare")
		}
		facts = append(facts, fmt.Sprintf("%s, quorum %d", text, lab.Quorum(n)))
	}
	if l := d.Load; l != nil {
		text := counted(l.Clients, "client")
		if l.Rate > 0 {
			text += fmt.Sprintf(" at %g/s", float64(l.Rate))
		}
		facts = append(facts, text+" on "+counted(l.Keys, "key"))
	}
	for _, l := range wrap(strings.Join(facts, "; "), s.o.width()-2) {
		fmt.Fprintf(s.w, "  %s\n", l)
	}
	fmt.Fprintln(s.w)
}

func (s *Story) phase(e lab.Event) {
	text, ok := map[string]string{
		"up": "starting the lab", "steady": "looking for a steady state", "load": "starting the load",
		"heal": "healing what is still broken", "end": "looking how the cluster stands", "down": "taking the lab down",
	}[e.Text]
	if ok {
		s.say(e.T, e.Text, "faint", text)
	}
	if e.Text == "end" || e.Text == "down" {
		s.over, s.fed, s.dry, s.alone = true, false, -1, -1 // what follows is no outage
	}
}

func (s *Story) begin(e lab.Event) {
	target := ""
	if e.Target != nil {
		target = e.Target.Role
	}
	t := &telling{title: title(e.Word, e.Verb, target), start: e.T, failed: map[string]int{}}
	s.steps[e.Step] = t
	text := t.title
	if d := details(drillStep(s.drill, e.Line, e.Word, e.Verb), target); d != "" {
		text += ": " + d
	}
	s.say(e.T, "step "+e.Step, "bold", text)
	for _, l := range wrap(e.Text, s.o.width()-indent) {
		s.more(s.o.paint(l, "faint"))
	}
}

func (s *Story) finish(e lab.Event) {
	t := s.steps[e.Step]
	delete(s.steps, e.Step)
	w := word(e.Verdict)
	text := "step " + e.Step
	if e.Seconds > 0 {
		text += " in " + short(e.Seconds)
	}
	if e.Verdict == lab.Pass {
		s.say(e.T, w, w, text)
		return
	}
	s.say(e.T, w, w, text+because(e.Error))
	if t == nil {
		return
	}
	const most, lines = 8, 12
	if n := len(t.ran) - most; n > 0 {
		s.more(fmt.Sprintf("(%s before these)", counted(n, "command")))
		t.ran = t.ran[n:]
	}
	for _, c := range t.ran {
		s.more(fmt.Sprintf("%s$ %s", c.Host, c.Line))
		out := strings.Split(c.Output, "\n")
		if n := len(out) - lines; n > 0 {
			s.more(fmt.Sprintf("  (%s before these)", counted(n, "line")))
			out = out[n:]
		}
		for _, l := range out {
			if l = strings.TrimRight(clean(l), " \t"); l != "" {
				s.more("  " + s.o.paint(strings.ReplaceAll(l, "\t", "  "), "faint"))
			}
		}
		s.more(fmt.Sprintf("  %s after %s", c.Ended(), short(c.Seconds)))
	}
}

// ran keeps a command for the step it belongs to, and tells of refusals, each
// once a step.
func (s *Story) ran(e lab.Event) {
	c := ranOf(e)
	t := s.steps[e.Step]
	if t != nil {
		t.ran = append(t.ran, c)
		if n := len(t.ran); n > 64 {
			t.ran = slices.Delete(t.ran, 0, n-64)
		}
	}
	if c.Well() {
		return
	}
	if t != nil {
		if t.failed[c.Host+c.Line]++; t.failed[c.Host+c.Line] > 1 {
			return
		}
	}
	text := fmt.Sprintf("%s$ %s: %s", c.Host, cutTo(c.Brief, 100), c.Ended())
	if l := lastLine(c.Output); l != "" {
		text += ": " + l
	}
	s.say(e.T, "refused", "unknown", text)
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return cutTo(s[strings.LastIndexByte(s, '\n')+1:], 160)
}

func (s *Story) see(st lab.Status) {
	if _, ok := s.seats[st.Name]; !ok {
		s.names = append(s.names, st.Name)
	}
	s.seats[st.Name] = st
}

// lead is who leads now, the one with the highest term if several think so.
func (s *Story) lead() lab.Status {
	var l lab.Status
	for _, n := range s.names {
		if st := s.seats[n]; st.Up && st.Role == "leader" && st.Term >= l.Term {
			l = st
		}
	}
	return l
}

func (s *Story) status(e lab.Event) {
	if e.Status == nil || s.over {
		return
	}
	st := *e.Status
	if st.Name == "" {
		st.Name = e.Host
	}
	before, known := s.seats[st.Name]
	s.see(st)
	l := s.lead()
	switch {
	case l.Name == "" && s.alone < 0 && s.leader.Name != "":
		s.alone = e.T
		s.say(e.T, "leader", "FAIL", "nobody leads")
	case l.Name != "" && (l.Name != s.leader.Name || l.Term != s.leader.Term) && l.Term >= s.leader.Term:
		text := fmt.Sprintf("%s leads, term %d", l.Name, l.Term)
		switch {
		case s.last != "" && s.leader.Name != "":
			text += fmt.Sprintf(", %s after %s", short(e.T-s.lastT), s.last)
		case s.alone >= 0:
			text += fmt.Sprintf(", after %s without one", short(e.T-s.alone))
		}
		s.leader, s.alone = l, -1
		s.say(e.T, "leader", "leader", text)
	case l.Name != "":
		s.alone = -1
	}
	if known && before.Up != st.Up {
		text := st.Name + " answers again"
		if !st.Up {
			text = st.Name + " does not answer"
		}
		s.say(e.T, "member", "faint", text)
	}
	if known && before.Absent != st.Absent {
		text := st.Name + " is a member now"
		if st.Absent {
			text = st.Name + " is no member any more"
		}
		s.say(e.T, "member", "faint", text)
	}
}

func (s *Story) load(e lab.Event) {
	if s.over {
		return
	}
	if e.Text != "" {
		s.say(e.T, "load", "faint", e.Text)
	}
	if e.Rate == 0 && e.Text != "" {
		return // a remark, not a measurement
	}
	switch {
	case !s.fed && e.Rate > 0:
		s.fed = true
		s.say(e.T, "load", "faint", fmt.Sprintf("%.0f operations acknowledged per second", e.Rate))
	case s.fed && e.Rate == 0 && s.dry < 0:
		s.dry = max(0, e.T-1)
		s.say(e.T, "outage", "FAIL", "nothing was acknowledged in the last second")
	case s.dry >= 0 && e.Rate > 0:
		s.say(e.T, "load", "faint", fmt.Sprintf("%.0f operations per second again, after about %.0fs of nothing", e.Rate, e.T-s.dry-1))
		s.dry = -1
	}
	s.rate = e.Rate
}

// indent is where the text of a line begins.
const indent = 20

// say prints a line: when, a word for what kind of thing, and the thing. Long
// lines are wrapped below themselves.
func (s *Story) say(t float64, word, as, text string) {
	s.wipe()
	lines := wrap(text, max(40, s.o.width()-indent))
	if len(lines) == 0 {
		lines = []string{""}
	}
	word = oneLine(word)
	fmt.Fprintf(s.w, "%8.2fs  %s %s\n", t, s.o.paint(fmt.Sprintf("%-8s", word), as), lines[0])
	for _, l := range lines[1:] {
		s.more(l)
	}
}

// more prints a line below the text of the one before.
func (s *Story) more(line string) {
	s.wipe()
	fmt.Fprintf(s.w, "%*s%s\n", indent, "", line)
}

// wipe takes the status line away. It stands on its own, so that whatever is
// printed next begins where it stood.
func (s *Story) wipe() {
	if s.live {
		io.WriteString(s.w, "\r\x1b[K")
		s.live = false
	}
}

// draw shows the status line: the terminal must not wrap it, or it could not
// be drawn again.
func (s *Story) draw(now float64) {
	if !s.o.Live {
		return
	}
	parts := []string{fmt.Sprintf("%8.1fs ", now)}
	switch {
	case s.alone >= 0:
		parts = append(parts, s.o.paint(fmt.Sprintf("no leader for %.1fs", now-s.alone), "FAIL"))
	case s.leader.Name != "":
		parts = append(parts, fmt.Sprintf("%s leads, term %d", oneLine(s.leader.Name), s.leader.Term))
	}
	if s.fed {
		parts = append(parts, fmt.Sprintf("%.0f ops/s", s.rate))
	}
	if s.dry >= 0 {
		parts = append(parts, s.o.paint(fmt.Sprintf("outage %.1fs", now-s.dry), "FAIL"))
	}
	if len(s.forced) > 0 {
		parts = append(parts, "in force: "+oneLine(strings.Join(s.forced, ", ")))
	}
	if len(parts) == 1 {
		parts = append(parts, "…")
	}
	io.WriteString(s.w, "\r\x1b[?7l"+strings.Join(parts, " | ")+"\x1b[K\x1b[?7h")
	s.live = true
}

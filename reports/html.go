package reports

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

//go:embed page
var pageFiles embed.FS

// sizeLimit is what report.html must stay below, with some room.
const sizeLimit = 1_900_000

// room is how much of a run a page may show. What is left out is said.
type room struct {
	dots     int // acknowledged operations drawn
	commands int
	output   int // bytes of all commands' output together
	each     int // bytes of one command's output
	rows     int // rows of a table
}

// writeHTML draws the page with as much as fits.
func writeHTML(w io.Writer, s *saved) error {
	t, err := template.New("page.html").Funcs(template.FuncMap{
		"at": at, "dur": func(v float64) string { return duration(v, "\u202f") }, "num": grouped, "word": word, "mark": mark,
		"line": oneLine, "counted": counted, "deref": func(v *float64) float64 { return *v }, "upper": strings.ToUpper,
		"join": func(s []string) string { return strings.Join(s, ", ") }, "title": title,
		"f": fixed, "tokens": func(s string) []string { return strings.Split(s, " ") }, "span": func(a, b float64) string { return fixed(max(b-a, 0.001)) }, "since": func(a, b float64) float64 { return max(0, a-b) },
		"secs4":    func(v float64) string { return fmt.Sprintf("%.4f\u202fs", v) },
		"seatMark": func(s string) string { return seatLook(s).mark }, "seatClass": func(s string) string { return seatLook(s).class },
		"both": func(p *plot, t timeline) map[string]any { return map[string]any{"Plot": p, "Time": t} },
	}).ParseFS(pageFiles, "page/page.html")
	if err != nil {
		return err
	}
	show := room{dots: 24000, commands: 500, output: 500_000, each: 8000, rows: 500}
	for {
		p, err := newPage(s, show)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, "page.html", p); err != nil {
			return err
		}
		if b.Len() < sizeLimit || show.rows < 10 {
			_, err = w.Write(b.Bytes())
			return err
		}
		show = room{show.dots / 2, show.commands / 2, show.output / 2, show.each / 2, show.rows / 2}
	}
}

// page is all the template needs.
type page struct {
	*saved
	CSS       template.CSS
	JS        template.JS
	Data      data
	Name      string
	Sentence  string
	Figures   []figure
	Drill     *lab.Drill
	Found     []lab.Finding
	FoundCut  int
	Picture   *drawing
	Time      timeline
	Steps     []stepRow
	StepsCut  int
	Story     []storyRow
	StoryCut  int
	Commands  []commandGroup
	Shell     string
	Cut       []string // what the page leaves out
	Again     string
	Called    string
	EnvKeys   []string
	Beside    []string
	Measured  bool
	Resolving string
}

type figure struct{ Label, Value, Note, Class string }

type stepRow struct {
	lab.StepReport
	Details string
	Ran     bool
}

type storyRow struct {
	T    float64
	What string
}

// commandGroup is the commands of a step, folded away in a long runbook. A
// short runbook is one group without a title.
type commandGroup struct {
	Title string
	Open  bool
	Rows  []commandRow
}

type commandRow struct {
	ran
	Output string
	Cut    int
}

func newPage(s *saved, show room) (*page, error) {
	css, err := pageFiles.ReadFile("page/page.css")
	if err != nil {
		return nil, err
	}
	js, err := pageFiles.ReadFile("page/page.js")
	if err != nil {
		return nil, err
	}
	r := s.Report
	p := &page{saved: s, CSS: template.CSS(css), JS: template.JS(js), Drill: s.drill(), Again: command(s.again()),
		EnvKeys: sortedKeys(r.Environment), Beside: append(slices.Clone(s.Files), FileJSON, FileMarkdown, FileJUnit)}
	p.Name = oneLine(r.Title)
	if p.Name == "" {
		p.Name = oneLine(r.Drill)
	}
	if p.Name == "" {
		p.Name = "A run without a name"
	}
	p.Sentence = strings.TrimPrefix(sentence(r), oneLine(r.Drill)+": ")
	if s.Info != nil && len(s.Info.Command) > 0 {
		p.Called = command(s.Info.Command)
	}
	p.Measured = r.Verdict != lab.Skip && (r.RTO != nil || r.Ops > 0)
	if p.Measured {
		p.Figures = figures(r)
	}
	p.Cut = append(p.Cut, s.Unread...)

	p.Found = allFindings(r)
	if n := len(p.Found) - show.rows; n > 0 {
		p.Found, p.FoundCut = p.Found[:show.rows], n
		p.Cut = append(p.Cut, fmt.Sprintf("%s left out: see %s", counted(n, "finding"), FileJSON))
	}
	if r.Picture != nil && len(r.Picture.Ops) > 0 {
		p.Picture = draw(r.Picture)
	}
	p.steps(show)
	p.commands(show)
	p.story(show)
	if len(s.Events) > 0 || len(s.Ops) > 0 {
		p.Time = newTimeline(s, show, &p.Cut)
	}
	p.Data = newData(p)
	return p, nil
}

// figures are the numbers of the first screen.
func figures(r *lab.Report) []figure {
	const thin = "\u202f"
	rto := figure{Label: "Recovery time (RTO)", Value: rtoText(r, thin), Note: "longest time without an accepted write"}
	if r.RTO == nil {
		rto.Value, rto.Class = "–", "dim"
		rto.Note = "not measured"
	} else if r.Resolution > 0 {
		rto.Note += ", ±" + thin + duration(r.Resolution, thin)
	}
	lost := figure{Label: "Lost writes (RPO)", Value: "–", Note: "could not be counted", Class: "dim"}
	if r.LostWrites != nil {
		lost = figure{Label: "Lost writes (RPO)", Value: grouped(*r.LostWrites), Note: "of those that were acknowledged"}
		if r.UndoneWrites > 0 {
			lost.Note = "beside " + grouped(r.UndoneWrites) + " that a restore took back on purpose"
		}
		if *r.LostWrites > 0 {
			lost.Class = "bad"
		}
	}
	lin := figure{Label: "Linearizable", Value: r.Linearizable, Note: map[string]string{
		"yes": "every answer fits one order of operations", "no": "some answers fit no order of operations",
		"unknown": "not decided"}[r.Linearizable]}
	if r.Linearizable == "no" {
		lin.Class = "bad"
	} else if r.Linearizable != "yes" {
		lin.Class = "dim"
	}
	acked := figure{Label: "Acknowledged writes", Value: grouped(r.AckedWrites), Note: grouped(r.UnknownWrites) + " more with unknown outcome"}
	if r.UnknownWrites == 0 {
		acked.Note = "none with unknown outcome"
	}
	out := figure{Label: "Longest outage", Value: "none", Note: "reads and writes were always answered"}
	if o := longest(r.Outages, ""); o != nil {
		out.Value = duration(o.Duration, thin)
		out.Note = "of " + o.Kind + "s" + during(*o)
		other := "read"
		if o.Kind == "read" {
			other = "write"
		}
		if o2 := longest(r.Outages, other); o2 != nil {
			out.Note += "; of " + other + "s " + duration(o2.Duration, thin)
		}
	} else if r.RTO == nil {
		out.Value, out.Note, out.Class = "–", "not measured", "dim"
	}
	return []figure{rto, lost, lin, acked, out}
}

func (p *page) steps(show room) {
	d := p.drill()
	for _, st := range p.Report.Steps {
		if len(p.Steps) >= show.rows && (st.Verdict == lab.Pass || len(p.Steps) >= 2*show.rows) {
			p.StepsCut++
			continue
		}
		row := stepRow{StepReport: st, Ran: st.Verdict != "" && st.Verdict != lab.Skip}
		step := drillStep(d, st.Line, st.Word, st.Verb)
		target := st.Target
		if i := strings.Index(target, " ("); i > 0 {
			target = target[:i]
		}
		row.Details = details(step, target)
		if row.Why == "" && step != nil {
			row.Why = oneLine(step.Why)
		}
		p.Steps = append(p.Steps, row)
	}
	if p.StepsCut > 0 {
		p.Cut = append(p.Cut, fmt.Sprintf("%s that passed left out: see %s", counted(p.StepsCut, "step"), FileJSON))
	}
}

func (p *page) commands(show room) {
	all := p.Ran
	shown := 0
	titles := map[string]string{}
	for _, s := range p.Report.Steps {
		titles[s.Index] = title(s.Word, s.Verb, s.Target)
	}
	var shell strings.Builder
	output, cutOutput := 0, 0
	for i, c := range all {
		if i >= show.commands && (c.Well() || i >= 2*show.commands) {
			continue
		}
		row := commandRow{ran: c, Output: c.Output}
		most := min(show.each, max(0, show.output-output))
		if len(row.Output) > most {
			row.Cut = len(row.Output) - most
			row.Output = strings.ToValidUTF8(row.Output[:most], "")
			cutOutput += row.Cut
		}
		output += len(row.Output)
		shown++
		name := ""
		if len(all) > 40 {
			name = "before and after the steps"
			if c.Step != "" {
				name = strings.TrimSpace("step " + oneLine(c.Step) + "  " + titles[c.Step])
			}
		}
		if n := len(p.Commands); n == 0 || p.Commands[n-1].Title != name {
			p.Commands = append(p.Commands, commandGroup{Title: name})
		}
		g := &p.Commands[len(p.Commands)-1]
		g.Rows = append(g.Rows, row)
		g.Open = g.Open || !c.Well()
		fmt.Fprintf(&shell, "# %s at %s, %s\n%s\n", c.Host, short(c.T), c.Ended(), c.Line)
	}
	p.Shell = shell.String()
	if n := len(all) - shown; n > 0 {
		p.Cut = append(p.Cut, fmt.Sprintf("%s left out: see %s", counted(n, "command"), fileEvents))
	}
	if cutOutput > 0 {
		p.Cut = append(p.Cut, fmt.Sprintf("%s of command output left out: see %s", counted(cutOutput, "byte"), fileEvents))
	}
}

// story is the time line as a table, for those who cannot use a picture.
func (p *page) story(show room) {
	r := p.Report
	add := func(t float64, format string, args ...any) {
		p.Story = append(p.Story, storyRow{t, cutTo(oneLine(fmt.Sprintf(format, args...)), 600)})
	}
	for _, e := range p.Events {
		switch e.Kind {
		case lab.EventPhase:
			add(e.T, "phase: %s", e.Text)
		case lab.EventUp:
			add(e.T, "the cluster is up, after %s", short(e.Seconds))
		case lab.EventStuck:
			add(e.T, "%s could not be healed%s", e.Fault, because(e.Error))
		case lab.EventNote:
			add(e.T, "%s", strings.TrimPrefix(e.Host+": "+e.Text, ": "))
		case lab.EventLeft:
			add(e.T, "left behind: %s", e.Text)
		case lab.EventEnd:
			if e.Error != "" {
				add(e.T, "the run ended: %s", e.Error)
			}
		}
	}
	for _, s := range p.Steps {
		if s.Ran {
			add(s.Start, "step %s: %s: %s after %s%s", s.Index, title(s.Word, s.Verb, s.Target), word(s.Verdict), short(s.Duration), because(s.Reason))
		}
	}
	for _, f := range r.Faults {
		add(f.Start, "%s (%s of %s) injected", f.Name, f.Verb, strings.Join(f.Targets, ", "))
		if f.Bites != nil {
			add(*f.Bites, "%s proved to bite%s", f.Name, because(f.Proof))
		}
		if f.Heal != nil {
			add(*f.Heal, "healing of %s began", f.Name)
		}
		if f.Gone != nil {
			add(*f.Gone, "%s proved gone%s", f.Name, because(f.Cure))
		}
	}
	for _, g := range reigns(p.lanes()) {
		add(g.T, "%s leads, term %d", g.Member, g.Term)
	}
	for _, o := range r.Outages {
		add(o.Start, "%ss go unanswered for %s%s", o.Kind, short(o.Duration), during(o))
	}
	slices.SortStableFunc(p.Story, func(a, b storyRow) int {
		switch {
		case a.T < b.T:
			return -1
		case a.T > b.T:
			return 1
		}
		return 0
	})
	if n := len(p.Story) - show.rows; n > 0 {
		p.StoryCut = n
		p.Story = p.Story[:show.rows]
		p.Cut = append(p.Cut, fmt.Sprintf("%s of the story as a table left out: see %s", counted(n, "row"), fileEvents))
	}
}

// at is a time in the run, on a ruler: always seconds.
func at(v float64) string { return fmt.Sprintf("%.2f\u202fs", v) }

// fixed is a number as style sheets read it.
func fixed(v float64) string { return strconv.FormatFloat(v, 'f', 4, 64) }

// look is how a member's state is drawn: a shape beside the word, and a class.
type look struct{ mark, class string }

func seatLook(state string) look {
	switch state {
	case "leader":
		return look{"★", "leader"}
	case "follower":
		return look{"○", "follower"}
	case "learner":
		return look{"◌", "learner"}
	case "no leader":
		return look{"?", "none"}
	case "no member":
		return look{"–", "absent"}
	case "paused":
		return look{"‖", "down"}
	}
	return look{"✕", "down"}
}

// mark is the shape that goes with a verdict.
func mark(v lab.Verdict) string {
	switch v {
	case lab.Pass:
		return "✓"
	case lab.Fail:
		return "✗"
	case lab.Error:
		return "!"
	case lab.Undecided:
		return "?"
	}
	return "–"
}

// data is what the page's script works with.
type data struct {
	End     float64      `json:"end"`
	From    float64      `json:"from"`
	To      float64      `json:"to"`
	Members []dataMember `json:"members"`
	Faults  []dataFault  `json:"faults"`
	Steps   []dataStep   `json:"steps"`
	Outages []lab.Outage `json:"outages"`
	Load    *dataLoad    `json:"load"`
	Stops   []float64    `json:"stops"` // moments worth jumping to
}

type dataMember struct {
	Name  string     `json:"name"`
	Seats []dataSeat `json:"seats"`
}

type dataSeat struct {
	From  float64 `json:"a"`
	To    float64 `json:"b"`
	State string  `json:"s"`
	Term  uint64  `json:"t"`
	Up    bool    `json:"u"`
}

type dataFault struct {
	Name string   `json:"name"`
	Text string   `json:"text"`
	A    float64  `json:"a"`
	Bite *float64 `json:"bite"`
	Heal *float64 `json:"heal"`
	Gone *float64 `json:"gone"`
}

type dataStep struct {
	Index   string  `json:"i"`
	Text    string  `json:"text"`
	Why     string  `json:"why"`
	A       float64 `json:"a"`
	B       float64 `json:"b"`
	Verdict string  `json:"v"`
}

type dataLoad struct {
	From   float64 `json:"from"`
	Width  float64 `json:"w"`
	Writes []int   `json:"writes"`
	Reads  []int   `json:"reads"`
	Other  []int   `json:"other"` // refused and unknown
}

func newData(p *page) data {
	t := &p.Time
	d := data{End: p.End, From: t.From, To: t.To, Members: []dataMember{}, Faults: []dataFault{}, Steps: []dataStep{}, Outages: p.Report.Outages, Stops: []float64{}}
	for _, l := range t.Lanes {
		m := dataMember{Name: l.Name, Seats: []dataSeat{}}
		for _, w := range l.Seats {
			m.Seats = append(m.Seats, dataSeat{milli(w.From), milli(w.To), w.State, w.Term, w.Up()})
		}
		d.Members = append(d.Members, m)
	}
	for _, f := range p.Report.Faults {
		d.Faults = append(d.Faults, dataFault{oneLine(f.Name), faultText(f), f.Start, f.Bites, f.Heal, f.Gone})
		d.Stops = append(d.Stops, f.Start)
		if f.Heal != nil {
			d.Stops = append(d.Stops, *f.Heal)
		}
	}
	for _, s := range p.Steps {
		if s.Ran {
			d.Steps = append(d.Steps, dataStep{oneLine(s.Index), title(s.Word, s.Verb, s.Target), oneLine(s.Why), s.Start, s.Start + s.Duration, word(s.Verdict)})
			d.Stops = append(d.Stops, s.Start)
		}
	}
	for _, o := range p.Report.Outages {
		d.Stops = append(d.Stops, o.Start, o.End)
	}
	for _, g := range reigns(t.Lanes) {
		d.Stops = append(d.Stops, g.T)
	}
	slices.Sort(d.Stops)
	d.Stops = slices.Compact(d.Stops)
	if t.series.Buckets != nil {
		l := &dataLoad{From: t.series.From, Width: t.series.Width}
		for _, b := range t.series.Buckets {
			l.Writes, l.Reads, l.Other = append(l.Writes, b.Writes), append(l.Reads, b.Reads), append(l.Other, b.Refused+b.Unknown)
		}
		d.Load = l
	}
	return d
}

func milli(v float64) float64 { return float64(int64(v*1000+0.5)) / 1000 }

// faultText is a fault in a few words: "crash of m1".
func faultText(f lab.FaultReport) string {
	s := f.Verb
	if len(f.Targets) > 0 {
		s += " of " + strings.Join(f.Targets, ", ")
	}
	return oneLine(s)
}

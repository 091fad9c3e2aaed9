package reports

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// timeline is everything that has time as its horizontal axis. The plots are
// drawn over the whole run, and the page places them with two numbers, where
// its view begins and how long it is: so one drawing serves any zoom.
//
// Inside a drawing the horizontal unit is 1/span of the run, the vertical one
// 1/100 of the plot's height; strokes do not scale, so that a dot is a line of
// no length with round ends.
type timeline struct {
	From, To, End float64
	Ticks         []tick
	Pins          []pin
	PinRows       int
	Faults        [][]bar // rows of bars that do not overlap
	Lanes         []lane
	Outages       []outageRow
	Scatter       *plot
	Quantiles     *plot
	Rates         *plot
	Strips        []strip
	Injected      []float64
	Table         []tableRow
	series        series
}

const span = 20000

// Drawn tells whether there is anything to see.
func (t timeline) Drawn() bool { return len(t.Lanes)+len(t.Pins)+len(t.Faults) > 0 || t.Scatter != nil }

type tick struct {
	T    float64
	Text string
}

type pin struct {
	T       float64
	Index   string
	Mark    string
	Word    string
	Text    string
	Verdict lab.Verdict
	Row     int
}

type bar struct {
	Name, Text, Title string
	A, B              float64
	Bites             *float64
	Heal              *float64
	Open              bool // never proved gone
	Late              bool // begins so late that its text goes to the left
}

type outageRow struct {
	Kind string
	Bars []lab.Outage
}

// plot is one drawing: lines and dots, with its vertical axis.
type plot struct {
	Title, Note string
	Class       string
	Axis        []axisTick
	Paths       []stroke
	Desc        string
	Dense       bool // so many dots that they are drawn small
}

type axisTick struct {
	Y    string // percent from the top
	Text string
}

type stroke struct{ Class, Name, D string }

type strip struct {
	Name  string
	Class string
	D     string
	Count int
}

type tableRow struct {
	T                               float64
	Writes, Reads, Refused, Unknown int
	Quantiles                       [3]float64
}

func newTimeline(s *saved, show room, cut *[]string) timeline {
	t := timeline{End: s.End, Lanes: s.lanes()}
	t.From, t.To = s.window()
	t.From, t.To = milli(t.From), milli(t.To)
	t.Ticks = ticks(t.From, t.To)
	t.pins(s)
	t.bars(s, show)
	for i := range t.Lanes {
		if n := len(t.Lanes[i].Seats) - show.rows; n > 0 {
			t.Lanes[i].Seats = t.Lanes[i].Seats[:show.rows]
			*cut = append(*cut, fmt.Sprintf("%s: %s left out after %s", t.Lanes[i].Name, counted(n, "change"), short(t.Lanes[i].Seats[show.rows-1].To)))
		}
	}
	for _, kind := range []string{"write", "read"} {
		row := outageRow{Kind: kind}
		for _, o := range s.Report.Outages {
			if o.Kind == kind {
				row.Bars = append(row.Bars, o)
			}
		}
		if n := len(row.Bars) - show.rows; n > 0 {
			slices.SortFunc(row.Bars, func(a, b lab.Outage) int { return int(math.Copysign(1, b.Duration-a.Duration)) })
			row.Bars = row.Bars[:show.rows]
			*cut = append(*cut, fmt.Sprintf("the %s shortest %s outages are not drawn", grouped(n), kind))
		}
		if s.Report.RTO != nil || len(row.Bars) > 0 {
			t.Outages = append(t.Outages, row)
		}
	}
	ops := 0
	for _, op := range s.Ops {
		if isWrite(op) || isRead(op) {
			ops++
		}
	}
	if ops == 0 {
		return t
	}
	t.series = seriesOf(s.Ops, t.From, t.To, 160)
	t.scatter(s, show, cut)
	t.strips(s)
	t.quantiles()
	t.rates()
	for i, b := range t.series.Buckets {
		t.Table = append(t.Table, tableRow{t.series.From + float64(i)*t.series.Width, b.Writes, b.Reads, b.Refused, b.Unknown, b.Quantiles})
	}
	return t
}

// ticks divides a stretch of time at round numbers.
func ticks(from, to float64) []tick {
	step := 1.0
	for _, s := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600} {
		if step = s; (to-from)/s <= 10 {
			break
		}
	}
	var out []tick
	for n := math.Ceil(from / step); n*step < to; n++ {
		v := n * step
		text := strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) + "\u202fs"
		if step >= 60 {
			text = fmt.Sprintf("%.0f\u202fmin", v/60)
		}
		out = append(out, tick{v, text})
	}
	return out
}

// pinMarks are the shapes of the four words.
var pinMarks = map[string]string{"do": "▸", "break": "✕", "check": "?", "heal": "+", "repeat": "↻", "parallel": "∥"}

func (t *timeline) pins(s *saved) {
	var ends []float64
	t.PinRows = 1
	gap := (t.To - t.From) / 26 // a pin's width on a usual screen
	for _, st := range s.Report.Steps {
		if st.Verdict == "" || st.Verdict == lab.Skip || len(t.Pins) >= 400 {
			continue
		}
		p := pin{T: st.Start, Index: oneLine(st.Index), Mark: pinMarks[st.Word], Word: st.Word, Verdict: st.Verdict,
			Text: fmt.Sprintf("step %s, %s: %s at %s", oneLine(st.Index), title(st.Word, st.Verb, st.Target), word(st.Verdict), short(st.Start))}
		for p.Row = 0; p.Row < len(ends) && ends[p.Row] > st.Start; p.Row++ {
		}
		if p.Row = min(p.Row, 3); p.Row == len(ends) {
			ends = append(ends, 0)
		}
		ends[p.Row] = st.Start + gap
		t.PinRows = max(t.PinRows, p.Row+1)
		t.Pins = append(t.Pins, p)
	}
}

// bars packs faults into rows with room for their names, and without it where
// that would take too many rows: the page then shows the names that fit.
func (t *timeline) bars(s *saved, show room) {
	if t.pack(s, show, 0.22); len(t.Faults) > 6 {
		t.Injected, t.Faults = nil, nil
		t.pack(s, show, 0.002)
	}
}

func (t *timeline) pack(s *saved, show room, gap float64) {
	for i, f := range s.Report.Faults {
		if i >= show.rows {
			break
		}
		t.Injected = append(t.Injected, f.Start)
		b := bar{Name: oneLine(f.Name), Text: faultText(f), A: f.Start, B: s.End, Bites: f.Bites, Heal: f.Heal, Open: f.Gone == nil}
		if b.Name == f.Verb {
			b.Name = ""
		}
		if f.Gone != nil {
			b.B = *f.Gone
		}
		said := []string{fmt.Sprintf("injected at %s", short(f.Start))}
		for _, m := range []struct {
			t  *float64
			at string
			no string
		}{{f.Bites, "proved at ", "never proved"}, {f.Heal, "healed from ", "never healed"}, {f.Gone, "gone at ", "never proved gone"}} {
			if m.t != nil {
				said = append(said, m.at+short(*m.t))
			} else {
				said = append(said, m.no)
			}
		}
		b.Title = oneLine(f.Name + ", " + faultText(f) + ": " + strings.Join(said, ", "))
		b.Late = gap > 0.1 && b.A > t.From+(t.To-t.From)*0.62
		row := 0
		for ; row < len(t.Faults); row++ {
			if last := t.Faults[row][len(t.Faults[row])-1]; last.B+(t.To-t.From)*gap < b.A {
				break
			}
		}
		if row == len(t.Faults) && row < 12 {
			t.Faults = append(t.Faults, nil)
		}
		row = min(row, len(t.Faults)-1)
		t.Faults[row] = append(t.Faults[row], b)
	}
}

// x places a time in a drawing.
func (t *timeline) x(v float64) int { return int(math.Round(v / t.End * span)) }

// decades are the powers of ten that hold all latencies.
func decades(lo, hi float64) (int, int) {
	a, b := int(math.Floor(math.Log10(max(lo, 1e-5)))), int(math.Ceil(math.Log10(max(hi, 1e-5))))
	if b <= a {
		b = a + 1
	}
	return a, b
}

func logY(v float64, a, b int) int {
	y := 1000 - 1000*(math.Log10(max(v, 1e-5))-float64(a))/float64(b-a)
	return int(math.Round(min(1000, max(0, y))))
}

func logAxis(a, b int) []axisTick {
	var out []axisTick
	for e := a; e <= b; e++ {
		out = append(out, axisTick{percent(float64(b-e) / float64(b-a)), duration(math.Pow(10, float64(e)), "\u202f")})
	}
	return out
}

func percent(share float64) string { return strconv.FormatFloat(share*100, 'f', 2, 64) }

// scatter draws a dot per acknowledged operation. Of several that would fall
// on the same spot one is drawn, the slowest of each moment always.
func (t *timeline) scatter(s *saved, show room, cut *[]string) {
	lo, hi, total := math.Inf(1), 0.0, 0
	for _, op := range s.Ops {
		if (isWrite(op) || isRead(op)) && op.Outcome == lab.OK {
			lat := float64(op.Return-op.Call) / 1e9
			lo, hi, total = min(lo, lat), max(hi, lat), total+1
		}
	}
	if total == 0 {
		return
	}
	a, b := decades(lo, hi)
	type dot struct{ kind, x, y int }
	all := make([]dot, 0, total)
	for _, op := range s.Ops {
		if !isWrite(op) && !isRead(op) || op.Outcome != lab.OK {
			continue
		}
		d := dot{0, t.x(float64(op.Call) / 1e9), logY(float64(op.Return-op.Call)/1e9, a, b)}
		if isRead(op) {
			d.kind = 1
		}
		all = append(all, d)
	}
	dots := all
	for columns := 4000.0; len(dots) > show.dots && columns > 50; columns /= 1.5 {
		// A spot is a column's slowest, or one level of the rest of it. Which
		// of a spot's operations is drawn is left to chance, or the dots would
		// stand in lines; the same run gives the same drawing.
		chance := rand.New(rand.NewPCG(1, uint64(total)))
		column := func(d dot) dot { return dot{d.kind, int(float64(d.x) / span * columns), -1} }
		slowest := map[dot]dot{}
		for _, d := range all {
			if k := column(d); slowest[k] == (dot{}) || d.y < slowest[k].y {
				slowest[k] = d
			}
		}
		type many struct {
			dot
			n int
		}
		spots := map[dot]many{}
		for _, d := range all {
			k := column(d)
			if slowest[k] == d {
				spots[k] = many{d, 1}
				continue
			}
			k.y = d.y / 12
			m := spots[k]
			if m.n++; chance.IntN(m.n) == 0 {
				m.dot = d
			}
			spots[k] = m
		}
		dots = dots[:0:0]
		for _, m := range spots {
			dots = append(dots, m.dot)
		}
	}
	slices.SortFunc(dots, func(p, q dot) int { return cmp.Or(p.x-q.x, p.y-q.y, p.kind-q.kind) })
	paths := []stroke{{Class: "write", Name: "writes"}, {Class: "read", Name: "reads"}}
	for k := range paths {
		var d strings.Builder
		px, py := 0, 0
		for _, o := range dots {
			if o.kind != k {
				continue
			}
			if d.Len() == 0 {
				fmt.Fprintf(&d, "M%d %dh0", o.x, o.y)
			} else {
				d.WriteString("m" + strconv.Itoa(o.x-px))
				if o.y >= py {
					d.WriteByte(' ')
				}
				d.WriteString(strconv.Itoa(o.y-py) + "h0")
			}
			px, py = o.x, o.y
		}
		paths[k].D = d.String()
	}
	t.Scatter = &plot{Title: "Latency", Class: "tall", Axis: logAxis(a, b), Paths: paths,
		Note: "one dot per acknowledged operation",
		Desc: fmt.Sprintf("Latency of %s on a logarithmic scale from %s to %s.", counted(total, "acknowledged operation"), short(lo), short(hi))}
	t.Scatter.Dense = len(dots) > 6000
	if n := total - len(dots); n > 0 {
		t.Scatter.Note = fmt.Sprintf("%s of %s acknowledged operations drawn: one per spot, the slowest of each moment always", grouped(len(dots)), grouped(total))
		*cut = append(*cut, fmt.Sprintf("latency: %s fall on spots where another one is drawn", counted(n, "operation")))
	}
}

// strips mark the operations that were not acknowledged.
func (t *timeline) strips(s *saved) {
	for _, o := range []struct {
		is   lab.Outcome
		name string
	}{{lab.Unknown, "unknown"}, {lab.Refused, "refused"}} {
		st := strip{Name: o.name, Class: o.name}
		var xs []int
		for _, op := range s.Ops {
			if (isWrite(op) || isRead(op)) && op.Outcome == o.is {
				st.Count++
				xs = append(xs, t.x(float64(op.Call)/1e9)/8*8)
			}
		}
		slices.Sort(xs)
		var d strings.Builder
		for _, x := range slices.Compact(xs) {
			fmt.Fprintf(&d, "M%d 150v700", x)
		}
		if st.D = d.String(); st.Count > 0 {
			t.Strips = append(t.Strips, st)
		}
	}
}

// quantiles draws p50, p95 and p99 of writes; a bucket without any is a gap.
func (t *timeline) quantiles() {
	lo, hi := math.Inf(1), 0.0
	for _, b := range t.series.Buckets {
		if b.Quantiles[0] > 0 {
			lo, hi = min(lo, b.Quantiles[0]), max(hi, b.Quantiles[2])
		}
	}
	if hi == 0 {
		return
	}
	a, b := decades(lo, hi)
	p := &plot{Title: "Write latency, quantiles", Axis: logAxis(a, b),
		Note: fmt.Sprintf("of writes acknowledged within %s each", duration(t.series.Width, "\u202f")),
		Desc: "The 50th, 95th and 99th percentile of write latency over time, on a logarithmic scale."}
	for q, name := range []string{"p50", "p95", "p99"} {
		var d strings.Builder
		pen := "M"
		for i, k := range t.series.Buckets {
			if k.Quantiles[q] == 0 {
				pen = "M"
				continue
			}
			y := logY(k.Quantiles[q], a, b)
			from := t.series.From + float64(i)*t.series.Width
			if pen == "M" { // a bucket of its own must be seen too
				fmt.Fprintf(&d, "M%d %d", t.x(from), y)
			}
			fmt.Fprintf(&d, "L%d %d", t.x(from+t.series.Width/2), y)
			if i+1 == len(t.series.Buckets) || t.series.Buckets[i+1].Quantiles[q] == 0 {
				fmt.Fprintf(&d, "L%d %d", t.x(from+t.series.Width), y)
			}
			pen = "L"
		}
		p.Paths = append(p.Paths, stroke{Class: "line " + name, Name: name, D: d.String()})
	}
	t.Quantiles = p
}

// rates draws acknowledged operations per second, reads upon writes.
func (t *timeline) rates() {
	top := 0.0
	for _, b := range t.series.Buckets {
		top = max(top, float64(b.Writes+b.Reads)/t.series.Width)
	}
	if top == 0 {
		return
	}
	step := math.Pow(10, math.Floor(math.Log10(top)))
	for top/step < 2 {
		step /= 2
	}
	for top/step > 4 {
		step *= 2
	}
	top = math.Ceil(top/step) * step
	y := func(n int) int { return int(math.Round(1000 - 1000*float64(n)/t.series.Width/top)) }
	area := func(of, under func(bucket) int) string {
		var d, back strings.Builder
		for i, b := range t.series.Buckets {
			x0, x1 := t.x(t.series.From+float64(i)*t.series.Width), t.x(t.series.From+float64(i+1)*t.series.Width)
			pen := "L"
			if i == 0 {
				pen = "M"
			}
			fmt.Fprintf(&d, "%s%d %dH%d", pen, x0, y(of(b)), x1)
		}
		for i := len(t.series.Buckets) - 1; i >= 0; i-- {
			x0, x1 := t.x(t.series.From+float64(i)*t.series.Width), t.x(t.series.From+float64(i+1)*t.series.Width)
			fmt.Fprintf(&back, "L%d %dH%d", x1, y(under(t.series.Buckets[i])), x0)
		}
		return d.String() + back.String() + "Z"
	}
	writes := func(b bucket) int { return b.Writes }
	both := func(b bucket) int { return b.Writes + b.Reads }
	none := func(bucket) int { return 0 }
	p := &plot{Title: "Acknowledged per second", Note: "reads stacked upon writes; the probes that measure outages not counted",
		Desc:  "Acknowledged writes and reads per second over time.",
		Paths: []stroke{{"area write", "writes", area(writes, none)}, {"area read", "reads", area(both, writes)}}}
	for v := 0.0; v <= top+step/2; v += step {
		p.Axis = append(p.Axis, axisTick{percent(1 - v/top), strconv.FormatFloat(v, 'f', -1, 64)})
	}
	t.Rates = p
}

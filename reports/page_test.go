package reports

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

// TestDraw keeps the pages of the made-up runs where REPORTS_KEEP says, to be
// looked at.
func TestDraw(t *testing.T) {
	keep := os.Getenv("REPORTS_KEEP")
	if keep == "" {
		t.Skip("set REPORTS_KEEP to a directory to keep the pages")
	}
	for name, make := range map[string]func() *sample{"pass": passing, "fail": failing, "error": broken, "skip": skipped, "long": long} {
		dir, _ := drawn(t, make())
		to := filepath.Join(keep, name)
		os.RemoveAll(to)
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	links   = regexp.MustCompile(`(?i)\s(?:href|src|action|data|srcset|poster)\s*=\s*"([^"]*)"`)
	fetches = regexp.MustCompile(`(?i)@import|url\(|fetch\(|XMLHttpRequest|WebSocket|EventSource|import\(|https?:`)
	foreign = regexp.MustCompile(`(?i)^<(?:link|iframe|img|object|embed|base|image|use|video|audio|form)\b| on[a-z]+\s*=`)
	ids     = regexp.MustCompile(`\sid="([^"]+)"`)
	refs    = regexp.MustCompile(`\s(?:aria-labelledby|aria-describedby|for|data-from)="([^"]+)"|href="#([^"]+)"`)
	names   = regexp.MustCompile(`^<(/?)([a-z0-9]+)`)
)

// split takes a page apart: its tags without what plots are made of, and its
// style and scripts.
func split(html string) (tags []string, code string) {
	for {
		i := strings.IndexByte(html, '<')
		if i < 0 {
			return tags, code
		}
		html = html[i:]
		j := strings.IndexByte(html, '>')
		tag := html[:j+1]
		if d := strings.Index(tag, ` d="`); d > 0 {
			tag = tag[:d] + ">"
		}
		tags, html = append(tags, tag), html[j+1:]
		for _, raw := range []string{"style", "script"} {
			if strings.HasPrefix(tag, "<"+raw) {
				end := strings.Index(html, "</"+raw+">")
				if !strings.Contains(tag, "json") {
					code += html[:end]
				}
				html = html[end:]
			}
		}
	}
}

// checkPage holds for every page.
func checkPage(t *testing.T, name, html string) {
	t.Helper()
	if len(html) >= 2_000_000 {
		t.Errorf("%s: %d bytes", name, len(html))
	}
	tags, code := split(html)
	if m := fetches.FindString(code); m != "" {
		t.Errorf("%s: loads something: %s", name, m)
	}
	if strings.Contains(html, "ZgotmplZ") {
		t.Errorf("%s: the template refused a value", name)
	}
	known, open, last := map[string]bool{}, map[string]int{}, 0
	var refer []string
	for _, tag := range tags {
		if foreign.MatchString(tag) {
			t.Errorf("%s: a tag that has no place here: %s", name, tag)
		}
		for _, m := range links.FindAllStringSubmatch(tag, -1) {
			if to := m[1]; !strings.HasPrefix(to, "#") && !slices.Contains([]string{fileEvents, fileHistory, FileJSON, FileMarkdown, FileJUnit}, to) {
				t.Errorf("%s: leads out of the run's directory: %s", name, to)
			}
		}
		for _, m := range ids.FindAllStringSubmatch(tag, -1) {
			if known[m[1]] {
				t.Errorf("%s: id %q is there twice", name, m[1])
			}
			known[m[1]] = true
		}
		for _, m := range refs.FindAllStringSubmatch(tag, -1) {
			refer = append(refer, m[1]+m[2])
		}
		m := names.FindStringSubmatch(tag)
		if m == nil {
			continue
		}
		if level, err := strconv.Atoi(strings.TrimPrefix(m[2], "h")); err == nil && m[1] == "" {
			if level > last+1 {
				t.Errorf("%s: a heading of level %d after one of level %d", name, level, last)
			}
			last = level
		}
		if m[1] == "" && !strings.HasSuffix(tag, "/>") {
			open[m[2]]++
		} else if m[1] != "" {
			open[m[2]]--
		}
	}
	for _, id := range refer {
		if !known[id] {
			t.Errorf("%s: there is no %q to refer to", name, id)
		}
	}
	for tag, n := range open {
		if n != 0 && !slices.Contains([]string{"meta", "input", "path", "br"}, tag) {
			t.Errorf("%s: %d <%s> are not closed", name, n, tag)
		}
	}
	for tag, want := range map[string]int{"<script": 2, "<style": 1, "<main": 1, "<h1": 1} {
		if n := strings.Count(strings.Join(tags, ""), tag); n != want {
			t.Errorf("%s: %d times %s, want %d", name, n, tag, want)
		}
	}
	if !strings.Contains(html, "default-src 'none'") {
		t.Errorf("%s: no policy against loading", name)
	}
}

func TestPage(t *testing.T) {
	says := map[string][]string{
		"pass": {"PASS", "4.28\u202fs", "all 9 steps held", "etcdrill run leader-kill --driver local --seed 42", "outage.first &lt; 5s", "known to within 22\u202fms",
			"process 4711 of m1 is gone", "The story as a table", "m3 leads, term 3", "Nothing was left behind", "never went back"},
		"fail":  {"FAIL", "3 acknowledged writes are gone", "cannot be", "never gone", "etcdrill gc", "client 4", "[redacted-private-key]", "12 operations further away"},
		"error": {"ERROR", "no space left on device", "docker pull node", "history.jsonl was not written", "What happened"},
		"skip":  {"SKIP", "strace is not installed"},
	}
	for name, make := range samples {
		_, files := drawn(t, make())
		html := files[FileHTML]
		checkPage(t, name, html)
		words := regexp.MustCompile(`<span>([^<]*)</span>`).ReplaceAllString(html, "$1")
		for _, want := range says[name] {
			if !strings.Contains(words, want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
}

// Ten minutes at 500 operations a second stay below the limit, and the page
// says what it does not show.
func TestPageLong(t *testing.T) {
	s := long()
	_, files := drawn(t, s)
	html := files[FileHTML]
	checkPage(t, "long", html)
	drawnOf := regexp.MustCompile(`([0-9,]+) of ([0-9,]+) acknowledged operations drawn`).FindStringSubmatch(html)
	if drawnOf == nil {
		t.Fatal("does not say how many operations are drawn")
	}
	all := 0
	for _, op := range s.ops {
		if op.Outcome == lab.OK {
			all++
		}
	}
	if drawnOf[2] != grouped(all) {
		t.Errorf("of %s, want %s", drawnOf[2], grouped(all))
	}
	for _, want := range []string{"of command output left out"} {
		if !strings.Contains(html, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if n := len(files[FileMarkdown]); n > 100_000 {
		t.Errorf("the markdown has %d bytes: it shall be short", n)
	}
	t.Logf("%d bytes of html for %d operations", len(html), len(s.ops))
}

// A page too large is drawn again with less until it fits.
func TestPageFits(t *testing.T) {
	s := passing()
	for range 100 { // each sign takes five in HTML
		s.add(5, lab.Event{Kind: lab.EventCommand, Host: "m1", Argv: []string{"true"}, Output: strings.Repeat(`"`, 7000)})
	}
	_, files := drawn(t, s)
	checkPage(t, "large", files[FileHTML])
	if !strings.Contains(files[FileHTML], "bytes of command output left out") {
		t.Error("does not say what is left out")
	}
}

// dotsOf reads the dots of a drawing back.
func dotsOf(t *testing.T, d string) (out [][2]int) {
	t.Helper()
	x, y := 0, 0
	for _, m := range regexp.MustCompile(`([Mm])(-?\d+)[ ]?(-?\d+)h0`).FindAllStringSubmatch(d, -1) {
		dx, _ := strconv.Atoi(m[2])
		dy, _ := strconv.Atoi(m[3])
		if m[1] == "M" {
			x, y = dx, dy
		} else {
			x, y = x+dx, y+dy
		}
		out = append(out, [2]int{x, y})
	}
	return out
}

func TestScatter(t *testing.T) {
	s := &saved{Report: tidy(&lab.Report{}), End: 100}
	const slow = 1234
	for i := range 20000 {
		op := lab.Op{Client: 1 + i%4, Kind: lab.OpPut, Outcome: lab.OK, Call: int64(i) * 5e6}
		op.Return = op.Call + 2e6 + int64(i%7)*1e5
		if i == slow {
			op.Return = op.Call + 9e8
		}
		s.Ops = append(s.Ops, op)
	}
	s.Ops = append(s.Ops, lab.Op{Client: lab.ClientWriteProber, Kind: lab.OpPut, Outcome: lab.OK, Return: 1}, lab.Op{Client: 1, Kind: lab.OpPut, Outcome: lab.Unknown, Return: 1})
	for _, most := range []int{500, 100000} {
		var cut []string
		tl := timeline{End: 100, To: 100}
		tl.scatter(s, room{dots: most}, &cut)
		dots := dotsOf(t, tl.Scatter.Paths[0].D)
		want := min(most, 20000)
		if len(dots) > want || most == 100000 && len(dots) != 20000 {
			t.Errorf("%d dots for %d", len(dots), most)
		}
		if said := len(cut) > 0; said != (most == 500) {
			t.Errorf("%d dots, said: %v", most, cut)
		}
		at := [2]int{tl.x(slow * .005), logY(.9, -3, 0)}
		if !slices.Contains(dots, at) {
			t.Errorf("the slowest operation is not among %d dots", len(dots))
		}
		if len(dotsOf(t, tl.Scatter.Paths[1].D)) != 0 {
			t.Error("there were no reads")
		}
	}
}

func TestSeries(t *testing.T) {
	var ops []lab.Op
	add := func(at, lat float64, kind string, o lab.Outcome, client int) {
		ops = append(ops, lab.Op{Client: client, Kind: kind, Outcome: o, Call: int64((at - lat) * 1e9), Return: int64(at * 1e9)})
	}
	for i := 1; i <= 100; i++ {
		add(10.1, float64(i)/1000, lab.OpPut, lab.OK, 1)
	}
	add(10.3, .001, lab.OpGet, lab.OK, 2)
	add(10.3, .001, lab.OpTxn, lab.Refused, 2)
	add(10.3, .001, lab.OpGet, lab.Unknown, 2)
	add(10.3, .001, lab.OpPut, lab.OK, lab.ClientWriteProber)
	add(10.3, .001, lab.OpEvent, lab.OK, lab.ClientWatcher)
	add(99, .001, lab.OpPut, lab.OK, 1) // outside
	s := seriesOf(ops, 10, 12, 8)
	if s.Width != .25 || len(s.Buckets) != 8 {
		t.Fatalf("width %g, %d buckets", s.Width, len(s.Buckets))
	}
	if got, want := s.Buckets[0].Quantiles, [3]float64{.05, .095, .099}; math.Abs(got[0]-want[0]) > 1e-6 || math.Abs(got[1]-want[1]) > 1e-6 || math.Abs(got[2]-want[2]) > 1e-6 {
		t.Errorf("quantiles %v, want %v", got, want)
	}
	b := s.Buckets[1]
	if s.Buckets[0].Writes != 100 || b.Writes != 0 || b.Reads != 1 || b.Refused != 1 || b.Unknown != 1 || b.Quantiles[0] != 0 {
		t.Errorf("got %+v", b)
	}
	if s := seriesOf(ops, 0, 600, 160); s.Width != 5 {
		t.Errorf("ten minutes in buckets of %gs", s.Width)
	}
}

func TestLanes(t *testing.T) {
	s := open(passing().save(t), passing().report)
	var got []string
	for _, l := range s.lanes() {
		for _, w := range l.Seats {
			got = append(got, fmt.Sprintf("%s %s %d %.2f-%.2f", l.Name, w.State, w.Term, w.From, w.To))
		}
	}
	want := []string{
		"m1 leader 2 2.38-4.20", "m1 crashed 0 4.20-10.50", "m1 no leader 3 10.50-11.22", "m1 follower 5 11.22-14.40",
		"m2 follower 2 2.38-5.10", "m2 no leader 2 5.10-5.40", "m2 follower 3 5.40-8.10", "m2 no leader 3 8.10-11.20", "m2 leader 5 11.20-14.40",
		"m3 follower 2 2.38-5.11", "m3 no leader 2 5.11-5.38", "m3 leader 3 5.38-7.10", "m3 crashed 0 7.10-12.60", "m3 follower 5 12.60-14.40",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if got, want := reigns(s.lanes()), []reign{{2.38, "m1", 2}, {5.38, "m3", 3}, {11.2, "m2", 5}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

// A deposed leader that does not know it yet does not reign again, and a
// member that nobody touched is only silent.
func TestReigns(t *testing.T) {
	s := &saved{Report: tidy(&lab.Report{Faults: []lab.FaultReport{{Verb: "pause", Targets: []string{"m1"}, Start: 2, Gone: ptr(5.)}}}), End: 10}
	status := func(at float64, st lab.Status) {
		s.Events = append(s.Events, lab.Event{T: at, Kind: lab.EventStatus, Status: &st})
	}
	status(1, member("m1", "leader", 2))
	status(1, member("m2", "follower", 2))
	status(1.5, member("m1", "", 0))
	status(3, member("m2", "leader", 3))
	status(6, member("m1", "leader", 2))
	status(7, member("m1", "follower", 3))
	status(8, member("m1", "", 0))
	if got, want := reigns(s.lanes()), []reign{{1, "m1", 2}, {3, "m2", 3}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	var states []string
	for _, w := range s.lanes()[0].Seats {
		states = append(states, w.State)
	}
	if want := []string{"leader", "no answer", "paused", "leader", "follower", "no answer"}; !slices.Equal(states, want) {
		t.Errorf("got %v, want %v", states, want)
	}
}

// In a picture one operation stands before another exactly when it returned
// before the other was called.
func TestPicture(t *testing.T) {
	p := failing().report.Picture
	d := draw(p)
	if len(d.Boxes) != len(p.Ops) || d.Cut != 12 {
		t.Fatalf("%d boxes, %d cut", len(d.Boxes), d.Cut)
	}
	for i, a := range p.Ops {
		for j, b := range p.Ops {
			if i == j {
				continue
			}
			before := d.Boxes[i].X+d.Boxes[i].W <= d.Boxes[j].X
			if before != (a.Return <= b.Call) {
				t.Errorf("operations %d and %d: drawn before: %v", i, j, before)
			}
			if d.Boxes[i].Y == d.Boxes[j].Y && a.Client != b.Client {
				t.Errorf("operations %d and %d are of different clients, in one row", i, j)
			}
		}
		if d.Boxes[i].Bad != (i == p.Bad) {
			t.Errorf("operation %d: bad: %v", i, d.Boxes[i].Bad)
		}
		if r := d.Boxes[i].X + d.Boxes[i].W; r > d.Width || d.Boxes[i].Y+picBox > d.Height {
			t.Errorf("operation %d sticks out", i)
		}
	}

	many := &lab.Picture{Bad: 150}
	for i := range 200 {
		many.Ops = append(many.Ops, lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Call: 0, Return: 1e9 + int64(i)})
	}
	d = draw(many)
	if len(d.Boxes) != picMost || d.Cut != 200-picMost || len(d.Rows) != picMost {
		t.Errorf("%d boxes in %d rows, %d cut", len(d.Boxes), len(d.Rows), d.Cut)
	}
	if !slices.ContainsFunc(d.Boxes, func(b box) bool { return b.Bad }) {
		t.Error("the bad operation was cut")
	}
}

// Faults that overlap stand in different rows.
func TestPack(t *testing.T) {
	for _, r := range []*lab.Report{passing().report, long().report} {
		s := &saved{Report: tidy(r), End: r.Duration}
		tl := timeline{To: r.Duration, End: r.Duration}
		tl.bars(s, room{rows: 500})
		n := 0
		for _, row := range tl.Faults {
			n += len(row)
			for i := 1; i < len(row); i++ {
				if row[i].A < row[i-1].B {
					t.Errorf("%s stands on %s", row[i].Name, row[i-1].Name)
				}
			}
		}
		if n != len(r.Faults) || len(tl.Faults) > 6 {
			t.Errorf("%d of %d faults in %d rows", n, len(r.Faults), len(tl.Faults))
		}
	}
}

// The page's data is what its script reads: strict JSON, and no tag in it.
func TestPageData(t *testing.T) {
	_, files := drawn(t, failing())
	m := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindStringSubmatch(files[FileHTML])
	if m == nil {
		t.Fatal("no data")
	}
	if strings.ContainsAny(m[1], "<>") {
		t.Error("a tag could end the data")
	}
	var d data
	if err := json.Unmarshal([]byte(m[1]), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Members) != 3 || len(d.Faults) != 2 || len(d.Steps) != 9 || len(d.Outages) != 4 || d.Load == nil || !slices.IsSorted(d.Stops) {
		t.Errorf("got %+v", d)
	}
	if d.Faults[1].Gone != nil || d.Faults[0].Gone == nil {
		t.Error("the second fault was never gone, the first was")
	}
}

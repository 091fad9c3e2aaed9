package reports

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

var update = flag.Bool("update", false, "rewrite testdata; read the difference before you commit it")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", path, got)
	}
}

var samples = map[string]func() *sample{"pass": passing, "fail": failing, "error": broken, "skip": skipped}

// forbidden is what must be in no output: control characters, directions of
// writing, and the secrets of failing().
func forbidden(t *testing.T, what, s string) {
	t.Helper()
	for _, r := range s {
		if r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0x202e {
			t.Errorf("%s holds the control character %q", what, r)
			break
		}
	}
	for _, x := range []string{"hunter2", "hunter3", "hunter4", "MHcCAQ", "secretsecret", "0123456789abcdef"} {
		if strings.Contains(s, x) {
			t.Errorf("%s holds the secret %q", what, x)
		}
	}
}

func TestText(t *testing.T) {
	for name, make := range samples {
		var b bytes.Buffer
		if err := Text(&b, make().report, "etcdrill-runs/x", Options{}); err != nil {
			t.Fatal(err)
		}
		forbidden(t, "text of "+name, b.String())
		golden(t, name+".txt", b.Bytes())
	}
}

func TestStory(t *testing.T) {
	for name, make := range samples {
		var b bytes.Buffer
		story := NewStory(&b, Options{})
		run := make()
		dir := run.save(t) // sorts the events
		for _, e := range run.events {
			story.Tell(e)
		}
		story.Close()
		forbidden(t, "story of "+name, b.String())
		golden(t, name+".story", b.Bytes())
		_ = dir
	}
}

// A saved journal tells the same story as the run did, but for arguments that
// only the verbs' own types show.
func TestStoryAgain(t *testing.T) {
	events, err := lab.ReadEvents(filepath.Join(passing().save(t), fileEvents))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	story := NewStory(&b, Options{})
	for _, e := range events {
		story.Tell(e)
	}
	story.Close()
	for _, want := range []string{`do put: key Gabon, value "Bona nit"`, "break crash leader: as first", "check leader: changed, within 5s", "m3 leads, term 3"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
}

var sequences = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// On a terminal the status line is always taken away before the next line, and
// what remains is the plain story.
func TestStoryLive(t *testing.T) {
	s := failing()
	s.save(t)
	var plain, live bytes.Buffer
	for _, x := range []struct {
		w *bytes.Buffer
		o Options
	}{{&plain, Options{}}, {&live, Options{Color: true, Live: true}}} {
		story := NewStory(x.w, x.o)
		for _, e := range s.events {
			story.Tell(e)
			story.mu.Lock()
			story.draw(e.T + .3)
			story.mu.Unlock()
		}
		story.Close()
		story.Close()
	}
	var seen strings.Builder // what a terminal shows in the end
	line, drawn := "", ""
	for _, l := range strings.SplitAfter(live.String(), "\n") {
		for i, part := range strings.Split(l, "\r") {
			if i > 0 {
				line = ""
			}
			if strings.Contains(part, "\x1b[?7l") {
				drawn += part
			}
			line += sequences.ReplaceAllString(part, "")
		}
		if strings.HasSuffix(line, "\n") {
			seen.WriteString(line)
			line = ""
		}
	}
	if line != "" {
		t.Errorf("the status line %q was left behind", line)
	}
	if seen.String() != plain.String() {
		t.Errorf("live:\n%s\nplain:\n%s", seen.String(), plain.String())
	}
	for _, want := range []string{"no leader for 0.3s", "in force: first, second", "outage ", "m3 leads, term 3", "384 ops/s"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("the status line never said %q", want)
		}
	}
}

func TestTerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	if o := Terminal(f, env(map[string]string{"TERM": "xterm"})); o != (Options{}) {
		t.Errorf("a file is no terminal: %+v", o)
	}
	null, err := os.Open(os.DevNull) // a character device, as terminals are
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, x := range []struct {
		env  map[string]string
		want Options
	}{
		{map[string]string{"TERM": "xterm"}, Options{Color: true, Live: true}},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, Options{Live: true}},
		{map[string]string{"TERM": "xterm", "NO_COLOR": ""}, Options{Color: true, Live: true}},
		{map[string]string{"TERM": "dumb"}, Options{}},
		{map[string]string{}, Options{}},
	} {
		if got := Terminal(null, env(x.env)); got != x.want {
			t.Errorf("%v: got %+v, want %+v", x.env, got, x.want)
		}
	}
}

func TestColour(t *testing.T) {
	var plain, colour bytes.Buffer
	Text(&plain, failing().report, "d", Options{})
	Text(&colour, failing().report, "d", Options{Color: true})
	if !strings.Contains(colour.String(), "\x1b[1;31mFAIL") {
		t.Errorf("no colour: %q", colour.String()[:40])
	}
	if got := sequences.ReplaceAllString(colour.String(), ""); got != plain.String() {
		t.Errorf("colour says more than the words do:\n%s", got)
	}
}

func TestSummary(t *testing.T) {
	stopped := passing().report
	stopped.Drill, stopped.Verdict, stopped.Reason, stopped.RTO, stopped.LostWrites = "watch-gap", lab.Undecided, "the checker ran out of time", nil, nil
	var b bytes.Buffer
	if err := Summary(&b, []*lab.Report{passing().report, failing().report, broken().report, stopped, skipped().report}); err != nil {
		t.Fatal(err)
	}
	forbidden(t, "summary", b.String())
	golden(t, "summary.txt", b.Bytes())
	b.Reset()
	if err := Summary(&b, nil); err != nil || !strings.Contains(b.String(), "nothing ran") {
		t.Errorf("%v: %s", err, b.String())
	}
}

func drawn(t *testing.T, s *sample) (dir string, files map[string]string) {
	t.Helper()
	dir = s.save(t)
	if err := Write(dir, s.report); err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for _, n := range []string{FileJSON, FileHTML, FileMarkdown, FileJUnit} {
		data, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		files[n] = string(data)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v %v", left, err)
	}
	return dir, files
}

func TestWrite(t *testing.T) {
	for name, make := range samples {
		_, files := drawn(t, make())
		for n, text := range files {
			forbidden(t, n+" of "+name, text)
		}
		golden(t, name+".md", []byte(files[FileMarkdown]))
		golden(t, name+".xml", []byte(files[FileJUnit]))
	}
}

func TestWriteNowhere(t *testing.T) {
	err := Write(filepath.Join(t.TempDir(), "no", "such"), passing().report)
	if err == nil {
		t.Fatal("want an error")
	}
	for _, n := range []string{FileJSON, FileHTML, FileMarkdown, FileJUnit} {
		if !strings.Contains(err.Error(), n) {
			t.Errorf("%s is not named in: %v", n, err)
		}
	}
}

// The records may be missing, torn or broken: the report says so and is there.
func TestWriteBroken(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileEvents), []byte("{\"t\":0}\nnot json\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, &lab.Report{Verdict: lab.Error, Reason: "died"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{FileHTML, FileMarkdown, FileJUnit} {
		data, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"could not be read whole", "was not written"} {
			if !strings.Contains(string(data), want) {
				t.Errorf("%s does not say %q", n, want)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, []*lab.Report{failing().report, {}}); err != nil {
		t.Fatal(err)
	}
	forbidden(t, "json", b.String())
	var got []map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0]["rto_s"] != 4.283 || got[0]["lost_writes"] != 3.0 || got[0]["linearizable"] != "no" {
		t.Errorf("got %v", got[0]["rto_s"])
	}
	// Null is a promise of its own only where nobody measured.
	for k, v := range got[1] {
		if v == nil && k != "rto_s" && k != "lost_writes" {
			t.Errorf("%s is null", k)
		}
	}
	for _, k := range []string{"steps", "faults", "outages", "findings", "expect", "members", "left_behind"} {
		if _, ok := got[1][k].([]any); !ok {
			t.Errorf("%s is no list: %v", k, got[1][k])
		}
	}
	b.Reset()
	if err := JSON(&b, nil); err != nil || strings.TrimSpace(b.String()) != "[]" {
		t.Errorf("no reports: %v %q", err, b.String())
	}
}

// report.json says what the judges found, not less.
func TestJSONWhole(t *testing.T) {
	want := passing().report
	_, files := drawn(t, passing())
	var got lab.Report
	if err := json.Unmarshal([]byte(files[FileJSON]), &got); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	var x, y map[string]any
	json.Unmarshal(a, &x)
	json.Unmarshal(b, &y)
	for k := range x {
		p, _ := json.Marshal(x[k])
		q, _ := json.Marshal(y[k])
		if !bytes.Equal(p, q) && string(p) != "null" {
			t.Errorf("%s: wrote %s, read %s", k, p, q)
		}
	}
}

func TestJUnit(t *testing.T) {
	reachedHalf := passing()
	reachedHalf.report.Verdict = lab.Error
	reachedHalf.report.Steps[4].Verdict, reachedHalf.report.Steps[4].Reason = lab.Error, "could not look"
	for i := 5; i < 9; i++ {
		reachedHalf.report.Steps[i].Verdict = ""
	}
	interrupted := passing()
	interrupted.report.Verdict, interrupted.report.Reason = lab.Error, "interrupted"
	for _, x := range []struct {
		name                          string
		s                             *sample
		tests, failures, errors, skip int
	}{
		{"pass", passing(), 15, 0, 0, 0},
		{"fail", failing(), 15, 3, 1, 0},
		{"set-up", broken(), 1, 0, 1, 0},
		{"skip", skipped(), 1, 0, 0, 1},
		{"half", reachedHalf, 15, 0, 1, 4},
		{"interrupted", interrupted, 16, 0, 1, 0},
		{"empty", &sample{report: &lab.Report{}}, 1, 0, 1, 0},
	} {
		_, files := drawn(t, x.s)
		dec := xml.NewDecoder(strings.NewReader(files[FileJUnit]))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", x.name, err, files[FileJUnit])
			}
		}
		var got junitSuites
		if err := xml.Unmarshal([]byte(files[FileJUnit]), &got); err != nil {
			t.Fatal(err)
		}
		s := got.Suites[0]
		if s.Tests != x.tests || s.Failures != x.failures || s.Errors != x.errors || s.Skipped != x.skip || len(s.Cases) != x.tests || got.Tests != x.tests {
			t.Errorf("%s: %d tests, %d failures, %d errors, %d skipped\n%s", x.name, s.Tests, s.Failures, s.Errors, s.Skipped, files[FileJUnit])
		}
	}
}

func TestStepSummary(t *testing.T) {
	s := failing()
	dir := s.save(t)
	for _, x := range []struct {
		held  int
		want  string
		never string
	}{
		{0, "<summary>Runbook", "\x00"},
		{SummaryLimit - 3600, "### Promises", "<summary>Runbook"},
		{SummaryLimit - 400, "**FAIL**", "### Promises"},
		{SummaryLimit - 20, "xxx", "FAIL"},
	} {
		path := filepath.Join(t.TempDir(), "summary.md")
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), x.held), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := StepSummary(path, dir, s.report); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > SummaryLimit || len(data) < x.held {
			t.Errorf("held %d, now %d", x.held, len(data))
		}
		if !strings.Contains(string(data), x.want) || strings.Contains(string(data), x.never) {
			t.Errorf("held %d: want %q, not %q; got %d bytes: %.300s", x.held, x.want, x.never, len(data)-x.held, data[x.held:])
		}
	}
}

func TestMarkdownFence(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"a", "```text\na\n```\n\n"},
		{"a\n```\nb", "````text\na\n```\nb\n````\n\n"},
		{"`````", "``````text\n`````\n``````\n\n"},
	} {
		if got := fence(x.in, "text"); got != x.want {
			t.Errorf("%q: got %q, want %q", x.in, got, x.want)
		}
	}
	if got, want := mdCode("a|b`c"), "`` a\\|b`c ``"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

package reports

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// JUnit XML has no standard. These are the parts that CI systems agree on: a
// suite is a drill, a case one of its steps or promises. What was not promised
// to hold and does not is a failure, what could not be told an error.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr,omitempty"`
		Hostname   string          `xml:"hostname,attr,omitempty"`
		File       string          `xml:"file,attr,omitempty"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
		Out        *junitText      `xml:"system-out"`
		Err        *junitText      `xml:"system-err"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Class   string      `xml:"classname,attr"`
		Name    string      `xml:"name,attr"`
		Time    string      `xml:"time,attr"`
		File    string      `xml:"file,attr,omitempty"`
		Line    int         `xml:"line,attr,omitempty"`
		Failure *junitWrong `xml:"failure"`
		Error   *junitWrong `xml:"error"`
		Skipped *junitWrong `xml:"skipped"`
		Out     *junitText  `xml:"system-out"`
		verdict lab.Verdict
	}
	junitWrong struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",cdata"`
	}
	junitText struct {
		Text string `xml:",cdata"`
	}
)

// writeJUnit writes a suite for a run. It has at least one case, and is never
// greener than the report.
func writeJUnit(w io.Writer, s *saved) error {
	r := s.Report
	class := "etcdrill"
	for _, p := range []string{r.Driver, r.Drill} {
		if p != "" {
			class += "." + strings.ReplaceAll(oneLine(p), ".", "_")
		}
	}
	file := ""
	if d := s.drill(); d != nil {
		file = d.File
	}
	suite := junitSuite{Name: oneLine(r.Drill), Time: seconds(r.Duration), File: file}
	if suite.Name == "" {
		suite.Name = "drill"
	}
	if !r.Started.IsZero() {
		suite.Timestamp = r.Started.UTC().Format("2006-01-02T15:04:05")
	}

	byStep := map[string][]ran{}
	for _, c := range s.Ran {
		byStep[c.Step] = append(byStep[c.Step], c)
	}
	for _, st := range r.Steps {
		c := junitCase{Class: class + ".steps", Name: oneLine(st.Index + " " + title(st.Word, st.Verb, st.Target)),
			Time: seconds(st.Duration), File: file, Line: st.Line}
		reason := st.Reason
		if st.Verdict == "" {
			reason = "not reached"
		}
		c.end(st.Verdict, reason, "")
		if st.Verdict != lab.Pass {
			c.Out = text(transcript(byStep[st.Index], 20))
		}
		suite.Cases = append(suite.Cases, c)
	}
	for _, e := range r.Expect {
		c := junitCase{Class: class + ".promises", Name: oneLine(e.Text), Time: seconds(0), File: file}
		found := ""
		if e.Verdict == lab.Fail {
			for _, f := range about(e, allFindings(r)) {
				found += findingText(f) + "\n"
			}
		}
		c.end(e.Verdict, "measured: "+e.Measured, found)
		suite.Cases = append(suite.Cases, c)
	}
	var all []lab.Verdict
	for _, c := range suite.Cases {
		all = append(all, c.verdict)
	}
	if worst := lab.Worst(all...); worst != r.Verdict || len(suite.Cases) == 0 {
		name := "verdict"
		if len(r.Steps) == 0 && r.Verdict == lab.Error {
			name = "set-up"
		}
		c := junitCase{Class: class, Name: name, Time: seconds(r.Duration), File: file}
		verdict := r.Verdict
		if verdict == "" {
			verdict = lab.Error
		}
		c.end(verdict, sentence(r), "")
		c.Out = text(transcript(byStep[""], 20))
		suite.Cases = append(suite.Cases, c)
	}

	for _, c := range suite.Cases {
		suite.Tests++
		switch {
		case c.Failure != nil:
			suite.Failures++
		case c.Error != nil:
			suite.Errors++
		case c.Skipped != nil:
			suite.Skipped++
		}
	}
	property := func(name, format string, args ...any) {
		suite.Properties = append(suite.Properties, junitProperty{name, oneLine(fmt.Sprintf(format, args...))})
	}
	property("id", "%s", r.ID)
	property("driver", "%s", r.Driver)
	property("seed", "%d", r.Seed)
	property("verdict", "%s", r.Verdict)
	property("reason", "%s", r.Reason)
	if r.RTO != nil {
		property("rto_s", "%g", *r.RTO)
		property("resolution_s", "%g", r.Resolution)
	}
	if r.LostWrites != nil {
		property("lost_writes", "%d", *r.LostWrites)
	}
	property("acked_writes", "%d", r.AckedWrites)
	property("unknown_writes", "%d", r.UnknownWrites)
	property("linearizable", "%s", r.Linearizable)
	property("again", "%s", command(s.again()))
	for _, k := range sortedKeys(r.Environment) {
		property("env."+k, "%s", r.Environment[k])
	}
	property("attachment", "%s", FileHTML)
	suite.Out = text("[[ATTACHMENT|" + FileHTML + "]]\n")
	stderr := ""
	for _, l := range r.Left {
		stderr += "left behind: " + oneLine(l) + "\n"
	}
	for _, l := range s.Unread {
		stderr += l + "\n"
	}
	suite.Err = text(stderr)

	doc := junitSuites{Name: "etcdrill", Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors, Skipped: suite.Skipped,
		Time: suite.Time, Suites: []junitSuite{suite}}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// text is an element that is there only when it says something.
func text(s string) *junitText {
	if s == "" {
		return nil
	}
	return &junitText{s}
}

// end sets how a case ended.
func (c *junitCase) end(v lab.Verdict, reason, more string) {
	c.verdict = v
	wrong := &junitWrong{Message: oneLine(reason), Type: string(v), Text: strings.TrimRight(clean(more), "\n")}
	switch v {
	case lab.Pass:
	case lab.Fail:
		c.Failure = wrong
	case lab.Error, lab.Undecided:
		c.Error = wrong
	default: // skipped, or not reached
		wrong.Type = ""
		c.Skipped = wrong
	}
}

// about picks the findings that made a promise fail.
func about(e lab.ExpectReport, all []lab.Finding) []lab.Finding {
	term, _, _ := strings.Cut(e.Text, " ")
	var out []lab.Finding
	for _, f := range all {
		if f.Judge == term && len(out) < 20 {
			out = append(out, f)
		}
	}
	return out
}

func findingText(f lab.Finding) string {
	s := f.Judge + ": " + f.What
	if f.Key != "" && !strings.Contains(f.What, f.Key) {
		s += ", key " + f.Key
	}
	if f.At > 0 {
		s += fmt.Sprintf(", at %.3fs", f.At)
	}
	return oneLine(s)
}

// transcript shows the last n commands as a terminal would.
func transcript(cs []ran, n int) string {
	var b strings.Builder
	if cut := len(cs) - n; cut > 0 {
		fmt.Fprintf(&b, "(%s before these: see %s)\n", counted(cut, "command"), fileEvents)
		cs = cs[cut:]
	}
	for _, c := range cs {
		fmt.Fprintf(&b, "%s$ %s\n", c.Host, c.Line)
		if c.Output != "" {
			b.WriteString(c.Output + "\n")
		}
		fmt.Fprintf(&b, "(%s after %s)\n", c.Ended(), short(c.Seconds))
	}
	return b.String()
}

func seconds(v float64) string { return fmt.Sprintf("%.3f", v) }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

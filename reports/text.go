package reports

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// Options say how text is drawn. The zero value is plain text for a file.
type Options struct {
	Color bool // ANSI colours, in addition to the words
	Live  bool // Story: a status line that is drawn again and again, for terminals only
	Width int  // columns that prose is wrapped at, 80 when 0
}

// Terminal finds the options for a stream: colour and a live line only where a
// person sits at a terminal that can draw them. NO_COLOR (not empty) takes the
// colours away, TERM=dumb everything. getenv is os.Getenv.
func Terminal(f *os.File, getenv func(string) string) Options {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || getenv("TERM") == "dumb" || getenv("TERM") == "" {
		return Options{}
	}
	return Options{Color: getenv("NO_COLOR") == "", Live: true}
}

func (o Options) width() int {
	if o.Width < 20 {
		return 80
	}
	return o.Width
}

// paint colours a word that says its state itself.
func (o Options) paint(s, as string) string {
	code := map[string]string{"ok": "32", "pass": "32", "FAIL": "1;31", "fail": "1;31", "error": "1;35", "unknown": "33",
		"skip": "2", "faint": "2", "fault": "31", "leader": "36", "bold": "1"}[as]
	if !o.Color || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Text prints how a run ended: the verdict in a sentence, what was measured,
// the promises, what was left behind, where the report is and what to type
// next. dir is the run's directory as the user would write it.
func Text(w io.Writer, r *lab.Report, dir string, o Options) error {
	r = tidy(r)
	var b strings.Builder
	verdict := strings.ToUpper(string(r.Verdict))
	if verdict == "" {
		verdict = "NO VERDICT"
	}
	name := r.Drill
	if name == "" {
		name = "drill"
	}
	lines := wrap(sentence(r), o.width()-len(verdict)-2)
	for i, l := range lines {
		if i == 0 {
			b.WriteString(o.paint(verdict, string(r.Verdict)) + "  " + l + "\n")
		} else {
			b.WriteString(strings.Repeat(" ", len(verdict)+2) + l + "\n")
		}
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-14s%s\n", name, oneLine(fmt.Sprintf(format, args...)))
	}
	if r.Verdict != lab.Skip {
		b.WriteByte('\n')
		rto := rtoText(r, "")
		if r.RTO != nil {
			rto += " without an accepted write at worst" + resolution(r)
		}
		row("rto", "%s", rto)
		shown := worst(r.Outages, 6)
		for _, out := range shown {
			row("", "%ss out for %s from %s%s", out.Kind, short(out.Duration), short(out.Start), during(out))
		}
		if n := len(r.Outages) - len(shown); n > 0 {
			row("", "and %s, none of them longer", counted(n, "more outage"))
		}
		if r.LostWrites == nil {
			row("lost writes", "not counted (%s acknowledged)", grouped(r.AckedWrites))
		} else {
			row("lost writes", "%s acknowledged", lostText(r))
		}
		if r.UndoneWrites > 0 {
			row("undone", "%s that a restore took back on purpose", counted(r.UndoneWrites, "acknowledged write"))
		}
		if r.UnknownWrites > 0 {
			row("unknown", "%s of which no client knows whether it happened", counted(r.UnknownWrites, "write"))
		}
		row("linearizable", "%s", r.Linearizable)
	}
	if len(r.Expect) > 0 {
		b.WriteString("\npromises\n")
		wide := 0
		for _, e := range r.Expect {
			wide = max(wide, len([]rune(oneLine(e.Text))))
		}
		wide = min(wide, 40)
		for _, e := range r.Expect {
			fmt.Fprintf(&b, "  %s  %-*s  %s\n", o.paint(fmt.Sprintf("%-7s", word(e.Verdict)), word(e.Verdict)), wide, oneLine(e.Text), oneLine(e.Measured))
		}
	}
	bad := notPassed(r.Steps)
	if len(bad) > 0 {
		b.WriteString("\nsteps that did not pass\n")
		for _, s := range bad[:min(len(bad), 10)] {
			fmt.Fprintf(&b, "  %s  %s %s%s\n", o.paint(fmt.Sprintf("%-7s", word(s.Verdict)), word(s.Verdict)), oneLine(s.Index), title(s.Word, s.Verb, s.Target), line(s.Line))
			for _, l := range wrap(s.Reason, o.width()-11) {
				fmt.Fprintf(&b, "           %s\n", l)
			}
		}
		more(&b, len(bad)-10)
	}
	if all := allFindings(r); len(all) > 0 {
		b.WriteString("\nfindings\n")
		for _, f := range all[:min(len(all), 10)] {
			for i, l := range wrap(findingText(f), o.width()-4) {
				fmt.Fprintf(&b, "  %s%s\n", strings.Repeat("  ", min(i, 1)), l)
			}
		}
		more(&b, len(all)-10)
	}
	if len(r.Left) > 0 {
		b.WriteString("\nleft behind\n")
		for _, l := range r.Left[:min(len(r.Left), 10)] {
			fmt.Fprintf(&b, "  %s\n", oneLine(l))
		}
		more(&b, len(r.Left)-10)
	}
	b.WriteByte('\n')
	if dir != "" {
		row("report", "%s", filepath.Join(dir, FileHTML))
	}
	row("next", "%s", next(r))
	_, err := io.WriteString(w, b.String())
	return err
}

// worst picks the n longest outages, in order of time.
func worst(outages []lab.Outage, n int) []lab.Outage {
	out := slices.Clone(outages)
	slices.SortStableFunc(out, func(a, b lab.Outage) int { return cmp.Compare(b.Duration, a.Duration) })
	out = out[:min(n, len(out))]
	slices.SortStableFunc(out, func(a, b lab.Outage) int { return cmp.Compare(a.Start, b.Start) })
	return out
}

// line is where in the drill file; what the engine does itself stands nowhere.
func line(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (line %d)", n)
}

func more(b *strings.Builder, n int) {
	if n > 0 {
		fmt.Fprintf(b, "  and %s more, see the report\n", grouped(n))
	}
}

// sentence is the verdict in words.
func sentence(r *lab.Report) string {
	s := oneLine(r.Reason)
	if s == "" {
		s = map[lab.Verdict]string{
			lab.Pass: "every step and every promise held", lab.Fail: "something promised does not hold",
			lab.Error: "the drill could not be performed", lab.Undecided: "what was seen does not decide it",
			lab.Skip: "not possible here",
		}[r.Verdict]
	}
	if r.Interrupted && !strings.Contains(s, "interrupt") {
		s = strings.TrimSuffix(s, ".") + "; the run was interrupted"
	}
	name := oneLine(r.Drill)
	if name == "" {
		name = "drill"
	}
	return name + ": " + s
}

func resolution(r *lab.Report) string {
	if r.Resolution <= 0 {
		return ""
	}
	return ", measured to within " + short(r.Resolution)
}

func during(o lab.Outage) string {
	s := ""
	if o.During != "" {
		s = ", during " + o.During
	}
	if o.Open {
		s += ", not over when the load ended"
	}
	return s
}

// notPassed lists the steps that were run and did not pass.
func notPassed(steps []lab.StepReport) []lab.StepReport {
	var out []lab.StepReport
	for _, s := range steps {
		switch s.Verdict {
		case lab.Fail, lab.Error, lab.Undecided:
			out = append(out, s)
		}
	}
	return out
}

// allFindings puts lost writes, which a report keeps apart, before the rest.
func allFindings(r *lab.Report) []lab.Finding {
	return append(append([]lab.Finding{}, r.Lost...), r.Findings...)
}

// next is the command to type next.
func next(r *lab.Report) string {
	same := command(again(r, nil))
	switch {
	case len(r.Left) > 0:
		return "etcdrill gc"
	case r.Verdict == lab.Skip:
		return "etcdrill doctor"
	case r.Verdict == lab.Fail || r.Verdict == lab.Error || r.Verdict == lab.Undecided:
		return same + " --keep on-failure"
	}
	return same
}

// Summary prints a table of several runs and how many ended how; skips are
// counted apart, since they say nothing about a cluster.
func Summary(w io.Writer, rs []*lab.Report) error {
	table := [][]string{{"DRILL", "DRIVER", "VERDICT", "RTO", "LOST", "TIME"}}
	count := map[lab.Verdict]int{}
	left, total := 0, 0.0
	var reasons []string
	for _, r := range rs {
		r = tidy(r)
		count[r.Verdict]++
		left += len(r.Left)
		total += r.Duration
		rto, lost := "-", "-"
		if r.RTO != nil {
			rto = rtoText(r, "")
		}
		if r.LostWrites != nil {
			lost = grouped(*r.LostWrites)
		}
		verdict := string(r.Verdict)
		if r.Verdict != lab.Pass && r.Verdict != lab.Skip {
			verdict = strings.ToUpper(verdict)
		}
		if len(r.Left) > 0 {
			verdict += " (left behind)"
		}
		table = append(table, []string{oneLine(r.Drill), oneLine(r.Driver), verdict, rto, lost, short(r.Duration)})
		if r.Verdict != lab.Pass {
			reasons = append(reasons, fmt.Sprintf("%s: %s", verdict, sentence(r)))
		}
	}
	var b strings.Builder
	columns(&b, table)
	if len(reasons) > 0 {
		b.WriteByte('\n')
	}
	for _, s := range reasons {
		b.WriteString(s + "\n")
	}
	var parts []string
	for _, v := range []lab.Verdict{lab.Pass, lab.Fail, lab.Error, lab.Undecided, ""} {
		if n := count[v]; n > 0 {
			name := map[lab.Verdict]string{lab.Pass: "passed", lab.Fail: "failed", lab.Error: "error", lab.Undecided: "unknown", "": "without verdict"}[v]
			if v == lab.Error && n > 1 {
				name = "errors"
			}
			parts = append(parts, grouped(n)+" "+name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing ran"}
	}
	fmt.Fprintf(&b, "\n%s of %s in %s", strings.Join(parts, ", "), counted(len(rs)-count[lab.Skip], "drill"), short(total))
	if n := count[lab.Skip]; n > 0 {
		fmt.Fprintf(&b, "; %s skipped", grouped(n))
	}
	if left > 0 {
		fmt.Fprintf(&b, "; %s left behind, clean up with: etcdrill gc", counted(left, "thing"))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// columns aligns a table; the last three columns hold numbers, on the right.
func columns(b *strings.Builder, table [][]string) {
	wide := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			wide[i] = max(wide[i], len([]rune(cell)))
		}
	}
	for _, row := range table {
		var cells []string
		for i, cell := range row {
			gap := strings.Repeat(" ", wide[i]-len([]rune(cell)))
			if i >= len(row)-3 {
				cells = append(cells, gap+cell)
			} else {
				cells = append(cells, cell+gap)
			}
		}
		b.WriteString(strings.TrimRight(strings.Join(cells, "  "), " ") + "\n")
	}
}

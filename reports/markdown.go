package reports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// SummaryLimit is what a step summary may hold on GitHub: 1024 KiB a step.
const SummaryLimit = 1 << 20

// StepSummary appends the run in dir, as markdown, to a CI job's summary file:
// the caller passes the value of $GITHUB_STEP_SUMMARY. Where the file would
// grow above SummaryLimit, and would then not be shown at all, the report is
// first written without its commands; where even that is too much, one line is
// written instead, and when that does not fit either, nothing.
func StepSummary(path, dir string, r *lab.Report) error {
	s := open(dir, r)
	var held int64
	if info, err := os.Stat(path); err == nil {
		held = info.Size()
	}
	for _, limit := range []int{maxCommands, 0, -1} {
		var b bytes.Buffer
		b.WriteByte('\n')
		if limit < 0 {
			fmt.Fprintf(&b, "**%s**: %s\n", strings.ToUpper(string(s.Report.Verdict)), md(sentence(s.Report)))
		} else if err := markdown(&b, s, limit); err != nil {
			return err
		}
		if held+int64(b.Len()) > SummaryLimit {
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(b.Bytes())
		return errors.Join(err, f.Close())
	}
	return nil
}

// maxCommands is how many commands the markdown shows; the rest is in the
// other files.
const maxCommands = 100

func writeMarkdown(w io.Writer, s *saved) error { return markdown(w, s, maxCommands) }

func markdown(w io.Writer, s *saved, commands int) error {
	r := s.Report
	var b strings.Builder
	verdict := strings.ToUpper(string(r.Verdict))
	if verdict == "" {
		verdict = "NO VERDICT"
	}
	name := r.Title
	if name == "" {
		name = r.Drill
	}
	if name == "" {
		name = "etcdrill"
	}
	fmt.Fprintf(&b, "## %s: %s\n\n**%s**\n\n", verdict, md(name), md(sentence(r)))
	if r.Why != "" {
		fmt.Fprintf(&b, "%s\n\n", md(r.Why))
	}
	if r.Verdict != lab.Skip {
		mdRow(&b, "Drill", "Driver", "Seed", "RTO", "Lost writes", "Unknown", "Linearizable", "Time")
		mdRow(&b, "---", "---", "--:", "--:", "--:", "--:", "---", "--:")
		rto := rtoText(r, " ")
		if r.RTO != nil && r.Resolution > 0 {
			rto += " ± " + duration(r.Resolution, " ")
		}
		mdRow(&b, md(r.Drill), md(r.Driver), fmt.Sprint(r.Seed), rto, lostText(r), grouped(r.UnknownWrites), md(r.Linearizable), duration(r.Duration, " "))
		b.WriteByte('\n')
	}
	if len(r.Expect) > 0 {
		b.WriteString("### Promises\n\n")
		mdRow(&b, "", "Promise", "Measured")
		mdRow(&b, "---", "---", "---")
		for _, e := range r.Expect {
			mdRow(&b, mdWord(e.Verdict), mdCode(e.Text), md(e.Measured))
		}
		b.WriteByte('\n')
	}
	if len(r.Outages) > 0 {
		b.WriteString("### Outages\n\n")
		mdRow(&b, "Kind", "From", "Length", "During")
		mdRow(&b, "---", "--:", "--:", "---")
		for i, o := range r.Outages {
			if i == 50 {
				mdRow(&b, "…", "", "", grouped(len(r.Outages)-i)+" more")
				break
			}
			mdRow(&b, md(o.Kind), duration(o.Start, " "), duration(o.Duration, " "), md(strings.TrimPrefix(strings.TrimPrefix(during(o), ", "), "during ")))
		}
		b.WriteByte('\n')
	}
	if len(r.Steps) > 0 {
		b.WriteString("### Steps\n\n")
		mdRow(&b, "", "Step", "What", "At", "Took", "Why not")
		mdRow(&b, "---", "--:", "---", "--:", "--:", "---")
		shown := 0
		for _, st := range r.Steps {
			if shown >= 100 && (st.Verdict == lab.Pass || st.Verdict == "" || shown >= 200) {
				continue
			}
			shown++
			reason := ""
			if st.Verdict != lab.Pass {
				reason = st.Reason
			}
			at, took := duration(st.Start, " "), duration(st.Duration, " ")
			if st.Verdict == "" {
				at, took = "", ""
			}
			mdRow(&b, mdWord(st.Verdict), md(st.Index), md(title(st.Word, st.Verb, st.Target)), at, took, md(reason))
		}
		b.WriteByte('\n')
		if n := len(r.Steps) - shown; n > 0 {
			fmt.Fprintf(&b, "%s not shown.\n\n", counted(n, "step"))
		}
	}
	if all := allFindings(r); len(all) > 0 {
		b.WriteString("### Findings\n\n")
		for _, f := range all[:min(len(all), 20)] {
			fmt.Fprintf(&b, "- %s\n", md(findingText(f)))
		}
		if n := len(all) - 20; n > 0 {
			fmt.Fprintf(&b, "- and %s more\n", grouped(n))
		}
		b.WriteByte('\n')
	}
	if r.Picture != nil {
		fmt.Fprintf(&b, "%s\n\n", md(r.Picture.Text))
	}
	if len(r.Left) > 0 {
		b.WriteString("### Left behind\n\n")
		for _, l := range r.Left[:min(len(r.Left), 20)] {
			fmt.Fprintf(&b, "- %s\n", md(l))
		}
		fmt.Fprintf(&b, "\nClean up with %s.\n\n", mdCode("etcdrill gc"))
	}
	fmt.Fprintf(&b, "### Again\n\n%s", fence(command(s.again()), "sh"))

	if cs := slices.Clone(s.Ran); commands > 0 && len(cs) > 0 {
		fmt.Fprintf(&b, "<details>\n<summary>Runbook: %s</summary>\n\n", counted(len(cs), "command"))
		cut := max(0, len(cs)-commands)
		cs = cs[:len(cs)-cut]
		for i := range cs {
			if len(cs[i].Output) > 400 {
				cs[i].Output = strings.ToValidUTF8(cs[i].Output[:400], "") + " …"
			}
		}
		b.WriteString(fence(transcript(cs, len(cs)), "text"))
		if cut > 0 {
			fmt.Fprintf(&b, "%s more in %s.\n\n", grouped(cut), mdCode(fileEvents))
		}
		b.WriteString("</details>\n\n")
	}
	for _, l := range s.Unread {
		fmt.Fprintf(&b, "Note: %s.\n\n", md(l))
	}
	var links []string
	for _, f := range append([]string{FileHTML, FileJSON, FileJUnit}, s.Files...) {
		links = append(links, fmt.Sprintf("[%s](%s)", f, f))
	}
	b.WriteString("Beside this: " + strings.Join(links, ", ") + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// mdWord is a verdict in a table: bold where one must look.
func mdWord(v lab.Verdict) string {
	if v == lab.Pass || v == lab.Skip || v == "" {
		return word(v)
	}
	return "**" + word(v) + "**"
}

func mdRow(b *strings.Builder, cells ...string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

var mdEscapes = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;",
	"&", "&amp;", "|", `\|`, "#", `\#`, "~", `\~`, "!", `\!`, "$", `\$`)

// md writes foreign text so that markdown shows it as it is, on one line.
func md(s string) string { return mdEscapes.Replace(oneLine(s)) }

// mdCode is a code span, also inside a table.
func mdCode(s string) string {
	s = strings.ReplaceAll(oneLine(s), "|", `\|`)
	ticks := strings.Repeat("`", longestRun(s, '`')+1)
	if strings.Contains(s, "`") {
		return ticks + " " + s + " " + ticks
	}
	return ticks + s + ticks
}

// fence is a code block that its content cannot end.
func fence(s, lang string) string {
	ticks := strings.Repeat("`", max(3, longestRun(s, '`')+1))
	return ticks + lang + "\n" + strings.TrimRight(s, "\n") + "\n" + ticks + "\n\n"
}

func longestRun(s string, c rune) int {
	best, n := 0, 0
	for _, r := range s {
		if n++; r != c {
			n = 0
		}
		best = max(best, n)
	}
	return best
}

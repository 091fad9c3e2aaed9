package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// table is what the reports say.
type table struct {
	drills  []drill
	drivers []string                 // that have reports: the columns
	runs    map[string][]*lab.Report // by driver, in order of start
	absent  map[string]string        // drivers without any, and why
}

// cell is how a drill went with a driver, by its last run.
type cell struct {
	word  string // pass, damage, skip, not run, or how it should not have gone
	good  bool   // as it must
	tries int
	why   string // of a skip, or what is wrong
}

func (t table) cell(d drill, driver string) cell {
	runs := of(t.runs[driver], d.Name)
	if len(runs) == 0 {
		return cell{word: "not run"}
	}
	last := runs[len(runs)-1]
	c := cell{word: string(last.Verdict), tries: len(runs), good: settled(d, runs)}
	switch {
	case last.Verdict == lab.Skip:
		_, c.why, _ = strings.Cut(last.Reason, ": ")
	case len(last.Left) > 0:
		c.word, c.why = "left behind", strings.Join(last.Left, ", ")
	case c.good && d.want() == lab.Fail:
		c.word = "damage"
	case !c.good && last.Verdict == lab.Pass:
		c.word, c.why = "no damage", "it should have ended fail"
	case !c.good:
		c.why = last.Reason
	}
	return c
}

// write prints a summary by family, then all drills, then the reasons.
func (t table) write(w io.Writer) {
	var families []string
	for _, d := range t.drills {
		if !slices.Contains(families, d.Family) {
			families = append(families, d.Family)
		}
	}
	head := func(first string) {
		fmt.Fprintf(w, "| %s | %s |\n|---|%s\n", first, strings.Join(t.drivers, " | "), strings.Repeat("---|", len(t.drivers)))
	}
	head("drills")
	for _, f := range families {
		n := 0
		for _, d := range t.drills {
			if d.Family == f {
				n++
			}
		}
		fmt.Fprintf(w, "| %s: %d |", f, n)
		for _, driver := range t.drivers {
			fmt.Fprintf(w, " %s |", t.counts(f, driver))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "| all, one after the other |")
	for _, driver := range t.drivers {
		fmt.Fprintf(w, " %s |", t.took(driver))
	}
	fmt.Fprint(w, "\n\n*damage*: the drill shows the wrong way, and ended *fail*, as it must.\n\n<details><summary>Drill by drill</summary>\n\n")
	head("drill")
	var notes []string
	note := func(text string) int {
		if i := slices.Index(notes, text); i >= 0 {
			return i + 1
		}
		notes = append(notes, text)
		return len(notes)
	}
	for _, f := range families {
		fmt.Fprintf(w, "| **%s** |%s\n", f, strings.Repeat(" |", len(t.drivers)))
		for _, d := range t.drills {
			if d.Family != f {
				continue
			}
			fmt.Fprintf(w, "| %s |", d.Name)
			for _, driver := range t.drivers {
				c := t.cell(d, driver)
				word := c.word
				if !c.good {
					word = "**" + word + "**"
				}
				if c.tries > 1 {
					word += fmt.Sprintf(" (run %d)", c.tries)
				}
				if c.why != "" {
					word += fmt.Sprintf(" [%d]", note(driver+": "+strings.Join(strings.Fields(c.why), " ")))
				}
				fmt.Fprintf(w, " %s |", word)
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintln(w, "\n</details>")
	for i, n := range notes {
		fmt.Fprintf(w, "\n[%d] %s  ", i+1, n)
	}
	for _, driver := range sorted(t.absent) {
		fmt.Fprintf(w, "\n%s was not there: %s  ", driver, t.absent[driver])
	}
	fmt.Fprintln(w)
}

// counts sums up a family: how many went how.
func (t table) counts(family, driver string) string {
	n := map[string]int{}
	var order []string
	for _, d := range t.drills {
		if d.Family != family {
			continue
		}
		c := t.cell(d, driver)
		if n[c.word] == 0 {
			order = append(order, c.word)
		}
		n[c.word]++
	}
	rank := []string{"pass", "damage", "skip"}
	slices.SortStableFunc(order, func(a, b string) int {
		return place(rank, a) - place(rank, b)
	})
	var out []string
	for _, word := range order {
		text := fmt.Sprintf("%d %s", n[word], word)
		if !slices.Contains(rank, word) {
			text = "**" + text + "**"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// place in a list, behind its end for what is not in it.
func place(list []string, word string) int {
	if i := slices.Index(list, word); i >= 0 {
		return i
	}
	return len(list)
}

// took is the time of all runs with a driver, those that were repeated too.
func (t table) took(driver string) string {
	var seconds float64
	n := 0
	for _, d := range t.drills {
		for _, r := range of(t.runs[driver], d.Name) {
			if seconds += r.Duration; r.Verdict != lab.Skip {
				n++
			}
		}
	}
	return fmt.Sprintf("%d runs in %s", n, time.Duration(seconds*float64(time.Second)).Round(time.Second))
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// The lines of a file between which the table belongs.
const (
	begin = "<!-- matrix: made by `make matrix` -->"
	end   = "<!-- end of matrix -->"
)

// insert writes the table into a file.
func insert(file string, text []byte) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(begin+"\n"))
	_, after, closed := bytes.Cut(rest, []byte(end+"\n"))
	if !ok || !closed {
		return fmt.Errorf("%s: expected the lines %s and %s, between which the table belongs", file, begin, end)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s%s\n\n%s\n\n%s\n%s", before, begin, bytes.TrimSpace(text), end, after)
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// Command matrix runs the shipped drills on every driver that this machine has
// and prints the table drill × driver, in Markdown, made from the reports of
// the runs and from nothing else. `make matrix` calls it.
//
// What has ended as it must is not run again: an interrupted pass goes on where
// it was. A drill that did not is tried once more, and the table says so.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/scenarios"
)

func main() {
	m := &matrix{}
	flag.StringVar(&m.out, "out", "bin/matrix", "directory for the records of the runs, one directory per driver; what is there counts")
	only := flag.String("drivers", "", "drivers to run on, parted by commas: "+strings.Join(drivers.Names(), ", ")+"; all when empty")
	families := flag.String("families", "quorum,membership,security,faults", "families of drills, parted by commas; all when empty")
	flag.StringVar(&m.inventory, "inventory", os.Getenv("ETCDRILL_TEST_INVENTORY"), "file with the machines of the ssh driver")
	flag.StringVar(&m.binary, "binary", "bin/etcdrill", "the etcdrill to run")
	flag.IntVar(&m.tries, "tries", 2, "how often a drill that does not end as it must is run")
	table := flag.Bool("table", false, "run nothing, only print the table of what is there")
	readme := flag.String("readme", "", "a file to write the table into, between its lines "+begin+" and "+end)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *table {
		m.tries = 0
	}
	if err := m.run(ctx, words(*only), words(*families), *readme); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// words parts a list; nothing has none.
func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

type matrix struct {
	out, inventory, binary string
	tries                  int
}

// drill is one of `etcdrill list -o json`.
type drill struct {
	Name    string            `json:"name"`
	Family  string            `json:"family"`
	Tags    []string          `json:"tags"`
	Drivers map[string]string `json:"drivers"` // "" = it can run there
}

// want is how the drill has to end.
func (d drill) want() lab.Verdict {
	if slices.Contains(d.Tags, "damage") {
		return lab.Fail
	}
	return lab.Pass
}

func (m *matrix) run(ctx context.Context, only, families []string, readme string) error {
	for _, w := range only {
		if !slices.Contains(drivers.Names(), w) {
			return fmt.Errorf("-drivers: no driver %q: expected some of %s", w, strings.Join(drivers.Names(), ", "))
		}
	}
	drills, err := m.drills(ctx, families)
	if err != nil {
		return err
	}
	columns := slices.SortedFunc(slices.Values(drivers.Names()), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
	})
	t := table{drills: drills, runs: map[string][]*lab.Report{}, absent: map[string]string{}}
	for _, driver := range columns {
		if why := unusable(drills, driver); why != "" {
			t.absent[driver] = why
		} else if len(only) == 0 || slices.Contains(only, driver) {
			if err := m.pass(ctx, driver, drills); err != nil {
				return fmt.Errorf("%s: %w", driver, err)
			}
		}
		rs, err := m.reports(driver)
		if err != nil {
			return err
		}
		if len(rs) == 0 {
			continue
		}
		t.drivers, t.runs[driver] = append(t.drivers, driver), rs
		delete(t.absent, driver)
	}
	if len(t.drivers) == 0 {
		return fmt.Errorf("no report in %s, so there is no table", m.out)
	}
	var text bytes.Buffer
	t.write(&text)
	if readme != "" {
		return insert(readme, text.Bytes())
	}
	_, err = os.Stdout.Write(text.Bytes())
	return err
}

// rank puts the driver that everybody has first.
func rank(driver string) int {
	if driver == "local" {
		return 0
	}
	return 1
}

// drills asks the binary for its drills of some families, all when there are
// none, and where each can run. Those that need something from outside are
// left out.
func (m *matrix) drills(ctx context.Context, families []string) ([]drill, error) {
	cmd := m.command(ctx, "list", "-o", "json")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s list: %w: `make build` makes it", m.binary, err)
	}
	var all []drill
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s list: %w", m.binary, err)
	}
	for _, f := range families {
		if !slices.ContainsFunc(all, func(d drill) bool { return d.Family == f }) {
			return nil, fmt.Errorf("-families: no drill is in %q", f)
		}
	}
	return slices.DeleteFunc(all, func(d drill) bool {
		f, err := scenarios.Find(d.Name)
		return len(families) > 0 && !slices.Contains(families, d.Family) || err == nil && bytes.Contains(f.Source, []byte("${var:"))
	}), nil
}

func (m *matrix) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.binary, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it heals and takes its lab down
	cmd.Env = append(os.Environ(), "ETCDRILL_INVENTORY="+m.inventory)
	return cmd
}

// unusable is why no drill at all can run with a driver here, empty when one
// can.
func unusable(drills []drill, driver string) string {
	why := ""
	for _, d := range drills {
		if d.Drivers[driver] == "" {
			return ""
		}
		why = d.Drivers[driver]
	}
	return why
}

// pass runs what has not ended as it must yet, as often as may be.
func (m *matrix) pass(ctx context.Context, driver string, drills []drill) error {
	for try := range m.tries {
		rs, err := m.reports(driver)
		if err != nil {
			return err
		}
		var names []string
		for _, d := range drills {
			if runs := of(rs, d.Name); len(runs) <= try && !settled(d, runs) {
				names = append(names, d.Name)
			}
		}
		if len(names) == 0 {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: %d drills\n", driver, len(names))
		cmd := m.command(ctx, append([]string{"run", "--driver", driver, "--out", filepath.Join(m.out, driver), "-q"}, names...)...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err = cmd.Run()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return err
		}
		// That drills failed is for the table. A drill without a report is not.
		rs, rerr := m.reports(driver)
		if rerr != nil {
			return rerr
		}
		for _, n := range names {
			if len(of(rs, n)) == 0 {
				return errors.Join(err, fmt.Errorf("no report of %s in %s", n, m.out))
			}
		}
	}
	return nil
}

// settled tells whether the last run of a drill ended as it must, or could not
// be.
func settled(d drill, runs []*lab.Report) bool {
	if len(runs) == 0 {
		return false
	}
	last := runs[len(runs)-1]
	return last.Verdict == lab.Skip || last.Verdict == d.want() && len(last.Left) == 0
}

// reports reads what is there of a driver, in order of start. A run that was
// interrupted is none.
func (m *matrix) reports(driver string) ([]*lab.Report, error) {
	dir := filepath.Join(m.out, driver)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []*lab.Report
	for _, e := range entries {
		if !e.IsDir() { // "latest" is a link
			continue
		}
		file := filepath.Join(dir, e.Name(), "report.json")
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // killed
		}
		if err != nil {
			return nil, err
		}
		r := &lab.Report{}
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if !r.Interrupted {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b *lab.Report) int { return a.Started.Compare(b.Started) })
	return out, nil
}

// of are the runs of one drill.
func of(rs []*lab.Report, drill string) []*lab.Report {
	var out []*lab.Report
	for _, r := range rs {
		if r.Drill == drill {
			out = append(out, r)
		}
	}
	return out
}

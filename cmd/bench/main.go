// Command bench prints the benchmark tables of etcdrill, one for each backend:
// each figure beside its floor, taken in turn in one run, as medians. What this
// machine has no backend for is left out, and said. `make bench` calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/drivers/local/tools"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

func main() {
	if handled, code := tools.Main(os.Args); handled {
		os.Exit(code)
	}
	n := flag.Int("n", 10, "how often each start, crash and fault is measured; what takes long is measured half as often")
	only := flag.String("only", "", "which to measure, parted by commas: backends (local, docker, ssh) or measurements (up, crash, drill, fault, load, snapshot, large-snapshot, total-loss, diff, stretch, command, fan-out, upload) or both (docker/up); all when empty")
	binary := flag.String("binary", "bin/etcdrill", "the etcdrill to measure as a whole command")
	inventory := flag.String("inventory", os.Getenv("ETCDRILL_TEST_INVENTORY"), "file with at least three machines on which drills may run; without one, containers play them where there is an engine")
	flag.Parse()
	if err := run(*n, *only, *binary, *inventory); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what the measurements share.
type bench struct {
	n         int
	dir       string // scratch
	binary    string // absolute
	inventory string // of machines, see machines
	made      string // directory of machines that we made, empty when none
	driver    lab.Driver
	kit       lab.Kit
}

// measurements in their order. Those of one backend make one table.
func (b *bench) measurements() []measurement {
	return []measurement{
		{"local", "up", b.up},
		{"local", "crash", b.crash},
		{"local", "drill", func(ctx context.Context) error { return b.drill(ctx, "local") }},
		{"local", "fault", func(ctx context.Context) error { return b.fault(ctx, b.driver) }},
		{"local", "load", b.load},
		{"local", "snapshot", b.snapshot},
		{"local", "large-snapshot", b.largeSnapshot},
		{"local", "total-loss", b.totalLoss},
		{"local", "diff", b.diff},
		{"local", "stretch", b.stretch},
		{"docker", "up", b.dockerUp},
		{"docker", "drill", b.dockerDrill},
		{"docker", "fault", b.dockerFault},
		{"ssh", "command", b.command},
		{"ssh", "fan-out", b.fanOut},
		{"ssh", "upload", b.upload},
		{"ssh", "drill", b.sshDrill},
		{"ssh", "fault", b.sshFault},
	}
}

type measurement struct {
	backend, name string
	measure       func(context.Context) error
}

// missing is the error of a measurement for which this machine lacks
// something.
type missing struct{ why error }

func (m missing) Error() string { return m.why.Error() }

func run(n int, only, binary, inventory string) error {
	dir, err := os.MkdirTemp("", "etcdrill-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	abs, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(abs); err != nil {
		return fmt.Errorf("%w: `make build` makes it", err)
	}
	drv, err := drivers.New("local", drivers.Options{Binary: abs, Root: filepath.Join(dir, "home")})
	if err != nil {
		return err
	}
	b := &bench{n: n, dir: dir, binary: abs, inventory: inventory, driver: drv, kit: verbs.Kit()}
	defer b.dismiss()
	chosen, err := choose(b.measurements(), only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	backend := ""
	for _, m := range chosen {
		if m.backend != backend {
			if backend != "" {
				fmt.Println()
			}
			backend = m.backend
			fmt.Printf("%-66s %10s %10s %7s  %s\n", backend, "ours", "floor", "ratio", "spread, n")
		}
		err := m.measure(ctx)
		var lacks missing
		if errors.As(err, &lacks) {
			fmt.Printf("%s left out: %s\n", m.name, err)
		} else if err != nil {
			return fmt.Errorf("%s/%s: %w", m.backend, m.name, err)
		}
	}
	return nil
}

// choose takes the measurements that a list of words names.
func choose(all []measurement, words string) ([]measurement, error) {
	if words == "" {
		return all, nil
	}
	wanted := strings.Split(words, ",")
	hits := map[string]bool{}
	out := slices.DeleteFunc(slices.Clone(all), func(m measurement) bool {
		found := false
		for _, w := range wanted {
			if w == m.backend || w == m.name || w == m.backend+"/"+m.name {
				found, hits[w] = true, true
			}
		}
		return !found
	})
	for _, w := range wanted {
		if !hits[w] {
			return nil, fmt.Errorf("-only: nothing is named %q: see -help", w)
		}
	}
	return out, nil
}

// row prints a figure beside its floor; without a floor that is empty.
func row(what string, ours, floor []float64, unit string) {
	cell := func(v []float64) string {
		if len(v) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.3g %s", median(v), unit)
	}
	ratio := "-"
	if len(floor) > 0 && median(floor) != 0 {
		ratio = fmt.Sprintf("%.2f", median(ours)/median(floor))
	}
	spread := fmt.Sprintf("%.3g..%.3g", slices.Min(ours), slices.Max(ours))
	if len(floor) > 0 {
		spread += fmt.Sprintf(" (floor %.3g..%.3g)", slices.Min(floor), slices.Max(floor))
	}
	fmt.Printf("%-66s %10s %10s %7s  %s, %d\n", what, cell(ours), cell(floor), ratio, spread, len(ours))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func since(t time.Time) float64 { return time.Since(t).Seconds() }

// parse reads a drill written in this program.
func (b *bench) parse(lines ...string) (*lab.Drill, error) {
	src := "apiVersion: etcdrill/v1\nkind: Drill\nname: bench\ntitle: bench\n" + strings.Join(lines, "\n") + "\n"
	return lab.Parse("bench.yaml", []byte(src), b.kit.Verbs, nil)
}

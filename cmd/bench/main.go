// Command bench prints the benchmark table of etcdrill: each figure beside its
// floor, taken in turn in one run, as medians. `make bench` calls it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	n := flag.Int("n", 10, "how often each start and each crash is measured")
	only := flag.String("only", "", "one of up, crash, drill, load")
	binary := flag.String("binary", "bin/etcdrill", "the etcdrill to measure as a whole command")
	flag.Parse()
	if err := run(*n, *only, *binary); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what the measurements share.
type bench struct {
	n      int
	dir    string // scratch
	binary string // absolute
	driver lab.Driver
	kit    lab.Kit
}

func run(n int, only, binary string) error {
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
	b := &bench{n: n, dir: dir, binary: abs, driver: drv, kit: verbs.Kit()}
	fmt.Printf("%-66s %10s %10s %7s  %s\n", "what", "ours", "floor", "ratio", "spread, n")
	for _, m := range []struct {
		name    string
		measure func(context.Context) error
	}{{"up", b.up}, {"crash", b.crash}, {"drill", b.drill}, {"load", b.load}} {
		if only != "" && only != m.name {
			continue
		}
		if err := m.measure(context.Background()); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
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

package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/reports"
)

func (a *app) run() *cobra.Command {
	var (
		c        choice
		adopts   = adoption{}
		outDir   string
		seed     uint64
		keep     string
		etcdDir  string
		parallel int
		times    int
		slow     int
		quiet    bool
		failFast bool
	)
	cmd := &cobra.Command{
		Use:   "run NAME|FILE...",
		Short: "run drills: bring up, load, break, heal, judge, report, take down",
		Example: `  etcdrill run leader-kill
  etcdrill run my-drill.yaml --seed 7 --keep on-failure
  etcdrill run --tag quorum --tag membership -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.json()
			if err != nil {
				return err
			}
			ds, err := a.drills(&c, args)
			if err != nil {
				return err
			}
			if err := adopts.of(ds); err != nil {
				return err
			}
			if err := refused(ds); err != nil {
				return err
			}
			switch lab.Keep(keep) {
			case lab.KeepNever, lab.KeepOnFailure, lab.KeepAlways:
			default:
				return usage("--keep %s: expected never, on-failure or always", keep)
			}
			if parallel < 1 || times < 1 {
				return usage("--parallel and --times: expected at least 1")
			}
			if etcdDir != "" {
				for _, d := range ds {
					d.Cluster.Etcd = etcdDir
				}
			}
			for _, d := range ds {
				if err := d.Slow(slow); err != nil {
					return usage("--%s", err)
				}
			}
			drv, err := a.openNew()
			if err != nil {
				return err
			}
			var work []job
			for n := range times {
				for _, d := range ds {
					s := seed + uint64(n)
					if !cmd.Flags().Changed("seed") {
						s = anySeed()
					}
					work = append(work, job{drill: d, seed: s})
				}
			}
			b := &batch{app: a, driver: drv, out: outDir, keep: lab.Keep(keep), quiet: quiet || parallel > 1 || asJSON, many: len(work) > 1, json: asJSON, failFast: failFast}
			return b.run(cmd.Context(), work, parallel)
		},
	}
	c.flags(cmd)
	adopts.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&outDir, "out", "etcdrill-runs", "directory for the records, one directory per run")
	f.Uint64Var(&seed, "seed", 0, "seed of everything random; drawn and printed when absent")
	f.StringVar(&keep, "keep", "never", "keep the lab after the drill: never, on-failure or always")
	f.StringVar(&etcdDir, "etcd-dir", "", "directory with etcd, etcdctl and etcdutl to run instead of the embedded ones")
	f.IntVar(&parallel, "parallel", 1, "how many drills at the same time, each in a lab of its own")
	f.IntVar(&times, "times", 1, "how often")
	f.IntVar(&slow, "slow", 1, "how many times slower than usual the machines are: makes all times of the drill as much longer, and its load thinner")
	f.BoolVarP(&quiet, "quiet", "q", false, "no story, only the result")
	f.BoolVar(&failFast, "fail-fast", false, "start no further drill after one that did not pass")
	return cmd
}

func anySeed() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return uint64(binary.LittleEndian.Uint32(b[:])) // short enough to type
}

// job is one run to be made.
type job struct {
	drill *lab.Drill
	seed  uint64
}

// batch runs drills, side by side if asked, and gathers their reports.
type batch struct {
	app      *app
	driver   lab.Driver
	out      string
	keep     lab.Keep
	quiet    bool
	many     bool
	json     bool
	failFast bool

	mu      sync.Mutex
	reports []*lab.Report
	failed  error // what kept a run from having a report, or its report from being written
}

func (b *batch) run(ctx context.Context, work []job, parallel int) error {
	jobs := make(chan job)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for j := range jobs {
				b.one(ctx, j)
			}
		})
	}
	for _, j := range work {
		if ctx.Err() != nil || b.stop() {
			break
		}
		jobs <- j
	}
	close(jobs)
	wg.Wait()
	if b.json {
		if err := reports.JSON(b.app.out, b.reports); err != nil {
			return err
		}
	} else if b.many {
		reports.Summary(b.app.out, b.reports)
	}
	if b.failed != nil {
		return b.failed
	}
	if code := exitCode(b.reports); code != exitPass {
		return &exit{code: code}
	}
	return nil
}

func (b *batch) stop() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.failFast {
		return b.failed != nil
	}
	return b.failed != nil || exitCode(b.reports) != exitPass
}

// one runs one drill and renders its report.
func (b *batch) one(ctx context.Context, j job) {
	o := lab.Options{
		Out: b.out, ID: lab.NewID(j.drill.Name, time.Now(), j.seed), Seed: j.seed, Keep: b.keep,
		Command: os.Args, Environment: environment(),
	}
	var story *reports.Story
	if !b.quiet {
		story = reports.NewStory(b.app.err, reports.Terminal(os.Stderr, os.Getenv))
		o.Tell = story.Tell
	}
	r, err := lab.Run(ctx, j.drill, b.driver, b.app.kit, o)
	if story != nil {
		story.Close()
	}
	dir := filepath.Join(b.out, o.ID)
	if err == nil {
		err = reports.Write(dir, r)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.failed = fmt.Errorf("%s: %w", j.drill.Name, err)
	}
	if r == nil {
		return
	}
	b.reports = append(b.reports, r)
	if summary := os.Getenv("GITHUB_STEP_SUMMARY"); summary != "" {
		if err := reports.StepSummary(summary, dir, r); err != nil {
			fmt.Fprintln(b.app.err, "etcdrill: step summary:", err)
		}
	}
	switch {
	case b.json:
	case b.many:
		fmt.Fprintf(b.app.err, "%-7s %s, seed %d, %.1fs: %s\n", r.Verdict, r.Drill, r.Seed, r.Duration, r.Reason)
	default:
		if err := reports.Text(b.app.out, r, dir, reports.Terminal(os.Stdout, os.Getenv)); err != nil {
			b.failed = err
		}
	}
}

// exitCode is the contract's code for a set of reports.
func exitCode(rs []*lab.Report) int {
	code := exitPass
	rank := []int{exitPass, exitLeft, exitUnknown, exitError, exitFail, exitInterrupted} // worst last
	worse := func(c int) {
		for _, r := range rank {
			if r == code {
				code = c // c comes later: worse
				return
			}
			if r == c {
				return
			}
		}
	}
	for _, r := range rs {
		switch {
		case r.Interrupted:
			worse(exitInterrupted)
		case r.Verdict == lab.Fail:
			worse(exitFail)
		case r.Verdict == lab.Error:
			worse(exitError)
		case r.Verdict == lab.Undecided:
			worse(exitUnknown)
		case len(r.Left) > 0:
			worse(exitLeft)
		}
	}
	return code
}

// options is what drivers need to know of this program. Hosts of another system
// need one that was built for them, which ETCDRILL_BINARY names.
func (a *app) options() drivers.Options {
	exe := os.Getenv("ETCDRILL_BINARY")
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			exe = os.Args[0]
		}
	}
	return drivers.Options{Binary: exe, Root: os.Getenv("ETCDRILL_HOME"), Inventory: a.inventory, AcceptNew: a.acceptNew, Say: func(what string) { fmt.Fprintln(a.err, what) }}
}

// openNew is open for commands that make labs.
func (a *app) openNew() (lab.Driver, error) {
	if a.driver == ssh.Name && a.inventory == "" {
		return nil, usage("--driver ssh: expected the file with the machines as well: --inventory FILE (etcdrill vm up 3 --inventory FILE makes some)")
	}
	return a.open()
}

func (a *app) open() (lab.Driver, error) {
	drv, err := drivers.New(a.driver, a.options())
	if err != nil {
		return nil, usage("%s", err)
	}
	return drv, nil
}

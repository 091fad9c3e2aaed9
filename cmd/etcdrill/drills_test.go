package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
	"github.com/etcdrill/etcdrill/scenarios"
)

// outside is what a drill needs from outside: a variable without a default.
var outside = regexp.MustCompile(`\$\{var:\w+\}`)

// Every shipped drill passes, and every drill that shows damage fails. It
// takes minutes, so it runs only where ETCDRILL_DRILLS says so (make
// test-drills). ETCDRILL_DRILLS is "all", or the tag of the drills to run.
func TestShippedDrills(t *testing.T) {
	which := os.Getenv("ETCDRILL_DRILLS")
	if which == "" {
		t.Skip("set ETCDRILL_DRILLS=all to run every shipped drill")
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := os.Getenv("ETCDRILL_OUT")
	if out == "" {
		out = t.TempDir()
	}
	drv, err := drivers.New("local", drivers.Options{Binary: exe, Root: filepath.Join(t.TempDir(), "home")})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range scenarios.All() {
		if outside.Match(f.Source) {
			continue // see make test-museum
		}
		d, err := lab.Parse(f.Path, f.Source, verbs.All(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if which != "all" && !d.Has(which) {
			continue
		}
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			want := lab.Pass
			if d.Has("damage") {
				want = lab.Fail
			}
			// What no process of a machine can suffer needs hosts: make test-docker.
			caps := drv.Caps(t.Context())
			for _, c := range []lab.Cap{lab.CapClock, lab.CapPower, lab.CapSmall, lab.CapUnits, lab.CapAdopt} {
				if slices.Contains(d.AllNeeds(), c) {
					t.Skip(c, ": ", caps[c])
				}
			}
			// Machines that run this are small and shared, and some promises are
			// about time. A drill that misses once is run again and told about;
			// missing twice in a row is a failure. Damage may need some luck to
			// show, the more of it the busier the machine is.
			most := 2
			if want == lab.Fail {
				most = 6
			}
			for try := 1; ; try++ {
				seed := rand.Uint64N(1 << 32)
				r, err := lab.Run(t.Context(), d, drv, verbs.Kit(), lab.Options{Out: out, ID: lab.NewID(d.Name, time.Now(), seed), Seed: seed})
				if err != nil {
					t.Fatal(err)
				}
				if len(r.Left) > 0 {
					t.Fatalf("left behind: %q", r.Left)
				}
				if r.Verdict == want {
					return
				}
				if r.Verdict == lab.Skip && !strings.Contains(os.Getenv("ETCDRILL_MUST"), "trace") {
					t.Skip(r.Reason)
				}
				t.Logf("try %d, seed %d: %s, want %s: %s", try, seed, r.Verdict, want, r.Reason)
				if try == most {
					t.FailNow()
				}
			}
		})
	}
}

// A run that is killed at any moment leaves nothing that gc does not remove.
func TestKilledRunsLeaveNothing(t *testing.T) {
	t.Parallel()
	b := here(t)
	drill := `apiVersion: etcdrill/v1
kind: Drill
name: killed
title: To be killed
cluster: {members: 3, heartbeat: 10ms, election: 100ms}
load: {clients: 2, rate: 50/s, warmup: 100ms}
steps:
  - {break: pause, member: follower, as: paused}
  - {break: crash, member: leader, as: crashed}
  - {do: wait, for: 300ms}
  - {heal: crashed}
  - {heal: paused}
  - {break: cut, member: leader, as: cut}
  - {do: wait, for: 300ms}
`
	b.kills(t, drill, 3, 4*time.Second, func() []string { return labelled(t, filepath.Join(b.dir, "home")) })
}

// labelled finds processes that belong to a lab below home.
func labelled(t *testing.T, home string) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range procs {
		env, err := os.ReadFile(filepath.Join(p, "environ"))
		if err != nil {
			continue // gone, or somebody else's
		}
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if bytes.Contains(env, []byte("ETCDRILL_LAB=")) && bytes.Contains(append(env, cmdline...), []byte(home)) {
			out = append(out, fmt.Sprintf("%s %s", filepath.Base(p), bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return out
}

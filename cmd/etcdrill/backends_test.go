package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// backend is the command on a driver: on one that CI names in ETCDRILL_MUST, with
// the program that users run, since hosts cannot run that of the tests, or here.
type backend struct {
	driver    string
	dir       string
	binary    string
	inventory string
}

// here is the command on this machine, with a home of its own, that is the
// program of the tests.
func here(t *testing.T) *backend {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &backend{driver: "local", dir: dir, binary: filepath.Join(dir, "etcdrill")}
	if err := os.Symlink(exe, b.binary); err != nil {
		t.Fatal(err)
	}
	return b
}

// musts are what CI says that has to be there; vm says that the machines of the
// inventory have kernels and clocks of their own.
func musts() []string { return strings.Split(os.Getenv("ETCDRILL_MUST"), ",") }

// backends runs a test on every driver that ETCDRILL_MUST names, beside local.
func backends(t *testing.T, test func(t *testing.T, b *backend)) {
	ran := false
	for _, driver := range []string{"docker", "ssh"} {
		if !slices.Contains(musts(), driver) {
			continue
		}
		ran = true
		t.Run(driver, func(t *testing.T) {
			b := &backend{driver: driver, dir: t.TempDir(), binary: os.Getenv("ETCDRILL_BINARY"), inventory: os.Getenv("ETCDRILL_TEST_INVENTORY")}
			if b.binary == "" {
				t.Fatal("ETCDRILL_BINARY: expected the program that `make build` makes")
			}
			if driver == "ssh" && b.inventory == "" {
				t.Fatal("ETCDRILL_TEST_INVENTORY: expected an inventory of machines on which this may do what it likes")
			}
			test(t, b)
		})
	}
	if !ran {
		t.Skip("make test-docker and make test-ssh run it")
	}
}

func (b *backend) command(args ...string) *exec.Cmd {
	cmd := exec.Command(b.binary, args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "ETCDRILL_HOME="+filepath.Join(b.dir, "home"), "ETCDRILL_DRIVER="+b.driver, "ETCDRILL_INVENTORY="+b.inventory)
	return cmd
}

// story is what must be the same wherever a drill runs.
func story(t *testing.T, cmd *exec.Cmd) (steps []string, verdict string) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	var reports []struct {
		Verdict string
		Steps   []struct {
			Index, Word, Verb, Verdict string
		}
	}
	if jerr := json.Unmarshal(out, &reports); jerr != nil || len(reports) != 1 {
		t.Fatalf("%v, %v\n%s", err, jerr, said.String())
	}
	for _, s := range reports[0].Steps {
		steps = append(steps, strings.Join([]string{s.Index, s.Word, s.Verb, s.Verdict}, " "))
	}
	if v := reports[0].Verdict; v != "pass" && v != "skip" {
		t.Log(said.String(), string(out))
	}
	return steps, reports[0].Verdict
}

// The same file gives the same steps and the same verdict everywhere.
func TestSameDrillElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		drills := []string{"leader-kill", "replace-dead-member", "partition-one-way", "slow-wal"}
		if slices.Contains(musts(), "vm") {
			drills = drills[:1]
		}
		for _, drill := range drills {
			got := b.passes(t, drill)
			here := b.command("run", drill, "-o", "json", "--driver", "local")
			if want, _ := story(t, here); got != nil && !slices.Equal(got, want) {
				t.Errorf("%s on %s: steps\n%s\nlocal:\n%s", drill, b.driver, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	})
}

// What processes cannot suffer, hosts do: a full disk, no power, and where they
// have one of their own, another time.
func TestHostsAreHostsElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		if slices.Contains(musts(), "vm") {
			b.own(t)
			return
		}
		for _, drill := range []string{"disk-full", "power-off"} {
			b.passes(t, drill)
		}
		if _, verdict := story(t, b.command("run", "clock-step", "-o", "json")); verdict != "pass" && verdict != "skip" {
			t.Errorf("clock-step on %s: %s", b.driver, verdict)
		}
	})
}

// own tries what only machines have: a kernel that makes packets late, a clock,
// a power button, a disk that outlives it.
func (b *backend) own(t *testing.T) {
	t.Helper()
	drill := `apiVersion: etcdrill/v1
kind: Drill
name: own
title: What only machines have
cluster: {members: 3}
load: {clients: 2, rate: 50/s, gate: 5/s, warmup: 100ms}
steps:
  - {break: slow, from: m1, to: m2, delay: 1s, as: late, within: 40s}
  - {heal: late, within: 40s}
  - {break: clock-step, member: m2, by: 10m, as: ahead, within: 40s}
  - {heal: ahead, within: 40s}
  - {break: power-off, member: m3, as: dark, within: 40s}
  - {heal: dark, within: 40s}
  - {check: members, healthy: 3, equal: hash, within: 40s}
`
	if err := os.WriteFile(filepath.Join(b.dir, "own.yaml"), []byte(drill), 0o644); err != nil {
		t.Fatal(err)
	}
	if b.passes(t, "own.yaml") == nil {
		return
	}
	files, err := filepath.Glob(filepath.Join(b.dir, "etcdrill-runs", "own-*", "events.ndjson"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no events: %v", err)
	}
	events, err := lab.ReadEvents(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e lab.Event) bool { return e.Kind == lab.EventUp && e.Text == "nft+netem" }) {
		t.Error("the links of virtual machines are not made by their kernels")
	}
}

// passes wants that a drill passes, and returns its steps; nil when it does not.
func (b *backend) passes(t *testing.T, drill string) []string {
	t.Helper()
	start := time.Now()
	run := []string{"run", drill, "-o", "json"}
	if slices.Contains(musts(), "vm") { // they may be emulated
		run = append(run, "--slow", "10")
	}
	steps, verdict := story(t, b.command(run...))
	if verdict != "pass" { // once more, and said: the machine is shared
		t.Logf("%s on %s: %s; once more", drill, b.driver, verdict)
		steps, verdict = story(t, b.command(run...))
	}
	if verdict != "pass" {
		t.Errorf("%s on %s: %s", drill, b.driver, verdict)
		return nil
	}
	t.Logf("%s on %s: %s", drill, b.driver, time.Since(start).Round(100*time.Millisecond))
	return steps
}

// A killed etcdrill leaves nothing that gc does not remove, on hosts too.
func TestKilledRunsLeaveNothingElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		drill := `apiVersion: etcdrill/v1
kind: Drill
name: killed
title: To be killed
cluster: {members: 3}
load: {clients: 2, rate: 50/s, warmup: 100ms}
steps:
  - {break: pause, member: follower, as: paused}
  - {break: cut, member: leader, as: cut}
  - {do: wait, for: 1s}
  - {heal: cut}
  - {heal: paused}
  - {break: crash, member: leader, as: crashed}
  - {do: wait, for: 1s}
`
		seen := b.kills(t, drill, 20, 15*time.Second, func() (left []string) {
			if b.driver == "docker" {
				for _, kind := range []string{"container", "network", "volume"} {
					args := []string{kind, "ls", "-q", "--filter", "name=etcdrill-killed-"}
					if kind == "container" {
						args = append(args, "-a")
					}
					out, err := exec.Command("docker", args...).CombinedOutput()
					if err != nil {
						t.Fatalf("docker %q: %v %s", args, err, out)
					}
					for id := range strings.Lines(string(out)) {
						left = append(left, kind+" "+strings.TrimSpace(id))
					}
				}
				return left
			}
			_, hosts := b.hosts(t)
			for _, h := range hosts {
				out, err := h.Run(inTime(t), lab.Cmd{Dir: "/", Argv: []string{"sh"}, Stdin: strings.NewReader(remains)})
				if err != nil {
					t.Fatal(err)
				}
				for what := range strings.Lines(string(out.Stdout)) {
					left = append(left, h.Name()+": "+strings.TrimSpace(what))
				}
			}
			return left
		})
		if seen == 0 {
			t.Error("no kill left anything for gc to remove, or nobody looked where it was")
		}
	})
}

// remains lists what runs of the killed drill have on a host: files, claims of
// ports, units, mounts, processes, rules in the kernel. It is no argument, so
// that it does not find itself.
const remains = `
for tool in find systemctl ps nft iptables; do command -v $tool >/dev/null || { echo "no $tool here" >&2; exit 1; }; done
find /var/lib/etcdrill /etc/systemd/system -name '*killed-*' 2>/dev/null
find /run/etcdrill-ports -lname '*killed-*' 2>/dev/null
systemctl list-units --all --plain --no-legend '*killed-*'
grep killed- /proc/mounts
ps -eo args | grep '[k]illed-'
nft list tables | grep killed-
iptables -w -S | grep killed-
:
`

// kills runs a drill that is called killed several times, kills each run at any
// moment before most, and wants that gc leaves nothing and then finds nothing.
// ETCDRILL_KILLS says how often instead, and ETCDRILL_SEED which moments. left
// looks for what belongs to such a run, without asking etcdrill. After how many
// kills there was something, before gc, is returned.
func (b *backend) kills(t *testing.T, drill string, times int, most time.Duration, left func() []string) (seen int) {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("ETCDRILL_KILLS")); err == nil {
		times = n
	}
	seed := rand.Uint64()
	if n, err := strconv.ParseUint(os.Getenv("ETCDRILL_SEED"), 10, 64); err == nil {
		seed = n
	}
	moments := rand.New(rand.NewPCG(seed, 0))
	t.Logf("%d kills, ETCDRILL_SEED=%d", times, seed)
	if err := os.WriteFile(filepath.Join(b.dir, "killed.yaml"), []byte(drill), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range times {
		var said bytes.Buffer
		cmd := b.command("run", "killed.yaml", "-q", "--seed", strconv.Itoa(i+1))
		cmd.Stderr, cmd.Stdout = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(moments.Int64N(int64(most)))
		time.Sleep(after) // the moment is the point of this test
		cmd.Process.Kill()
		cmd.Wait()
		if len(left()) > 0 {
			seen++
		}
		for n := range 2 { // the second time changes nothing
			out, err := b.command("gc").CombinedOutput()
			if err != nil || n > 0 && !strings.Contains(string(out), "nothing left behind") {
				t.Fatalf("kill %d after %s: gc %d: %v\n%s\n%s", i+1, after, n+1, err, out, said.String())
			}
		}
		home := filepath.Join(b.dir, "home")
		local := b.driver
		if local == "local" {
			local = "labs"
		}
		labs, err := filepath.Glob(filepath.Join(home, local, "*"))
		if err != nil {
			t.Fatal(err)
		}
		if labs = append(labs, left()...); len(labs) > 0 {
			t.Fatalf("kill %d after %s: left after gc: %q\n%s", i+1, after, labs, said.String())
		}
	}
	t.Logf("%d of %d left something for gc", seen, times)
	return seen
}

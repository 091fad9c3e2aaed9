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
)

// backend is a driver other than local, as CI names it in ETCDRILL_MUST, with
// the program that users run: hosts cannot run that of the tests.
type backend struct {
	driver    string
	dir       string
	binary    string
	inventory string
}

// backends runs a test on every driver that ETCDRILL_MUST names, beside local.
func backends(t *testing.T, test func(t *testing.T, b *backend)) {
	ran := false
	for _, driver := range []string{"docker", "ssh"} {
		if !slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), driver) {
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
	if reports[0].Verdict != "pass" {
		t.Log(said.String(), string(out))
	}
	return steps, reports[0].Verdict
}

// The same file gives the same steps and the same verdict everywhere.
func TestSameDrillElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		for _, drill := range []string{"leader-kill", "replace-dead-member", "partition-one-way", "slow-wal", "disk-full"} {
			got, verdict := story(t, b.command("run", drill, "-o", "json"))
			if verdict != "pass" { // once more, and said: the machine is shared
				t.Logf("%s on %s: %s; once more", drill, b.driver, verdict)
				got, verdict = story(t, b.command("run", drill, "-o", "json"))
			}
			if verdict != "pass" {
				t.Errorf("%s on %s: %s", drill, b.driver, verdict)
				continue
			}
			if drill == "disk-full" {
				continue // which local cannot
			}
			here := b.command("run", drill, "-o", "json", "--driver", "local")
			if want, _ := story(t, here); !slices.Equal(got, want) {
				t.Errorf("%s on %s: steps\n%s\nlocal:\n%s", drill, b.driver, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	})
}

// A killed etcdrill leaves nothing that gc does not remove, on hosts too.
func TestKilledRunsLeaveNothingElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		kills := 5
		if n, err := strconv.Atoi(os.Getenv("ETCDRILL_KILLS")); err == nil {
			kills = n
		}
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
		if err := os.WriteFile(filepath.Join(b.dir, "killed.yaml"), []byte(drill), 0o644); err != nil {
			t.Fatal(err)
		}
		for i := range kills {
			var said bytes.Buffer
			cmd := b.command("run", "killed.yaml", "-q")
			cmd.Stderr, cmd.Stdout = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			after := rand.N(15 * time.Second)
			time.Sleep(after) // the moment is the point of this test
			cmd.Process.Kill()
			cmd.Wait()
			for n := range 2 { // the second time changes nothing
				out, err := b.command("gc").CombinedOutput()
				if err != nil || n > 0 && !strings.Contains(string(out), "nothing left behind") {
					t.Fatalf("kill %d after %s: gc %d: %v\n%s\n%s", i, after, n+1, err, out, said.String())
				}
			}
			labs, err := filepath.Glob(filepath.Join(b.dir, "home", b.driver, "*"))
			if err != nil || len(labs) > 0 {
				t.Fatalf("kill %d after %s: left after gc: %q, %v", i, after, labs, err)
			}
			if b.driver != "docker" {
				continue
			}
			for _, kind := range []string{"container", "network", "volume"} {
				args := []string{kind, "ls", "-q", "--filter", "name=etcdrill-killed-"}
				if kind == "container" {
					args = append(args, "-a")
				}
				if out, err := exec.Command("docker", args...).CombinedOutput(); err != nil || len(out) > 0 {
					t.Fatalf("kill %d after %s: %s left: %s %v", i, after, kind, out, err)
				}
			}
		}
	})
}

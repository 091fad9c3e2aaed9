package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// One interrupt heals, takes the lab down and reports; a second one leaves at
// once and says what cleans up. Both end with the exit code of an interrupt.
func TestInterruptOnceAndTwice(t *testing.T) {
	for times, says := range map[int]string{1: "", 2: "clean up with: etcdrill gc"} {
		b := here(t)
		drill := `apiVersion: etcdrill/v1
kind: Drill
name: interrupted
title: To be interrupted
cluster: {members: 3, heartbeat: 10ms, election: 100ms}
steps:
  - {break: crash, member: follower, as: crashed}
  - {do: wait, for: 10m}
`
		if err := os.WriteFile(filepath.Join(b.dir, "interrupted.yaml"), []byte(drill), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := b.command("run", "interrupted.yaml")
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		lines := bufio.NewScanner(io.TeeReader(stderr, &said))
		sent := 0
		for lines.Scan() {
			next := []string{"do wait", "etcdrill: interrupted"}
			if sent < times && strings.Contains(lines.Text(), next[sent]) {
				sent++
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted || sent != times || !strings.Contains(said.String(), says) {
			t.Errorf("%d of %d interrupts: %v, want exit code %d and %q:\n%s", sent, times, err, exitInterrupted, says, said.String())
		}
		if times == 1 {
			report, err := os.ReadFile(filepath.Join(b.dir, "etcdrill-runs", "latest", "report.json"))
			if err != nil || !strings.Contains(string(report), `"interrupted": true`) {
				t.Errorf("report: %v\n%s", err, report)
			}
		} else if out, err := b.command("gc").CombinedOutput(); err != nil {
			t.Errorf("gc: %v\n%s", err, out)
		}
		if left := labelled(t, filepath.Join(b.dir, "home")); len(left) > 0 {
			t.Errorf("after %d: left: %q", times, left)
		}
	}
}

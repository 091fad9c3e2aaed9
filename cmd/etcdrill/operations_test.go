package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

// hand calls the command on a home of its own.
type hand struct {
	t    *testing.T
	dir  string
	home string
}

func newHand(t *testing.T) *hand {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(dir, "etcdrill")); err != nil {
		t.Fatal(err)
	}
	h := &hand{t: t, dir: dir, home: filepath.Join(dir, "home")}
	t.Cleanup(func() { h.command(0, "down", "--all").Run() })
	return h
}

// command is one call; with dieAfter it kills itself after so many records of
// an operation's journal.
func (h *hand) command(dieAfter int, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.dir, "etcdrill"), args...)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "ETCDRILL_HOME="+h.home)
	if dieAfter > 0 {
		cmd.Env = append(cmd.Env, "ETCDRILL_DIE_AFTER="+strconv.Itoa(dieAfter))
	}
	return cmd
}

// must calls a command that has to succeed, and returns what it prints.
func (h *hand) must(args ...string) string {
	h.t.Helper()
	cmd := h.command(0, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("etcdrill %s: %v\n%s%s", strings.Join(args, " "), err, out, said.String())
	}
	return string(out)
}

// killed calls a command that kills itself; false when it ended before.
func (h *hand) killed(after int, args ...string) bool {
	h.t.Helper()
	out, err := h.command(after, args...).CombinedOutput()
	var e *exec.ExitError
	if errors.As(err, &e) && e.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		h.t.Fatalf("etcdrill %s, to be killed after %d records: %v\n%s", strings.Join(args, " "), after, err, out)
	}
	return false
}

// cluster waits until all members serve the same data, and returns the id of
// their cluster.
func (h *hand) cluster() string {
	h.t.Helper()
	h.must("check", "members", "--healthy", "3", "--voters", "3", "--equal", "hash", "--within", "30s")
	var status struct {
		Members    []lab.Status
		Unfinished any
	}
	if err := json.Unmarshal([]byte(h.must("status", "-o", "json")), &status); err != nil {
		h.t.Fatal(err)
	}
	if status.Unfinished != nil {
		h.t.Errorf("unfinished: %v", status.Unfinished)
	}
	for _, m := range status.Members {
		if m.Cluster != status.Members[0].Cluster {
			h.t.Errorf("clusters %s and %s serve", m.Cluster, status.Members[0].Cluster)
		}
	}
	return status.Members[0].Cluster
}

// A restore, of a snapshot and of a state, that is killed after any record of its
// journal is gone on with, or gone back on, by another process. Either way what was promised is there, one
// cluster serves, and nothing is left. It takes minutes, so it runs only where
// ETCDRILL_DRILLS says so (make test-kills).
func TestOperationsSurviveKills(t *testing.T) {
	if os.Getenv("ETCDRILL_DRILLS") == "" {
		t.Skip("set ETCDRILL_DRILLS=all to kill operations after every record")
	}
	for name, c := range map[string]struct{ save, restore []string }{
		"restore":       {[]string{"do", "snapshot", "--member", "m1", "--file", "saved/first.db"}, []string{"restore", "--from", "m1", "--file", "saved/first.db", "--anyway", "--no-state"}},
		"state restore": {[]string{"state", "save", "--label", "first", "--no-trial"}, []string{"state", "restore", "first", "--no-state"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			survives(t, c.save, c.restore)
		})
	}
}

// survives kills one command after every record of its journal. save makes what
// it goes back to.
func survives(t *testing.T, save, restore []string) {
	h := newHand(t)
	h.must("up", "mine", "--heartbeat", "50ms", "--election", "500ms")
	h.must("do", "seed", "--count", "300", "--size", "64")
	h.must(save...)
	for n, over := 1, false; !over; n++ {
		for _, way := range []string{"resume", "rollback"} {
			h.must("do", "put", "--key", "later", "--value", "after the snapshot")
			before := h.cluster()
			if !h.killed(n, restore...) {
				over = true
				break
			}
			back := way == "rollback"
			if n%3 == 0 { // whoever takes it up is killed too
				h.command(n+2, way).Run()
			}
			cmd := h.command(0, way)
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
			case strings.Contains(string(out), "cannot go back behind step"), strings.Contains(string(out), "want an unfinished operation"):
				// It serves already, so there is only the way forward; or there is nothing left to do.
				back = false
				h.command(0, "resume").Run()
			default:
				t.Fatalf("%s after %d records: %v\n%s", way, n, err, out)
			}
			after := h.cluster()
			if (after == before) != back {
				t.Errorf("%s after %d records: cluster %s became %s", way, n, before, after)
			}
			if got := strings.Fields(h.must("exec", "m2", "--", "etcdctl", "get", "seed/", "--prefix", "--keys-only")); len(got) != 300 {
				t.Errorf("%s after %d records: %d keys of 300", way, n, len(got))
			}
			later := strings.TrimSpace(h.must("exec", "m3", "--", "etcdctl", "get", "later", "--print-value-only"))
			if want := map[bool]string{true: "after the snapshot"}[back]; later != want {
				t.Errorf("%s after %d records: what was written after the snapshot is %q, want %q", way, n, later, want)
			}
			h.clean()
		}
	}
	h.must("operations", "--discard")
	if left := h.find("before-*"); len(left) > 0 {
		t.Errorf("left after all was discarded: %q", left)
	}
	h.must("gc")
	h.must("down", "mine")
	if left := labelled(t, h.home); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
}

// find lists the files and directories of a name on all hosts.
func (h *hand) find(name string) []string {
	var out []string
	filepath.WalkDir(h.home, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			if ok, _ := filepath.Match(name, d.Name()); ok {
				out = append(out, path)
			}
		}
		return nil
	})
	return out
}

// clean wants nothing on the hosts but what lies aside on purpose.
func (h *hand) clean() {
	h.t.Helper()
	if left := h.find("restore-*"); len(left) > len(h.find("restore-*.ndjson")) {
		h.t.Errorf("left: %q", left)
	}
}

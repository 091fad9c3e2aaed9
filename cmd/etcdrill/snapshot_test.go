package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A save that is killed, with any part of the file there, leaves no snapshot
// under any name, and what it leaves the next one deletes (N122).
func TestSnapshotSaveKilled(t *testing.T) {
	t.Parallel()
	b := here(t)
	run := func(args ...string) string {
		t.Helper()
		out, err := b.command(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("up", "save", "--members", "1")
	defer run("down", "save")
	run("do", "seed", "--count", "20000")
	store := filepath.Join(b.dir, "store")
	in := func() (scratch, named []string) {
		scratch, _ = filepath.Glob(filepath.Join(store, ".*"))
		named, _ = filepath.Glob(filepath.Join(store, "[^.]*"))
		return scratch, named
	}
	for _, size := range []int64{0, 1, 1 << 20, 5 << 20, 15 << 20} {
		cmd := b.command("snapshot", "save", "--store", store)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			var there int64 = -1
			scratch, _ := in()
			for _, s := range scratch {
				if info, err := os.Stat(s); err == nil {
					there = max(there, info.Size())
				}
			}
			if there >= size {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no %d bytes: %s", size, said.String())
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if scratch, named := in(); len(scratch) == 0 || len(named) > 0 || strings.Contains(said.String(), "verified") {
			t.Fatalf("killed with %d bytes there: %q, %q: %s", size, scratch, named, said.String())
		}
		if out := run("snapshot", "list", "--store", store); !strings.Contains(out, "no snapshots") {
			t.Fatalf("killed with %d bytes there, and there is a snapshot: %s", size, out)
		}
	}
	run("snapshot", "save", "--store", store)
	if scratch, named := in(); len(scratch) > 0 || len(named) != 2 {
		t.Fatalf("after one that was not killed: %q, %q", scratch, named)
	}
}

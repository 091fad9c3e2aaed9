package lab_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

// The disk under the record of a run is full from the first fault on: what is
// broken is healed, the lab goes down, and there is a report of what is known,
// which is no pass.
func TestRecordHasNoRoom(t *testing.T) {
	w := newWorld(t)
	out := filepath.Join(t.TempDir(), "runs")
	r, err := lab.Run(t.Context(), w.drill("- break: hurt\n- do: say\n  say: x\n"), w, w.kit(), lab.Options{Out: out, ID: "r1", Tell: func(e lab.Event) {
		if e.Kind == lab.EventFault {
			fill(t, filepath.Join(out, "r1", "events.ndjson"))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict != lab.Error || !strings.Contains(r.Reason, "the record of the run is not whole") || !strings.Contains(r.Reason, syscall.ENOSPC.Error()) {
		t.Errorf("%s: %s", r.Verdict, r.Reason)
	}
	for _, s := range []string{"heal m1", "down"} {
		if !slices.Contains(w.told, s) {
			t.Errorf("no %q: %q", s, w.told)
		}
	}
}

// fill lets all further writes to a file that this process has open end as on a
// disk without room.
func fill(t *testing.T, path string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	filled := 0
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err != nil || to != path {
			continue
		}
		n, err := strconv.Atoi(fd.Name())
		if err == nil {
			err = syscall.Dup3(int(full.Fd()), n, syscall.O_CLOEXEC)
		}
		if err != nil {
			t.Fatal(err)
		}
		filled++
	}
	if filled != 1 {
		t.Fatalf("%s is open %d times, want once", path, filled)
	}
}

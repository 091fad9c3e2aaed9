package linux

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/lab"
)

func TestParseShow(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 0, 1, 250_000_000, time.UTC)
	for text, want := range map[string]lab.ProcState{
		"MainPID=77\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=\n":                                   {Running: true, PID: 77},
		"MainPID=0\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=\n":                                    {},
		"MainPID=0\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=n/a\n":                                 {},
		"MainPID=0\nExecMainCode=2\nExecMainStatus=9\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n":  {Exit: "killed", Ended: at},
		"MainPID=0\nExecMainCode=1\nExecMainStatus=2\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n":  {Exit: "exit 2", Ended: at},
		"MainPID=0\nExecMainCode=2\nExecMainStatus=15\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n": {Exit: "terminated", Ended: at},
	} {
		got, err := parseShow(text)
		if err != nil || !got.Ended.Equal(want.Ended) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		got.Ended, want.Ended = time.Time{}, time.Time{}
		if got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	for _, bad := range []string{"", "MainPID=x\n", "MainPID=0\nExecMainStatus=?\n", "MainPID=0\nExecMainStatus=1\nExecMainExitTimestamp=yesterday\n"} {
		if got, err := parseShow(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

// A process that lives is looked at without systemd; only systemd knows how one
// has ended.
func TestUnitState(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	systemctl := func(says string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+says+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
	})
	u := &unit{name: "test.service"}
	expect := func(want lab.ProcState) {
		t.Helper()
		err := lab.Until(ctx, fmt.Sprintf("%+v", want), func(ctx context.Context) error {
			got, err := u.state(ctx)
			got.Started = ""
			if err == nil && got != want {
				err = fmt.Errorf("got %+v", got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	running := lab.ProcState{Running: true, PID: child.Process.Pid}
	systemctl(fmt.Sprintf("echo MainPID=%d; echo ExecMainCode=0; echo ExecMainStatus=0", running.PID))
	expect(running)
	systemctl("exit 1")
	expect(running)
	if err := u.signal(ctx, "STOP"); err != nil {
		t.Fatal(err)
	}
	expect(lab.ProcState{Running: true, Paused: true, PID: running.PID})
	if err := u.signal(ctx, "CONT"); err != nil {
		t.Fatal(err)
	}
	expect(running)
	child.Process.Kill()
	child.Wait()
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if got, err := u.state(short); err == nil {
		t.Errorf("systemd was not asked about a process that is gone: %+v", got)
	}
	systemctl("echo MainPID=0; echo ExecMainCode=2; echo ExecMainStatus=9; echo ExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC")
	expect(lab.ProcState{Exit: "killed", Ended: time.Date(2026, 11, 21, 8, 0, 1, 250_000_000, time.UTC)})
}

func TestListening(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:A1B2 0100007F:094C 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
`
	if got, want := listening(table), map[int]bool{2379: true, 22: true}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"", "..", "a/b", "-x", "a b", "a%n"} {
		if place.CheckID(id) == nil {
			t.Errorf("%q was taken", id)
		}
	}
	if err := place.CheckID("leader-kill-20261121-080000-ab12"); err != nil {
		t.Error(err)
	}
}

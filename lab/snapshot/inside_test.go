package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// localhost is a host of which one runs commands only.
type localhost struct {
	lab.Host
	dir string
}

func (h localhost) Name() string { return "m1" }
func (h localhost) Dir() string  { return h.dir }
func (h localhost) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir = h.dir
	out, err := cmd.Output()
	return lab.Output{Stdout: out}, err
}

func TestScratch(t *testing.T) {
	gone := exec.Command("true") // somebody whose pid is free again
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	mine := newScratch()
	dead := fmt.Sprintf("%s.%s.%d.00000001", scratch, machine(), gone.Process.Pid)
	elsewhere := fmt.Sprintf("%s.%s.%d.00000001", scratch, "00000000", gone.Process.Pid)
	lives := fmt.Sprintf("%s.%s.%d.00000001", scratch, machine(), os.Getppid())
	dir := t.TempDir()
	for _, name := range []string{mine, dead, elsewhere, lives, "data", scratch + ".x"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "below"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e := &lab.Env{Journal: lab.NewJournal(nothing{}, time.Now(), func(lab.Event) {})}
	work, done, err := workspace(t.Context(), e, localhost{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{work: true, filepath.Join(dir, dead): false, filepath.Join(dir, mine): true,
		filepath.Join(dir, elsewhere): true, filepath.Join(dir, lives): true, filepath.Join(dir, "data"): true, filepath.Join(dir, scratch+".x"): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there: %v, want %v", path, err == nil, want)
		}
	}
	for range 2 {
		if err := done(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(work); !errors.Is(err, os.ErrNotExist) {
		t.Error("the workspace is still there")
	}
	for _, outside := range []string{dir, filepath.Dir(dir), filepath.Join(dir, "..", "x"), "/"} {
		if err := sweep(t.Context(), localhost{dir: dir}, outside); err == nil {
			t.Errorf("%s was deleted", outside)
		}
	}
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }

// A process that is killed lets go of its end of the lifeline.
func TestLifeline(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("sh", "-c", lifeline, "etcdrill", "sh", "-c", "echo up; exec sleep 600")
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil { // it runs
		t.Error(err)
	}
	w.Close()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("ended by %v, want a signal", err)
	}
}

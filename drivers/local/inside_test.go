package local

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

func TestClaimPorts(t *testing.T) {
	low, high := ephemeralPorts()
	a, claims, err := claimPorts("one", 3)
	if err != nil {
		t.Fatal(err)
	}
	// Who asks for the same ports meanwhile gets others, whatever its root is.
	b, more, err := claimPorts("one", 3)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range append(slices.Clone(a), b...) {
		for _, n := range []int{p.Front, p.SOCKS, p.Client, p.Peer, p.Health} {
			if seen[n] {
				t.Errorf("port %d was given twice", n)
			}
			seen[n] = true
			if n < firstPort || n > lastPort || n >= low && n <= high {
				t.Errorf("port %d: want one from %d to %d, and not from %d to %d", n, firstPort, lastPort, low, high)
			}
		}
	}
	if len(claims) != 6 || claims[0].Addr().(*net.TCPAddr).Port != a[0].Front || claims[1].Addr().(*net.TCPAddr).Port != a[0].SOCKS {
		t.Errorf("claims %v do not belong to %v", claims, a)
	}
	closeAll(claims)
	closeAll(more)

	// A block in which something listens is not given.
	taken, err := listen(a[0].Health)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c, claims, err := claimPorts("one", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(claims)
	if slices.Contains(c, a[0]) {
		t.Errorf("%v was given although %d is taken", a[0], a[0].Health)
	}
}

// start starts a process that carries the label of a lab and waits for nothing.
func start(t *testing.T, d dir, host string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.Env = append(os.Environ(), labels(d, "x", host)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { cmd.Wait(); close(gone) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-gone })
	return cmd
}

func alive(pid int) bool { _, _, err := process.State(pid); return err == nil }

func TestKillLabelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// One directory's name begins with the other's.
	root := t.TempDir()
	ours, theirs := dir(filepath.Join(root, "lab")), dir(filepath.Join(root, "lab 2"))
	a, b, c := start(t, ours, "m1"), start(t, ours, ""), start(t, theirs, "m1")
	all, err := listLabelled()
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]labelled{}
	for _, l := range all {
		found[l.PID] = l
	}
	if l := found[a.Process.Pid]; l.dir != string(ours) || l.host != "m1" || !strings.Contains(l.String(), "sleep of m1") {
		t.Errorf("found %+v", l)
	}
	if err := a.Process.Signal(signals["STOP"]); err != nil { // a paused one dies as well
		t.Fatal(err)
	}
	if err := killLabelled(ctx, ours); err != nil {
		t.Fatal(err)
	}
	if alive(a.Process.Pid) || alive(b.Process.Pid) || !alive(c.Process.Pid) {
		t.Errorf("alive: %v %v %v, want only the last", alive(a.Process.Pid), alive(b.Process.Pid), alive(c.Process.Pid))
	}
	if err := killLabelled(ctx, ours); err != nil {
		t.Error(err)
	}
}

// A pid alone identifies nobody.
func TestKillOnlyThatLife(t *testing.T) {
	c := start(t, dir(t.TempDir()), "m1")
	started, _, err := process.State(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := kill(process.Life{PID: c.Process.Pid, Started: started + "0"}); err != nil || !alive(c.Process.Pid) {
		t.Errorf("killed another life of that pid: %v", err)
	}
	if err := kill(process.Life{PID: c.Process.Pid, Started: started}); err != nil {
		t.Error(err)
	}
}

func TestHalfMadeLab(t *testing.T) {
	d := New(Options{Root: t.TempDir()})
	where := filepath.Join(d.root, "labs", "half")
	if err := os.MkdirAll(filepath.Join(where, "hosts", "m1"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir(where), "m1")
	gone := start(t, dir(filepath.Join(d.root, "labs", "gone")), "m1")
	left, err := d.Left(t.Context())
	if err != nil || len(left) != 2 || left[0].ID != "gone" || left[1].ID != "half" || len(left[0].What) != 1 || len(left[1].What) != 2 {
		t.Errorf("left %+v, %v", left, err)
	}
	for _, id := range []string{"half", "gone"} {
		if err := d.Down(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if left, err := d.Left(t.Context()); err != nil || len(left) > 0 || alive(p.Process.Pid) || alive(gone.Process.Pid) {
		t.Errorf("after down: %+v, %v", left, err)
	}
}

func TestRoot(t *testing.T) {
	t.Setenv("ETCDRILL_HOME", "/from/home")
	t.Setenv("XDG_STATE_HOME", "/from/state")
	t.Setenv("HOME", "/from/user")
	for _, c := range []struct{ given, unset, want string }{
		{"/given", "", "/given"},
		{"", "", "/from/home"},
		{"", "ETCDRILL_HOME", "/from/state/etcdrill"},
		{"", "XDG_STATE_HOME", "/from/user/.local/state/etcdrill"},
	} {
		if c.unset != "" {
			t.Setenv(c.unset, "")
		}
		if got, err := place.Root(c.given); err != nil || got != c.want {
			t.Errorf("root(%q) without %s: %s, %v, want %s", c.given, c.unset, got, err, c.want)
		}
	}
}

func TestLayTools(t *testing.T) {
	from, d := t.TempDir(), dir(t.TempDir())
	write := func(name string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(from, name), []byte("#!"), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("etcd", 0o755)
	if err := layTools(d, "m1", from); err == nil || !strings.Contains(err.Error(), from) || !strings.Contains(err.Error(), "etcdctl") {
		t.Errorf("without etcdctl: %v", err)
	}
	write("etcdctl", 0o644)
	if err := layTools(d, "m2", from); err == nil || !strings.Contains(err.Error(), "executable") {
		t.Errorf("etcdctl not executable: %v", err)
	}
	if err := os.Chmod(filepath.Join(from, "etcdctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := layTools(d, "m3", from); err != nil {
		t.Errorf("without etcdutl, as etcd 3.4 is: %v", err)
	}
	if to, err := os.Readlink(filepath.Join(d.host("m3"), "bin", "etcd")); err != nil || to != filepath.Join(from, "etcd") {
		t.Errorf("etcd is %s, %v", to, err)
	}
}

func TestPutStaysBelowDir(t *testing.T) {
	h := &host{lab: dir(t.TempDir()), seat: seat{Name: "m1"}}
	if err := os.MkdirAll(h.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"../m2/file", "/etc/file", "a/../../file", h.Dir() + "2/file"} {
		if err := h.Put(t.Context(), path, 0o600, nil); err == nil {
			t.Errorf("put %s: want a refusal", path)
		}
	}
}

func TestSocketOfLongNames(t *testing.T) {
	short, long := dir("/tmp/x"), dir("/tmp/"+strings.Repeat("x", 120))
	if s := short.socket(); s != "/tmp/x/control" {
		t.Errorf("short: %s", s)
	}
	if s := long.socket(); len(s) > 100 || filepath.Dir(s) != long.socketDir() {
		t.Errorf("long: %s", s)
	}
}

func TestWithoutSupervisor(t *testing.T) {
	d := dir(t.TempDir())
	p := &proc{control: supervisorOf(d), dir: d, host: "m1"}
	if err := p.Start(t.Context()); !errors.Is(err, control.ErrGone) {
		t.Errorf("start: %v, want that the supervisor is gone", err)
	}
	if s, err := p.State(t.Context()); err != nil || s.Running {
		t.Errorf("never started: %+v, %v", s, err)
	}
	if err := os.MkdirAll(d.host("m1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(d.life("m1"), lab.ProcState{Running: true, PID: os.Getpid(), Started: "another life"}); err != nil {
		t.Fatal(err)
	}
	if s, err := p.State(t.Context()); err != nil || s.Running || s.Exit == "" {
		t.Errorf("died with its supervisor: %+v, %v", s, err)
	}
}

func TestTraceReason(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	why := New(Options{Root: t.TempDir()}).Caps(t.Context())[lab.CapTrace]
	if !strings.Contains(why, "strace") {
		t.Errorf("without strace: %q on %s", why, runtime.GOOS)
	}
}

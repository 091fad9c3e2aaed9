package recovery_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// bench is a lab under test.
type bench struct {
	*labtest.Lab
	t *testing.T
}

func up(t *testing.T, members, spares int) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	return &bench{Lab: labtest.Up(t, members, spares, nil), t: t}
}

func (b *bench) put(key, value string) {
	b.t.Helper()
	b.Put(b.t, key, value)
}

// lock writes a key with a lease of so many seconds.
func (b *bench) lock(key string, seconds int64) clientv3.LeaseID {
	b.t.Helper()
	cli, err := etcd.Client(b.Cluster)
	if err != nil {
		b.t.Fatal(err)
	}
	defer cli.Close()
	l, err := cli.Grant(b.t.Context(), seconds)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := cli.Put(b.t.Context(), key, "held", clientv3.WithLease(l.ID)); err != nil {
		b.t.Fatal(err)
	}
	return l.ID
}

func (b *bench) has(key, want string) {
	b.t.Helper()
	b.Has(b.t, key, want)
}

// knows waits until a seat has applied a value itself. A survivor keeps what it
// has written down as committed (FE18), and that is with the next entry.
func (b *bench) knows(seat int, key, want string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 15*time.Second)
	defer cancel()
	cli, err := etcd.Client(b.Cluster, b.Seats[seat])
	if err != nil {
		b.t.Fatal(err)
	}
	defer cli.Close()
	err = lab.Until(ctx, b.Seats[seat].Name+" to know "+key, func(ctx context.Context) error {
		r, err := cli.Get(ctx, key, clientv3.WithSerializable())
		if err == nil && (len(r.Kvs) == 0 || string(r.Kvs[0].Value) != want) {
			err = errors.New("it does not")
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// snapshot saves one on the host of a seat, and copies it to this machine.
func (b *bench) snapshot(seat int, file string) (here string) {
	b.t.Helper()
	m := b.Seats[seat]
	if _, err := etcd.Tool(b.t.Context(), b.Env, m, "etcdctl", "snapshot", "save", path.Join(m.Host.Dir(), file)); err != nil {
		b.t.Fatal(err)
	}
	data, err := m.Host.Get(b.t.Context(), file)
	if err != nil {
		b.t.Fatal(err)
	}
	here = filepath.Join(b.t.TempDir(), file)
	if err := os.WriteFile(here, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return here
}

// cluster is the id of the one cluster that serves, and how many vote in it.
func (b *bench) cluster() (uint64, int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 15*time.Second)
	defer cancel()
	l, err := etcd.Members(ctx, b.Cluster, false)
	if err != nil {
		b.t.Fatal(err)
	}
	return l.Cluster, l.Voters()
}

func (b *bench) run(op *recovery.Restore, o operation.Options) error {
	return operation.Run(b.t.Context(), b.Env, "restore", op, o)
}

// refused wants a finding that says text, and nothing touched.
func (b *bench) refused(err error, text string) {
	b.t.Helper()
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "nothing was touched") {
		b.t.Errorf("want a refusal that says %q, got %v", text, err)
	}
}

func TestRestore(t *testing.T) {
	b := up(t, 3, 1)
	b.put("kept", "1")
	lease := b.lock("lock/worker", 300)
	saved := b.snapshot(0, "first.db")
	b.put("later", "2")
	old, _ := b.cluster()

	// What must not be tried.
	b.refused(b.run(&recovery.Restore{File: saved}, operation.Options{}), "it serves")
	data, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.db")
	for text, spoil := range map[string]func([]byte) []byte{
		"an empty file": func([]byte) []byte { return nil },
		"SHA-256":       func(d []byte) []byte { d[len(d)/2] ^= 1; return d },
		"trailer":       func(d []byte) []byte { return d[:len(d)-32] },
		"it is cut off": func(d []byte) []byte { return d[:len(d)/2+7] },
	} {
		if err := os.WriteFile(bad, spoil(append([]byte(nil), data...)), 0o600); err != nil {
			t.Fatal(err)
		}
		b.refused(b.run(&recovery.Restore{File: bad, Anyway: true}, operation.Options{}), text)
	}
	if err := b.run(&recovery.Restore{File: saved + ".not", Anyway: true}, operation.Options{}); err == nil || !strings.Contains(err.Error(), "no such file on this machine") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := b.run(&recovery.Restore{File: saved, Hosts: []string{"m9"}, Anyway: true}, operation.Options{}); err == nil || !strings.Contains(err.Error(), `no member "m9"`) {
		t.Errorf("a host that is not there: %v", err)
	}

	// Something is in the way on one of three hosts: all go back.
	obstacle := path.Join(b.Seats[1].DataDir, "before-blocked")
	if err := b.Seats[1].Host.Put(t.Context(), obstacle, 0o600, nil); err != nil {
		t.Fatal(err)
	}
	err = b.run(&recovery.Restore{File: saved, Anyway: true, Token: "blocked"}, operation.Options{})
	if err == nil || !strings.Contains(err.Error(), "everything was undone") {
		t.Fatalf("restore onto an obstacle: %v", err)
	}
	if now, voters := b.cluster(); now != old || voters != 3 {
		t.Errorf("after the way back cluster %x serves with %d voters, want %x with 3", now, voters, old)
	}
	b.has("later", "2")
	if _, err := b.Seats[1].Host.Run(t.Context(), lab.Cmd{Argv: []string{"rm", obstacle}}); err != nil {
		t.Fatal(err)
	}

	// As it should be; on one host fewer, and a fresh one.
	op := &recovery.Restore{From: "m1", File: "first.db", Anyway: true, Hosts: []string{"m1", "m3", "m4"}}
	if err := b.run(op, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	now, voters := b.cluster()
	if now == old || voters != 3 || etcd.HexID(now) != op.Decided.Cluster {
		t.Errorf("cluster %x serves with %d voters, want %s with 3", now, voters, op.Decided.Cluster)
	}
	b.has("kept", "1")
	b.has("later", "")
	if said, want := b.Notes(), fmt.Sprintf("%x of 5m0s with lock/worker", lease); !strings.Contains(said, want) {
		t.Errorf("want it said that a lock comes back, %q:\n%s", want, said)
	}
	if ok, err := etcd.Configured(t.Context(), b.Seats[1]); ok || err != nil {
		t.Errorf("m2 is out and configured: %v, %v", ok, err)
	}
	// A token, and so a cluster, is used once.
	b.refused(b.run(&recovery.Restore{File: saved, Anyway: true, Token: op.Decided.Token}, operation.Options{}), "which was used")
	// What lies aside goes when it is said.
	if err := recovery.Discard(t.Context(), b.Env); err != nil {
		t.Error(err)
	}
	for _, m := range b.Seats {
		out, err := m.Host.Run(t.Context(), lab.Cmd{Argv: []string{"sh", "-c", `ls -d "$1"/before-* "$2"/restore-* 2>/dev/null || :`, "sh", m.DataDir, m.Host.Dir()}})
		if err != nil || len(out.Stdout) > 0 {
			t.Errorf("%s: left %s, %v", m.Name, out.Stdout, err)
		}
	}
	// The same snapshot again goes above what the restored cluster has given out.
	again := &recovery.Restore{File: saved, Anyway: true}
	if err := again.Decide(t.Context(), b.Env); err != nil {
		t.Fatal(err)
	}
	if first := op.Decided; again.Decided.Bump < first.Bump+1_000_000_000 {
		t.Errorf("second bump %d does not clear the first, %d", again.Decided.Bump, first.Bump)
	}
}

// Two of three are lost; the third is salvaged. Then a majority is only down.
func TestRecoverQuorum(t *testing.T) {
	b := up(t, 3, 0)
	b.put("kept", "1")
	old, _ := b.cluster()
	each := func(seats []*lab.Member, do func(m *lab.Member) error) {
		t.Helper()
		for _, m := range seats {
			if err := do(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill := func(m *lab.Member) error { return m.Proc.Signal(t.Context(), "KILL") }

	if err := recovery.RecoverQuorum(t.Context(), b.Env, operation.Options{}); err == nil || !strings.Contains(err.Error(), "it serves") {
		t.Errorf("a cluster that serves: %v", err)
	}
	each(b.Seats, kill)
	if err := recovery.RecoverQuorum(t.Context(), b.Env, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if now, _ := b.cluster(); now != old {
		t.Errorf("all were only down, and cluster %x became %x", old, now)
	}
	b.has("kept", "1")
	b.put("kept", "2")
	b.put("after", "x")
	b.knows(2, "after", "x")

	each(b.Seats, kill)
	each(b.Seats[:2], func(m *lab.Member) error {
		_, err := m.Host.Run(t.Context(), lab.Cmd{Argv: []string{"mv", m.DataDir, m.DataDir + ".lost"}})
		return err
	})
	if err := recovery.RecoverQuorum(t.Context(), b.Env, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if now, voters := b.cluster(); now == old || voters != 3 {
		t.Errorf("cluster %x with %d voters, want another one than %x with 3", now, voters, old)
	}
	b.has("kept", "2")
	if said := b.Notes(); !strings.Contains(said, "m3 ends at index") || !strings.Contains(said, "salvaged: ") {
		t.Errorf("it did not say what it salvaged:\n%s", said)
	}
	out, err := b.Seats[2].Host.Run(t.Context(), lab.Cmd{Argv: []string{"sh", "-c", `ls -d "$1"/*quarantine* 2>/dev/null || :`, "sh", b.Seats[2].Host.Dir()}})
	if err != nil || len(out.Stdout) > 0 {
		t.Errorf("left of the quarantine: %s, %v", out.Stdout, fmt.Sprint(err))
	}
}

// troubled is a host that some things go wrong on.
type troubled struct {
	lab.Host
	put func() error
	run func(argv []string) (lab.Output, error, bool) // true: instead of the host
}

func (h troubled) Put(ctx context.Context, p string, mode fs.FileMode, data []byte) error {
	if h.put != nil {
		if err := h.put(); err != nil {
			return err
		}
	}
	return h.Host.Put(ctx, p, mode, data)
}

func (h troubled) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	if h.run != nil {
		if out, err, did := h.run(c.Argv); did {
			return out, err
		}
	}
	return h.Host.Run(ctx, c)
}

// N24: the second of three hosts is full, or away in the middle: all three are
// back on the old data, and it serves under the old id.
func TestRestoreHalfFails(t *testing.T) {
	b := up(t, 3, 0)
	b.put("kept", "1")
	saved := b.snapshot(0, "first.db")
	b.put("later", "2")
	old, _ := b.cluster()
	second := b.Seats[1]
	sound := second.Host
	away := errors.New("connection lost")
	during := func(words ...string) func(argv []string) (lab.Output, error, bool) {
		return func(argv []string) (lab.Output, error, bool) {
			line := strings.Join(argv, " ")
			for _, w := range words {
				if !strings.Contains(line, w) {
					return lab.Output{}, nil, false
				}
			}
			return lab.Output{}, away, true
		}
	}
	for what, c := range map[string]struct {
		host troubled
		says string
	}{
		"full before": {troubled{Host: sound, run: func(argv []string) (lab.Output, error, bool) {
			if !strings.Contains(strings.Join(argv, " "), "df -Pk") {
				return lab.Output{}, nil, false
			}
			return lab.Output{Stdout: []byte("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 100 100 0 100% /\n")}, nil, true
		}}, "nothing was touched"},
		"full while it is copied to": {troubled{Host: sound, put: func() error { return syscall.ENOSPC }}, "everything was undone"},
		"away while it restores":     {troubled{Host: sound, run: during("etcdutl", "snapshot restore")}, "everything was undone"},
		"away while data is moved":   {troubled{Host: sound, run: during("mv --", "before-")}, "everything was undone"},
	} {
		second.Host = c.host
		// Whoever was away is back when it is undone.
		if c.host.run != nil && c.says == "everything was undone" {
			h, failed := c.host, false
			h.run = func(argv []string) (lab.Output, error, bool) {
				if failed {
					return lab.Output{}, nil, false
				}
				out, err, did := c.host.run(argv)
				failed = did
				return out, err, did
			}
			second.Host = h
		}
		err := b.run(&recovery.Restore{File: saved, Anyway: true}, operation.Options{})
		second.Host = sound
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "m2") {
			t.Errorf("%s: %v, want m2 and %q", what, err, c.says)
		}
		if now, voters := b.cluster(); now != old || voters != 3 {
			t.Errorf("%s: cluster %x serves with %d voters, want %x with 3", what, now, voters, old)
		}
		b.has("later", "2")
		for _, m := range b.Seats {
			out, err := m.Host.Run(t.Context(), lab.Cmd{Argv: []string{"sh", "-c", `ls -d "$1"/before-* "$1"/restore-* "$2"/restore-* 2>/dev/null || :`, "sh", m.DataDir, m.Host.Dir()}})
			if err != nil || len(out.Stdout) > 0 {
				t.Errorf("%s: left on %s: %s, %v", what, m.Name, out.Stdout, err)
			}
		}
	}
}

// A copy of a database file is refused, unless it is said what it is; a
// snapshot is no such copy, and neither is one whose pages make no sense.
func TestRestoreCopy(t *testing.T) {
	b := up(t, 1, 0)
	b.put("kept", "1")
	m := b.Seats[0]
	saved := b.snapshot(0, "first.db")
	b.refused(b.run(&recovery.Restore{File: saved, Anyway: true, Copy: true}, operation.Options{}), "restore it as one")
	if err := etcd.Stop(t.Context(), b.Env, m); err != nil {
		t.Fatal(err)
	}
	data, err := m.Host.Get(t.Context(), path.Join(m.DataDir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "db")
	torn := append([]byte(nil), data...)
	for i := 2 * 4096; i < len(torn); i++ {
		torn[i] = 0xff
	}
	if err := os.WriteFile(file, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	b.refused(b.run(&recovery.Restore{File: file, Anyway: true, Copy: true}, operation.Options{}), "pages")
	if err := os.WriteFile(file, data[:3*4096], 0o600); err != nil {
		t.Fatal(err)
	}
	b.refused(b.run(&recovery.Restore{File: file, Anyway: true, Copy: true}, operation.Options{}), "it is cut off")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b.refused(b.run(&recovery.Restore{File: file, Anyway: true}, operation.Options{}), "a copy of a member's database file")
	if err := b.run(&recovery.Restore{File: file, Anyway: true, Copy: true}, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	b.has("kept", "1")
}

// On a slow machine a look takes long, and one that is cut short sees nobody:
// that makes nobody dead.
func TestSlowLooks(t *testing.T) {
	b := up(t, 3, 1)
	if err := b.Seats[2].Proc.Signal(t.Context(), "KILL"); err != nil {
		t.Fatal(err)
	}
	look := b.Kit.Look
	b.Kit.Look = func(ctx context.Context, c *lab.Cluster) []lab.Status {
		seen := look(ctx, c)
		select {
		case <-time.After(800 * time.Millisecond):
		case <-ctx.Done():
			for i := range seen {
				seen[i].Up = false
			}
		}
		return seen
	}
	op := &recovery.Replace{Member: lab.Target{Names: []string{"m3"}}, With: lab.Target{Names: []string{"m4"}}}
	if err := op.Decide(t.Context(), b.Env); err != nil {
		t.Fatal(err)
	}
	for _, m := range op.Decided.Was.Members {
		if m.Down != (m.Name == "m3") {
			t.Errorf("%s is taken for down: %v", m.Name, m.Down)
		}
	}
}

package drivertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// caps: every ability is there or has a reason.
func (s *suite) caps(t *testing.T) {
	caps := s.d.Caps(limit(t))
	for _, c := range []lab.Cap{lab.CapSignal, lab.CapLinks, lab.CapTrace, lab.CapBinary, lab.CapDNS} {
		why, told := caps[c]
		if told && why != "" && len(strings.Fields(why)) < 3 {
			t.Errorf("%s: %q is no reason", c, why)
		}
	}
	t.Log(caps)
}

// oneLab tries what can be done with a lab of three members and a spare.
func (s *suite) oneLab(t *testing.T) {
	sp := spec(3)
	sp.Spares = 1
	c := s.up(t, sp)
	put(t, client(t, c), "key", "value")

	t.Run("shape", func(t *testing.T) { s.shape(t, c) })
	t.Run("open", func(t *testing.T) { s.open(t, c) })
	t.Run("host", func(t *testing.T) { s.host(t, c) })
	t.Run("process", func(t *testing.T) { s.process(t, c) })
	t.Run("links", func(t *testing.T) { s.links(t, c) })
	t.Run("trace", func(t *testing.T) { s.trace(t, c) })
	t.Run("down with everything broken", func(t *testing.T) { s.breakAll(t, c) })
}

// shape: hosts and seats in order, every address another one, members started
// and spares not.
func (s *suite) shape(t *testing.T, c *lab.Cluster) {
	ctx := limit(t)
	if want := []string{"m1", "m2", "m3", "m4"}; !slices.Equal(c.Names(), want) || len(c.Hosts) != 4 {
		t.Fatalf("seats %v of %d hosts, want %v", c.Names(), len(c.Hosts), want)
	}
	machines := c.Caps[lab.CapUnits] == ""
	seen := map[string]string{}
	for i, m := range c.Seats {
		if m.Host != c.Hosts[i] || m.Host.Name() != m.Name {
			t.Errorf("seat %s is on host %s", m.Name, m.Host.Name())
		}
		for _, u := range []string{m.ClientURL, m.LocalURL, m.PeerURL, m.PeerBind, m.HealthURL} {
			where := u
			if machines && strings.Contains(u, "//127.0.0.1:") {
				where = m.Name + " " + u // each has a loopback of its own
			}
			if by, taken := seen[where]; taken && u != "" {
				t.Errorf("%s belongs to %s and to %s", u, by, m.Name)
			}
			seen[where] = m.Name
		}
		for _, p := range []string{m.DataDir, m.Config, m.PKI, m.Bin} {
			if !strings.HasPrefix(p, m.Host.Dir()+"/") {
				t.Errorf("%s: %s is not below %s", m.Name, p, m.Host.Dir())
			}
		}
		st, err := m.Proc.State(ctx)
		if err != nil || st.Running != (i < 3) {
			t.Errorf("%s: running %v, %v", m.Name, st.Running, err)
		}
	}
	if info, err := c.Hosts[0].Get(ctx, "etcd.yaml"); err != nil || len(info) == 0 {
		t.Logf("configuration is elsewhere: %v", err)
	}
}

// open: another process that opens the lab can use it.
func (s *suite) open(t *testing.T, c *lab.Cluster) {
	ctx := limit(t)
	other := s.driver()
	again, err := other.Open(ctx, c.ID)
	must(t, err)
	put(t, client(t, again), "key", "again")
	a, err := c.Seats[0].Proc.State(ctx)
	must(t, err)
	b, err := again.Seats[0].Proc.State(ctx)
	must(t, err)
	if a != b {
		t.Errorf("one process, two states: %+v, %+v", a, b)
	}
	if c.DNS != nil {
		t.Error("a lab that nobody asked for names has a DNS")
	}
	if again.Dir != c.Dir || again.LinksBy != c.LinksBy || again.Links == nil != (c.Links == nil) || again.Tracer == nil != (c.Tracer == nil) {
		t.Errorf("opened %+v, made %+v", again, c)
	}
	if l := s.left(t, c.ID); l == nil || !l.Owned || l.Keep || len(l.What) == 0 || l.Created.IsZero() {
		t.Errorf("left: %+v, want an owned lab", l)
	}
	if _, err := other.Open(ctx, "no-such-lab"); !isNotExist(err) {
		t.Errorf("open of a lab that never was: %v", err)
	}
	if _, err := s.d.Up(ctx, c.ID, spec(1)); err == nil {
		t.Error("an id was used twice")
	}
	put(t, client(t, c), "key", "unharmed")
}

// host: the contract of lab.Host.
func (s *suite) host(t *testing.T, c *lab.Cluster) {
	h := c.Hosts[0]

	t.Run("arguments", func(t *testing.T) {
		args := []string{"plain", "two words", "", "'single'", `"double"`, "line\nbreak", "$HOME", "`id`", "*", `back\slash`, "smörgås"}
		out, err := h.Run(limit(t), lab.Cmd{Argv: append([]string{"printf", "<%s>"}, args...)})
		must(t, err)
		if want := "<" + strings.Join(args, "><") + ">"; string(out.Stdout) != want {
			t.Errorf("got %q, want %q", out.Stdout, want)
		}
	})
	t.Run("environment", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", `printf '%s|%s' "$DRILL" "$(pwd)"; printf oops >&2`}, Env: []string{"DRILL=a b"}})
		must(t, err)
		if want := "a b|" + h.Dir(); string(out.Stdout) != want || string(out.Stderr) != "oops" {
			t.Errorf("got %q and %q, want %q", out.Stdout, out.Stderr, want)
		}
		out, err = h.Run(limit(t), lab.Cmd{Argv: []string{"pwd"}, Dir: "/"})
		if err != nil || strings.TrimSpace(string(out.Stdout)) != "/" {
			t.Errorf("in another directory: %q, %v", out.Stdout, err)
		}
	})
	t.Run("input", func(t *testing.T) {
		in := bytes.Repeat([]byte("0123456789"), 100_000)
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"cat"}, Stdin: bytes.NewReader(in)})
		if err != nil || !bytes.Equal(out.Stdout, in) {
			t.Errorf("%d bytes of %d came back, %v", len(out.Stdout), len(in), err)
		}
	})
	t.Run("exit", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "echo said; echo why >&2; exit 7"}})
		var exit *lab.ExitError
		if !errors.As(err, &exit) || exit.Code != 7 || exit.Host != h.Name() || string(out.Stdout) != "said\n" || exit.Text() != "why\n\nsaid" {
			t.Errorf("got %#v and %q", err, out.Stdout)
		}
		_, err = h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "kill -TERM $$"}})
		if !errors.As(err, &exit) || exit.Code != -1 || exit.Signal == "" {
			t.Errorf("killed: got %#v", err)
		}
		_, err = h.Run(limit(t), lab.Cmd{Argv: []string{"no-such-command"}})
		if err == nil {
			t.Error("a command that does not exist ran")
		}
	})
	t.Run("tools", func(t *testing.T) {
		for _, tool := range []string{"etcdctl", "etcdutl"} {
			out, err := h.Run(limit(t), lab.Cmd{Argv: []string{tool, "version"}})
			if err != nil || !strings.Contains(string(out.Stdout), tool+" version") {
				t.Errorf("%s: %q, %v", tool, out.Stdout, err)
			}
		}
	})
	t.Run("end of context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(limit(t))
		ended := make(chan error, 1)
		go func() {
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "sleep 600 & echo $! >child.new; mv child.new child; wait"}})
			ended <- err
		}()
		var pid string
		until(t, "the child", func(ctx context.Context) error {
			data, err := h.Get(ctx, "child")
			pid = strings.TrimSpace(string(data))
			return err
		})
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
		until(t, "the whole group to be killed", func(ctx context.Context) error {
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "kill -0 " + pid}})
			if err == nil {
				return errors.New("the child lives")
			}
			return nil
		})
	})
	t.Run("files", func(t *testing.T) {
		ctx := limit(t)
		if _, err := h.Get(ctx, "not/there"); !isNotExist(err) {
			t.Errorf("get: %v, want fs.ErrNotExist", err)
		}
		must(t, h.Put(ctx, "some/where/file", 0o640, []byte("one")))
		must(t, h.Put(ctx, path.Join(h.Dir(), "some/where/file"), 0o400, []byte("two")))
		data, err := h.Get(ctx, "some/where/file")
		if err != nil || string(data) != "two" {
			t.Errorf("get: %q, %v", data, err)
		}
		whole := filepath.Join(t.TempDir(), "whole")
		must(t, os.WriteFile(whole, bytes.Repeat([]byte("large"), 1<<20), 0o600))
		must(t, lab.Upload(ctx, h, "some/where/large", 0o400, whole))
		if data, err := h.Get(ctx, "some/where/large"); err != nil || !bytes.Equal(data, bytes.Repeat([]byte("large"), 1<<20)) {
			t.Errorf("get of what was uploaded: %d bytes, %v", len(data), err)
		}
		sum := sha256.New()
		if err := lab.Download(ctx, h, "some/where/large", sum); err != nil || !bytes.Equal(sum.Sum(nil), sumOf(bytes.Repeat([]byte("large"), 1<<20))) {
			t.Errorf("download of what was uploaded: %v", err)
		}
		if err := lab.Download(ctx, h, "not/there", io.Discard); !isNotExist(err) {
			t.Errorf("download of nothing: %v, want fs.ErrNotExist", err)
		}
		if err := lab.Download(ctx, h, "some/where/large", full{}); !errors.Is(err, errFull) {
			t.Errorf("download to where nothing can be written: %v, want %v", err, errFull)
		}
		if err := lab.Upload(ctx, h, "some/where/none", 0o400, whole+".none"); !isNotExist(err) {
			t.Errorf("upload of nothing: %v, want fs.ErrNotExist", err)
		}
		out, err := h.Run(ctx, lab.Cmd{Argv: []string{"ls", "-ldn", "some/where", "some/where/file"}})
		must(t, err)
		for want, line := range map[string]string{"drwx------": strings.Split(string(out.Stdout), "\n")[0], "-r--------": strings.Split(string(out.Stdout), "\n")[1]} {
			if !strings.HasPrefix(line, want) {
				t.Errorf("%q, want mode %s", line, want)
			}
		}
		// A put that cannot be leaves nothing lying about.
		if err := h.Put(ctx, "some/where", 0o600, []byte("x")); err == nil {
			t.Error("a directory was replaced by a file")
		}
		out, err = h.Run(ctx, lab.Cmd{Argv: []string{"ls", "-A", "some"}})
		if err != nil || string(out.Stdout) != "where\n" {
			t.Errorf("left behind: %q, %v", out.Stdout, err)
		}
	})
	t.Run("whole or not at all", func(t *testing.T) {
		ctx := limit(t)
		size := 1 << 20
		must(t, h.Put(ctx, "blob", 0o600, bytes.Repeat([]byte{'a'}, size)))
		written := make(chan error, 1)
		go func() {
			for i := range 20 {
				if err := h.Put(ctx, "blob", 0o600, bytes.Repeat([]byte{byte('a' + i)}, size)); err != nil {
					written <- err
					return
				}
			}
			written <- nil
		}()
		for done := false; !done; {
			select {
			case err := <-written:
				must(t, err)
				done = true
			default:
			}
			data, err := h.Get(ctx, "blob")
			must(t, err)
			if len(data) != size || bytes.Count(data, data[:1]) != size {
				t.Fatalf("read part of a file: %d bytes", len(data))
			}
		}
	})
	t.Run("dial", func(t *testing.T) {
		u, err := url.Parse(c.Seats[0].HealthURL)
		must(t, err)
		conn, err := h.Dial(limit(t), u.Host)
		must(t, err)
		conn.Close()
		status, _, err := etcd.Health(limit(t), c.Seats[0], "/livez")
		if err != nil || status != http.StatusOK {
			t.Errorf("health: %d, %v", status, err)
		}
		// The hosts reach each other's members by Addr, where etcd listens for peers.
		u, err = url.Parse(c.Seats[1].PeerURL)
		must(t, err)
		conn, err = h.Dial(limit(t), u.Host)
		must(t, err)
		conn.Close()
		// A member takes peers only from addresses that their certificates name:
		// it is the host that dials.
		if c.TLS == nil {
			return
		}
		for _, m := range c.Seats[:2] {
			who, err := etcd.Peer(limit(t), m)
			must(t, err)
			r, err := etcd.Call(limit(t), c.Seats[0], etcd.PeerPort, who)
			must(t, err)
			if !r.Accepted {
				t.Errorf("%s at the peer port of %s: %s", m.Name, c.Seats[0].Name, r)
			}
		}
	})
}

// process: the contract of lab.Proc.
func (s *suite) process(t *testing.T, c *lab.Cluster) {
	s.needs(t, lab.CapSignal)
	ctx := limit(t)
	lead := leader(t, c, c.Seats[:3]...)
	m := c.Seats[0]
	if m == lead {
		m = c.Seats[1]
	}
	state := func() lab.ProcState {
		t.Helper()
		st, err := m.Proc.State(ctx)
		must(t, err)
		return st
	}
	first := state()
	if !first.Running || first.Paused || first.PID == 0 || first.Started == "" || first.Exit != "" || !first.Ended.IsZero() {
		t.Fatalf("a running member: %+v", first)
	}
	must(t, m.Proc.Start(ctx))
	if again := state(); again != first {
		t.Errorf("start of a running member: %+v, was %+v", again, first)
	}

	must(t, m.Proc.Signal(ctx, "STOP"))
	until(t, "the member to be paused", func(context.Context) error {
		if st := state(); !st.Paused || !st.Running || st.PID != first.PID {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if err := read(client(t, c, m), 300*time.Millisecond); err == nil {
		t.Error("a paused member answers")
	}
	must(t, m.Proc.Signal(ctx, "CONT"))
	until(t, "the member to answer again", func(context.Context) error { return read(client(t, c, m), time.Second) })
	if again := state(); again != first {
		t.Errorf("after the pause: %+v, was %+v", again, first)
	}

	must(t, m.Proc.Signal(ctx, "KILL"))
	dead := state()
	if dead.Running || dead.Exit != "killed" || dead.Ended.IsZero() {
		t.Errorf("a killed member: %+v", dead)
	}
	for _, sig := range []string{"KILL", "STOP", "CONT"} {
		if err := m.Proc.Signal(ctx, sig); !errors.Is(err, lab.ErrNotRunning) {
			t.Errorf("%s to nobody: %v", sig, err)
		}
	}
	must(t, m.Proc.Stop(ctx))
	put(t, client(t, c, lead), "key", "without "+m.Name)
	// Longer than any supervisor would wait before it restarts something.
	time.Sleep(time.Second)
	if st := state(); st != dead {
		t.Errorf("a dead member changed: %+v, was %+v", st, dead)
	}
	must(t, m.Proc.Start(ctx))
	second := state()
	if !second.Running || second.PID == first.PID && second.Started == first.Started {
		t.Errorf("second life: %+v, first %+v", second, first)
	}
	until(t, "the member to come back", func(context.Context) error { return read(client(t, c, m), time.Second) })

	must(t, m.Proc.Signal(ctx, "STOP"))
	must(t, m.Proc.Stop(ctx))
	if st := state(); st.Running || st.Exit == "" || st.Exit == "killed" {
		t.Errorf("a member that was paused and asked to end: %+v", st)
	}
	log, err := m.Proc.Log(ctx, 1<<20)
	must(t, err)
	if !bytes.Contains(log, []byte("received signal; shutting down")) || bytes.Count(log, []byte("starting etcd")) == 0 {
		t.Errorf("log of all lives: %d bytes without start or end", len(log))
	}
	tail, err := m.Proc.Log(ctx, 100)
	if err != nil || len(tail) != 100 || !bytes.HasSuffix(log, tail) {
		t.Errorf("end of the log: %q, %v", tail, err)
	}
	// Another process can do all this as well.
	again, err := s.driver().Open(ctx, c.ID)
	must(t, err)
	other, err := again.Member(m.Name)
	must(t, err)
	must(t, other.Proc.Start(ctx))
	until(t, "the member to come back", func(context.Context) error { return read(client(t, c, m), time.Second) })
	if st := state(); !st.Running {
		t.Errorf("started by another process: %+v", st)
	}
	if log, err := c.Seats[3].Proc.Log(ctx, 100); err != nil || len(log) != 0 {
		t.Errorf("log of a spare: %q, %v", log, err)
	}
}

// breakAll leaves the lab in a state that down has to cope with.
func (s *suite) breakAll(t *testing.T, c *lab.Cluster) {
	ctx := limit(t)
	if c.Links != nil {
		must(t, c.Links.Set(ctx, "last", "m1", "m2", lab.Rule{Drop: true}))
	}
	if c.Tracer != nil {
		must(t, c.Tracer.Inject(ctx, "last", "m1", lab.Injection{Calls: []string{"fdatasync"}, Files: "member/wal/*.wal", Delay: time.Second}))
	}
	if s.d.Caps(ctx)[lab.CapSignal] == "" {
		must(t, c.Seats[1].Proc.Signal(ctx, "STOP"))
		must(t, c.Seats[2].Proc.Signal(ctx, "KILL"))
	}
}

// sideBySide: two labs at once keep out of each other's way.
func (s *suite) sideBySide(t *testing.T) {
	var labs [2]*lab.Cluster
	t.Run("up", func(t *testing.T) {
		errs := make(chan error, 2)
		for i := range labs {
			go func() {
				var err error
				labs[i], err = s.driver().Up(limit(t), fmt.Sprintf("%s-%d", newID(t), i), spec(1))
				errs <- err
			}()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Error(err)
		}
	})
	for _, c := range labs {
		if c != nil {
			defer s.down(t, c.ID)
		}
	}
	if t.Failed() {
		return
	}
	ids := map[uint64]bool{}
	for i, c := range labs {
		cli := client(t, c)
		put(t, cli, "key", fmt.Sprint(i))
		got, err := cli.Get(limit(t), "key")
		must(t, err)
		ids[got.Header.ClusterId] = true
	}
	for i, c := range labs {
		got, err := client(t, c).Get(limit(t), "key")
		must(t, err)
		if string(got.Kvs[0].Value) != fmt.Sprint(i) || got.Kvs[0].Version != 1 {
			t.Errorf("lab %d has %v", i, got.Kvs)
		}
	}
	if len(ids) != 2 {
		t.Error("both clusters have the same id")
	}
	s.down(t, labs[0].ID)
	put(t, client(t, labs[1]), "key", "still here")
}

// refusals: what cannot be brought up says why and leaves nothing.
func (s *suite) refusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*lab.Spec)
		says   string
	}{
		"etcd does not start": {func(s *lab.Spec) { s.Flags = map[string]string{"snapshot-count": "nonsense"} }, "snapshot-count"},
		"no such directory":   {func(s *lab.Spec) { s.Etcd = "/no/such/directory" }, "/no/such/directory"},
		"no such member":      {func(s *lab.Spec) { s.EtcdOf = map[string]string{"m9": "/"} }, "m9"},
		"impossible spec":     {func(s *lab.Spec) { s.Members = 0 }, "members"},
	} {
		t.Run(name, func(t *testing.T) {
			sp := spec(1)
			c.change(&sp)
			id := newID(t)
			_, err := s.d.Up(limit(t), id, sp)
			if err == nil {
				defer s.down(t, id)
				t.Fatal("it came up")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: want it to say %q", err, c.says)
			}
			if l := s.left(t, id); l != nil {
				t.Errorf("left: %v", l.What)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		id := newID(t)
		ctx, cancel := context.WithTimeout(limit(t), 30*time.Millisecond)
		defer cancel()
		if _, err := s.d.Up(ctx, id, spec(3)); err == nil {
			s.down(t, id)
			t.Skip("it was up before it could be interrupted")
		}
		if l := s.left(t, id); l != nil {
			t.Errorf("left: %v", l.What)
		}
	})
	t.Run("bad name", func(t *testing.T) {
		for _, id := range []string{"", "..", "a/b", "-x"} {
			if _, err := s.d.Up(limit(t), id, spec(1)); err == nil {
				t.Errorf("%q: it came up", id)
			}
			if err := s.d.Down(limit(t), id); err == nil {
				t.Errorf("%q: it went down", id)
			}
		}
	})
	t.Run("down of nothing", func(t *testing.T) { s.down(t, newID(t)) })
}

// refused tells whether a connection was turned away rather than left hanging.
func refused(err error) bool {
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && !errors.Is(err, syscall.ETIMEDOUT)
}

// full takes nothing.
type full struct{}

var errFull = errors.New("full")

// Write implements io.Writer.
func (full) Write([]byte) (int, error) { return 0, errFull }

func sumOf(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func spec(members int) lab.Spec {
	return lab.Spec{Members: members, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func up(t *testing.T, o local.Options, id string, s lab.Spec) (*local.Driver, *lab.Cluster) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	d := local.New(o)
	t.Cleanup(func() {
		if err := d.Down(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	c, err := d.Up(limit(t), id, s)
	if err != nil {
		t.Fatal(err)
	}
	return d, c
}

func writes(t *testing.T, c *lab.Cluster, through ...*lab.Member) {
	t.Helper()
	cli, err := etcd.Client(c, through...)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	if _, err := cli.Put(limit(t), "key", "value"); err != nil {
		t.Fatal(err)
	}
}

// The lab goes on when the executable it was made with is gone, as it is after
// `go run`, and lives under a root whose name is too long for a socket.
func TestExecutableGone(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "etcdrill")
	if err := os.Link(self, binary); err != nil {
		copyFile(t, self, binary)
	}
	root := filepath.Join(t.TempDir(), strings.Repeat("long", 25))
	_, c := up(t, local.Options{Root: root, Binary: binary}, "gone", spec(1))
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	m := c.Seats[0]
	if err := m.Proc.Signal(limit(t), "KILL"); err != nil {
		t.Fatal(err)
	}
	if err := m.Proc.Start(limit(t)); err != nil {
		t.Fatal(err)
	}
	writes(t, c)
	if sockets, _ := filepath.Glob(fmt.Sprintf("/tmp/etcdrill-%d-*/control", os.Getuid())); len(sockets) == 0 {
		t.Error("the supervisor's socket is not where it should be")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// Other binaries come from a directory; here they are the same ones by another
// way. With TLS off, so that this way is walked too.
func TestOtherBinaries(t *testing.T) {
	_, first := up(t, local.Options{}, "first", spec(1))
	s := spec(2)
	s.TLS, s.Etcd = "off", t.TempDir()
	s.EtcdOf = map[string]string{"m2": first.Seats[0].Bin}
	for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
		if err := os.Symlink(filepath.Join(first.Seats[0].Bin, tool), filepath.Join(s.Etcd, tool)); err != nil {
			t.Fatal(err)
		}
	}
	_, c := up(t, local.Options{}, "second", s)
	writes(t, c)
	for name, dir := range map[string]string{"m1": s.Etcd, "m2": s.EtcdOf["m2"]} {
		m, err := c.Member(name)
		if err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(filepath.Join(m.Bin, "etcd")); err != nil || to != filepath.Join(dir, "etcd") {
			t.Errorf("%s runs %s, %v, want the one in %s", name, to, err, dir)
		}
	}
	if c.TLS != nil || c.Seats[0].PKI != "" || !strings.HasPrefix(c.Seats[0].PeerURL, "http://") {
		t.Errorf("without TLS: %+v", c.Seats[0])
	}
}

// A port that somebody else took while the member was down: it ends, and the
// log says why. Then the supervisor is killed, and with it everything ends.
func TestPortTakenAndSupervisorKilled(t *testing.T) {
	d, c := up(t, local.Options{}, "taken", spec(1))
	ctx := limit(t)
	m := c.Seats[0]
	if err := m.Proc.Signal(ctx, "KILL"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(m.PeerBind)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Listen("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if err := m.Proc.Start(ctx); err != nil {
		t.Fatal(err)
	}
	err = etcd.WaitReady(ctx, c, m)
	if err == nil || !strings.Contains(err.Error(), "address already in use") || !strings.Contains(err.Error(), u.Port()) || !strings.Contains(err.Error(), "m1") {
		t.Errorf("port taken: %v", err)
	}
	stranger.Close()
	if err := m.Proc.Start(ctx); err != nil {
		t.Fatal(err)
	}
	writes(t, c)

	for pid, host := range labelled(t, c.Dir) {
		if host == "" {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = lab.Until(ctx, "all processes to end", func(context.Context) error {
		if left := labelled(t, c.Dir); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if s, err := m.Proc.State(ctx); err != nil || s.Running || s.Exit == "" {
		t.Errorf("state without a supervisor: %+v, %v", s, err)
	}
	if err := m.Proc.Start(ctx); err == nil || !strings.Contains(err.Error(), "supervisor") {
		t.Errorf("start without a supervisor: %v", err)
	}
	if left, err := d.Left(ctx); err != nil || len(left) != 1 || len(left[0].What) != 1 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

// labelled finds a lab's processes, and their hosts, as the system shows them.
func labelled(t *testing.T, dir string) map[int]string {
	t.Helper()
	out := map[int]string{}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(files) == 0 {
		t.Skip("needs /proc")
	}
	for _, f := range files {
		env, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(env, []byte(local.LabelDir+"="+dir+"\x00")) {
			continue
		}
		_, host, _ := strings.Cut(string(env), local.LabelHost+"=")
		host, _, _ = strings.Cut(host, "\x00")
		var pid int
		fmt.Sscanf(f, "/proc/%d/", &pid)
		out[pid] = host
	}
	return out
}

// The whole network of the lab rests on this: a member has no connection that
// does not lead to its own SOCKS listener, or come in at its own ports.
func TestPeersGoThroughTheLab(t *testing.T) {
	_, c := up(t, local.Options{}, "wires", spec(3))
	writes(t, c)
	pids := labelled(t, c.Dir)
	established := connections(t)
	for pid, host := range pids {
		m, err := c.Member(host)
		if err != nil {
			continue // the supervisor
		}
		own := map[string]bool{}
		for _, u := range []string{m.PeerBind, m.LocalURL, m.HealthURL} {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			own[parsed.Port()] = true
		}
		front, err := url.Parse(m.ClientURL)
		if err != nil {
			t.Fatal(err)
		}
		var socks int
		fmt.Sscan(front.Port(), &socks)
		socks++ // the next port of the host's block
		out := 0
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			link, err := os.Readlink(fd)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			con, ok := established[link]
			if !ok || own[fmt.Sprint(con.local)] {
				continue
			}
			if own[fmt.Sprint(con.remote)] {
				continue // etcd's gateway to itself
			}
			if out++; con.remote != socks {
				t.Errorf("%s has a connection to port %d, and its SOCKS listener is %d", host, con.remote, socks)
			}
		}
		if out == 0 {
			t.Errorf("%s has no connection to its peers", host)
		}
	}
}

type connection struct{ local, remote int }

// connections lists established TCP connections by the name their socket has
// among a process's open files.
func connections(t *testing.T) map[string]connection {
	t.Helper()
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("needs /proc/net/tcp")
	}
	out := map[string]connection{}
	for _, line := range strings.Split(string(data), "\n")[1:] {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "01" {
			continue
		}
		var c connection
		var addr string
		fmt.Sscanf(strings.Replace(f[1], ":", " ", 1), "%s %x", &addr, &c.local)
		fmt.Sscanf(strings.Replace(f[2], ":", " ", 1), "%s %x", &addr, &c.remote)
		out["socket:["+f[9]+"]"] = c
	}
	return out
}

package docker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/etcdrill/etcdrill/drivers/docker"
	"github.com/etcdrill/etcdrill/drivers/drivertest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// The hosts run the binary that users run, where there is one: that of the
// tests has the race detector in it, which slows etcd down several times.
func newDriver() lab.Driver { return newDocker() }

func newDocker() *docker.Driver {
	return docker.New(docker.Options{Binary: os.Getenv("ETCDRILL_BINARY"), Drill: "test"})
}

// TestMain gives all tests, and the processes they start, a root of their own.
func TestMain(m *testing.M) {
	if os.Getenv("ETCDRILL_DOCKER_TEST") != "" { // one of those processes
		os.Exit(drivertest.Main(m, newDriver))
	}
	home, err := os.MkdirTemp("", "etcdrill-docker-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("ETCDRILL_HOME", home)
	os.Setenv("ETCDRILL_DOCKER_TEST", "1")
	code := drivertest.Main(m, newDriver)
	os.RemoveAll(home)
	os.Exit(code)
}

// needsEngine skips a test unless ETCDRILL_MUST names docker: `make test` uses
// nothing but this machine's processes.
func needsEngine(t *testing.T) {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv(drivertest.Must), ","), docker.Name) {
		t.Skip("make test-docker runs it")
	}
	d := newDocker()
	if why := d.Caps(limit(t))[lab.CapUnits]; why != "" {
		t.Fatalf("%s=%s, and yet: %s", drivertest.Must, os.Getenv(drivertest.Must), why)
	}
	must(t, d.Prepare(limit(t))) // here, where there is time for it
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // an image may have to be made
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDriver(t *testing.T) {
	needsEngine(t)
	drivertest.Run(t, newDriver)
}

func left(t *testing.T, id string) *lab.Left {
	t.Helper()
	all, err := newDriver().Left(limit(t))
	must(t, err)
	for _, l := range all {
		if l.ID == id {
			return &l
		}
	}
	return nil
}

func up(t *testing.T, d lab.Driver, id string, members int) *lab.Cluster {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Down(context.Background(), id); err != nil {
			t.Errorf("down: %v", err)
		}
	})
	start := time.Now()
	c, err := d.Up(limit(t), id, lab.Spec{Members: members, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond})
	must(t, err)
	t.Logf("a lab of %d was up after %s", members, time.Since(start))
	return c
}

// A host that lost its power comes back with its address and its disk, and its
// member with what it knew.
func TestPower(t *testing.T) {
	needsEngine(t)
	ctx := limit(t)
	c := up(t, newDriver(), fmt.Sprintf("power-%d", os.Getpid()), 1)
	cli, err := etcd.Client(c)
	must(t, err)
	defer cli.Close()
	_, err = cli.Put(ctx, "key", "value")
	must(t, err)
	h := c.Hosts[0]
	if err := c.Power.Off(ctx, "m9"); err == nil {
		t.Error("a host that is not there was switched off")
	}
	must(t, h.Put(ctx, "note", 0o600, []byte("stays")))
	must(t, h.Put(ctx, "/run/note", 0o600, []byte("goes")))

	must(t, c.Power.Off(ctx, "m1"))
	must(t, c.Power.Off(ctx, "m1"))
	if _, err := h.Run(ctx, lab.Cmd{Argv: []string{"true"}}); err == nil {
		t.Error("a host without power runs a command")
	}
	if conn, err := h.Dial(ctx, strings.TrimPrefix(c.Seats[0].HealthURL, "http://")); err == nil {
		conn.Close()
		t.Error("a host without power answers")
	}
	must(t, c.Power.On(ctx, "m1"))
	must(t, c.Power.On(ctx, "m1"))
	out, err := h.Run(ctx, lab.Cmd{Argv: []string{"hostname", "-I"}})
	if err != nil || strings.TrimSpace(string(out.Stdout)) != h.Addr() {
		t.Errorf("its address is %s, was %s (%v)", out.Stdout, h.Addr(), err)
	}
	if data, err := h.Get(ctx, "note"); err != nil || string(data) != "stays" {
		t.Errorf("on its disk: %q, %v", data, err)
	}
	if _, err := h.Get(ctx, "/run/note"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in its memory: %v, want nothing", err)
	}
	must(t, lab.Until(ctx, "the member to be started", func(ctx context.Context) error { return c.Seats[0].Proc.Start(ctx) }))
	got, err := cli.Get(ctx, "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Errorf("its member has %v, %v", got, err)
	}
}

// What is to make the links makes them, and what an agent has put into the
// kernel goes when the agent is killed: it forgets its rules.
func TestLinksBy(t *testing.T) {
	needsEngine(t)
	rules := func(h lab.Host) string {
		t.Helper()
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "nft list tables inet; iptables -w -S | grep etcdrill || :"}})
		must(t, err)
		return strings.TrimSpace(string(out.Stdout))
	}
	for way, want := range map[string]struct{ by, rules string }{
		"proxy":    {"proxy", ""},
		"kernel":   {"nft", "table inet etcdrill-"},
		"iptables": {"iptables, proxy for delays", "-A INPUT -m comment --comment"},
	} {
		t.Run(way, func(t *testing.T) {
			t.Setenv("ETCDRILL_LINKS", way)
			ctx := limit(t)
			c := up(t, newDriver(), fmt.Sprintf("links-%s-%d", way, os.Getpid()), 2)
			if !strings.HasPrefix(c.LinksBy, want.by) {
				t.Errorf("links by %q, want %q", c.LinksBy, want.by)
			}
			for _, h := range c.Hosts {
				if got := rules(h); got != "" {
					t.Errorf("%s: before there is a rule: %s", h.Name(), got)
				}
			}
			must(t, c.Links.Set(ctx, "cut", "m1", "m2", lab.Rule{Drop: true}))
			for _, h := range c.Hosts {
				if got := rules(h); !strings.Contains(got, want.rules) || want.rules == "" && got != "" {
					t.Errorf("%s: %q, want %q", h.Name(), got, want.rules)
				}
			}
			short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			if _, err := c.Links.Probe(short, "m1", "m2"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("probe: %v, want no answer", err)
			}
			for _, h := range c.Hosts {
				_, err := h.Run(ctx, lab.Cmd{Argv: []string{"systemctl", "kill", "-s", "KILL", "etcdrill-" + c.ID + "-agent.service"}})
				must(t, err)
			}
			must(t, lab.Until(ctx, "agents without rules", func(ctx context.Context) error {
				if rules, err := c.Links.Rules(ctx); err != nil || len(rules) > 0 {
					return fmt.Errorf("rules %v, %v", rules, err)
				}
				_, err := c.Links.Probe(ctx, "m1", "m2")
				return err
			}))
			for _, h := range c.Hosts {
				if got := rules(h); got != "" {
					t.Errorf("%s: left by an agent that was killed: %s", h.Name(), got)
				}
			}
		})
	}
	t.Setenv("ETCDRILL_LINKS", "nonsense")
	if _, err := newDriver().Up(limit(t), "links-nonsense", lab.Spec{Members: 1, TLS: "off", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "ETCDRILL_LINKS=nonsense") {
		t.Errorf("nonsense: %v", err)
	}
}

// An engine on another machine: nothing of a lab is reached but through it.
func TestAnotherMachine(t *testing.T) {
	needsEngine(t)
	socket, ok := strings.CutPrefix(client.DefaultDockerHost, "unix://")
	if os.Getenv("DOCKER_HOST") != "" || !ok {
		t.Skip("the engine is not behind the usual socket of this machine")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go forward(c, socket)
		}
	}()
	t.Setenv("DOCKER_HOST", "tcp://"+l.Addr().String())
	d := docker.New(docker.Options{Binary: os.Getenv("ETCDRILL_BINARY"), Tunnel: true})
	c := up(t, d, fmt.Sprintf("tunnel-%d", os.Getpid()), 1)
	ctx := limit(t)
	cli, err := etcd.Client(c)
	must(t, err)
	defer cli.Close()
	_, err = cli.Put(ctx, "key", "value")
	must(t, err)
	must(t, c.Seats[0].Proc.Signal(ctx, "KILL"))
	must(t, c.Seats[0].Proc.Start(ctx))
	// That the hosts are behind a tunnel is known to who opens the lab, too.
	again, err := newDriver().Open(ctx, c.ID)
	must(t, err)
	other, err := etcd.Client(again)
	must(t, err)
	defer other.Close()
	got, err := other.Get(ctx, "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Errorf("got %v, %v", got, err)
	}
	// A member listens on loopback there, where nobody else gets at it.
	conn, err := again.Hosts[0].Dial(ctx, strings.TrimPrefix(again.Seats[0].HealthURL, "http://"))
	must(t, err)
	conn.Close()
}

// forward carries a connection to a socket.
func forward(from net.Conn, socket string) {
	defer from.Close()
	to, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		io.Copy(to, from)
		to.Close() // this is what an engine sees of a killed client
	}()
	io.Copy(from, to)
}

// Whenever it is interrupted, nothing is left: what an engine is making at that
// moment neither.
func TestInterrupted(t *testing.T) {
	needsEngine(t)
	for _, after := range []time.Duration{200, 500, 900, 1500, 2500} {
		id := fmt.Sprintf("interrupted-%d-%d", after, os.Getpid())
		d := newDriver()
		ctx, cancel := context.WithTimeout(context.Background(), after*time.Millisecond)
		_, err := d.Up(ctx, id, lab.Spec{Members: 2, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond})
		cancel()
		if err == nil {
			t.Logf("it was up within %d ms", after)
			must(t, d.Down(limit(t), id))
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Logf("after %d ms: %v", after, err)
		}
		if l := left(t, id); l != nil {
			t.Errorf("after %d ms is left: %v", after, l.What)
			must(t, d.Down(limit(t), id))
		}
	}
}

// What is half made, or half gone, is found and can be taken down: by its
// labels alone.
func TestHalfALab(t *testing.T) {
	needsEngine(t)
	ctx := limit(t)
	engine, err := client.New(client.FromEnv)
	must(t, err)
	defer engine.Close()
	id := fmt.Sprintf("half-%d", os.Getpid())
	d := newDriver()
	t.Cleanup(func() { d.Down(context.Background(), id) })
	_, err = engine.NetworkCreate(ctx, "etcdrill-"+id, client.NetworkCreateOptions{Labels: map[string]string{"io.etcdrill.lab": id}})
	must(t, err)
	l := left(t, id)
	if l == nil || l.Keep || !slices.Equal(l.What, []string{"network etcdrill-" + id}) {
		t.Fatalf("a network without containers: %+v", l)
	}
	if _, err := d.Up(ctx, id, lab.Spec{Members: 1, TLS: "off", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "engine has one already") {
		t.Errorf("up beside it: %v", err)
	}
	if left(t, id) == nil {
		t.Error("the refused lab took the other one with it")
	}
	must(t, d.Down(ctx, id))
	must(t, d.Down(ctx, id))
	if l := left(t, id); l != nil {
		t.Errorf("left: %v", l.What)
	}

	// Only the directory on this machine.
	dir := filepath.Join(os.Getenv("ETCDRILL_HOME"), "docker", id)
	must(t, os.MkdirAll(dir, 0o700))
	if l := left(t, id); l == nil || l.Owned || !slices.Equal(l.What, []string{"directory " + dir}) {
		t.Errorf("a directory without containers: %+v", l)
	}
	must(t, d.Down(ctx, id))
	if l := left(t, id); l != nil {
		t.Errorf("left: %v", l.What)
	}
}

// An engine that is not there is a reason, not an error, and no labs are left
// in it.
func TestNoEngine(t *testing.T) {
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "no.sock"))
	t.Setenv("ETCDRILL_HOME", t.TempDir())
	d := newDriver()
	caps := d.Caps(limit(t))
	for _, c := range []lab.Cap{lab.CapSignal, lab.CapLinks, lab.CapUnits} {
		if !strings.Contains(caps[c], "DOCKER_HOST") {
			t.Errorf("%s: %q does not say what to do", c, caps[c])
		}
	}
	if _, err := d.Up(limit(t), "x", lab.Spec{Members: 1, TLS: "off", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Errorf("up: %v", err)
	}
	if l, err := d.Left(limit(t)); err != nil || len(l) != 0 {
		t.Errorf("left: %v, %v", l, err)
	}
	if err := d.Down(limit(t), "x"); err == nil {
		t.Error("down: nothing is left of what nobody could look for")
	}
	if _, err := d.Open(limit(t), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v, want fs.ErrNotExist", err)
	}
}

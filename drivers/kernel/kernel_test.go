package kernel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// inside is set in the environment of a test that has a network to itself.
const inside = "ETCDRILL_KERNEL_TEST"

// Ports of the lab, and one that is nobody's business.
const (
	front = 2379
	peer  = 2380
	alien = 2222
)

// TestKernel tries the rules on real connections, in a network namespace that
// ends with it. All hosts are addresses of its loopback, and what is tried is
// the kernel of m1.
func TestKernel(t *testing.T) {
	if os.Getenv(inside) == "" {
		unshare := []string{"unshare", "-n"}
		if os.Geteuid() != 0 {
			unshare = []string{"unshare", "-rn"}
		}
		if out, err := exec.Command(unshare[0], append(unshare[1:], "sh", "-c", "ip link set lo up && nft list tables && iptables -w -S")...).CombinedOutput(); err != nil {
			if slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), "vm") {
				t.Fatalf("no network to try it in: %v: %s", err, out)
			}
			t.Skipf("no network to try it in: %v: %s", err, out)
		}
		cmd := exec.Command(unshare[0], append(unshare[1:], os.Args[0], "-test.run=^TestKernel$", "-test.v")...)
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	must(t, exec.Command("ip", "link", "set", "lo", "up").Run())
	for _, a := range []string{m1, m2, m3, client} {
		must(t, exec.Command("ip", "addr", "add", a+"/32", "dev", "lo").Run())
	}
	for _, a := range []string{m1, m2, m3} {
		for _, port := range []int{front, peer, alien} {
			serve(t, a, port)
		}
	}
	for _, filter := range []string{Nft, Iptables} {
		t.Run(filter, func(t *testing.T) {
			n := &try{newKernel(t, Means{Filter: filter})}
			t.Run("drop", n.drop)
			t.Run("reject", n.reject)
			t.Run("clients", n.clients)
			t.Run("owners", n.owners)
			t.Run("flushed", n.flushed)
			t.Run("another life", n.anotherLife)
		})
	}
	t.Run("choose", testChoose)
	t.Run("netem", testNetem)
}

// Addresses of three hosts and a client.
const (
	m1     = "10.9.0.1"
	m2     = "10.9.0.2"
	m3     = "10.9.0.3"
	client = "10.9.0.9"
)

func newKernel(t *testing.T, m Means) *Kernel {
	t.Helper()
	var ends []End
	for i, a := range []string{m1, m2, m3} {
		ends = append(ends, End{Name: "m" + strconv.Itoa(i+1), Addr: a, Ports: []int{front, peer}, Clients: []int{front}})
	}
	k, err := New("a-lab_1.x", "m1", ends, m)
	must(t, err)
	return k
}

// here is the machine of the test, as a host of a lab.
type here struct {
	lab.Host
	name, addr string
}

func (h here) Name() string { return h.name }
func (h here) Addr() string { return h.addr }

func (here) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Stdin = c.Stdin
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	o := lab.Output{Stdout: out, Stderr: []byte(errs.String())}
	if errors.As(err, &exit) {
		return o, &lab.ExitError{Host: "here", Argv: c.Argv, Code: exit.ExitCode(), Output: o}
	}
	return o, err
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve says back what it hears.
func serve(t *testing.T, addr string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
}

// try is what is tried with one filter.
type try struct{ *Kernel }

// dial connects from one address to another.
func dial(from, to string, port int, patience time.Duration) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	return d.Dial("tcp", net.JoinHostPort(to, strconv.Itoa(port)))
}

// open expects a connection to come about, and keeps it for the test.
func open(t *testing.T, from, to string, port int) net.Conn {
	t.Helper()
	c, err := dial(from, to, port, patience)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, says(c, patience))
	return c
}

// says is a word and its echo.
func says(c net.Conn, patience time.Duration) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

const moment = 150 * time.Millisecond

// silent expects a connection to get no answer.
func silent(t *testing.T, from, to string, port int) {
	t.Helper()
	c, err := dial(from, to, port, moment)
	if err == nil {
		c.Close()
	}
	if !timedOut(err) {
		t.Errorf("%s to %s:%d: %v, want no answer", from, to, port, err)
	}
}

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// refused expects a connection to be turned away.
func refused(t *testing.T, from, to string, port int) {
	t.Helper()
	c, err := dial(from, to, port, patience)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s to %s:%d: %v, want refused", from, to, port, err)
	}
}

func (n *try) set(t *testing.T, owner, from, to string, r lab.Rule) {
	t.Helper()
	must(t, n.Set(limit(t), owner, from, to, r))
	t.Cleanup(func() { n.Clear(context.Background(), owner) })
}

func (n *try) held(t *testing.T) map[string]int64 {
	t.Helper()
	rules, err := n.Rules(limit(t))
	must(t, err)
	out := map[string]int64{}
	for _, r := range rules {
		out[r.Owner] += r.Held
	}
	return out
}

// clean expects nothing of the lab in the kernel.
func (n *try) clean(t *testing.T) {
	t.Helper()
	if ids := left(t); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
}

func left(t *testing.T) []string {
	t.Helper()
	ids, err := Left(limit(t), here{})
	must(t, err)
	return slices.DeleteFunc(ids, func(id string) bool { return id != "a-lab_1.x" })
}

func (n *try) drop(t *testing.T) {
	mine, theirs := open(t, m1, m2, peer), open(t, m2, m1, peer)
	n.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
	// A handshake needs both directions.
	silent(t, m1, m2, peer)
	silent(t, m2, m1, front)
	for _, c := range []net.Conn{mine, theirs} {
		if err := says(c, moment); !timedOut(err) {
			t.Errorf("an open connection: %v, want no answer", err)
		}
	}
	open(t, m1, m3, peer)
	open(t, m3, m1, peer)
	open(t, client, m1, front)
	open(t, m1, m2, alien)
	open(t, m2, m1, alien)
	if n.held(t)["cut"] == 0 {
		t.Error("nothing was held")
	}
	if ids := left(t); len(ids) == 0 {
		t.Error("nobody would find it")
	}
	must(t, n.Clear(limit(t), "cut"))
	must(t, n.Clear(limit(t), "cut"))
	n.clean(t)
	for _, c := range []net.Conn{mine, theirs} {
		// What was not answered comes too.
		if err := says(c, patience); err != nil {
			t.Errorf("an open connection, healed: %v", err)
		}
	}
	open(t, m1, m2, peer)
	open(t, m2, m1, peer)

	// The other way, on the way in.
	n.set(t, "cut", "m2", "m1", lab.Rule{Drop: true})
	silent(t, m1, m2, peer)
	silent(t, m2, m1, peer)
	open(t, m3, m1, peer)
	if n.held(t)["cut"] == 0 {
		t.Error("nothing was held on the way in")
	}
}

func (n *try) reject(t *testing.T) {
	for _, dir := range [][2]string{{"m1", "m2"}, {"m2", "m1"}} {
		mine, theirs := open(t, m1, m2, peer), open(t, m2, m1, peer)
		n.set(t, "cut", dir[0], dir[1], lab.Rule{Reject: true})
		refused(t, m1, m2, peer)
		refused(t, m2, m1, peer)
		for _, c := range []net.Conn{mine, theirs} {
			if err := says(c, patience); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("an open connection: %v, want a reset", err)
			}
		}
		open(t, m1, m3, peer)
		open(t, client, m1, front)
		if n.held(t)["cut"] == 0 {
			t.Error("nothing was held")
		}
		must(t, n.Clear(limit(t), "cut"))
		open(t, m1, m2, peer)
		open(t, m2, m1, peer)
	}
	// Both at once: each counts for itself.
	n.set(t, "there", "m1", "m2", lab.Rule{Reject: true})
	n.set(t, "back", "m2", "m1", lab.Rule{Reject: true})
	refused(t, m1, m2, peer)
	refused(t, m2, m1, peer)
	if h := n.held(t); h["there"] == 0 || h["back"] == 0 {
		t.Errorf("held: %v", h)
	}
}

func (n *try) clients(t *testing.T) {
	for _, dir := range [][2]string{{"client", "m1"}, {"m1", "client"}} {
		c := open(t, client, m1, front)
		n.set(t, "cut", dir[0], dir[1], lab.Rule{Drop: true})
		silent(t, client, m1, front)
		silent(t, m1, m1, front) // through a tunnel
		if err := says(c, moment); !timedOut(err) {
			t.Errorf("an open connection: %v, want no answer", err)
		}
		open(t, m2, m1, front) // a host is no client
		open(t, client, m1, peer)
		open(t, client, m2, front)
		if n.held(t)["cut"] == 0 {
			t.Error("nothing was held")
		}
		must(t, n.Clear(limit(t), "cut"))
		must(t, says(c, patience))
		n.set(t, "cut", dir[0], dir[1], lab.Rule{Reject: true})
		refused(t, client, m1, front)
		open(t, m2, m1, front)
		must(t, n.Clear(limit(t), "cut"))
		open(t, client, m1, front)
	}
}

func (n *try) owners(t *testing.T) {
	n.set(t, "one", "m1", "m2", lab.Rule{Drop: true})
	n.set(t, "two", "m1", "m2", lab.Rule{Drop: true})
	silent(t, m1, m2, peer)
	first := n.held(t)
	if first["one"] == 0 || first["two"] == 0 {
		t.Errorf("held: %v", first)
	}
	must(t, n.Clear(limit(t), "one"))
	silent(t, m1, m2, peer)
	if h := n.held(t); h["two"] <= first["two"] || len(h) != 1 {
		t.Errorf("held: %v, and before %v", h, first)
	}
	n.set(t, "two", "m1", "m2", lab.Rule{}) // replaces
	open(t, m1, m2, peer)
	n.clean(t)
}

// flushed: others may take all rules of the machine away.
func (n *try) flushed(t *testing.T) {
	n.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
	must(t, exec.Command("nft", "flush", "ruleset").Run())
	if rules, err := n.Rules(limit(t)); err == nil && n.means.Filter == Nft {
		t.Errorf("rules that are gone: %v", rules)
	}
	must(t, n.Clear(limit(t), "cut"))
	n.clean(t)
	open(t, m1, m2, peer)
}

// anotherLife: what an agent leaves in the kernel is found, and goes.
func (n *try) anotherLife(t *testing.T) {
	n.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
	next := newKernel(t, n.means)
	must(t, next.Reset(limit(t)))
	n.clean(t)
	open(t, m1, m2, peer)

	must(t, next.Set(limit(t), "cut", "m1", "m2", lab.Rule{Drop: true}))
	must(t, Remove(limit(t), here{}, "a-lab_1"))
	if len(left(t)) == 0 {
		t.Error("the rules of another lab were removed")
	}
	for range 2 {
		must(t, Remove(limit(t), here{}, "a-lab_1.x"))
	}
	n.clean(t)
	open(t, m1, m2, peer)
}

func testChoose(t *testing.T) {
	hosts := []lab.Host{here{name: "m1", addr: m1}, here{name: "m2", addr: m2}}
	choose := func(way string, yes bool) (Means, string) {
		t.Helper()
		m, why, err := Choose(limit(t), way, hosts, func(context.Context, lab.Host) (bool, error) { return yes, nil })
		must(t, err)
		return m, why
	}
	if m, why := choose(Auto, true); m.Filter != Nft || m.Netem == (why != "") {
		t.Errorf("%+v, %q", m, why)
	}
	if m, why := choose(Must, false); m != (Means{Filter: Nft}) || why == "" {
		t.Errorf("beside another lab: %+v, %q", m, why)
	}
	if m, _ := choose(Second, true); m != (Means{Filter: Iptables}) {
		t.Errorf("iptables: %+v", m)
	}
	if m, _ := choose(Proxy, true); m != (Means{}) {
		t.Errorf("proxy: %+v", m)
	}
	if _, _, err := Choose(limit(t), "nonsense", hosts, nil); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("nonsense: %v", err)
	}
	// A host without the tools.
	t.Setenv("PATH", tools(t, "unshare"))
	if m, why := choose(Auto, true); m.Filter != "" || !strings.Contains(why, "nft") || !strings.Contains(why, "iptables") {
		t.Errorf("without tools: %+v, %q", m, why)
	}
	if _, _, err := Choose(limit(t), Must, hosts, nil); err == nil {
		t.Error("a kernel without tools was taken")
	}
}

// tools makes a directory with these tools of the system alone.
func tools(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		file, err := exec.LookPath(name)
		must(t, err)
		must(t, os.Symlink(file, dir+"/"+name))
	}
	return dir
}

// testNetem measures what delays promise at least.
func testNetem(t *testing.T) {
	hosts := []lab.Host{here{name: "m1", addr: m1}, here{name: "m2", addr: m2}}
	m, why, err := Choose(limit(t), Auto, hosts, func(context.Context, lab.Host) (bool, error) { return true, nil })
	must(t, err)
	if !m.Netem {
		if slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), "vm") {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	n := &try{newKernel(t, m)}
	trip := func() time.Duration {
		t.Helper()
		c := open(t, m1, m2, peer)
		start := time.Now()
		must(t, says(c, patience))
		return time.Since(start)
	}
	n.set(t, "one", "m1", "m2", lab.Rule{Delay: 60 * time.Millisecond, Jitter: 10 * time.Millisecond})
	n.set(t, "two", "m1", "m2", lab.Rule{Delay: 40 * time.Millisecond})
	if d := trip(); d < 90*time.Millisecond {
		t.Errorf("both delays: %s", d)
	}
	must(t, n.Clear(limit(t), "one"))
	if d := trip(); d < 40*time.Millisecond {
		t.Errorf("one delay: %s", d)
	}
	if h := n.held(t); h["two"] == 0 {
		t.Errorf("held: %v", h)
	}
	n.set(t, "two", "m1", "m2", lab.Rule{Rate: 200_000, Delay: time.Millisecond})
	c := open(t, m1, m2, peer)
	c.SetDeadline(time.Now().Add(patience))
	start := time.Now()
	go c.Write(make([]byte, 200_000))
	if _, err := io.ReadFull(c, make([]byte, 200_000)); err != nil || time.Since(start) < 500*time.Millisecond {
		t.Errorf("200 kB at 200 kB/s: %s, %v", time.Since(start), err)
	}
	must(t, n.Clear(limit(t), "two"))
	n.clean(t)
	out, err := exec.Command("tc", "qdisc", "show", "dev", "lo").Output()
	must(t, err)
	if root := rootQdisc(string(out)); root != "" {
		t.Errorf("left: %s", out)
	}
}

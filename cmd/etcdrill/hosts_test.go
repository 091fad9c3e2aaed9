package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
)

// What may go wrong with hosts while a drill runs on them. Each is one clear
// error, exit code 3, healed as far as hosts can be reached, and gc finds no
// more than what could not be.

// only skips a test on other backends than one.
func (b *backend) only(t *testing.T, driver string) {
	t.Helper()
	if b.driver != driver {
		t.Skip("about " + driver)
	}
}

// relay stands between etcdrill and a host or an engine.
type relay struct {
	listen net.Listener

	mu    sync.Mutex
	to    []string // network and address; empty: nobody is there
	conns []net.Conn
}

func newRelay(t *testing.T, to ...string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listen: l, to: to}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.carry(c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		r.leads()
	})
	return r
}

// leads makes the relay lead somewhere else from now on, or nowhere. What is
// open breaks.
func (r *relay) leads(to ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}

func (r *relay) carry(from net.Conn) {
	defer from.Close()
	r.mu.Lock()
	to := r.to
	r.conns = append(r.conns, from)
	r.mu.Unlock()
	if len(to) == 0 {
		return
	}
	far, err := net.Dial(to[0], to[1])
	if err != nil {
		return
	}
	defer far.Close()
	go func() {
		io.Copy(far, from)
		far.Close() // this is what the other side sees of a broken connection
	}()
	io.Copy(from, far)
}

// hosts are the machines of the tests' inventory.
func (b *backend) hosts(t *testing.T) (*ssh.Driver, []*ssh.Host) {
	t.Helper()
	d := ssh.New(ssh.Options{Root: t.TempDir(), Inventory: b.inventory})
	t.Cleanup(func() { d.Close() })
	hosts, err := d.Machines()
	if err != nil {
		t.Fatal(err)
	}
	return d, hosts
}

func inTime(t *testing.T) context.Context {
	t.Helper()
	patience := 3 * time.Minute
	if slices.Contains(musts(), "vm") { // emulated, perhaps
		patience = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// broken is a drill that breaks and then waits for what is to come.
const broken = `apiVersion: etcdrill/v1
kind: Drill
name: broken
title: To be broken
cluster: {members: 3}
load: {clients: 2, rate: 50/s, warmup: 100ms}
steps:
  - {break: crash, member: m1, as: dead, within: 3m}
  - {do: wait, for: 10m}
expect:
  - outage.dead < 1ms # a promise that cannot be kept, and is not to be the reason
`

// breaks runs such a drill, calls now when all its faults bite, and wants exit
// code 3 and words that say why. It returns the events of the run.
func (b *backend) breaks(t *testing.T, drill string, now func(), says ...string) []lab.Event {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, "broken.yaml"), []byte(drill), 0o644); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := b.command("run", "broken.yaml")
	cmd.Stderr, cmd.Stdout = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	events := func() []lab.Event {
		files, _ := filepath.Glob(filepath.Join(b.dir, "etcdrill-runs", "broken-*", "events.ndjson"))
		if len(files) != 1 {
			return nil
		}
		all, _ := lab.ReadEvents(files[0])
		return all
	}
	bite := func() (n int) {
		for _, e := range events() {
			if e.Kind == lab.EventBites {
				n++
			}
		}
		return n
	}
	err := lab.Until(inTime(t), "the faults to bite", func(context.Context) error {
		select {
		case err := <-ended:
			t.Fatalf("it ended: %v\n%s", err, said.String())
		default:
		}
		if bite() < strings.Count(drill, "break:") {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		cmd.Process.Kill()
		t.Fatal(err)
	}
	now()
	start := time.Now()
	select {
	case err = <-ended:
	case <-inTime(t).Done():
		cmd.Process.Kill()
		t.Fatal("it goes on")
	}
	t.Logf("ended after %s", time.Since(start).Round(100*time.Millisecond))
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitError {
		t.Errorf("%v, want exit code %d", err, exitError)
	}
	for _, s := range says {
		if !strings.Contains(unfolded(said.String()), s) {
			t.Errorf("it does not say %q:\n%s", s, said.String())
		}
	}
	if t.Failed() {
		t.Log(said.String())
	}
	return events()
}

// unfolded is what was said, however its lines were broken.
func unfolded(said string) string { return strings.Join(strings.Fields(said), " ") }

// swept wants that gc removes what is left, and then finds nothing.
func (b *backend) swept(t *testing.T) {
	t.Helper()
	for n := range 2 {
		out, err := b.command("gc").CombinedOutput()
		if err != nil || n > 0 && !strings.Contains(string(out), "nothing left behind") {
			t.Errorf("gc %d: %v\n%s", n+1, err, out)
		}
	}
}

// login is where a host's ssh server listens.
func login(h *ssh.Host) string {
	l := h.Machine().Login
	return net.JoinHostPort(l.Address, fmt.Sprint(l.Port))
}

// behindRelays puts a relay before each host, and returns them with what
// known_hosts says. From then on the backend knows no other way.
func (b *backend) behindRelays(t *testing.T, hosts []*ssh.Host) (relays []*relay, known string) {
	t.Helper()
	inventory := "hosts:\n"
	for i, h := range hosts {
		m := h.Machine()
		r := newRelay(t, "tcp", login(h))
		relays = append(relays, r)
		for _, line := range strings.Split(readAll(t, m.Login.KnownHosts[0]), "\n") {
			if who, key, ok := strings.Cut(line, " "); ok && who == knownhosts.Normalize(login(h)) {
				known += knownhosts.Normalize(r.listen.Addr().String()) + " " + key + "\n"
			}
		}
		inside := m.Internal
		if inside == "" {
			inside = m.Login.Address
		}
		_, port, _ := net.SplitHostPort(r.listen.Addr().String())
		inventory += fmt.Sprintf("  - {name: here%d, address: 127.0.0.1, port: %s, internal: %s, user: %s, identity: %s, known-hosts: known}\n", i+1, port, inside, m.Login.User, m.Login.Identity[0])
	}
	for name, text := range map[string]string{"known": known, "hosts.yaml": inventory} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.inventory = filepath.Join(b.dir, "hosts.yaml")
	return relays, known
}

// N67: somebody else answers in a host's place in the middle of a drill.
func TestHostKeyChangesElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		_, hosts := b.hosts(t)
		if slices.Contains(musts(), "vm") {
			t.Skip("emulated machines are few: make test-ssh has a fourth")
		}
		if len(hosts) < 4 {
			t.Fatal("expected four machines")
		}
		relays, known := b.behindRelays(t, hosts[:3])
		events := b.breaks(t, broken, func() { relays[1].leads("tcp", login(hosts[3])) },
			"m2 (here2)", "CHANGED", filepath.Join(b.dir, "known")+":2", "ssh-keygen -f "+filepath.Join(b.dir, "known"))
		if !slices.ContainsFunc(events, func(e lab.Event) bool { return e.Kind == lab.EventGone && e.Fault == "dead" }) {
			t.Error("the member on the first host was not brought back")
		}
		if text := readAll(t, filepath.Join(b.dir, "known")); text != known {
			t.Errorf("known_hosts was changed: %s", text)
		}
		// As long as somebody else is there, nothing is done to him.
		if out, err := b.command("gc").CombinedOutput(); err == nil || !strings.Contains(string(out), "CHANGED") {
			t.Errorf("gc: %v\n%s", err, out)
		}
		relays[1].leads("tcp", login(hosts[1]))
		b.swept(t)
	})
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Hosts that hear nothing more of etcdrill, which lives, undo what was done to
// them and end their members; and when it can reach them again, that is said.
func TestNetworkGoneElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		_, hosts := b.hosts(t)
		hosts = hosts[:3]
		relays, _ := b.behindRelays(t, hosts)
		drill := strings.Replace(broken, "steps:\n", "steps:\n  - {break: cut, member: m2, as: cut, within: 3m}\n  - {break: pause, member: m3, as: paused, within: 3m}\n", 1)
		clocks := make([]time.Duration, len(hosts))
		if slices.Contains(musts(), "vm") {
			drill = strings.Replace(drill, "members: 3", "members: 3, heartbeat: 500ms, election: 5s", 1)
			drill = strings.Replace(drill, "steps:\n", "steps:\n  - {break: clock-step, member: all, by: 2h, as: late, within: 5m}\n", 1)
		}
		ahead := func(h *ssh.Host) time.Duration {
			off, _, err := lab.Clock(inTime(t), h)
			if err != nil {
				t.Fatal(err)
			}
			return off
		}
		for i, h := range hosts {
			clocks[i] = ahead(h)
		}
		rules := func(h *ssh.Host) string {
			out, err := h.Run(inTime(t), lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", "nft list tables; iptables -w -S"}})
			if err != nil {
				t.Fatal(err)
			}
			return string(out.Stdout)
		}
		b.breaks(t, drill, func() {
			if !strings.Contains(rules(hosts[1]), "etcdrill-") {
				t.Logf("links are not cut by the kernel of %s", hosts[1].Name())
			}
			for _, r := range relays {
				r.leads()
			}
			for i, h := range hosts {
				err := lab.Until(inTime(t), h.Name()+" to undo it all", func(ctx context.Context) error {
					if r := rules(h); strings.Contains(r, "etcdrill-") {
						return errors.New(r)
					}
					if off := ahead(h) - clocks[i]; off.Abs() > 5*time.Second {
						return fmt.Errorf("its clock is off by %s", off)
					}
					out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", "systemctl list-units --plain --no-legend --state=active 'etcdrill-broken-*-etcd.service'"}})
					if err == nil && len(out.Stdout) > 0 {
						err = fmt.Errorf("a member runs: %s", out.Stdout)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
			for i, r := range relays {
				r.leads("tcp", login(hosts[i]))
			}
		}, "had not heard of etcdrill for")
		b.swept(t)
	})
}

// A host without room for the binary is named, and nothing stays on the others.
func TestNoRoomElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		_, hosts := b.hosts(t)
		full := hosts[1]
		mount := lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", "mkdir -p -m 0700 /var/lib/etcdrill && mount -t tmpfs -o size=8m full /var/lib/etcdrill"}}
		if _, err := full.Run(inTime(t), mount); err != nil {
			t.Fatal(err)
		}
		defer full.Run(context.Background(), lab.Cmd{Dir: "/", Argv: []string{"umount", "-l", "/var/lib/etcdrill"}})
		out, err := b.command("run", "put-get").CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitError {
			t.Errorf("%v, want exit code %d", err, exitError)
		}
		for _, s := range []string{"m2 (" + full.Name() + ")", "No space left on device"} {
			if !strings.Contains(unfolded(string(out)), s) {
				t.Errorf("it does not say %q:\n%s", s, out)
			}
		}
		if out, err := b.command("gc").CombinedOutput(); err != nil || !strings.Contains(string(out), "nothing left behind") {
			t.Errorf("gc: %v\n%s", err, out)
		}
	})
}

// Two who know nothing of each other make labs on the same hosts at once.
func TestTwoRunsElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		var both sync.WaitGroup
		for i := range 2 {
			other := *b
			other.dir = filepath.Join(b.dir, fmt.Sprint(i)) // with a home of its own, as on another machine
			if err := os.Mkdir(other.dir, 0o755); err != nil {
				t.Fatal(err)
			}
			both.Go(func() {
				out, err := other.command("run", "put-get").CombinedOutput()
				if err != nil && strings.Contains(string(out), "machine too slow") {
					out, err = other.command("run", "put-get").CombinedOutput()
				}
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
		both.Wait()
		b.swept(t)
	})
}

// An engine that goes away takes the drill with it, and is no finding.
func TestEngineGoesAwayElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "docker")
		network, addr, ok := strings.Cut(os.Getenv("DOCKER_HOST"), "://")
		if !ok {
			network, addr = "unix", "/var/run/docker.sock"
		}
		r := newRelay(t, network, addr)
		t.Setenv("DOCKER_HOST", "tcp://"+r.listen.Addr().String())
		b.breaks(t, broken, func() { r.leads() }, "the container engine at tcp://"+r.listen.Addr().String()+" went away")
		if out, err := b.command("gc").CombinedOutput(); err == nil || !strings.Contains(string(out), "DOCKER_HOST") {
			t.Errorf("gc without an engine: %v\n%s", err, out)
		}
		r.leads(network, addr)
		b.swept(t)
		out, err := exec.Command("docker", "ps", "-aq", "--filter", "name=etcdrill-broken-").CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("left: %s %v", out, err)
		}
	})
}

// A stepped clock is set right by its host when etcdrill is killed, and a clock
// that is off is said.
func TestClockWhenKilledElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		d, hosts := b.hosts(t)
		if why := d.Caps(inTime(t))[lab.CapClock]; why != "" {
			t.Skip(why)
		}
		h := hosts[0]
		ahead := func() time.Duration {
			t.Helper()
			off, _, err := lab.Clock(inTime(t), h)
			if err != nil {
				t.Fatal(err)
			}
			return off
		}
		was := ahead()
		drill := `apiVersion: etcdrill/v1
kind: Drill
name: stepped
title: To be killed
cluster: {members: 1}
steps:
  - {break: clock-step, member: m1, by: 2h, within: 3m}
  - {do: wait, for: 10m}
`
		if err := os.WriteFile(filepath.Join(b.dir, "stepped.yaml"), []byte(drill), 0o644); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		cmd := b.command("run", "stepped.yaml", "-q")
		cmd.Stderr, cmd.Stdout = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until := func(what string, least, most time.Duration) {
			t.Helper()
			err := lab.Until(inTime(t), what, func(context.Context) error {
				if off := ahead() - was; off < least || off > most {
					return fmt.Errorf("it is off by %s", off)
				}
				return nil
			})
			if err != nil {
				cmd.Process.Kill()
				t.Fatalf("%v\n%s", err, said.String())
			}
		}
		until("the clock to be stepped", time.Hour, 3*time.Hour)
		out, err := b.command("doctor").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "warning") || !strings.Contains(string(out), h.Name()+" +") {
			t.Errorf("doctor: %v\n%s", err, out)
		}
		cmd.Process.Kill()
		cmd.Wait()
		until("the clock to be right again", -5*time.Second, 5*time.Second)
		b.swept(t)
		until("the clock to be right still", -5*time.Second, 5*time.Second)
	})
}

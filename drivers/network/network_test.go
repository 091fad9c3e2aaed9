package network

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/names"
	"github.com/etcdrill/etcdrill/lab"
)

// rig is a network of m1 and m2 whose members are listeners of the test.
type rig struct {
	*Network
	socks map[string]string        // SOCKS listener by host
	front string                   // m2's listener for clients
	came  map[string]chan net.Conn // what m1's and m2's members accepted
}

func newRig(t *testing.T, patience time.Duration, change ...func([]Host)) *rig {
	t.Helper()
	r := &rig{socks: map[string]string{}, came: map[string]chan net.Conn{}}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	var hosts []Host
	for i, name := range []string{"m1", "m2"} {
		member := listen()
		came := make(chan net.Conn, 16)
		r.came[name] = came
		go func() {
			for {
				c, err := member.Accept()
				if err != nil {
					return
				}
				came <- c
			}
		}()
		hosts = append(hosts, Host{Name: name, Addr: []string{"192.0.2.1", "192.0.2.2"}[i], Peer: member.Addr().String(), Client: member.Addr().String()})
	}
	closed := listen()
	closed.Close()
	hosts = append(hosts, Host{Name: "down", Addr: "192.0.2.3", Peer: closed.Addr().String(), Client: closed.Addr().String()})
	for _, c := range change {
		c(hosts)
	}
	r.Network = New(hosts, patience)
	for _, h := range hosts {
		l := listen()
		r.socks[h.Name] = l.Addr().String()
		go r.ServeSOCKS(l, h.Name)
	}
	front := listen()
	r.front = front.Addr().String()
	go r.ServeClients(front, "m2")
	return r
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// open opens a connection from m1 to m2 and returns both its ends.
func (r *rig) open(t *testing.T) (m1, m2 net.Conn) {
	t.Helper()
	m1, err := Dial(soon(t), at(r.socks["m1"]), "192.0.2.2:2380")
	if err != nil {
		t.Fatal(err)
	}
	m2 = <-r.came["m2"]
	for _, c := range []net.Conn{m1, m2} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return m1, m2
}

func (r *rig) set(t *testing.T, owner, from, to string, rule lab.Rule) {
	t.Helper()
	if err := r.Set(soon(t), owner, from, to, rule); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) clear(t *testing.T, owner string) {
	t.Helper()
	if err := r.Clear(soon(t), owner); err != nil {
		t.Fatal(err)
	}
}

// held waits until owner's rules have held something back.
func (r *rig) held(t *testing.T, owner string) {
	t.Helper()
	err := lab.Until(soon(t), "something to be held", func(ctx context.Context) error {
		rules, err := r.Rules(ctx)
		if err != nil {
			return err
		}
		for _, l := range rules {
			if l.Owner == owner && l.Held > 0 {
				return nil
			}
		}
		return errors.New("nothing is")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("heard %q, %v, want %q", got[:n], err, want)
	}
}

// silent fails when anything can be read from c now.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v, want silence", n, err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
}

func TestDialTellsWhatIsThere(t *testing.T) {
	r := newRig(t, 0)
	for addr, want := range map[string]error{
		"192.0.2.2:2380":  nil,
		"192.0.2.2:2379":  nil,
		"192.0.2.2:80":    syscall.ECONNREFUSED,
		"192.0.2.3:2380":  syscall.ECONNREFUSED,
		"192.0.2.77:2380": syscall.EHOSTUNREACH,
	} {
		c, err := Dial(soon(t), at(r.socks["m1"]), addr)
		if !errors.Is(err, want) {
			t.Errorf("dial %s: %v, want %v", addr, err, want)
		}
		if err == nil {
			c.Close()
		}
	}
}

// A name leads where the DNS of the host that asks says, just then.
func TestNames(t *testing.T) {
	record := func(addr string) []lab.Record {
		return []lab.Record{{Name: "m2.lab.test", Type: "A", Data: addr}}
	}
	zone, err := names.New(record("192.0.2.2"))
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := zone.Serve("127.0.0.1:0", func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, time.Second, func(hosts []Host) { hosts[0].Names = resolver })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go r.ServeSOCKS(l, "m1")
	dial := func(name string, want error) {
		t.Helper()
		c, err := Dial(soon(t), at(l.Addr().String()), name)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if c != nil {
			c.Close()
		}
	}
	dial("m2.lab.test:2380", nil)
	dial("192.0.2.2:2380", nil)
	dial("m2.lab.test:80", syscall.ECONNREFUSED)
	dial("m3.lab.test:2380", syscall.EHOSTUNREACH)
	for addr, want := range map[string]error{"192.0.2.3": syscall.ECONNREFUSED, "192.0.2.77": syscall.EHOSTUNREACH} {
		if err := zone.Set("stale", lab.ZoneChange{Without: record("192.0.2.2"), With: record(addr)}); err != nil {
			t.Fatal(err)
		}
		dial("m2.lab.test:2380", want)
	}
	if err := zone.Clear("stale"); err != nil {
		t.Fatal(err)
	}
	dial("m2.lab.test:2380", nil)
	// Where nobody resolves names there are none.
	if _, err := Dial(soon(t), at(r.socks["m2"]), "m2.lab.test:2380"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("without a DNS: %v", err)
	}
}

func TestDropOfOneDirection(t *testing.T) {
	r := newRig(t, 0)
	// Whoever opened the connection, what m1 sends is held and what m2 sends is not.
	for _, opener := range []string{"m1", "m2"} {
		t.Run("opened by "+opener, func(t *testing.T) {
			var m1, m2 net.Conn
			if opener == "m1" {
				m1, m2 = r.open(t)
			} else {
				var err error
				if m2, err = Dial(soon(t), at(r.socks["m2"]), "192.0.2.1:2380"); err != nil {
					t.Fatal(err)
				}
				m1 = <-r.came["m1"]
				defer m1.Close()
				defer m2.Close()
			}
			say(t, m1, "before")
			hear(t, m2, "before")
			r.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
			say(t, m1, "during ")
			r.held(t, "cut")
			silent(t, m2)
			say(t, m2, "back")
			hear(t, m1, "back")
			r.clear(t, "cut")
			say(t, m1, "after")
			hear(t, m2, "during after")
		})
	}
}

func TestDropLetsNobodyConnect(t *testing.T) {
	r := newRig(t, 0)
	r.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
	for _, from := range []string{"m1", "m2"} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		to := map[string]string{"m1": "192.0.2.2:2380", "m2": "192.0.2.1:2380"}[from]
		if _, err := Dial(ctx, at(r.socks[from]), to); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial from %s: %v, want no answer", from, err)
		}
		cancel()
	}
	// An attempt that waits goes on when the link is whole again.
	done := make(chan error, 1)
	go func() {
		c, err := Dial(soon(t), at(r.socks["m1"]), "192.0.2.2:2380")
		if err == nil {
			c.Close()
		}
		done <- err
	}()
	r.held(t, "cut")
	r.clear(t, "cut")
	if err := <-done; err != nil {
		t.Errorf("held attempt: %v", err)
	}
}

func TestPatience(t *testing.T) {
	r := newRig(t, 20*time.Millisecond)
	r.set(t, "cut", "m2", "m1", lab.Rule{Drop: true})
	if _, err := Dial(soon(t), at(r.socks["m1"]), "192.0.2.2:2380"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("dial: %v, want host unreachable", err)
	}
}

func TestDropHidesTheEnd(t *testing.T) {
	r := newRig(t, 0)
	for name, end := range map[string]func(*net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m1, m2 := r.open(t)
			r.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
			end(m1.(*net.TCPConn))
			silent(t, m2)
			// What m2 sends finds nobody, and the news of that is held as well.
			for range 5 {
				say(t, m2, "hello?")
			}
			silent(t, m2)
			r.clear(t, "cut")
			if _, err := m2.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read: %v, want an end", err)
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	r := newRig(t, 0)
	m1, m2 := r.open(t)
	say(t, m1, "request")
	m1.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(m2); err != nil || string(got) != "request" {
		t.Fatalf("read %q, %v", got, err)
	}
	say(t, m2, "answer")
	m2.Close()
	if got, err := io.ReadAll(m1); err != nil || string(got) != "answer" {
		t.Fatalf("read %q, %v", got, err)
	}
	err := lab.Until(soon(t), "the connection to be forgotten", func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.conns) > 0 {
			return errors.New("it is not")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReject(t *testing.T) {
	r := newRig(t, 0)
	m1, m2 := r.open(t)
	r.set(t, "cut", "m1", "m2", lab.Rule{Reject: true})
	for name, c := range map[string]net.Conn{"m1": m1, "m2": m2} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read at %s: %v, want a reset", name, err)
		}
	}
	if _, err := Dial(soon(t), at(r.socks["m1"]), "192.0.2.2:2380"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial from m1: %v, want refused", err)
	}
	if _, err := Dial(soon(t), at(r.socks["m2"]), "192.0.2.1:2380"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial from m2: %v, want refused", err)
	}
	r.clear(t, "cut")
	r.open(t)
}

func TestClients(t *testing.T) {
	r := newRig(t, 0)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", r.front)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	}
	live := dial()
	member := <-r.came["m2"]
	defer member.Close()
	say(t, live, "one")
	hear(t, member, "one")

	r.set(t, "cut", "m2", Client, lab.Rule{Drop: true})
	say(t, live, "two")
	hear(t, member, "two") // the other direction is whole
	say(t, member, "answer")
	r.held(t, "cut")
	silent(t, live)
	fresh := dial() // accepted, and then nothing
	say(t, fresh, "three")
	silent(t, fresh)
	r.clear(t, "cut")
	hear(t, live, "answer")
	second := <-r.came["m2"]
	defer second.Close()
	hear(t, second, "three")

	r.set(t, "cut", Client, "m2", lab.Rule{Reject: true})
	if _, err := live.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("live connection: %v, want a reset", err)
	}
	c, err := net.Dial("tcp", r.front)
	if err == nil { // the reset may come as early as that
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("new connection: %v, want a reset", err)
	}
}

// An end that gives up while its attempt to connect is held takes nothing with
// it that would be left behind.
func TestAbandonedAttempts(t *testing.T) {
	r := newRig(t, 0)
	r.set(t, "cut", Client, "m2", lab.Rule{Drop: true})
	for range 20 {
		c, err := net.Dial("tcp", r.front)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("hello"))
		c.Close()
	}
	err := lab.Until(soon(t), "all attempts to be forgotten", func(ctx context.Context) error {
		rules, _ := r.Rules(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.conns) > 0 || rules[0].Held < 20 {
			return errors.New("they are not")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The lower bounds are what the rules promise; how long a machine takes on top
// is its own affair.
func TestShaping(t *testing.T) {
	const size = 40_000
	for _, c := range []struct {
		name  string
		rule  lab.Rule
		least time.Duration // for size bytes, one way
	}{
		{"delay", lab.Rule{Delay: 100 * time.Millisecond}, 100 * time.Millisecond},
		{"jitter", lab.Rule{Delay: 50 * time.Millisecond, Jitter: 20 * time.Millisecond}, 30 * time.Millisecond},
		{"rate", lab.Rule{Rate: 200_000}, 190 * time.Millisecond},
		{"loss", lab.Rule{Loss: 0.3}, retransmission}, // all 28 segments at once: 1 in 20,000
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, 0)
			m1, m2 := r.open(t)
			for _, conn := range []net.Conn{m1, m2} { // a segment that is lost seven times takes 25 s
				conn.SetDeadline(time.Now().Add(2 * time.Minute))
			}
			r.set(t, "slow", "m1", "m2", c.rule)
			sent := make([]byte, size)
			for i := range sent {
				sent[i] = byte(rand.IntN(256))
			}
			start := time.Now()
			say(t, m1, string(sent))
			got := make([]byte, size)
			if _, err := io.ReadFull(m2, got); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < c.least {
				t.Errorf("took %s, want at least %s", took, c.least)
			}
			if !bytes.Equal(got, sent) {
				t.Error("what arrived is not what was sent")
			}
			rules, _ := r.Rules(soon(t))
			if rules[0].Held < size {
				t.Errorf("held %d bytes, want %d", rules[0].Held, size)
			}
			r.clear(t, "slow")
			say(t, m1, "quick")
			hear(t, m2, "quick")
		})
	}
}

func TestProbe(t *testing.T) {
	r := newRig(t, 0)
	if _, err := r.Probe(soon(t), "m1", "m2"); err != nil {
		t.Errorf("whole link: %v", err)
	}
	r.set(t, "slow", "m1", "m2", lab.Rule{Delay: 30 * time.Millisecond})
	r.set(t, "slow", "m2", "m1", lab.Rule{Delay: 20 * time.Millisecond})
	if rtt, err := r.Probe(soon(t), "m1", "m2"); err != nil || rtt < 50*time.Millisecond {
		t.Errorf("slow link: %s, %v, want at least 50ms", rtt, err)
	}
	r.set(t, "cut", "m2", "m1", lab.Rule{Drop: true})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.Probe(ctx, "m1", "m2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cut link: %v, want no answer", err)
	}
	if _, err := r.Probe(soon(t), "m1", "down"); err != nil {
		t.Errorf("other link: %v", err)
	}
	r.set(t, "cut", "m2", "m1", lab.Rule{Reject: true})
	if _, err := r.Probe(soon(t), "m1", "m2"); !errors.Is(err, errRefused) {
		t.Errorf("rejecting link: %v, want refused", err)
	}
	for _, p := range []pair{{"m1", "m1"}, {"m1", "m9"}, {"", "m1"}} {
		if _, err := r.Probe(soon(t), p.from, p.to); err == nil {
			t.Errorf("probe from %q to %q: want an error", p.from, p.to)
		}
	}
}

func TestOwners(t *testing.T) {
	r := newRig(t, 0)
	r.set(t, "a", "m1", "m2", lab.Rule{Delay: time.Second, Rate: 100, Loss: 0.5})
	r.set(t, "b", "m1", "m2", lab.Rule{Delay: 2 * time.Second, Jitter: time.Second, Rate: 50, Loss: 0.5})
	sum := func() lab.Rule { return r.link(pair{"m1", "m2"}).now.Load().sum }
	if got, want := sum(), (lab.Rule{Delay: 3 * time.Second, Jitter: time.Second, Rate: 50, Loss: 0.75}); got != want {
		t.Errorf("both: %+v, want %+v", got, want)
	}
	r.set(t, "b", "m1", "m2", lab.Rule{Drop: true})
	if got, want := sum(), (lab.Rule{Delay: time.Second, Rate: 100, Loss: 0.5, Drop: true}); got != want {
		t.Errorf("b replaced: %+v, want %+v", got, want)
	}
	r.clear(t, "a")
	r.clear(t, "a")
	rules, _ := r.Rules(soon(t))
	if len(rules) != 1 || rules[0].Owner != "b" || rules[0].From != "m1" || rules[0].To != "m2" || !rules[0].Rule.Drop {
		t.Errorf("a cleared: %+v", rules)
	}
	r.clear(t, "b")
	if rules, _ := r.Rules(soon(t)); len(rules) != 0 || !r.link(pair{"m1", "m2"}).quiet() {
		t.Errorf("all cleared: %+v", rules)
	}
	for _, bad := range []lab.Rule{{Loss: 1.1}, {Loss: -1}, {Delay: -1}, {Jitter: -1}, {Rate: -1}} {
		if err := r.Set(soon(t), "a", "m1", "m2", bad); err == nil {
			t.Errorf("%+v: want an error", bad)
		}
	}
}

// However the rules change while a stream flows, it arrives whole and in order.
func TestStreamSurvivesChanges(t *testing.T) {
	r := newRig(t, 0)
	m1, m2 := r.open(t)
	seed := rand.NewPCG(1, 2)
	rules := []lab.Rule{{Delay: time.Millisecond, Jitter: time.Millisecond}, {Drop: true}, {Rate: 20 << 20}, {Loss: 0.001}, {}}
	const size = 8 << 20
	sent, wrote := sha256.New(), make(chan struct{})
	go func() {
		defer close(wrote)
		random := rand.New(seed)
		buf := make([]byte, 10_000)
		for left := size; left > 0; {
			n := min(left, 1+random.IntN(len(buf)))
			for i := range buf[:n] {
				buf[i] = byte(random.Uint32())
			}
			sent.Write(buf[:n])
			if _, err := m1.Write(buf[:n]); err != nil {
				return
			}
			left -= n
		}
		m1.(*net.TCPConn).CloseWrite()
	}()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				r.Clear(context.Background(), "w")
				return
			case <-time.After(3 * time.Millisecond):
				r.Set(context.Background(), "w", "m1", "m2", rules[i%len(rules)])
			}
		}
	}()
	got := sha256.New()
	n, err := io.Copy(got, m2)
	close(stop)
	<-stopped
	<-wrote
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d of %d bytes, %v; equal: %v", n, size, err, bytes.Equal(got.Sum(nil), sent.Sum(nil)))
	}
}

// at reaches a listener.
func at(addr string) func(context.Context) (net.Conn, error) {
	return new(Network).dialer(Client, addr)
}

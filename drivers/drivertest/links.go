package drivertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// links: the contract of lab.Links, seen by probes and by etcd itself.
func (s *suite) links(t *testing.T, c *lab.Cluster) {
	s.needs(t, lab.CapLinks)
	if c.Links == nil {
		t.Fatal("the driver has links and the cluster has none")
	}
	if c.LinksBy == "" {
		t.Error("nobody knows what makes the links")
	}
	t.Log("links:", c.LinksBy)
	l := linkTest{c}
	t.Run("drop", l.drop)
	t.Run("reject", l.reject)
	t.Run("slow", l.slow)
	t.Run("owners", l.owners)
	t.Run("clients", l.clients)
	t.Run("leader cut off", l.isolate)
	t.Run("leader not heard", l.oneWay)
	rules, err := c.Links.Rules(limit(t))
	if err != nil || len(rules) > 0 {
		t.Errorf("rules left: %v, %v", rules, err)
	}
}

type linkTest struct{ *lab.Cluster }

func (l linkTest) set(t *testing.T, owner, from, to string, r lab.Rule) {
	t.Helper()
	must(t, l.Links.Set(limit(t), owner, from, to, r))
	t.Cleanup(func() { l.Links.Clear(context.Background(), owner) })
}

func (l linkTest) clear(t *testing.T, owner string) {
	t.Helper()
	must(t, l.Links.Clear(limit(t), owner))
}

// held is how much owner's rules have held back.
func (l linkTest) held(t *testing.T, owner string) (n int64) {
	t.Helper()
	rules, err := l.Links.Rules(limit(t))
	must(t, err)
	for _, r := range rules {
		if r.Owner == owner {
			n += r.Held
		}
	}
	return n
}

// open expects all these links, written "m1 m2", to be whole.
func (l linkTest) open(t *testing.T, links ...string) {
	t.Helper()
	for _, link := range links {
		from, to, _ := strings.Cut(link, " ")
		if _, err := l.Links.Probe(limit(t), from, to); err != nil {
			t.Errorf("probe: %v", err)
		}
	}
}

// shut expects all these links to be dead silent.
func (l linkTest) shut(t *testing.T, links ...string) {
	t.Helper()
	for _, link := range links {
		from, to, _ := strings.Cut(link, " ")
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		if _, err := l.Links.Probe(ctx, from, to); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("probe from %s to %s: %v, want no answer", from, to, err)
		}
		cancel()
	}
}

func (l linkTest) drop(t *testing.T) {
	l.open(t, "m1 m2", "m2 m1", "m1 m4", "client m1", "m1 client")
	l.set(t, "cut", "m1", "m2", lab.Rule{Drop: true})
	// A handshake needs both directions.
	l.shut(t, "m1 m2", "m2 m1")
	l.open(t, "m1 m3", "m3 m1", "m2 m3", "client m1", "client m2")
	if l.held(t, "cut") == 0 {
		t.Error("nothing was held")
	}
	l.clear(t, "cut")
	l.open(t, "m1 m2", "m2 m1")
}

func (l linkTest) reject(t *testing.T) {
	l.set(t, "cut", "m1", "m2", lab.Rule{Reject: true})
	for _, p := range [][2]string{{"m1", "m2"}, {"m2", "m1"}} {
		if _, err := l.Links.Probe(limit(t), p[0], p[1]); !refused(err) {
			t.Errorf("probe from %s to %s: %v, want refused", p[0], p[1], err)
		}
	}
	l.open(t, "m1 m3", "m3 m2")
	l.clear(t, "cut")
	l.open(t, "m1 m2", "m2 m1")
}

// slow measures the lower bounds that delay, rate and loss promise.
func (l linkTest) slow(t *testing.T) {
	l.set(t, "slow", "m1", "m2", lab.Rule{Delay: 60 * time.Millisecond})
	l.set(t, "slow", "m2", "m1", lab.Rule{Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond})
	if rtt, err := l.Links.Probe(limit(t), "m1", "m2"); err != nil || rtt < 90*time.Millisecond {
		t.Errorf("delay: %s, %v, want 90ms or more", rtt, err)
	}
	if l.held(t, "slow") == 0 {
		t.Error("nothing was delayed")
	}
	l.clear(t, "slow")
	// A lost segment comes after the least time TCP waits before it sends again.
	l.set(t, "slow", "m1", "m2", lab.Rule{Loss: 0.5})
	until(t, "a loss", func(ctx context.Context) error {
		if rtt, err := l.Links.Probe(ctx, "m1", "m2"); err != nil || rtt < 200*time.Millisecond {
			return fmt.Errorf("a probe took %s, %v", rtt, err)
		}
		return nil
	})
	l.clear(t, "slow")

	m := l.Seats[0]
	cli := client(t, l.Cluster, m)
	took := func(do func() error) time.Duration {
		t.Helper()
		start := time.Now()
		must(t, do())
		return time.Since(start)
	}
	get := func() error { return read(cli, patience) }
	must(t, get()) // connected
	l.set(t, "slow", m.Name, "client", lab.Rule{Delay: 80 * time.Millisecond})
	if d := took(get); d < 80*time.Millisecond {
		t.Errorf("read over a delayed link: %s", d)
	}
	l.set(t, "slow", m.Name, "client", lab.Rule{})
	l.set(t, "slow", "client", m.Name, lab.Rule{Rate: 200_000})
	big := strings.Repeat("x", 100_000)
	if d := took(func() error { _, err := cli.Put(limit(t), "big", big); return err }); d < 450*time.Millisecond {
		t.Errorf("100 kB at 200 kB/s: %s", d)
	}
	l.clear(t, "slow")
	must(t, get())
}

func (l linkTest) owners(t *testing.T) {
	l.set(t, "one", "m1", "m2", lab.Rule{Delay: 30 * time.Millisecond})
	l.set(t, "two", "m1", "m2", lab.Rule{Drop: true})
	l.set(t, "two", "m1", "m2", lab.Rule{Delay: 50 * time.Millisecond}) // replaces
	rules, err := l.Links.Rules(limit(t))
	must(t, err)
	var owners []string
	for _, r := range rules {
		if r.From != "m1" || r.To != "m2" {
			t.Errorf("a rule on %s to %s", r.From, r.To)
		}
		owners = append(owners, fmt.Sprint(r.Owner, " ", r.Rule.Delay))
	}
	slices.Sort(owners)
	if want := []string{"one 30ms", "two 50ms"}; !slices.Equal(owners, want) {
		t.Errorf("rules %v, want %v", owners, want)
	}
	if rtt, err := l.Links.Probe(limit(t), "m1", "m2"); err != nil || rtt < 80*time.Millisecond {
		t.Errorf("both delays: %s, %v", rtt, err)
	}
	l.clear(t, "one")
	l.clear(t, "one")
	if rules, err = l.Links.Rules(limit(t)); err != nil || len(rules) != 1 || rules[0].Owner != "two" {
		t.Errorf("rules %v, %v, want those of two", rules, err)
	}
	l.clear(t, "two")
	for _, bad := range []struct{ from, to string }{{"m1", "m9"}, {"", "m1"}, {"m1", "m1"}} {
		if err := l.Links.Set(limit(t), "bad", bad.from, bad.to, lab.Rule{Drop: true}); err == nil {
			t.Errorf("a rule from %q to %q was taken", bad.from, bad.to)
		}
	}
}

// clients: what a client with an open connection sees.
func (l linkTest) clients(t *testing.T) {
	m := l.Seats[0]
	cli := client(t, l.Cluster, m)
	must(t, read(cli, patience))
	for _, dir := range [][2]string{{"client", m.Name}, {m.Name, "client"}} {
		l.set(t, "cut", dir[0], dir[1], lab.Rule{Drop: true})
		if err := read(cli, 300*time.Millisecond); err == nil {
			t.Errorf("%s to %s cut: the open connection still answers", dir[0], dir[1])
		}
		if l.held(t, "cut") == 0 {
			t.Errorf("%s to %s cut: nothing was held", dir[0], dir[1])
		}
		if err := read(client(t, l.Cluster, l.Seats[1]), patience); err != nil {
			t.Errorf("%s to %s cut: %s does not answer: %v", dir[0], dir[1], l.Seats[1].Name, err)
		}
		l.clear(t, "cut")
		must(t, read(cli, patience))
	}
	l.set(t, "cut", "client", m.Name, lab.Rule{Reject: true})
	if err := read(cli, 300*time.Millisecond); err == nil {
		t.Error("rejected: the open connection still answers")
	}
	l.clear(t, "cut")
	must(t, read(cli, patience))
}

// isolate cuts the leader off from the others, both ways: they elect another
// one, it steps down, and follows when the links are whole again.
func (l linkTest) isolate(t *testing.T) {
	l.partition(t, func(leader, other string) {
		l.set(t, "cut", leader, other, lab.Rule{Drop: true})
		l.set(t, "cut", other, leader, lab.Rule{Drop: true})
	})
}

// oneWay silences the leader: it hears the others, and they do not hear it.
// Only streams that are open already tell them so.
func (l linkTest) oneWay(t *testing.T) {
	l.partition(t, func(leader, other string) {
		l.set(t, "cut", leader, other, lab.Rule{Drop: true})
	})
}

func (l linkTest) partition(t *testing.T, cut func(leader, other string)) {
	voters := l.Seats[:3]
	old := leader(t, l.Cluster, voters...)
	var rest []*lab.Member
	for _, m := range voters {
		if m != old {
			rest = append(rest, m)
			cut(old.Name, m.Name)
		}
	}
	leader(t, l.Cluster, rest...)
	put(t, client(t, l.Cluster, rest...), "key", "without the old leader")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := client(t, l.Cluster, old).Put(ctx, "split", "brain"); err == nil {
		t.Error("the old leader took a write")
	}
	if l.held(t, "cut") == 0 {
		t.Error("nothing was held")
	}
	l.clear(t, "cut")
	leader(t, l.Cluster, voters...)
	got, err := client(t, l.Cluster, old).Get(limit(t), "key", clientv3.WithLimit(1))
	if err != nil || string(got.Kvs[0].Value) != "without the old leader" {
		t.Errorf("the old leader reads %v, %v", got, err)
	}
}

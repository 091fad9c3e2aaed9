package fault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
)

// inject breaks and waits until it bites.
func (b *bed) inject(t *testing.T, f lab.Fault) (*lab.Env, []byte) {
	t.Helper()
	e := b.env(t.Name() + "-1")
	b.aim(f, e)
	book := ledger(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.Inject(ctx, e); err != nil {
		t.Fatal(err)
	}
	until(t, f, e, lab.Bites)
	return e, book
}

// heal heals from the ledger and waits until it is gone, twice.
func (b *bed) heal(t *testing.T, f lab.Fault, e *lab.Env, book []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 {
		healer := again(t, book, f)
		if err := healer.Heal(ctx, later(e)); err != nil {
			t.Fatal(err)
		}
		until(t, healer, later(e), lab.Gone)
	}
}

// dismiss removes a seat's member from the cluster, through the others.
func (b *bed) dismiss(t *testing.T, name string) {
	t.Helper()
	b.insist(t, "remove "+name, func(ctx context.Context) error {
		m := b.member(name)
		l, err := etcd.Members(ctx, b.Cluster, false, b.others(m)...)
		if err != nil {
			return err
		}
		listed, ok := l.Of(m)
		if !ok {
			return nil
		}
		cli, err := etcd.Client(b.Cluster, b.others(m)...)
		if err != nil {
			return err
		}
		defer cli.Close()
		_, err = cli.MemberRemove(ctx, listed.ID)
		return err
	})
}

// engage adds a seat's member anew and starts it on an empty directory.
func (b *bed) engage(t *testing.T, name string) {
	t.Helper()
	m := b.member(name)
	b.insist(t, "add "+name, func(ctx context.Context) error {
		cli, err := etcd.Client(b.Cluster, b.others(m)...)
		if err != nil {
			return err
		}
		defer cli.Close()
		r, err := cli.MemberAdd(ctx, []string{m.PeerURL})
		if err != nil {
			return err
		}
		l, err := etcd.Members(ctx, b.Cluster, false, b.others(m)...)
		if err != nil {
			return err
		}
		if _, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", "--", m.DataDir}}); err != nil {
			return err
		}
		t.Logf("%s is member %x now", name, r.Member.ID)
		return etcd.Reconfigure(ctx, m, func(s *etcd.Settings) {
			s.Set("initial-cluster", etcd.Join{Cluster: l.Initial()}.String())
			s.Set("initial-cluster-state", etcd.StateExisting)
		})
	})
	b.start(t, name)
}

// insist repeats what etcd refuses while members have not been connected long
// enough.
func (b *bed) insist(t *testing.T, what string, do func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := lab.Until(ctx, what, do); err != nil {
		t.Fatal(err)
	}
}

// same fails unless all members serve and hold the same data.
func (b *bed) same(t *testing.T, seats ...*lab.Member) {
	t.Helper()
	b.insist(t, "equal hashes", func(ctx context.Context) error {
		hashes, err := etcd.Hashes(ctx, b.Cluster, seats...)
		if err == nil && !etcd.Equal(hashes) {
			err = errors.New(etcd.Describe(hashes))
		}
		return err
	})
}

// What a drill replaces, a fault must not bring back: two lives of one member
// never mix.
func TestReplaced(t *testing.T) {
	t.Parallel()
	all := newBed(t, spec(3, 0))
	sub := func(name string, test func(t *testing.T, b *bed)) {
		t.Run(name, func(t *testing.T) { test(t, &bed{t, all.Cluster, all.look}) })
	}
	sub("wipe", func(t *testing.T, b *bed) {
		f := &fault.Wipe{Member: on("m2")}
		e, book := b.inject(t, f)
		b.dismiss(t, "m2")
		b.engage(t, "m2")
		b.ready(3)
		before, err := b.member("m2").Proc.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.heal(t, f, e, book)
		after, err := b.member("m2").Proc.State(t.Context())
		if err != nil || after.PID != before.PID || after.Started != before.Started {
			t.Errorf("the new member was touched: %+v, was %+v, %v", after, before, err)
		}
		b.same(t, b.Seats...)
	})
	sub("corrupt", func(t *testing.T, b *bed) {
		if err := b.put("a", "b"); err != nil {
			t.Fatal(err)
		}
		f := &fault.Corrupt{Member: on("m3"), What: "wal-flip"}
		e, book := b.inject(t, f)
		b.dismiss(t, "m3")
		b.engage(t, "m3")
		b.ready(3)
		b.heal(t, f, e, book)
		b.same(t, b.Seats...)
	})
	sub("destroy-half", func(t *testing.T, b *bed) {
		// Killed, and then it came no further.
		f := &fault.Destroy{Member: on("m1")}
		e := b.env(t.Name())
		b.aim(f, e)
		if err := b.member("m1").Proc.Signal(t.Context(), "KILL"); err != nil {
			t.Fatal(err)
		}
		never(t, f, e, "only killed")
		b.heal(t, f, e, ledger(t, f))
		b.ready(3)
	})
	sub("destroy", func(t *testing.T, b *bed) {
		f := &fault.Destroy{Member: on("m1")}
		never(t, f, b.env("nothing"), "nothing was injected")
		e, book := b.inject(t, f)
		b.heal(t, f, e, book)
		if st, err := b.member("m1").Proc.State(t.Context()); err != nil || st.Running {
			t.Errorf("healing brought it back: %+v, %v", st, err)
		}
		b.dismiss(t, "m1")
		b.engage(t, "m1")
		b.ready(3)
		b.heal(t, f, e, book)
		b.same(t, b.Seats...)
	})
	sub("crash", func(t *testing.T, b *bed) {
		f := &fault.Crash{Member: on("m3")}
		e, book := b.inject(t, f)
		b.dismiss(t, "m3")
		b.heal(t, f, e, book)
		if st, err := b.member("m3").Proc.State(t.Context()); err != nil || st.Running {
			t.Errorf("a removed member was brought back: %+v, %v", st, err)
		}
		b.same(t, b.Seats[:2]...)
	})
}

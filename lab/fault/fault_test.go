package fault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
)

func on(role string) lab.Target { return lab.Target{Role: role} }

// life is one subtest: the life of one fault on a shared cluster.
type life struct {
	name   string
	fault  lab.Fault
	during func(t *testing.T, b *bed, e *lab.Env)
}

func (b *bed) lives(n int, all ...life) {
	for _, l := range all {
		b.t.Run(l.name, func(t *testing.T) {
			b := &bed{t, b.Cluster, b.look}
			if err := b.put("Gabon", "Bona nit"); err != nil {
				t.Fatal(err)
			}
			b.cycle(l.fault, n, func(t *testing.T, e *lab.Env) {
				if l.during != nil {
					l.during(t, b, e)
				}
			})
			b.ready(n)
		})
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	b.lives(3,
		life{"crash", &fault.Crash{Member: on("leader")}, nil},
		life{"crash-majority", &fault.Crash{Member: on("majority")}, func(t *testing.T, b *bed, e *lab.Env) {
			if err := b.put("Gabon", "x"); err == nil {
				t.Error("a write is accepted without a quorum")
			}
		}},
		life{"stop", &fault.Stop{Member: on("leader")}, nil},
		life{"pause", &fault.Pause{Member: on("followers")}, nil},
		life{"wipe", &fault.Wipe{Member: on("follower")}, nil},
		// A careless start of a wiped member does not make its old data
		// worthless: it is still what the member needs.
		life{"wipe-and-start", &fault.Wipe{Member: on("m2")}, func(t *testing.T, b *bed, e *lab.Env) {
			b.start(t, "m2")
			b.ends(t, "m2", "has already been bootstrapped")
		}},
		life{"take-port-client", &fault.TakePort{Member: on("m2"), Port: "client"}, func(t *testing.T, b *bed, e *lab.Env) {
			b.start(t, "m2")
			b.ends(t, "m2", "address already in use")
		}},
		life{"take-port-peer", &fault.TakePort{Member: on("m3"), Port: "peer"}, nil},
	)
}

// Where hosts start their members again, what a fault killed stays dead, unless
// it is to be seen alive again.
func TestRevived(t *testing.T) {
	t.Parallel()
	s := spec(3, 0)
	s.Revive = true
	b := newBed(t, s)
	stays := func(name string) func(*testing.T, *bed, *lab.Env) {
		return func(t *testing.T, b *bed, e *lab.Env) {
			time.Sleep(1500 * time.Millisecond) // that nothing happens shows in time only
			if st, err := b.member(name).Proc.State(t.Context()); err != nil || st.Running {
				t.Errorf("%s: %+v, %v: want it dead", name, st, err)
			}
		}
	}
	f := &fault.Crash{Member: on("leader"), Revived: true}
	e := b.env("revived")
	b.aim(f, e)
	never(t, f, e, "nobody was killed")
	if err := f.Inject(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	until(t, f, e, lab.Bites)
	for range 2 {
		if err := f.Heal(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	until(t, f, e, lab.Gone)
	b.ready(3)
	b.lives(3,
		life{"told", &fault.Crash{Member: on("m2")}, stays("m2")},
		life{"stop", &fault.Stop{Member: on("m1")}, stays("m1")},
		life{"wipe", &fault.Wipe{Member: on("m3")}, stays("m3")},
	)
}

func (b *bed) member(name string) *lab.Member {
	b.t.Helper()
	m, err := b.Member(name)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

func (b *bed) start(t *testing.T, name string) {
	t.Helper()
	if err := b.member(name).Proc.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// ends waits until a member's process has ended with a text in its log.
func (b *bed) ends(t *testing.T, name, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m := b.member(name)
	err := lab.Until(ctx, "the process to end", func(ctx context.Context) error {
		st, err := m.Proc.State(ctx)
		if err == nil && st.Running {
			err = errors.New("it runs")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	log, err := m.Proc.Log(ctx, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), text) {
		t.Errorf("its log does not say %q", text)
	}
}

// serves waits until a member answers a serializable read.
func (b *bed) serves(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := lab.Until(ctx, name+" to serve", func(context.Context) error {
		_, err := b.get("Gabon", b.member(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	corrupt := func(what string) lab.Fault { return &fault.Corrupt{Member: on("m2"), What: what} }
	starts := func(text string) func(t *testing.T, b *bed, e *lab.Env) {
		return func(t *testing.T, b *bed, e *lab.Env) {
			b.start(t, "m2")
			b.ends(t, "m2", text)
		}
	}
	b.lives(3,
		life{"db-page", corrupt("db-page"), starts("panic")},
		life{"db-value", &fault.Corrupt{Member: on("m2"), What: "db-value", Key: "Gabon"}, func(t *testing.T, b *bed, e *lab.Env) {
			b.start(t, "m2")
			b.serves(t, "m2")
			if got, err := b.get("Gabon", b.member("m2")); err != nil || got == "Bona nit" {
				t.Errorf("the damaged member says %q, %v: expected another value", got, err)
			}
			if got, err := b.get("Gabon", b.member("m1")); err != nil || got != "Bona nit" {
				t.Errorf("a member that was not damaged says %q, %v", got, err)
			}
			// What the cluster acknowledged since must survive the healing.
			if err := b.put("since", "then"); err != nil {
				t.Error(err)
			}
		}},
		life{"db-empty", corrupt("db-empty"), nil},
		life{"db-gone", corrupt("db-gone"), nil},
		life{"wal-flip", corrupt("wal-flip"), starts("crc mismatch")},
		life{"wal-tail", corrupt("wal-tail"), func(t *testing.T, b *bed, e *lab.Env) { b.start(t, "m2") }},
		life{"wal-gone", corrupt("wal-gone"), nil},
	)
	if got, err := b.get("Gabon", b.member("m2")); err != nil || got != "Bona nit" {
		t.Errorf("after all is healed m2 says %q, %v", got, err)
	}
	if got, err := b.get("since", b.member("m2")); err != nil || got != "then" {
		t.Errorf("after all is healed m2 has lost a write: %q, %v", got, err)
	}
	hashes, err := etcd.Hashes(t.Context(), b.Cluster, b.Seats...)
	if err != nil || !etcd.Equal(hashes) {
		t.Errorf("the members' hashes: %s, %v", etcd.Describe(hashes), err)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(5, 0))
	var old *lab.Member // the leader that is cut off
	refuses := func(t *testing.T, b *bed, e *lab.Env) {
		for _, s := range e.Before {
			if s.Role == "leader" {
				old = b.member(s.Name)
			}
		}
		if err := b.put("Gabon", "x", old); err == nil {
			t.Errorf("%s accepts a write in a minority", old.Name)
		}
		var errs []error
		for _, m := range b.others(old) {
			err := b.put("Gabon", "Bona nit", m)
			if err == nil {
				return
			}
			errs = append(errs, err)
		}
		t.Errorf("nobody in the majority accepts a write: %v", errs)
	}
	cut := func(shape string) *fault.Cut {
		return &fault.Cut{Member: on("leader"), Shape: shape, Mode: "drop"}
	}
	oneWay := cut("one-way")
	oneWay.From, oneWay.To = on("m1"), on("m2, m3")
	reject := cut("isolate")
	reject.Mode, reject.Clients = "reject", true
	b.lives(5,
		life{"isolate", cut("isolate"), refuses},
		life{"isolate-reject", reject, func(t *testing.T, b *bed, e *lab.Env) {
			if _, err := b.get("Gabon", b.member(reject.Member.Names[0])); err == nil {
				t.Error("a client reaches who is cut off from clients")
			}
		}},
		life{"halves", cut("halves"), refuses},
		life{"bridge", cut("bridge"), nil},
		life{"ring", cut("ring"), nil},
		life{"one-way", oneWay, nil},
		life{"clients", cut("clients"), func(t *testing.T, b *bed, e *lab.Env) {
			if _, err := b.get("Gabon", b.leader(e)); err == nil {
				t.Error("a client reaches it")
			}
		}},
		life{"slow", &fault.Slow{Member: on("all"), Delay: 30 * time.Millisecond, Jitter: 10 * time.Millisecond, Clients: true}, nil},
		life{"slow-one-way", &fault.Slow{From: on("m1"), To: on("m2"), Delay: 50 * time.Millisecond}, nil},
		life{"loss", &fault.Slow{Member: on("follower"), Loss: 0.2}, nil},
		life{"throttle", &fault.Throttle{Member: on("m3"), Rate: 256 << 10, Clients: true}, nil},
		life{"throttle-one-way", &fault.Throttle{From: on("m1"), To: on("m2"), Rate: 64 << 10}, nil},
	)
}

// Each fault sees its own effect inside another one, and heals only that.
func TestNested(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	slow := &fault.Slow{Member: on("all"), Delay: 60 * time.Millisecond}
	e, book := b.inject(t, slow)
	for _, inner := range []lab.Fault{
		&fault.Cut{Member: on("m3"), Shape: "isolate", Mode: "drop"},
		&fault.Slow{From: on("m1"), To: on("m2"), Delay: 50 * time.Millisecond},
		&fault.Throttle{From: on("m1"), To: on("m2"), Rate: 32 << 10},
	} {
		e := b.env(fmt.Sprintf("inner %T", inner))
		b.aim(inner, e)
		never(t, inner, e, "only the outer fault is there")
		if err := inner.Inject(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		until(t, inner, e, lab.Bites)
		b.heal(t, inner, e, ledger(t, inner))
	}
	until(t, slow, e, lab.Bites)
	b.heal(t, slow, e, book)
	b.ready(3)
}

func (b *bed) leader(e *lab.Env) *lab.Member {
	for _, s := range e.Before {
		if s.Role == "leader" {
			return b.member(s.Name)
		}
	}
	b.t.Fatal("there was no leader")
	return nil
}

func (b *bed) others(not *lab.Member) []*lab.Member {
	var out []*lab.Member
	for _, m := range b.Seats {
		if m != not {
			out = append(out, m)
		}
	}
	return out
}

func TestDisks(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	if why := b.Caps.Lacks([]lab.Cap{lab.CapTrace}); why != nil {
		t.Skip(why)
	}
	slow := func(file, call string) lab.Fault {
		return &fault.SlowDisk{Member: on("leader"), File: file, Call: call, Delay: 30 * time.Millisecond}
	}
	fail := func(file, call, errno string) lab.Fault {
		return &fault.FailDisk{Member: on("follower"), File: file, Call: call, Error: errno}
	}
	b.lives(3,
		life{"slow-wal-sync", slow("wal", "sync"), nil},
		life{"slow-wal-write", slow("wal", "write"), nil},
		life{"slow-db-sync", slow("db", "sync"), nil},
		life{"slow-db-write", slow("db", "write"), nil},
		life{"fail-wal-write", fail("wal", "write", "EIO"), nil},
		life{"fail-wal-sync", fail("wal", "sync", "EIO"), nil},
		life{"fail-db-write", fail("db", "write", "ENOSPC"), nil},
		life{"fail-db-sync", fail("db", "sync", "EIO"), nil},
	)
}

func TestStore(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	overload := func(kind string, size lab.Bytes) lab.Fault {
		return &fault.Overload{Clients: 30, Size: size, Kind: kind}
	}
	b.lives(3,
		life{"overload-watchers", overload("watchers", 32), nil},
		life{"overload-hot-key", overload("hot-key", 32), nil},
		life{"overload-puts", overload("puts", 32), nil},
		life{"fill", &fault.Fill{Member: on("leader")}, func(t *testing.T, b *bed, e *lab.Env) {
			if err := b.put("Gabon", "x"); err == nil || !strings.Contains(err.Error(), "database space exceeded") {
				t.Errorf("a write under the alarm: %v", err)
			}
			if _, err := b.get("Gabon"); err != nil {
				t.Errorf("a read under the alarm: %v", err)
			}
		}},
	)
	cli, err := etcd.Client(b.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	left, err := cli.Get(t.Context(), "etcdrill/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || left.Count != 0 {
		t.Errorf("%d keys of faults are left, %v", left.Count, err)
	}
}

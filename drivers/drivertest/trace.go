package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

const wal = "member/wal/*.wal"

// trace: the contract of lab.Tracer, on one of three members.
func (s *suite) trace(t *testing.T, c *lab.Cluster) {
	s.needs(t, lab.CapTrace)
	if c.Tracer == nil {
		t.Fatal("the driver has a tracer and the cluster has none")
	}
	ctx := limit(t)
	cli := client(t, c)
	hits := func(owner string) int {
		t.Helper()
		n, err := c.Tracer.Hits(ctx, owner)
		must(t, err)
		return n
	}
	must(t, c.Tracer.Inject(ctx, "slow", "m1", lab.Injection{Calls: []string{"fdatasync"}, Files: wal, Delay: time.Millisecond}))
	if err := c.Tracer.Inject(ctx, "other", "m1", lab.Injection{Calls: []string{"write"}, Files: wal, Delay: time.Millisecond}); err == nil {
		t.Error("a process has two tracers")
	}
	until(t, "a call to be hit", func(context.Context) error {
		put(t, cli, "key", "traced")
		if hits("slow") == 0 {
			return errors.New("none was")
		}
		return nil
	})
	must(t, c.Tracer.Clear(ctx, "slow"))
	must(t, c.Tracer.Clear(ctx, "slow"))
	n := hits("slow")
	for i := range 5 {
		put(t, cli, "key", fmt.Sprint("untraced ", i))
	}
	if hits("slow") != n {
		t.Error("calls are hit after the injection was cleared")
	}

	// Two calls pass, the third fails, and that is the end of a member (FE37: a
	// failing WAL sync is fatal to etcd).
	must(t, c.Tracer.Inject(ctx, "fail", "m1", lab.Injection{Calls: []string{"fdatasync"}, Files: wal, Errno: "EIO", After: 2}))
	until(t, "the member to end", func(ctx context.Context) error {
		cli.Put(ctx, "key", "until it ends") // which may tear it
		st, err := c.Seats[0].Proc.State(ctx)
		if err != nil {
			return err
		}
		if st.Running {
			return errors.New("it runs")
		}
		return nil
	})
	if hits("fail") == 0 {
		t.Error("it ended without a hit")
	}
	if log, err := c.Seats[0].Proc.Log(ctx, 8192); err != nil || !bytes.Contains(log, []byte("input/output error")) {
		t.Errorf("its log does not say why: %v", err)
	}
	must(t, c.Tracer.Clear(ctx, "fail"))
	must(t, c.Seats[0].Proc.Start(ctx))
	leader(t, c, c.Seats[:3]...)

	for name, in := range map[string]lab.Injection{
		"no such file": {Calls: []string{"write"}, Files: "member/nothing/*", Errno: "EIO"},
		"no such call": {Calls: []string{"frobnicate"}, Files: wal, Errno: "EIO"},
		"no effect":    {Calls: []string{"write"}, Files: wal},
	} {
		if err := c.Tracer.Inject(ctx, "bad", "m1", in); err == nil {
			t.Errorf("%s: it was injected", name)
		}
	}
	if err := c.Tracer.Inject(ctx, "bad", "m4", lab.Injection{Calls: []string{"write"}, Files: wal, Errno: "EIO"}); !errors.Is(err, lab.ErrNotRunning) {
		t.Errorf("a spare: %v, want that nothing runs there", err)
	}
}

// single: a member that nobody can join, and a slow disk that its only client
// feels.
func (s *suite) single(t *testing.T) {
	sp := spec(1)
	sp.Peers, sp.TLS = "loopback", "off"
	c := s.up(t, sp)
	cli := client(t, c)
	put(t, cli, "key", "value")
	s.needs(t, lab.CapTrace)
	ctx := limit(t)
	must(t, c.Tracer.Inject(ctx, "slow", "m1", lab.Injection{Calls: []string{"fdatasync"}, Files: wal, Delay: 150 * time.Millisecond}))
	start := time.Now()
	put(t, cli, "key", "slow")
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("a write took %s with a disk that needs 150ms", took)
	}
	must(t, c.Tracer.Clear(ctx, "slow"))
	put(t, cli, "key", "quick")
}

package recovery_test

import (
	"context"
	"fmt"
	"path"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// revision is that of the cluster that serves.
func (b *bench) revision() (rev int64) {
	b.t.Helper()
	b.Client(b.t, func(ctx context.Context, cli *clientv3.Client) error {
		r, err := cli.Get(ctx, "x")
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	return rev
}

// left lists what an operation may have forgotten on the hosts.
func (b *bench) left(patterns ...string) string {
	b.t.Helper()
	var out []string
	for _, m := range b.Seats {
		for _, p := range patterns {
			r, err := m.Host.Run(b.t.Context(), lab.Cmd{Argv: []string{"find", m.Host.Dir(), "-name", p}})
			if err != nil {
				b.t.Fatal(err)
			}
			out = append(out, strings.Fields(string(r.Stdout))...)
		}
	}
	return strings.Join(out, " ")
}

func TestSwitchBySnapshot(t *testing.T) {
	b := up(t, 2, 2)
	b.put("kept", "1")
	old, _ := b.cluster()
	there := func(o operation.Options, change func(*recovery.Switch)) error {
		op := &recovery.Switch{To: []string{"m3", "m4"}, Method: "snapshot"}
		if change != nil {
			change(op)
		}
		if err := op.Valid(); err != nil {
			t.Fatal(err)
		}
		return operation.Run(t.Context(), b.Env, "switch", op, o)
	}

	b.refused(there(operation.Options{}, func(s *recovery.Switch) { s.To = []string{"m2", "m3"} }), "none that is a member")
	for _, s := range []recovery.Switch{
		{To: []string{"m3"}, Method: "magic"},
		{To: []string{"m3"}, Method: "stretch", Bump: true},
		{To: []string{"m3", "m3"}, Method: "snapshot"},
		{Method: "snapshot"},
	} {
		if s.Valid() == nil {
			t.Errorf("%+v is taken for good", s)
		}
	}

	// A write slips in between the snapshot and the stop: it is seen, and kept.
	err := there(operation.Options{Written: func(n int) error {
		if n != 6 { // the plan, two steps, and the beginning of the third
			return nil
		}
		m := b.Seats[0]
		_, err := m.Host.Run(t.Context(), lab.Cmd{Argv: []string{path.Join(m.Bin, "etcdctl"), "--endpoints=unix://" + path.Join(m.Host.Dir(), "door"), "put", "slipped", "in"}})
		return err
	}}, nil)
	if err == nil || !strings.Contains(err.Error(), "written to meanwhile") || !strings.Contains(err.Error(), "everything was undone") {
		t.Fatalf("a write slipped in: %v", err)
	}
	if now, voters := b.cluster(); now != old || voters != 2 {
		t.Errorf("after the way back cluster %x serves with %d voters, want %x with 2", now, voters, old)
	}
	b.has("slipped", "in")

	before := b.revision()
	if err := there(operation.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	first, voters := b.cluster()
	if first == old || voters != 2 || b.revision() != before {
		t.Errorf("cluster %x at revision %d with %d voters, want another one than %x at %d with 2", first, b.revision(), voters, old, before)
	}
	b.has("kept", "1")
	b.has("slipped", "in")
	if said := b.Notes(); !strings.Contains(said, fmt.Sprintf("has at revision %d what the old members had", before)) || !strings.Contains(said, "the world stood still for") {
		t.Errorf("it did not say how it went:\n%s", said)
	}

	// And back, onto the hosts that were left, far above.
	b.put("kept", "2")
	if err := there(operation.Options{}, func(s *recovery.Switch) { s.To, s.Bump = []string{"m1", "m2"}, true }); err != nil {
		t.Fatal(err)
	}
	if now, _ := b.cluster(); now == first || now == old || b.revision() < 1_000_000_000 {
		t.Errorf("cluster %x at revision %d, want one that never was, above a billion", now, b.revision())
	}
	b.has("kept", "2")
	if left := b.left("door", "switch-*", "restore-*", "*.open-*"); left != "" {
		t.Errorf("left: %s", left)
	}
	if err := recovery.Discard(t.Context(), b.Env); err != nil {
		t.Error(err)
	}
	if left := b.left("before-*"); left != "" {
		t.Errorf("left after all was discarded: %s", left)
	}
}

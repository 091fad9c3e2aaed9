package action_test

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// calmly is quickly with etcd's own ticks: members are killed here when others
// are already down, and an election too many says nothing.
func calmly(s *lab.Spec) {
	quickly(s)
	s.Heartbeat, s.Election = 100*time.Millisecond, time.Second
}

// rot puts another value of the same length into a member's database.
func (b *bench) rot(t *testing.T, name, was, is string) {
	t.Helper()
	b.must(t, &action.Stop{}, "member="+name)
	m, err := b.Member(name)
	if err != nil {
		t.Fatal(err)
	}
	file := path.Join(m.DataDir, "member", "snap", "db")
	data, err := m.Host.Get(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(was)) || len(was) != len(is) {
		t.Fatalf("the database of %s has no %q that could become %q", name, was, is)
	}
	if err := m.Host.Put(t.Context(), file, 0o600, bytes.ReplaceAll(data, []byte(was), []byte(is))); err != nil {
		t.Fatal(err)
	}
	b.must(t, &action.Start{}, "member="+name, "ready=true")
}

// alarmed are the alarms of the cluster.
func (b *bench) alarmed(t *testing.T, through string) []string {
	t.Helper()
	m, err := b.Member(through)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	alarms, err := etcd.Alarms(ctx, &lab.Env{Cluster: b.Cluster}, m)
	if err != nil {
		t.Fatal(err)
	}
	return alarms
}

// raise raises CORRUPT for a member id, as a check of etcd's own does.
func (b *bench) raise(t *testing.T, id uint64) {
	t.Helper()
	cli, err := etcd.Client(b.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = lab.Until(ctx, "an alarm to be raised", func(ctx context.Context) error {
		_, err := pb.NewMaintenanceClient(cli.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_CORRUPT})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// reads wants a value in a linearizable read through each of the members.
func (b *bench) reads(t *testing.T, key, want string, through ...string) {
	t.Helper()
	for _, name := range through {
		m, err := b.Member(name)
		if err != nil {
			t.Fatal(err)
		}
		cli, err := etcd.Client(b.Cluster, m)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		r, err := cli.Get(ctx, key)
		cancel()
		cli.Close()
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != want {
			t.Errorf("%s through %s: %v, %v; want %q", key, name, r, err, want)
		}
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 1, calmly)
	b.limit = 3 * time.Minute
	id := func(name string) string { return b.status(t, name).ID }
	b.must(t, &action.Put{}, "key=truth", "value=what-is-right")

	// Without an alarm and with equal data there is nothing to do, and whom the
	// hashes speak for is not taken out.
	b.must(t, &action.Repair{})
	if n := b.Notes(); !strings.Contains(n, "nothing to do") {
		t.Errorf("repaired without damage: %s", n)
	}
	b.refused(t, "other data than the majority", &action.Repair{}, "member=m2")
	b.refused(t, "no member", &action.Repair{}, "member=m4")
	b.refused(t, "all are named as wrong", &action.Repair{}, "member=voters", "anyway=true")

	// One that does not answer is not taken for right.
	b.must(t, &action.Stop{}, "member=m3")
	b.refused(t, "for its data to be compared", &action.Repair{})
	b.must(t, &action.Start{}, "member=m3", "ready=true")

	// An alarm that a member left behind which is long gone: the data is equal.
	m3 := id("m3")
	b.raise(t, 0xdead)
	b.refused(t, "`repair` CORRUPT", &action.Shrink{}, "to=2")
	b.Notes()
	b.must(t, &action.Repair{}, "stay-away=200ms")
	if n := b.Notes(); !strings.Contains(n, "only the alarm") || !strings.Contains(n, "CORRUPT of dead") {
		t.Errorf("an alarm without damage: %s", n)
	}
	if alarms := b.alarmed(t, "m1"); len(alarms) > 0 || id("m3") != m3 {
		t.Errorf("alarms %v, m3 is %s and was %s", alarms, id("m3"), m3)
	}

	// The leader is wrong, and the alarm names another one. Taken back before
	// the removal all is as before; after it there is only the way forward.
	b.rot(t, "m3", "what-is-right", "what-is-wrong")
	b.must(t, &action.MoveLeader{}, "to=m3")
	b.raise(t, 0xdead)
	b.must(t, &action.Repair{}, fmt.Sprintf("cut=%d", cutAt(t, b, "remove m3", &action.Repair{})))
	if s := b.status(t, "m3"); s.Up {
		t.Errorf("m3 still serves: %+v", s)
	}
	b.must(t, &action.Rollback{})
	b.reads(t, "truth", "what-is-wrong", "m3")
	if id("m3") != m3 {
		t.Errorf("m3 is another member after the way back")
	}
	b.must(t, &action.MoveLeader{}, "to=m3")
	b.must(t, &action.Repair{}, fmt.Sprintf("cut=%d", cutAt(t, b, "disarm", &action.Repair{})))
	b.refused(t, "cannot go back behind step 2, remove m3", &action.Rollback{})
	b.must(t, &action.Resume{})
	b.reads(t, "truth", "what-is-right", "m1", "m2", "m3")
	b.counts(t, 3, 0)
	if alarms := b.alarmed(t, "m1"); len(alarms) > 0 || id("m3") == m3 {
		t.Errorf("alarms %v, m3 is %s and was %s", alarms, id("m3"), m3)
	}
	seat, err := b.Member("m3")
	if err != nil {
		t.Fatal(err)
	}
	if f := b.files(t, seat); !strings.Contains(f, seat.DataDir+"/left-") {
		t.Errorf("what m3 had does not lie aside: %s", f)
	}
	b.Notes()
	b.must(t, &action.Repair{})
	if n := b.Notes(); !strings.Contains(n, "nothing to do") {
		t.Errorf("repaired again: %s", n)
	}
}

// All three have other data: nobody tells who is right but who asks. Whoever
// goes is asked for his vote before.
func TestRepairWithoutMajority(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0, calmly)
	b.limit = 3 * time.Minute
	b.must(t, &action.Put{}, "key=truth", "value=what-is-right")
	b.rot(t, "m2", "what-is-right", "what-is-wrong")
	b.rot(t, "m3", "what-is-right", "what-is-worse")
	b.raise(t, 0)
	b.refused(t, "nobody else tells who is right", &action.Repair{})
	b.refused(t, "nobody else tells who is right", &action.Repair{}, "member=m2")

	// The removal is written down although the alarm forbids to write: who is
	// left alone goes on alone when it has crashed right then.
	args := []string{"member=m2, m3"}
	b.must(t, &action.Repair{}, append(args, fmt.Sprintf("cut=%d", cutAt(t, b, "disarm", &action.Repair{}, args...)))...)
	b.counts(t, 1, 0)
	m1 := b.Seats[0]
	if err := m1.Proc.Signal(t.Context(), "KILL"); err != nil {
		t.Fatal(err)
	}
	b.must(t, &action.Start{}, "member=m1") // not ready: /readyz knows of the alarm
	b.must(t, &action.Resume{})
	b.counts(t, 3, 0)
	b.reads(t, "truth", "what-is-right", "m1", "m2", "m3")
	if alarms := b.alarmed(t, "m1"); len(alarms) > 0 {
		t.Error(alarms)
	}
}

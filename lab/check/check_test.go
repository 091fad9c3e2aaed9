package check_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// bench is a lab under test.
type bench struct {
	*labtest.Lab
	cli *clientv3.Client
}

func up(t *testing.T, members, spares int, change func(*lab.Spec)) *bench {
	t.Helper()
	b := &bench{Lab: labtest.Up(t, members, spares, change)}
	var err error
	if b.cli, err = etcd.Client(b.Cluster, b.Seats[:members]...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.cli.Close() })
	return b
}

// mark is what the engine does before a break.
func (b *bench) mark(t *testing.T) { b.Before = b.Look(t.Context()) }

// verb makes a verb of words, the way the engine does.
func verb[V any](t *testing.T, b *bench, v V, args ...string) V {
	t.Helper()
	if err := labtest.Fill(v, args...); err != nil {
		t.Fatalf("%T: %s", v, err)
	}
	if err := b.Aim(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// one looks once.
func (b *bench) one(t *testing.T, v lab.Check, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	return verb(t, b, v, args...).Holds(ctx, b.Env)
}

// holds wants a check to hold, within some seconds.
func (b *bench) holds(t *testing.T, v lab.Check, args ...string) {
	t.Helper()
	v = verb(t, b, v, args...)
	// Without a quorum /readyz takes etcd's own time-out to say so, twice when
	// other reads wait already.
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	err := lab.Until(ctx, "it to hold", func(ctx context.Context) error { return v.Holds(ctx, b.Env) })
	if err != nil {
		t.Errorf("%T %v: %s", v, args, err)
	}
}

// fails wants an explicit finding.
func (b *bench) fails(t *testing.T, says string, v lab.Check, args ...string) {
	t.Helper()
	err := b.one(t, v, args...)
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(f.Error(), says) {
		t.Errorf("%T %v: want a failure that says %q, got %T: %v", v, args, says, err, err)
	}
}

// unsure wants "could not tell", which is neither yes nor no.
func (b *bench) unsure(t *testing.T, says string, v lab.Check, args ...string) {
	t.Helper()
	err := b.one(t, v, args...)
	var f *lab.Failure
	if err == nil || errors.As(err, &f) || !strings.Contains(err.Error(), says) {
		t.Errorf("%T %v: want an error that says %q and is no finding, got %T: %v", v, args, says, err, err)
	}
}

func (b *bench) do(t *testing.T, v lab.Action, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := verb(t, b, v, args...).Do(ctx, b.Env); err != nil {
		t.Fatalf("%T %v: %s", v, args, err)
	}
}

func (b *bench) leader(t *testing.T) *lab.Member {
	t.Helper()
	is := verb(t, b, &check.Lag{}, "member=leader", "max=0").Member
	m, err := etcd.Seat(b.Cluster, is)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (b *bench) signal(t *testing.T, m *lab.Member, name string) {
	t.Helper()
	if err := m.Proc.Signal(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		verb lab.Check
		args []string
		says string
	}{
		{&check.Leader{}, []string{"none=true", "same=true"}, "alone"},
		{&check.Leader{}, []string{"changed=true", "same=true"}, "one of them"},
		{&check.Term{}, nil, "grew"},
		{&check.Term{}, []string{"grew=true", "same=true"}, "grew"},
		{&check.Term{}, []string{"by=-1"}, "by"},
		{&check.Snapshot{}, nil, "expected snapshot or stored"},
		{&check.Snapshot{}, []string{"stored=1", "live=true"}, "with snapshot"},
		{&check.Snapshot{}, []string{"snapshot=a", "live=perhaps"}, "true or false"},
		{&check.File{}, []string{"member=m1", "path=/etc/passwd"}, "relative"},
		{&check.File{}, []string{"member=m1", "path=a/../../b"}, "relative"},
		{&check.File{}, []string{"member=m1", "path=a", "there=perhaps"}, "true or false"},
		{&check.Writes{}, nil, "one of accepted and refused"},
		{&check.Writes{}, []string{"accepted=true", "refused=true"}, "one of accepted and refused"},
		{&check.Reads{}, nil, "one of accepted and refused"},
		{&check.Value{}, []string{"key=k"}, "one of is and absent"},
		{&check.Value{}, []string{"key=k", "is=v", "absent=true"}, "one of is and absent"},
		{&check.Lease{}, []string{"name=l"}, "expected alive"},
		{&check.Lease{}, []string{"name=l", "alive=perhaps"}, "true or false"},
		{&check.Lease{}, []string{"name=l", "alive=false", "at-least=1s"}, "alone"},
		{&check.Members{}, nil, "expected healthy"},
		{&check.Members{}, []string{"equal=size"}, "expected hash"},
		{&check.Members{}, []string{"equal=hash", "differ=hash"}, "one of them"},
		{&check.Members{}, []string{"cluster=mine"}, "expected same"},
		{&check.Listing{}, []string{"member=m1", "absent=true", "same=true"}, "alone"},
		{&check.Listing{}, []string{"member=m1", "started=maybe"}, "true or false"},
		{&check.Listing{}, []string{"member=m1", "absent=true", "learner=true"}, "alone"},
		{&check.Revision{}, nil, "equal or at-least"},
		{&check.Lag{}, []string{"max=-1"}, "max"},
		{&check.Alarms{}, nil, "none and is"},
		{&check.Alarms{}, []string{"is=smoke"}, "nospace or corrupt"},
		{&check.Health{}, []string{"path=ready"}, "readyz"},
		{&check.Health{}, []string{"status=7"}, "HTTP status"},
		{&check.Process{}, nil, "running, log or exit"},
		{&check.Process{}, []string{"log=("}, "log"},
		{&check.Process{}, []string{"running=true", "exit=killed"}, "one of them"},
		{&check.Process{}, []string{"running=true", "ever=true"}, "with log"},
		{&check.Watch{}, []string{"name=w"}, "ends, silent"},
		{&check.Watch{}, []string{"name=w", "ends=x", "silent=true"}, "without"},
		{&check.Handshake{}, nil, "one of accepted and refused"},
		{&check.Handshake{}, []string{"port=health", "accepted=true"}, "client or peer"},
		{&check.Handshake{}, []string{"with=me", "accepted=true"}, "expected one of lab"},
		{&check.Handshake{}, []string{"shows=mine"}, "old or new"},
		{&check.Handshake{}, []string{"with=plain", "shows=new"}, "with TLS only"},
		{&check.Certificate{}, []string{"pair=ca"}, "server, peer or client"},
		{&check.Wiretap{}, nil, "one of heard and refused"},
		{&check.Wiretap{}, []string{"with=me", "heard=true"}, "expected one of lab"},
		{&check.User{}, []string{"name=ann", "may=all"}, "read, write, both or nothing"},
	} {
		if err := labtest.Fill(c.verb, c.args...); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%T %v: got %v, want it refused with %q", c.verb, c.args, err, c.says)
		}
	}
}

package action_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// files lists what lies in the directory of a host, and in its data directory.
func (b *bench) files(t *testing.T, m *lab.Member) string {
	t.Helper()
	out, err := m.Host.Run(t.Context(), lab.Cmd{Argv: []string{"sh", "-c", `ls -d "$1"* "$2"/*`, "sh", m.Config, m.DataDir}})
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out.Stdout)
}

// quickly lets etcd change its members without five seconds of connection.
func quickly(s *lab.Spec) { s.Flags = map[string]string{"strict-reconfig-check": "false"} }

func TestOperations(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 1, quickly)
	b.limit = time.Minute
	id := b.status(t, "m1").Cluster
	b.must(t, &action.Put{}, "key=kept", "value=yes")
	m1, m4 := b.Seats[0], b.Seats[3]

	// What must not be tried is not, and nothing is left of it.
	b.refused(t, "grow adds", &action.Shrink{}, "to=4")
	b.refused(t, "at most 2", &action.Grow{}, "to=2")
	b.refused(t, "hosts without a member: want 2", &action.Grow{}, "to=5")
	b.refused(t, "no member yet", &action.Replace{}, "member=m1", "with=m2")
	b.refused(t, "no member", &action.Replace{}, "member=m4", "with=m4")
	b.refused(t, "its own", &action.Replace{}, "member=m1", "with=m1")
	b.refused(t, "an unfinished operation, got none", &action.Resume{})
	if all, err := operation.List(b.Cluster); err != nil || len(all) > 0 {
		t.Fatalf("operations that were refused: %v %v", all, err)
	}

	// One that lives and leads is replaced last, and fenced.
	b.must(t, &action.MoveLeader{}, "to=m1")
	b.must(t, &action.Replace{}, "member=m1", "with=m4")
	b.counts(t, 3, 0)
	if s := b.status(t, "m4"); s.Cluster != id || s.Role == "learner" || !s.Up {
		t.Errorf("m4: %+v", s)
	}
	if f := b.files(t, m1); !strings.Contains(f, "/left-") || strings.Contains(f, m1.DataDir+"/member") || strings.Contains(f, m1.Config+"\n") {
		t.Errorf("m1 is not fenced: %s", f)
	}
	b.Notes()
	b.must(t, &action.Replace{}, "member=m1", "with=m4")
	if n := b.Notes(); !strings.Contains(n, "nothing to do") {
		t.Errorf("replaced again: %s", n)
	}

	// Cut while it was on its way, somebody changes the world: it is not gone on
	// with, until the world is as it was.
	b.must(t, &action.Shrink{}, "to=2", "members=m2", "cut=2")
	b.refused(t, "no unfinished operation", &action.Grow{}, "to=4")
	b.must(t, &action.MemberAdd{}, "member=m1", "start=false")
	b.refused(t, "members: want", &action.Resume{})
	b.must(t, &action.MemberRemove{}, "member=m1")
	b.must(t, &action.Resume{})
	b.counts(t, 2, 0)

	// What was removed while it lived comes back, anew, when that is undone.
	b.must(t, &action.Grow{}, "to=3", "with=m1")
	b.counts(t, 3, 0)
	old := b.status(t, "m4").ID
	b.must(t, &action.Shrink{}, "to=2", "members=m4", fmt.Sprintf("cut=%d", cutAt(t, b, "fence m4", &action.Shrink{}, "to=2", "members=m4")))
	b.must(t, &action.Rollback{})
	b.counts(t, 3, 0)
	if x, ok := b.list(t).Of(m4); !ok || x.Learner || x.HexID() == old {
		t.Errorf("m4 after the way back: %+v, was %s", x, old)
	}
	if got := b.value(t, "kept"); got != "yes" {
		t.Errorf("kept is %q", got)
	}
}

// cutAt is the number of records an operation has when a step begins.
func cutAt(t *testing.T, b *bench, step string, v interface {
	operation.Operation
	lab.Action
}, args ...string) int {
	t.Helper()
	if err := labtest.Fill(v, args...); err != nil {
		t.Fatal(err)
	}
	e := &lab.Env{Cluster: b.Cluster, Kit: b.Kit}
	if err := v.Decide(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	steps, err := v.Steps(e)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range steps {
		if s.Name == step {
			return 2*i + 2
		}
	}
	t.Fatalf("no step %q", step)
	return 0
}

// One by one: restarts, and space.
func TestOneByOne(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0, func(s *lab.Spec) { s.Quota = 16 << 20 })
	b.limit = time.Minute
	pids := func() map[string]int {
		out := map[string]int{}
		for _, m := range b.Seats {
			st, err := m.Proc.State(t.Context())
			if err != nil || !st.Running {
				t.Fatal(st, err)
			}
			out[m.Name] = st.PID
		}
		return out
	}
	before, first := pids(), b.leader(t)
	b.must(t, &action.RollingRestart{}, "cut=5") // two records a step: in the middle of the second one's stop
	b.must(t, &action.Resume{})
	for name, pid := range pids() {
		if pid == before[name] {
			t.Errorf("%s was not restarted", name)
		}
	}
	if now := b.leader(t); now == first {
		t.Errorf("%s still leads: nothing was handed over", now)
	}

	b.Notes()
	b.must(t, &action.FreeSpace{})
	b.must(t, &action.DefragAll{})
	if n := b.Notes(); strings.Count(n, "nothing to do") != 2 {
		t.Errorf("without an alarm, without free space: %s", n)
	}
	cli, err := etcd.Client(b.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	value := strings.Repeat("x", 1<<20)
	for err == nil && ctx.Err() == nil {
		_, err = cli.Put(ctx, "big", value)
	}
	if err == nil || !strings.Contains(err.Error(), "space exceeded") {
		t.Fatal(err)
	}
	b.refused(t, "alarms: want none", &action.Shrink{}, "to=1")
	b.must(t, &action.FreeSpace{})
	if _, err := cli.Put(ctx, "big", value); err != nil {
		t.Errorf("after space was freed: %s", err)
	}
	if alarms, err := etcd.Alarms(ctx, &lab.Env{Cluster: b.Cluster}, b.Seats[0]); err != nil || len(alarms) > 0 {
		t.Errorf("%v %v", alarms, err)
	}
}

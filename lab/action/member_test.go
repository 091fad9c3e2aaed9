package action_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func (b *bench) list(t *testing.T) etcd.Membership {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := etcd.Members(ctx, b.Cluster, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (b *bench) counts(t *testing.T, voters, learners int) {
	t.Helper()
	if l := b.list(t); l.Voters() != voters || l.Learners() != learners {
		t.Errorf("%d voters and %d learners, want %d and %d", l.Voters(), l.Learners(), voters, learners)
	}
}

func TestMembership(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 2, nil)
	id := b.status(t, "m1").Cluster

	// Right after the start etcd's guard refuses for five seconds; the action
	// knows why, and waits.
	b.must(t, &action.MemberAdd{}) // the first spare, as a learner
	b.counts(t, 3, 1)
	if s := b.status(t, "m4"); s.Role != "learner" || s.Cluster != id {
		t.Fatalf("m4: %+v", s)
	}
	b.Notes()
	b.must(t, &action.MemberAdd{}, "member=m4")
	if n := b.Notes(); !strings.Contains(n, "nothing to add") {
		t.Errorf("added again: %s", n)
	}
	b.counts(t, 3, 1)
	b.refused(t, "too many learner members", &action.MemberAdd{}, "member=m5", "start=false")

	b.must(t, &action.MemberPromote{})
	b.counts(t, 4, 0)
	b.must(t, &action.MemberPromote{}, "member=m4") // done already
	b.refused(t, "can only promote a learner", &action.MemberPromote{}, "member=m4", "now=true")

	b.must(t, &action.MoveLeader{}, "to=m4")
	if got := b.leader(t); got != "m4" {
		t.Errorf("%s leads, want m4", got)
	}

	b.must(t, &action.MemberRemove{}, "member=m4")
	b.counts(t, 3, 0)
	b.Notes()
	b.must(t, &action.MemberRemove{}, "member=m4")
	if n := b.Notes(); !strings.Contains(n, "nothing to remove") {
		t.Errorf("removed again: %s", n)
	}
	if s := b.status(t, "m4"); !s.Absent {
		t.Errorf("a removed member is a seat without one: %+v", s)
	}

	// It comes back with a directory of its earlier life: that must not be used.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.Seats[3].Proc.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	b.must(t, &action.MemberAdd{}, "member=m4", "start=false")
	if x, _ := b.list(t).Of(b.Seats[3]); x.Started() {
		t.Errorf("started though it was not to be: %+v", x)
	}
	b.refused(t, "sync with leader", &action.MemberPromote{}, "member=m4", "now=true")
	b.must(t, &action.MemberAdd{}, "member=m4") // half done, now the other half
	if s := b.status(t, "m4"); !s.Up || s.Role != "learner" {
		t.Errorf("m4: %+v", s)
	}
	out, err := b.Seats[3].Host.Run(ctx, lab.Cmd{Argv: []string{"ls", b.Seats[3].Host.Dir()}})
	if err != nil || !strings.Contains(string(out.Stdout), ".before-") {
		t.Errorf("the old data directory was not kept aside: %s %v", out.Stdout, err)
	}
	// As close as that it never comes: our refusal, not a time that is up.
	b.limit = time.Second
	b.refused(t, "m4 is not promoted", &action.MemberPromote{}, "member=m4", "lag=-1")
	b.limit = 0
	b.must(t, &action.MemberRemove{}, "member=learner")

	// A learner that nobody reaches hurts nobody, and is found by its wrong URL.
	b.must(t, &action.MemberAdd{}, "member=m5", "url=wrong")
	x, ok := b.list(t).Of(b.Seats[4])
	if !ok || x.PeerURLs[0] != etcd.WrongPeerURL(b.Cluster, b.Seats[4]) {
		t.Fatalf("m5: %+v", x)
	}
	if s := b.status(t, "m5"); s.Absent || s.Up || s.Role != "learner" {
		t.Errorf("m5: %+v", s)
	}
	b.must(t, &action.MemberRemove{}, "member=m5")

	// Its address can be changed and changed back; the id stays.
	follower := b.other(b.leader(t))
	before := b.status(t, follower.Name).ID
	b.must(t, &action.MemberUpdate{}, "member="+follower.Name, "url=wrong")
	b.must(t, &action.MemberUpdate{}, "member="+follower.Name, "url=own")
	if x, _ := b.list(t).Of(follower); x.PeerURLs[0] != follower.PeerURL || x.HexID() != before {
		t.Errorf("%s: %+v, id was %s", follower.Name, x, before)
	}

	// With one dead nothing may be added: etcd counts, and says no at once.
	if err := follower.Proc.Signal(ctx, "KILL"); err != nil {
		t.Fatal(err)
	}
	b.leader(t)
	begun := time.Now()
	b.refused(t, "unhealthy cluster", &action.MemberAdd{}, "member=m5", "learner=false", "start=false")
	third := b.other(follower.Name, b.leader(t))
	b.refused(t, "unhealthy cluster", &action.MemberRemove{}, "member="+third.Name)
	if n := strings.Count(b.Notes(), "refused as unhealthy though"); n > 0 {
		t.Errorf("waited for a guard that means it (%d times, %s)", n, time.Since(begun))
	}
	b.must(t, &action.MemberRemove{}, "member="+follower.Name)
	b.counts(t, 2, 0)
}

func TestProcess(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0, nil)
	lives := func() map[string]lab.ProcState {
		out := map[string]lab.ProcState{}
		for _, m := range b.Seats {
			st, err := m.Proc.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out[m.Name] = st
		}
		return out
	}
	leader := b.leader(t)
	term := b.status(t, leader).Term
	b.must(t, &action.Stop{}, "member="+leader)
	if lives()[leader].Running {
		t.Error("stopped, and runs")
	}
	if b.leader(t); b.status(t, b.leader(t)).Term <= term {
		t.Error("nobody took over")
	}
	b.must(t, &action.Stop{}, "member="+leader) // again
	b.must(t, &action.Start{}, "member="+leader, "ready=true")
	if s := b.status(t, leader); !s.Up {
		t.Errorf("ready, and does not answer: %+v", s)
	}
	first := lives()
	b.must(t, &action.Restart{}, "member=all", "rolling=true")
	for name, st := range lives() {
		if !st.Running || st.PID == first[name].PID && st.Started == first[name].Started {
			t.Errorf("%s was not restarted: %+v", name, st)
		}
	}
	// At once, and without the leader, which would wait for somebody to lead.
	first = lives()
	var two []string
	for _, m := range b.Seats {
		if m.Name != b.leader(t) {
			two = append(two, m.Name)
		}
	}
	b.must(t, &action.Restart{}, "member="+strings.Join(two, ", "))
	for name, st := range lives() {
		if again := first[name].PID != st.PID; again != slices.Contains(two, name) {
			t.Errorf("%s restarted: %v; only %v were to be", name, again, two)
		}
	}

	// Without its directory a member must not found a cluster.
	m3 := b.Seats[2]
	b.must(t, &action.Stop{}, "member=m3")
	mv := func(from, to string) {
		if _, err := m3.Host.Run(t.Context(), lab.Cmd{Argv: []string{"mv", from, to}}); err != nil {
			t.Fatal(err)
		}
	}
	mv(m3.DataDir, m3.DataDir+".away")
	b.refused(t, "begin with nothing", &action.Start{}, "member=m3", "state=new")
	if lives()["m3"].Running {
		t.Error("refused, and runs")
	}
	// It may be made to, and its end, right away or soon, is no error of the start.
	b.must(t, &action.Start{}, "member=m3", "state=new", "empty=true")
	if err := lab.Until(t.Context(), "m3 to find that it was bootstrapped before", func(context.Context) error {
		if lives()["m3"].Running {
			return errors.New("it runs")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := m3.Host.Run(t.Context(), lab.Cmd{Argv: []string{"rm", "-rf", m3.DataDir}}); err != nil {
		t.Fatal(err)
	}
	mv(m3.DataDir+".away", m3.DataDir)
	b.must(t, &action.Start{}, "member=m3", "state=new", "ready=true")

	set := func(kv ...string) lab.Action {
		r := &action.Reconfigure{Set: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			r.Set[kv[i]] = kv[i+1]
		}
		return r
	}
	b.must(t, set("snapshot-count", "1234", "peer-transport-security/skip-client-san-verification", "true"), "member=m1")
	s, err := etcd.ReadSettings(t.Context(), b.Seats[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Get("peer-transport-security/skip-client-san-verification"); got != true {
		t.Errorf("setting of a section: %v", got)
	}
	if got := s.Get("peer-transport-security/cert-file"); got == nil {
		t.Error("the rest of the section is gone")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	log := &check.Process{Member: lab.Target{Role: "m1", Names: []string{"m1"}}, Log: `"snapshot-count":1234`}
	if err := lab.Until(ctx, "etcd to say so", func(ctx context.Context) error { return log.Holds(ctx, &lab.Env{Cluster: b.Cluster}) }); err != nil {
		t.Error(err)
	}
	b.must(t, set("snapshot-count", ""), "member=m1", "restart=false")
	if s, err = etcd.ReadSettings(t.Context(), b.Seats[0]); err != nil || s.Get("snapshot-count") != nil {
		t.Errorf("taken away, and is %v, %v", s.Get("snapshot-count"), err)
	}
	// A setting etcd does not start with: what it says must be in the error.
	err = b.do(t, &action.Reconfigure{Set: map[string]string{"election-timeout": "60"}}, "member=m2")
	if err == nil {
		err = b.do(t, &action.Start{}, "member=m2", "ready=true")
	}
	if err == nil || !strings.Contains(err.Error(), "election-timeout") {
		t.Errorf("etcd refuses less than five heartbeats: %v", err)
	}
}

func TestForceNewCluster(t *testing.T) {
	t.Parallel()
	b := up(t, 2, 1, nil)
	b.must(t, &action.Put{}, "key=kept", "value=yes")
	b.refused(t, "m2 runs", &action.ForceNewCluster{}, "member=m1")
	if l := b.list(t); l.Voters() != 2 {
		t.Fatal("refused, and yet it did something")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.Seats[1].Proc.Signal(ctx, "KILL"); err != nil {
		t.Fatal(err)
	}
	before := b.status(t, "m1").Cluster
	b.must(t, &action.ForceNewCluster{}, "member=m1")
	if got := b.value(t, "kept"); got != "yes" {
		t.Errorf("kept is %q", got)
	}
	b.counts(t, 1, 0)
	if after := b.status(t, "m1"); after.Cluster != before {
		t.Errorf("cluster id %s, was %s: it is known to stay", after.Cluster, before)
	}
	s, err := etcd.ReadSettings(ctx, b.Seats[0])
	if err != nil || s.Get("force-new-cluster") != nil {
		t.Errorf("the flag is left in the configuration: %v %v", s.Get("force-new-cluster"), err)
	}
}

// P2: a single member on a loopback URL becomes one that others can join.
func TestLoopbackMember(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 1, func(s *lab.Spec) { s.Peers = "loopback" })
	was := b.status(t, "m1")
	if x, _ := b.list(t).Of(b.Seats[0]); !strings.HasPrefix(x.PeerURLs[0], "http://127.0.0.1:") {
		t.Fatalf("advertised: %v", x.PeerURLs)
	}
	b.must(t, &action.Put{}, "key=a", "value=b")
	b.must(t, &action.MemberUpdate{}, "member=m1", "url=lab")
	b.must(t, &action.Restart{}, "member=m1", "ready=true")
	x, _ := b.list(t).Of(b.Seats[0])
	if x.PeerURLs[0] != b.Seats[0].PeerURL || x.HexID() != was.ID {
		t.Errorf("%+v, id was %s", x, was.ID)
	}
	b.must(t, &action.MemberAdd{}, "member=m2")
	b.must(t, &action.MemberPromote{})
	b.counts(t, 2, 0)
	if got := b.value(t, "a"); got != "b" {
		t.Errorf("a is %q", got)
	}
}

func TestWatchAndWait(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	b.must(t, &action.Watch{}, "name=w", "key=w/", "prefix=true", "require-leader=true")
	w := b.Held.Get(etcd.WatchKey("w")).(*etcd.Watch)
	b.must(t, &action.Put{}, "key=w/1", "value=x")
	b.must(t, &action.Put{}, "key=elsewhere", "value=x")
	b.must(t, &action.Delete{}, "key=w/1")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Complete(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.Events(); len(got) != 2 || got[0].Key != "w/1" || got[0].Deleted || !got[1].Deleted {
		t.Errorf("events: %+v", got)
	}
	b.Held = nil
	if err := b.do(t, &action.Watch{}, "name=w", "key=w"); err == nil || !strings.Contains(err.Error(), "only a drill") {
		t.Errorf("by hand: %v", err)
	}
	b.Held = &lab.Held{}
	if err := b.do(t, &action.Wait{}); err == nil || !strings.Contains(err.Error(), "`for`") {
		t.Errorf("wait without a time: %v", err)
	}
	start := time.Now()
	if err := (&action.Wait{}).Do(ctx, &lab.Env{For: 30 * time.Millisecond}); err != nil || time.Since(start) < 30*time.Millisecond {
		t.Errorf("waited %s, %v", time.Since(start), err)
	}
}

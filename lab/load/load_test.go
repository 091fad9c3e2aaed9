package load_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/judge"
	"github.com/etcdrill/etcdrill/lab/load"
)

func start(t testing.TB, c *cluster, s lab.LoadSpec, r *record) lab.Load {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := load.Start(ctx, c.Cluster, s, r.history, r.journal, 7)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func stop(t testing.TB, l lab.Load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := l.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// What a healthy member acknowledged must be complete in the record: each
// write once as an operation and once as an event, and in the final read.
func TestRecordIsWhole(t *testing.T) {
	c := up(t, 1)
	r := newRecord(t)
	s := spec()
	s.Timeout = time.Minute // nothing may be given up here, however busy the machine
	s.Probe = 500 * time.Millisecond
	l := start(t, c, s, r)
	until(t, "300 acknowledged writes", func() bool { return l.Acked() >= 300 })
	stop(t, l)
	acked := l.Acked()
	ops, journal := r.read(t)
	if rep := judge.Default().Report(context.Background(), journal, ops); rep.Verdict != lab.Pass {
		t.Errorf("judged %s: %s\n%+v", rep.Verdict, rep.Reason, rep.Findings)
	}

	kinds := map[string]int{}
	values := map[string]bool{}
	last := map[string]lab.Op{}   // by key, the write with the highest revision
	events := map[int64]lab.Op{}  // by revision
	written := map[int64]lab.Op{} // by revision
	final := map[string]lab.Op{}  // by key
	var whole, marker *lab.Op     // of the final read, of the marker
	for i, op := range ops {
		kinds[op.Kind]++
		if op.Return < op.Call {
			t.Fatalf("returned before it was called: %+v", op)
		}
		switch op.Kind {
		case lab.OpPut, lab.OpTxn, lab.OpMarker, lab.OpDelete:
			if op.Outcome != lab.OK {
				t.Fatalf("not acknowledged by a healthy member: %+v", op)
			}
			wrote := op.Kind == lab.OpPut || op.Kind == lab.OpMarker || op.Swapped || op.Deleted
			if !wrote {
				continue
			}
			if op.Kind != lab.OpDelete {
				if values[op.Value] {
					t.Fatalf("value %q written twice", op.Value)
				}
				values[op.Value] = true
			}
			if op.Kind == lab.OpMarker {
				marker = &ops[i]
			}
			written[op.Revision] = op
			if op.Revision > last[op.Key].Revision {
				last[op.Key] = op
			}
		case lab.OpEvent:
			if _, twice := events[op.Mod]; twice {
				t.Fatalf("event of revision %d recorded twice", op.Mod)
			}
			events[op.Mod] = op
		case lab.OpFinal:
			if op.Key == "" {
				whole = &ops[i]
			} else {
				final[op.Key] = op
			}
		}
	}
	for _, k := range []string{lab.OpPut, lab.OpDelete, lab.OpTxn, lab.OpGet, lab.OpEvent, lab.OpFinal} {
		if kinds[k] == 0 {
			t.Errorf("no %s in the record", k)
		}
	}
	if marker == nil || whole == nil || whole.Outcome != lab.OK || whole.Revision < marker.Revision {
		t.Fatalf("marker %+v, final read %+v", marker, whole)
	}
	if len(events) != len(written) {
		t.Errorf("%d events of %d writes", len(events), len(written))
	}
	for rev, op := range written {
		e, ok := events[rev]
		if !ok || e.Key != op.Key || e.Deleted != (op.Kind == lab.OpDelete) || !e.Deleted && e.Value != op.Value {
			t.Errorf("revision %d: wrote %+v, event %+v", rev, op, e)
		}
	}
	for key, op := range last {
		f, ok := final[key]
		if op.Kind == lab.OpDelete && ok || op.Kind != lab.OpDelete && (f.Value != op.Value || f.Mod != op.Revision) {
			t.Errorf("%s: last write %+v, read back %+v", key, op, f)
		}
	}
	count := 0
	for _, op := range ops {
		if op.Outcome == lab.OK && (op.Kind == lab.OpPut || op.Kind == lab.OpDelete || op.Swapped) {
			count++
		}
	}
	if acked != count {
		t.Errorf("Acked says %d, the record %d", acked, count)
	}
}

// A crash makes writes unknown and members unreachable; the record must still
// tell the truth about every acknowledged write, and the watcher of the
// crashed member must go on where it was.
func TestLeaderCrash(t *testing.T) {
	c := up(t, 3)
	r := newRecord(t)
	l := start(t, c, spec(), r)
	until(t, "200 acknowledged writes", func() bool { return l.Acked() >= 200 })
	victim := c.members[leader(t, c)]
	victim.kill()
	before := l.Acked()
	until(t, "200 more without the old leader", func() bool { return l.Acked() >= before+200 })
	victim.start(t)
	before = l.Acked()
	until(t, "200 more with it", func() bool { return l.Acked() >= before+200 })
	stop(t, l)
	ops, events := r.read(t)
	if rep := judge.Default().Report(context.Background(), events, ops); rep.Verdict != lab.Pass {
		t.Errorf("judged %s: %s\n%+v", rep.Verdict, rep.Reason, rep.Findings)
	}

	outcomes := map[lab.Outcome]int{}
	present := map[string]int64{} // values in the final read
	written := map[int64]lab.Op{}
	later := map[string]int64{}  // by key, the highest revision known of a write
	pending := map[string]bool{} // keys with a write nobody knows about
	delivered := map[string]map[int64]lab.Op{}
	begins := map[string]int{}
	for _, op := range ops {
		switch op.Kind {
		case lab.OpEvent:
			if delivered[op.Member] == nil {
				delivered[op.Member] = map[int64]lab.Op{}
			}
			if _, twice := delivered[op.Member][op.Mod]; twice {
				t.Fatalf("%s: event of revision %d recorded twice", op.Member, op.Mod)
			}
			delivered[op.Member][op.Mod] = op
		case lab.OpWatch:
			if op.Error == "" {
				begins[op.Member]++
			}
		case lab.OpFinal:
			if op.Key != "" {
				present[op.Value] = op.Mod
			}
		case lab.OpPut, lab.OpDelete, lab.OpTxn:
			outcomes[op.Outcome]++
			if op.Outcome == lab.Unknown {
				pending[op.Key] = true
			}
			if op.Outcome == lab.OK && (op.Kind == lab.OpPut || op.Swapped || op.Deleted) {
				written[op.Revision] = op
				later[op.Key] = max(later[op.Key], op.Revision)
			}
		}
	}
	if outcomes[lab.Refused] == 0 {
		t.Errorf("a member was down and nothing was refused: %v", outcomes)
	}
	for rev, op := range written {
		if op.Kind != lab.OpDelete && rev == later[op.Key] && !pending[op.Key] && present[op.Value] != rev {
			t.Errorf("acknowledged and not there in the end: %+v", op)
		}
		for _, m := range c.Names() {
			if e := delivered[m][rev]; e.Key != op.Key || e.Deleted != (op.Kind == lab.OpDelete) {
				t.Errorf("%s: no event of %+v", m, op)
			}
		}
	}
	if begins[victim.name] < 2 {
		t.Errorf("the watcher of %s began %d times, want again after the crash", victim.name, begins[victim.name])
	}
}

// A write through a paused member is not refused: it hangs, and may happen.
func TestPausedMemberIsUnknown(t *testing.T) {
	c := up(t, 1)
	s := spec()
	s.Timeout = 200 * time.Millisecond
	r := newRecord(t)
	l := start(t, c, s, r)
	until(t, "20 acknowledged writes", func() bool { return l.Acked() >= 20 })
	m := c.members[0]
	m.signal(syscall.SIGSTOP)
	acked := -1
	until(t, "nothing to be acknowledged any more", func() bool {
		was := acked
		acked = l.Acked()
		time.Sleep(2 * s.Timeout)
		return was == acked
	})
	m.signal(syscall.SIGCONT)
	until(t, "writes to be acknowledged again", func() bool { return l.Acked() > acked })
	stop(t, l)
	ops, _ := r.read(t)
	n := 0
	for _, op := range ops {
		if op.Kind == lab.OpPut && op.Outcome == lab.Unknown {
			n++
		}
		if op.Outcome == lab.Refused {
			t.Fatalf("a paused member refuses nothing: %+v", op)
		}
	}
	if n == 0 {
		t.Error("no unknown write")
	}
}

// A spare host takes part once a member votes there, and its watcher sees
// everything from the beginning.
func TestSpareJoins(t *testing.T) {
	c := up(t, 2)
	c.Spec.Members = 1 // what the drill says; that the second is up already is its luck
	r := newRecord(t)
	l := start(t, c, spec(), r)
	through := func(ops []lab.Op) map[string]int {
		n := map[string]int{}
		for _, op := range ops {
			if op.Member == "m2" && op.Outcome == lab.OK {
				n[op.Kind]++
			}
		}
		return n
	}
	until(t, "200 acknowledged writes, some through the second member", func() bool {
		return l.Acked() >= 200 && through(r.soFar())[lab.OpPut] > 0
	})
	stop(t, l)
	ops, _ := r.read(t)
	n := through(ops)
	if n[lab.OpPut] == 0 || n[lab.OpEvent] < 200 {
		t.Errorf("through the second member: %v", n)
	}
}

// A drill may leave nobody who answers. Then the record says that it could
// not look, and Stop says so too.
func TestNobodyAnswersInTheEnd(t *testing.T) {
	c := up(t, 1)
	r := newRecord(t)
	l := start(t, c, spec(), r)
	until(t, "20 acknowledged writes", func() bool { return l.Acked() >= 20 })
	c.members[0].kill()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := l.Stop(ctx); err == nil {
		t.Error("Stop says nothing")
	}
	if err := l.Stop(ctx); err == nil {
		t.Error("the second Stop forgot what the first said")
	}
	ops, _ := r.read(t)
	for _, op := range ops {
		if op.Kind == lab.OpFinal {
			t.Fatalf("a final read without a cluster: %+v", op)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	c := &cluster{Cluster: &lab.Cluster{Spec: lab.Spec{Members: 1}, Seats: []*lab.Member{{Name: "m1", ClientURL: "http://127.0.0.1:1"}}}}
	for name, change := range map[string]func(*lab.LoadSpec){
		"nobody there":   func(*lab.LoadSpec) {},
		"no such member": func(s *lab.LoadSpec) { s.Through.Role = "m7" },
		"a moving role":  func(s *lab.LoadSpec) { s.Through.Role = "leader" },
		"no clients":     func(s *lab.LoadSpec) { s.Clients = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			s := spec()
			change(&s)
			r := newRecord(t)
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			if l, err := load.Start(ctx, c.Cluster, s, r.history, r.journal, 1); err == nil {
				l.Stop(ctx)
				t.Fatal("no error")
			}
			r.read(t)
		})
	}
}

// leader finds who leads.
func leader(t testing.TB, c *cluster) int {
	t.Helper()
	found := -1
	until(t, "a leader", func() bool {
		for i, m := range c.Seats {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := client.Status(ctx, m.ClientURL)
			cancel()
			client.Close()
			if err == nil && st.Leader == st.Header.MemberId {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

// A watcher whose next revision was compacted away says so and goes on with
// what is left; the judge takes that for an explanation.
func TestWatchAcrossCompaction(t *testing.T) {
	c := up(t, 3)
	r := newRecord(t)
	l := start(t, c, spec(), r)
	until(t, "100 acknowledged writes", func() bool { return l.Acked() >= 100 })
	victim := (leader(t, c) + 1) % 3
	c.members[victim].kill()
	before := l.Acked()
	until(t, "300 more", func() bool { return l.Acked() >= before+300 })
	compact(t, c.Seats[(victim+1)%3].ClientURL)
	c.members[victim].start(t)
	before = l.Acked()
	until(t, "100 more", func() bool { return l.Acked() >= before+100 })
	stop(t, l)
	ops, journal := r.read(t)
	compacted := 0
	for _, op := range ops {
		if op.Kind == lab.OpWatch && op.Error == "compacted" {
			compacted++
		}
	}
	if compacted == 0 {
		t.Error("no watcher was told that its revision is gone")
	}
	if rep := judge.Default().Report(context.Background(), journal, ops); rep.Verdict != lab.Pass {
		t.Errorf("judged %s: %s\n%+v", rep.Verdict, rep.Reason, rep.Findings)
	}
}

// compact throws away everything but the newest revision.
func compact(t *testing.T, url string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	resp, err := client.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
}

// When the quota is used up, writes are refused and reads go on.
func TestNoSpaceIsRefused(t *testing.T) {
	c := up(t, 1, "--quota-backend-bytes", "2097152")
	s := spec()
	s.Size, s.Deletes = 16<<10, 0 // etcd still takes deletions then
	r := newRecord(t)
	l := start(t, c, s, r)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.Seats[0].ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	until(t, "the quota to be used up", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := client.Put(ctx, "x", "y")
		return errors.Is(err, rpctypes.ErrNoSpace)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := l.Stop(ctx); err == nil {
		t.Error("the marker went through")
	}
	ops, _ := r.read(t)
	n := map[string]map[lab.Outcome]int{lab.OpPut: {}, lab.OpMarker: {}, lab.OpGet: {}}
	for _, op := range ops {
		if n[op.Kind] != nil {
			n[op.Kind][op.Outcome]++
		}
	}
	if n[lab.OpMarker][lab.Refused] == 0 || n[lab.OpMarker][lab.OK] > 0 {
		t.Errorf("markers %v, puts %v: want them refused", n[lab.OpMarker], n[lab.OpPut])
	}
	if n[lab.OpGet][lab.OK] == 0 || n[lab.OpGet][lab.Refused] > 0 {
		t.Errorf("reads %v, want none refused", n[lab.OpGet])
	}
}

// A client that is late says since when, so that its latency is not hidden.
func TestLateOperationsSayWhenTheyWereDue(t *testing.T) {
	c := up(t, 1)
	s := spec()
	s.Rate = 200
	r := newRecord(t)
	l := start(t, c, s, r)
	until(t, "20 acknowledged writes", func() bool { return l.Acked() >= 20 })
	c.members[0].signal(syscall.SIGSTOP)
	time.Sleep(300 * time.Millisecond) // shorter than the timeout: nothing fails
	c.members[0].signal(syscall.SIGCONT)
	before := l.Acked()
	until(t, "100 more", func() bool { return l.Acked() >= before+100 })
	stop(t, l)
	ops, _ := r.read(t)
	late := int64(0)
	for _, op := range ops {
		if op.Due != 0 {
			if op.Due > op.Call || op.Client < 1 {
				t.Fatalf("due after it was called: %+v", op)
			}
			late = max(late, op.Call-op.Due)
		}
	}
	if late < int64(100*time.Millisecond) {
		t.Errorf("the latest operation was %s late, want about 300ms", time.Duration(late))
	}
}

// Many clients share few connections, and all of them come to work.
func TestThousandClients(t *testing.T) {
	c := up(t, 3)
	s := spec()
	s.Clients, s.Timeout = 1000, time.Minute
	r := newRecord(t)
	l := start(t, c, s, r)
	until(t, "1000 acknowledged writes", func() bool { return l.Acked() >= 1000 })
	stop(t, l)
	ops, journal := r.read(t)
	who := map[int]bool{}
	for _, op := range ops {
		who[op.Client] = true
	}
	for id := 1; id <= 1000; id++ {
		if !who[id] {
			t.Fatalf("client %d did nothing", id)
		}
	}
	if rep := judge.Default().Report(context.Background(), journal, ops); rep.Verdict != lab.Pass {
		t.Errorf("judged %s: %s\n%+v", rep.Verdict, rep.Reason, rep.Findings)
	}
}

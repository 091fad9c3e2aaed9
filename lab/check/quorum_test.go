package check_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// One cluster goes through health, a lost leader, a lost quorum and back, and
// every check is asked both ways at each station.
func TestQuorumStory(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 1, nil)
	ctx := t.Context()
	if _, err := b.cli.Put(ctx, "Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	b.do(t, &action.Watch{}, "name=strict", "key=Gabon", "require-leader=true", "through=m1, m2, m3")

	t.Run("healthy", func(t *testing.T) {
		b.holds(t, &check.Leader{})
		b.holds(t, &check.Leader{}, "is="+b.leader(t).Name)
		b.unsure(t, "nothing was broken yet", &check.Leader{}, "same=true")
		b.unsure(t, "nothing was broken yet", &check.Term{}, "same=true")
		b.mark(t)
		b.holds(t, &check.Leader{}, "same=true")
		b.fails(t, "another one", &check.Leader{}, "changed=true")
		b.fails(t, "want none", &check.Leader{}, "none=true")
		b.holds(t, &check.Term{}, "same=true")
		b.fails(t, "at least", &check.Term{}, "grew=true")
		b.holds(t, &check.Quorum{})
		b.fails(t, "want lost", &check.Quorum{}, "lost=true")
		b.holds(t, &check.Writes{}, "accepted=true")
		b.holds(t, &check.Writes{}, "accepted=true", "through=all")
		b.fails(t, "m1 answered", &check.Writes{}, "refused=true")
		b.holds(t, &check.Reads{}, "accepted=true", "through=all")
		b.fails(t, "answered", &check.Reads{}, "refused=true", "serializable=true")
		b.holds(t, &check.Value{}, "key=Gabon", "is=Bona nit", "through=all")
		b.fails(t, `want "x"`, &check.Value{}, "key=Gabon", "is=x")
		b.fails(t, "want nothing", &check.Value{}, "key=Gabon", "absent=true")
		b.holds(t, &check.Value{}, "key=nowhere", "absent=true", "serializable=true")
		b.holds(t, &check.Members{}, "healthy=3", "voters=3", "learners=0", "listed=3", "equal=hash")
		b.fails(t, "want 2, got 3", &check.Members{}, "voters=2")
		b.fails(t, "learners", &check.Members{}, "learners=1")
		b.fails(t, "listed members", &check.Members{}, "listed=4")
		b.fails(t, "healthy members", &check.Members{}, "healthy=2")
		b.fails(t, "want different", &check.Members{}, "differ=hash")
		b.holds(t, &check.Revision{}, "equal=true", "at-least=2")
		b.fails(t, "at least 1000000", &check.Revision{}, "at-least=1000000")
		b.holds(t, &check.Lag{}, "member=followers", "max=0")
		b.holds(t, &check.Alarms{}, "none=true")
		b.fails(t, "NOSPACE", &check.Alarms{}, "is=nospace")
		b.holds(t, &check.Health{}, "member=all")
		b.holds(t, &check.Health{}, "member=m1", "path=livez", "status=200", "says=[+]serializable_read ok")
		b.fails(t, "want 503", &check.Health{}, "member=m1", "status=503")
		b.fails(t, "non_learner", &check.Health{}, "member=m1", "says=[-]non_learner")
		b.unsure(t, "could not look", &check.Health{}, "member=m4")
		b.holds(t, &check.Process{}, "member=all", "running=true", `log="msg":"ready to serve client requests"`)
		b.fails(t, "no such line", &check.Process{}, "member=m1", "log=crc mismatch")
		b.fails(t, "running, pid", &check.Process{}, "member=m1", "exit=killed")
		b.holds(t, &check.Process{}, "member=m4", "running=false")
		b.holds(t, &check.Listing{}, "member=m1", "started=true", "learner=false")
		b.fails(t, "learner", &check.Listing{}, "member=m1", "learner=true")
		b.fails(t, "want not listed", &check.Listing{}, "member=m1", "absent=true")
		b.holds(t, &check.Listing{}, "member=m4", "absent=true")
		b.fails(t, "want no answer", &check.Listing{}, "member=m1", "refused=true")
		b.fails(t, "it goes on", &check.Watch{}, "name=strict", "ends=no leader")
		b.unsure(t, "no watch named", &check.Watch{}, "name=other", "silent=true")
	})
	first := b.leader(t)
	t.Run("one lost", func(t *testing.T) {
		b.mark(t)
		b.signal(t, first, "KILL")
		b.holds(t, &check.Leader{}, "changed=true")
		b.fails(t, first.Name+" as before", &check.Leader{}, "same=true")
		b.fails(t, "want "+first.Name, &check.Leader{}, "is="+first.Name)
		b.holds(t, &check.Term{}, "grew=true")
		b.fails(t, "at least", &check.Term{}, "by=50")
		b.fails(t, "as before", &check.Term{}, "same=true")
		b.holds(t, &check.Quorum{})
		b.holds(t, &check.Writes{}, "accepted=true")
		b.fails(t, first.Name, &check.Writes{}, "accepted=true", "through="+first.Name)
		b.holds(t, &check.Writes{}, "refused=true", "through="+first.Name)
		b.holds(t, &check.Members{}, "healthy=2", "voters=3")
		b.fails(t, "does not answer", &check.Members{}, "healthy=3")
		b.holds(t, &check.Members{}, "cluster=same")
		b.holds(t, &check.Listing{}, "member=all", "same=true")
		b.Before[0].ID = "1"
		b.fails(t, "id of m1", &check.Listing{}, "member=m1", "same=true")
		for i := range b.Before {
			b.Before[i].Cluster = "1"
		}
		b.fails(t, "cluster id of", &check.Members{}, "cluster=same")
		b.unsure(t, "could not compare", &check.Members{}, "equal=hash")
		b.holds(t, &check.Members{}, "healthy=2", "equal=hash")
		b.unsure(t, "does not answer", &check.Lag{}, "member="+first.Name, "max=1000")
		b.holds(t, &check.Process{}, "member="+first.Name, "running=false", "exit=(?i)kill")
		b.fails(t, "want running", &check.Process{}, "member="+first.Name, "running=true")
		b.fails(t, "end of", &check.Process{}, "member="+first.Name, "exit=^exit 2$")
	})
	second := b.leader(t)
	t.Run("quorum lost", func(t *testing.T) {
		b.signal(t, second, "STOP") // silence instead of refusal
		b.holds(t, &check.Leader{}, "none=true")
		b.fails(t, "got none", &check.Leader{})
		// Each of these waits for a time-out of its own.
		t.Run("all at once", func(t *testing.T) {
			for name, ask := range map[string]func(t *testing.T){
				"quorum": func(t *testing.T) {
					b.holds(t, &check.Quorum{}, "lost=true")
					b.fails(t, "a linearizable read that is answered", &check.Quorum{})
				},
				"writes": func(t *testing.T) {
					b.holds(t, &check.Writes{}, "refused=true")
					b.fails(t, "want accepted", &check.Writes{}, "accepted=true")
				},
				"reads": func(t *testing.T) {
					b.holds(t, &check.Reads{}, "refused=true")
					b.fails(t, "want accepted", &check.Reads{}, "accepted=true")
					b.unsure(t, "could not read", &check.Value{}, "key=Gabon", "is=Bona nit")
				},
				"serializable": func(t *testing.T) {
					b.holds(t, &check.Reads{}, "accepted=true", "serializable=true")
					b.holds(t, &check.Value{}, "key=Gabon", "is=Bona nit", "serializable=true")
					b.holds(t, &check.Health{}, "member=up", "path=livez")
					b.holds(t, &check.Alarms{}, "none=true")
				},
				"ready": func(t *testing.T) {
					b.holds(t, &check.Health{}, "member=up", "status=503", "says=[-]linearizable_read")
					b.holds(t, &check.Health{}, "member=up", "path=health", "status=503")
				},
				"members": func(t *testing.T) {
					b.holds(t, &check.Members{}, "healthy=0")
					b.unsure(t, "could not look", &check.Members{}, "voters=3")
					b.unsure(t, "no leader", &check.Lag{}, "member=up", "max=1000")
				},
				"listing": func(t *testing.T) {
					b.holds(t, &check.Listing{}, "member=m1", "serializable=true", "started=true")
					b.holds(t, &check.Listing{}, "member=m1", "refused=true")
					b.unsure(t, "could not look", &check.Listing{}, "member=m1", "started=true")
				},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					ask(t)
				})
			}
		})
		b.holds(t, &check.Watch{}, "name=strict", "ends=no leader")
		b.fails(t, "end of watch", &check.Watch{}, "name=strict", "ends=compacted")
		b.fails(t, "ended", &check.Watch{}, "name=strict", "silent=true")
	})
	t.Run("nobody left", func(t *testing.T) {
		for _, m := range b.Seats[:3] {
			if m != first && m != second {
				b.signal(t, m, "KILL")
			}
		}
		b.signal(t, second, "KILL")
		b.unsure(t, "no member answers", &check.Leader{})
		b.unsure(t, "no member answers", &check.Leader{}, "none=true")
		b.unsure(t, "no member answers", &check.Members{}, "healthy=0")
		b.unsure(t, "no member answers", &check.Alarms{}, "none=true")
		b.unsure(t, "no voting member answers", &check.Listing{}, "member=m1", "refused=true")
		b.holds(t, &check.Quorum{}, "lost=true")
		b.holds(t, &check.Writes{}, "refused=true")
		b.fails(t, "want accepted", &check.Writes{}, "accepted=true")
	})
	t.Run("back", func(t *testing.T) {
		for _, m := range b.Seats[:3] {
			if err := m.Proc.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		b.holds(t, &check.Members{}, "healthy=3", "equal=hash")
		b.holds(t, &check.Value{}, "key=Gabon", "is=Bona nit", "through=all")
		b.holds(t, &check.Process{}, "member="+first.Name, `log="msg":"ready to serve client requests"`)
	})
}

func TestWatchAndLease(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	ctx := t.Context()
	put := func(key string) {
		t.Helper()
		if _, err := b.cli.Put(ctx, key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	put("w/0")
	b.do(t, &action.Watch{}, "name=all", "key=w/", "prefix=true", "from-revision=2")
	b.do(t, &action.Watch{}, "name=one", "key=w/1")
	b.holds(t, &check.Watch{}, "name=all", "events=1")
	b.fails(t, "at least 1 events, got 0", &check.Watch{}, "name=one", "events=1")
	b.holds(t, &check.Watch{}, "name=one", "complete=true")
	for range 3 {
		put("w/1")
		put("w/2")
	}
	b.holds(t, &check.Watch{}, "name=all", "events=7", "complete=true")
	b.holds(t, &check.Watch{}, "name=one", "events=3", "complete=true")
	b.fails(t, "something arrived", &check.Watch{}, "name=one", "silent=true")
	b.holds(t, &check.Watch{}, "name=one", "silent=true") // a second later

	// The past is gone: a watch that wants it is told, and one that had it
	// cannot be judged any more.
	r, err := b.cli.Get(ctx, "w/0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.cli.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	b.do(t, &action.Watch{}, "name=late", "key=w/", "prefix=true", "from-revision=2")
	b.holds(t, &check.Watch{}, "name=late", "ends=compacted")
	b.unsure(t, "compacted", &check.Watch{}, "name=all", "complete=true")

	b.do(t, &action.Lease{}, "name=long", "ttl=60s")
	b.do(t, &action.Lease{}, "name=short", "ttl=4s")
	b.holds(t, &check.Lease{}, "name=long", "alive=true", "at-least=50s", "at-most=60s")
	b.fails(t, "at least 2m", &check.Lease{}, "name=long", "at-least=2m")
	b.fails(t, "at most 10s", &check.Lease{}, "name=long", "at-most=10s")
	b.fails(t, "want ended", &check.Lease{}, "name=long", "alive=false")
	b.holds(t, &check.Lease{}, "name=short", "alive=false")
	b.fails(t, "want alive", &check.Lease{}, "name=short", "at-least=1s")
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	b := up(t, 2, 0, func(s *lab.Spec) { s.Quota = 4 << 20 })
	ctx := t.Context()
	big := make([]byte, 900<<10)
	var err error
	for range 200 { // a backend grows ten times a second
		if _, err = b.cli.Put(ctx, "big", string(big)); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("the quota was never reached")
	}
	b.holds(t, &check.Alarms{}, "is=nospace")
	b.fails(t, "NOSPACE", &check.Alarms{}, "none=true")
	b.fails(t, "CORRUPT", &check.Alarms{}, "is=corrupt")
	b.holds(t, &check.Writes{}, "refused=true")
	b.fails(t, "space", &check.Writes{}, "accepted=true")
	b.holds(t, &check.Reads{}, "accepted=true")
	b.holds(t, &check.Health{}, "member=all") // two health signals disagree
	b.do(t, &action.Compact{}, "physical=true")
	b.do(t, &action.Defrag{})
	b.do(t, &action.Disarm{})
	b.holds(t, &check.Alarms{}, "none=true")
	b.holds(t, &check.Writes{}, "accepted=true")
}

// One value is changed in the database of a stopped follower: it starts, and
// everybody is content, but for the hashes.
func TestDivergence(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0, nil)
	ctx := t.Context()
	if _, err := b.cli.Put(ctx, "Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	b.holds(t, &check.Members{}, "equal=hash")
	sick := verb(t, b, &check.Lag{}, "member=follower", "max=0").Member
	m, err := etcd.Seat(b.Cluster, sick)
	if err != nil {
		t.Fatal(err)
	}
	b.do(t, &action.Stop{}, "member="+m.Name)
	db, err := bbolt.Open(filepath.Join(m.DataDir, "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	err = db.Update(func(tx *bbolt.Tx) error {
		keys := tx.Bucket([]byte("key"))
		var k, v []byte
		keys.ForEach(func(key, value []byte) error {
			if bytes.Contains(value, []byte("Bona nit")) {
				k, v = bytes.Clone(key), bytes.Replace(value, []byte("Bona nit"), []byte("Bona nix"), 1)
				changed++
			}
			return nil
		})
		return keys.Put(k, v)
	})
	if err := errors.Join(err, db.Close()); err != nil || changed != 1 {
		t.Fatalf("%d values changed, %v", changed, err)
	}
	b.do(t, &action.Start{}, "member="+m.Name, "ready=true")
	b.holds(t, &check.Members{}, "healthy=3", "differ=hash")
	b.fails(t, "want equal", &check.Members{}, "equal=hash")
	b.holds(t, &check.Alarms{}, "none=true")
	b.holds(t, &check.Health{}, "member=all")
	b.holds(t, &check.Value{}, "key=Gabon", "is=Bona nix", "through="+m.Name) // a wrong linearizable read
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	eyes := &etcd.Observer{}
	defer eyes.Close()
	err = eyes.Final(short, b.Cluster, lab.End{})
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "data of the members") {
		t.Errorf("the end check: %v", err)
	}
}

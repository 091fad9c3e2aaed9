package check_test

import (
	"os"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func TestSnapshotAndFile(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	if _, err := b.cli.Put(t.Context(), "Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	b.holds(t, &check.Snapshot{}, "stored=0")
	b.fails(t, "an empty store", &check.Snapshot{}, "snapshot=latest")
	b.do(t, &action.SnapshotSave{}, "label=one")
	b.holds(t, &check.Snapshot{}, "stored=1", "snapshot=one", "live=true")
	b.holds(t, &check.Writes{}, "accepted=true") // its probe is nobody's data
	b.holds(t, &check.Snapshot{}, "snapshot=one", "live=true")
	b.fails(t, "no difference", &check.Snapshot{}, "snapshot=one", "live=false")
	b.fails(t, "want 0, got 1", &check.Snapshot{}, "stored=0")
	if _, err := b.cli.Put(t.Context(), "Gabon", "Ambolo"); err != nil {
		t.Fatal(err)
	}
	b.holds(t, &check.Snapshot{}, "snapshot=one", "live=false")
	b.fails(t, "the first is ~ Gabon", &check.Snapshot{}, "snapshot=one", "live=true")
	b.do(t, &action.SnapshotSave{}, "no-trial=true", "label=untried")
	b.fails(t, "want one, got none", &check.Snapshot{}, "snapshot=untried")
	store, err := snapshot.OpenStore(&lab.Env{Cluster: b.Cluster}, "")
	if err != nil {
		t.Fatal(err)
	}
	e, err := store.Find(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(e.Beside); err != nil {
		t.Fatal(err)
	}
	b.fails(t, "a sidecar beside it", &check.Snapshot{}, "snapshot=one")

	b.holds(t, &check.File{}, "member=m1", "path=data/member/wal")
	b.holds(t, &check.File{}, "member=m1", "path=nothing", "there=false")
	b.fails(t, "want there, got not there", &check.File{}, "member=m1", "path=nothing")
	b.fails(t, "want not there, got there", &check.File{}, "member=m1", "path=data", "there=false")
}

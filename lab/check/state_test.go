package check_test

import (
	"os"
	"testing"

	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/vault"
)

func TestState(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	if _, err := b.cli.Put(t.Context(), "Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	b.holds(t, &check.State{}, "stored=0")
	b.fails(t, "an empty store", &check.State{}, "state=latest")
	b.do(t, &action.StateSave{}, "label=one", "no-trial=true")
	b.holds(t, &check.State{}, "stored=1", "state=one", "live=true", "served=true")
	b.fails(t, "no difference", &check.State{}, "state=one", "live=false")
	b.fails(t, "want served: false", &check.State{}, "state=one", "served=false")
	b.fails(t, "want 0, got 1", &check.State{}, "stored=0")
	b.fails(t, "saved by itself before restore", &check.State{}, "state=one", "before=restore")
	b.fails(t, "lacks: want m1", &check.State{}, "state=one", "lacks=m1")
	if _, err := b.cli.Put(t.Context(), "Gabon", "Ambolo"); err != nil {
		t.Fatal(err)
	}
	b.holds(t, &check.State{}, "state=one", "live=false")
	b.fails(t, "the first is ~ Gabon", &check.State{}, "state=one", "live=true")
	store := vault.OpenStore(b.Cluster, "")
	e, err := store.Find("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(store.Blob(e.State.Data.SHA256)); err != nil {
		t.Fatal(err)
	}
	b.fails(t, "want in the store, got none", &check.State{}, "state=one")
	for _, c := range []*check.State{{Stored: -1}, {Stored: 0, Live: "true"}, {State: "one", Live: "perhaps"}, {State: "one", Served: "perhaps"}} {
		if c.Valid() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

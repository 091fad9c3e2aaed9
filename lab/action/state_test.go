package action_test

import (
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab/action"
)

// The verbs of states, on the smallest lab there is; what they stand on is
// tested in lab/vault.
func TestStateVerbs(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	b.refused(t, "an empty store", &action.StateRestore{}, "state=latest")
	b.must(t, &action.Put{}, "key=kept", "value=noon")
	b.must(t, &action.StateSave{}, "label=noon")
	b.must(t, &action.Put{}, "key=kept", "value=evening")

	b.must(t, &action.StateRestore{}, "state=noon", "save-state=true", "cut=8")
	b.refused(t, "no unfinished operation", &action.StateSave{})
	b.must(t, &action.Rollback{})
	b.must(t, &action.Etcdctl{}, "args=get,kept", "says=evening")
	b.must(t, &action.StateRestore{}, "state=noon", "cut=8")
	b.must(t, &action.Resume{})
	b.must(t, &action.Etcdctl{}, "args=get,kept", "says=noon")
	b.must(t, &action.StateRestore{}, "state=before-state-restore")
	b.must(t, &action.Etcdctl{}, "args=get,kept", "says=evening")

	b.must(t, &action.StateExport{}, "state=noon", "file=noon.tar")
	if err := b.do(t, &action.StateExport{}, "state=noon", "file=noon.zip"); err == nil || !strings.Contains(err.Error(), "ends with .tar") {
		t.Errorf("an archive of another name: %v", err)
	}
	b.must(t, &action.StateDelete{}, "state=noon")
	b.refused(t, "1 others", &action.StateDelete{}, "state=noon")
	b.must(t, &action.StateImport{}, "file=noon.tar")
	b.must(t, &action.StateImport{}, "file=noon.tar") // the same again is no other one
	b.Notes()
	b.must(t, &action.StatePrune{}, "keep=1")
	if n := b.Notes(); !strings.Contains(n, "0 states are gone, 2 stay") && !strings.Contains(n, "1 states are gone, 1 stay") {
		t.Errorf("pruned: %s", n)
	}

	// A restore and a switch save one too, where they are told to.
	b.must(t, &action.Snapshot{}, "member=m1", "file=first.db")
	b.must(t, &action.Restore{}, "from=m1", "file=first.db", "anyway=true", "save-state=true")
	if n := b.Notes(); !strings.Contains(n, "saved before restore, to go back to") {
		t.Errorf("no state was saved before: %s", n)
	}

	for v, args := range map[any][]string{
		&action.StateSave{}:    {"label=No Name"},
		&action.StateRestore{}: nil,
		&action.StateExport{}:  {"file=../out.tar"},
		&action.StateImport{}:  {"file=/etc/out.tar"},
		&action.StatePrune{}:   nil,
	} {
		if labtest.Fill(v, args...) == nil {
			t.Errorf("%T %q is taken", v, args)
		}
	}
}

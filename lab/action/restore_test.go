package action_test

import (
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab/action"
)

// The verbs that restore, on the smallest lab there is; what they stand on is
// tested in lab/recovery.
func TestRestoreVerbs(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 0, nil)
	b.must(t, &action.Put{}, "key=kept", "value=noon")
	b.must(t, &action.Snapshot{}, "member=m1", "file=first.db")
	b.must(t, &action.Put{}, "key=later", "value=evening")

	b.refused(t, "an unfinished operation", &action.Resume{})
	b.refused(t, "an unfinished operation", &action.Rollback{})
	b.refused(t, "it serves", &action.RecoverQuorum{})
	b.refused(t, "or `anyway`", &action.Restore{}, "from=m1", "file=first.db")
	if err := b.do(t, &action.Restore{}, "from=m1", "file=first.db", "anyway=true", "cut=99"); err == nil || !strings.Contains(err.Error(), "before it had so many records") {
		t.Errorf("a cut behind the end: %v", err)
	}
	b.must(t, &action.Etcdctl{}, "args=get,kept", "says=noon")
	b.must(t, &action.Put{}, "key=later", "value=evening")

	b.must(t, &action.Restore{}, "from=m1", "file=first.db", "anyway=true", "cut=8")
	b.refused(t, "no unfinished operation", &action.Restore{}, "from=m1", "file=first.db", "anyway=true")
	b.must(t, &action.Rollback{})
	b.must(t, &action.Etcdctl{}, "args=get,later", "says=evening")

	b.must(t, &action.Stop{}, "member=m1")
	b.must(t, &action.RestoreAlone{}, "member=m1", "from=m1", "file=first.db", "token=by-hand", "start=true")
	b.must(t, &action.Start{}, "member=m1", "ready=true")
	b.must(t, &action.Etcdctl{}, "args=get,later,--count-only,--write-out=fields", `says="Count" : 0`)
	b.must(t, &action.Stop{}, "member=m1")
	if err := b.do(t, &action.RestoreAlone{}, "member=m1", "from=m1", "file=not.db"); err == nil {
		t.Error("a file that is not there was restored")
	}
	b.must(t, &action.Copy{}, "member=m1", "from=data", "to=nightly")
	b.must(t, &action.Copy{}, "member=m1", "from=nightly", "to=data", "replace=true")
	if err := b.do(t, &action.Copy{}, "member=m1", "from=data", "to=nightly"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("copied over another: %v", err)
	}
	b.must(t, &action.Start{}, "member=m1", "ready=true")
	b.refused(t, "want down", &action.Copy{}, "member=m1", "from=nightly", "to=data", "replace=true")
	for _, args := range [][]string{{"from=../x", "to=y"}, {"from=x", "to=/y"}, {"from=x", "to=x"}} {
		if labtest.Fill(&action.Copy{}, args...) == nil {
			t.Errorf("%v is taken", args)
		}
	}
	if labtest.Fill(&action.RestoreAlone{}, "bump=-1") == nil {
		t.Error("a bump below zero is taken")
	}
	if labtest.Fill(&action.Restore{}, "from=m1", "file=../../x.db") == nil {
		t.Error("a file outside the lab's directory is taken")
	}
}

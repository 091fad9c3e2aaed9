package check

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Snapshot asks about snapshots in a store.
type Snapshot struct {
	Snapshot string `doc:"name or label of one, or latest: it must be sound, as its sidecar says, with a trial that went well; or the path of a file on this machine, with a slash in it, which must be sound"`
	Live     string `doc:"true: it has the keys and values that the cluster has now, those of etcdrill aside; false: it has not"`
	Store    string `doc:"where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Stored   int    `default:"-1" doc:"how many there are, of whatever name"`
	Identity string `doc:"file with age secret keys on this machine, for a snapshot that is encrypted"`
}

// Valid implements the check of arguments.
func (s *Snapshot) Valid() error {
	_, live, err := asked(s.Live)
	switch {
	case err != nil:
		return fmt.Errorf("live: %w", err)
	case s.Snapshot == "" && s.Stored < 0:
		return fmt.Errorf("expected snapshot or stored")
	case s.Snapshot == "" && live:
		return fmt.Errorf("live: expected with snapshot")
	}
	return nil
}

// Doc implements lab.Check.
func (*Snapshot) Doc() string {
	return "asks whether a stored snapshot is sound and complete, whether it has what the cluster has, and how many there are"
}

// Holds implements lab.Check.
func (s *Snapshot) Holds(ctx context.Context, e *lab.Env) error {
	store, err := snapshot.OpenStore(e, s.Store)
	if err != nil {
		return fmt.Errorf("could not look: %w", err)
	}
	if s.Stored >= 0 {
		all, err := store.List(ctx)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		var names []string
		for _, x := range all {
			names = append(names, x.Name)
		}
		if len(all) != s.Stored {
			return &lab.Failure{What: "stored snapshots", Want: fmt.Sprint(s.Stored), Got: fmt.Sprintf("%d: %s", len(all), strings.Join(names, ", "))}
		}
	}
	if s.Snapshot == "" {
		return nil
	}
	name := s.Snapshot
	if !strings.ContainsRune(name, os.PathSeparator) {
		found, err := store.Find(ctx, s.Snapshot)
		if err != nil {
			return err
		}
		if name = found.Name; found.Sidecar == nil {
			return found.Problem
		}
		if found.Sidecar.Trial == nil {
			return &lab.Failure{What: "trial of snapshot " + name, Want: "one", Got: "none"}
		}
	}
	then, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: name, Store: s.Store, Identity: s.Identity})
	if err != nil {
		return err
	}
	want, given, _ := asked(s.Live)
	if !given {
		return nil
	}
	now, rev, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
	if err != nil {
		return fmt.Errorf("could not look: %w", err)
	}
	// A probe of ours is nobody's data.
	changes := slices.DeleteFunc(snapshot.Diff(then, now), func(c snapshot.Change) bool { return strings.HasPrefix(c.Key, lab.OwnKeys) })
	if (len(changes) == 0) == want {
		return nil
	}
	f := &lab.Failure{What: fmt.Sprintf("snapshot %s and the cluster at revision %d", name, rev), Want: "to be the same", Got: fmt.Sprintf("%d differences", len(changes))}
	if !want {
		f.Want, f.Got = "to differ", "no difference"
	} else {
		f.Got += ", the first is " + changes[0].String()
	}
	return f
}

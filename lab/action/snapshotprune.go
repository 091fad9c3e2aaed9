package action

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// SnapshotPrune lets old snapshots go; see snapshot.Prune.
type SnapshotPrune struct{ snapshot.Prune }

// Doc implements lab.Action.
func (*SnapshotPrune) Doc() string {
	return "deletes old snapshots of a store, but never the last one that is sound"
}

// Do implements lab.Action.
func (a *SnapshotPrune) Do(ctx context.Context, e *lab.Env) error {
	stay, gone, err := a.Prune.Do(ctx, e, false)
	if err != nil {
		return err
	}
	e.Note("", "%d snapshots deleted, %d stay", len(gone), len(stay))
	return nil
}

// Shell implements lab.Shelled.
func (a *SnapshotPrune) Shell() (do, undo []string) {
	return shell(fmt.Sprintf("etcdrill snapshot prune --keep %d --hourly %d --daily %d --weekly %d", a.Keep, a.Hourly, a.Daily, a.Weekly))
}

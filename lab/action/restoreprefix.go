package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// RestorePrefix makes the keys below a prefix what they are in a snapshot; see
// snapshot.RestorePrefix.
type RestorePrefix struct{ snapshot.RestorePrefix }

// Doc implements lab.Action.
func (*RestorePrefix) Doc() string {
	return "makes the keys below one prefix what they are in a snapshot, while the cluster serves; nothing else is touched"
}

// Do implements lab.Action.
func (a *RestorePrefix) Do(ctx context.Context, e *lab.Env) error {
	_, err := a.RestorePrefix.Do(ctx, e, false)
	return err
}

// Shell implements lab.Shelled.
func (a *RestorePrefix) Shell() (do, undo []string) {
	return shell("etcdrill snapshot save  # the way back", "etcdrill snapshot diff live "+word(a.Snapshot)+"  # below "+word(a.Prefix),
		etcdctl+"txn  # put and delete, each key as it was seen")
}

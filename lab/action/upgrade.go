package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Upgrade brings another release of etcd to all members; see recovery.Upgrade.
type Upgrade struct {
	recovery.Upgrade
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Upgrade) Do(ctx context.Context, e *lab.Env) error {
	op := a.Upgrade
	return cutShort(e, a.Cut, operation.Run(ctx, e, "upgrade", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Upgrade) Shell() (do, undo []string) {
	dir := a.Dir
	if dir == "" {
		dir = "<embedded>"
	}
	lines := []string{"# one by one, the leader last:", etcdctl + "move-leader ID  # when it leads", "ssh MEMBER systemctl stop etcd", "scp " + word(dir) + "/etcd… MEMBER:BIN/", "ssh MEMBER systemctl start etcd"}
	if a.Down {
		lines = append([]string{etcdctl + "downgrade enable MINOR  # and wait for storage MINOR on all"}, lines...)
	}
	return shell(lines...)
}

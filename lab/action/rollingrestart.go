package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// RollingRestart restarts members one by one; see recovery.RollingRestart.
type RollingRestart struct {
	recovery.RollingRestart
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *RollingRestart) Do(ctx context.Context, e *lab.Env) error {
	op := a.RollingRestart
	return cutShort(e, a.Cut, operation.Run(ctx, e, "rolling-restart", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *RollingRestart) Shell() (do, undo []string) {
	return shell("# one by one, the leader last:", etcdctl+"move-leader ID  # when it leads", "ssh "+who(a.Member)+" systemctl restart etcd")
}

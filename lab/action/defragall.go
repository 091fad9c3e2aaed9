package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// DefragAll defragments members one by one; see recovery.Defrag.
type DefragAll struct {
	recovery.Defrag
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *DefragAll) Do(ctx context.Context, e *lab.Env) error {
	op := a.Defrag
	return cutShort(e, a.Cut, operation.Run(ctx, e, "defrag-all", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *DefragAll) Shell() (do, undo []string) {
	return shell("# one by one, the leader last:", etcdctl+"move-leader ID  # when it leads", etcdctl+"defrag --endpoints="+who(a.Member))
}

package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// FreeSpace ends a NOSPACE alarm; see recovery.FreeSpace.
type FreeSpace struct {
	recovery.FreeSpace
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *FreeSpace) Do(ctx context.Context, e *lab.Env) error {
	op := a.FreeSpace
	return cutShort(e, a.Cut, operation.Run(ctx, e, "free-space", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (*FreeSpace) Shell() (do, undo []string) {
	return shell(etcdctl+"compact CURRENT --physical", etcdctl+"defrag --endpoints=<all>  # one by one, the leader last",
		etcdctl+"alarm disarm", etcdctl+"put etcdrill/free-space x", etcdctl+"alarm list")
}

package action

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Shrink removes voting members; see recovery.Shrink.
type Shrink struct {
	recovery.Shrink
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Shrink) Do(ctx context.Context, e *lab.Env) error {
	op := a.Shrink
	return cutShort(e, a.Cut, operation.Run(ctx, e, "shrink", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Shrink) Shell() (do, undo []string) {
	return shell("# until there are "+fmt.Sprint(a.To)+" voters:", etcdctl+"move-leader ID  # when it leads", etcdctl+"member remove ID",
		"ssh MEMBER systemctl stop etcd; mv DATA DATA.left")
}

package action

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Grow adds voting members; see recovery.Grow.
type Grow struct {
	recovery.Grow
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Grow) Do(ctx context.Context, e *lab.Env) error {
	op := a.Grow
	return cutShort(e, a.Cut, operation.Run(ctx, e, "grow", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Grow) Shell() (do, undo []string) {
	return shell("# until there are "+fmt.Sprint(a.To)+" voters:", etcdctl+"member add <spare> --peer-urls=URL --learner",
		"ssh <spare> etcd --initial-cluster-state=existing …", etcdctl+"member promote ID")
}

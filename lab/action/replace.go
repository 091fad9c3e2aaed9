package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Replace puts another host in a member's place; see recovery.Replace.
type Replace struct {
	recovery.Replace
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Replace) Do(ctx context.Context, e *lab.Env) error {
	op := a.Replace // what it decides belongs to this run, not to the drill
	return cutShort(e, a.Cut, operation.Run(ctx, e, "replace", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled. The order is that for a member that is dead.
func (a *Replace) Shell() (do, undo []string) {
	out, in := who(a.Member), who(a.With)
	return shell(etcdctl+"member remove ID  # of "+out, etcdctl+"member add "+in+" --peer-urls=URL --learner",
		"ssh "+in+" etcd --initial-cluster-state=existing …", etcdctl+"member promote ID  # of "+in)
}

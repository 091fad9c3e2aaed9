package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Repair takes wrong data out of a cluster; see recovery.Repair.
type Repair struct {
	recovery.Repair
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Repair) Do(ctx context.Context, e *lab.Env) error {
	op := a.Repair // what it decides belongs to this run, not to the drill
	return cutShort(e, a.Cut, operation.Run(ctx, e, "repair", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled. WRONG is the member whose hash differs.
func (*Repair) Shell() (do, undo []string) {
	return shell(etcdctl+"endpoint hashkv --cluster", "ssh WRONG systemctl stop etcd", etcdctl+"member remove ID  # of WRONG",
		etcdctl+"alarm disarm", etcdctl+"member add WRONG --peer-urls=URL --learner",
		"ssh WRONG etcd --initial-cluster-state=existing …", etcdctl+"member promote ID  # of WRONG")
}

package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Switch moves a running cluster to other hosts; see recovery.Stretch.
type Switch struct {
	recovery.Stretch
	SaveState bool `yaml:"save-state" doc:"save a state of the lab before, to which state-restore can go back"`
	Cut       int  `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Switch) Do(ctx context.Context, e *lab.Env) error {
	op := a.Stretch
	return cutShort(e, a.Cut, operation.Run(ctx, e, "switch", &op, ahead("switch", a.SaveState, a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Switch) Shell() (do, undo []string) {
	return shell("# for each of "+lab.Quote(a.To)+":", etcdctl+"member add NEW --peer-urls=URL --learner", "ssh NEW etcd --initial-cluster-state=existing …",
		etcdctl+"member promote ID", etcdctl+"move-leader ID  # when the old one leads", etcdctl+"member remove ID", "ssh OLD systemctl stop etcd; mv DATA DATA.left")
}

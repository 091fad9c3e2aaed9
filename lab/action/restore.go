package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Restore puts one snapshot on all members at once; see recovery.Restore.
type Restore struct {
	recovery.Restore
	SaveState bool `yaml:"save-state" doc:"save a state of the lab before, to which state-restore can go back"`
	Cut       int  `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Restore) Do(ctx context.Context, e *lab.Env) error {
	op := a.Restore // what it decides belongs to this run, not to the drill
	return cutShort(e, a.Cut, operation.Run(ctx, e, "restore", &op, ahead("restore", a.SaveState, a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Restore) Shell() (do, undo []string) {
	return shell("ssh <all> systemctl stop etcd", "scp "+word(a.File)+" <all>:", "ssh <all> etcdutl snapshot restore "+word(a.File)+" --initial-cluster-token=NEW --bump-revision=N --mark-compacted …",
		"ssh <all> mv DATA BEFORE; mv RESTORED DATA", "ssh <all> systemctl start etcd")
}

package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// RecoverQuorum brings a cluster back that has lost its quorum; see
// recovery.RecoverQuorum.
type RecoverQuorum struct {
	SaveState bool `yaml:"save-state" doc:"save a state of the lab before, to which state-restore can go back"`
	Cut       int  `doc:"end after so many records of the journal of its first operation, as if killed"`
}

// Doc implements lab.Action.
func (*RecoverQuorum) Doc() string {
	return "brings a cluster without quorum back: a majority of the original data if there is one, else the best survivor, salvaged and restored"
}

// Do implements lab.Action.
func (a *RecoverQuorum) Do(ctx context.Context, e *lab.Env) error {
	return cutShort(e, a.Cut, recovery.RecoverQuorum(ctx, e, ahead("recover-quorum", a.SaveState, a.Cut)))
}

// Shell implements lab.Shelled.
func (*RecoverQuorum) Shell() (do, undo []string) {
	return shell("ssh <all> systemctl start etcd  # where the data is there, if those are a majority; else:", "ssh <survivor> cp -a DATA QUARANTINE; etcd --force-new-cluster --data-dir QUARANTINE; etcdctl snapshot save",
		"etcdrill restore")
}

package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Switch moves a cluster to other hosts; see recovery.Switch.
type Switch struct {
	recovery.Switch
	SaveState bool `yaml:"save-state" doc:"save a state of the lab before, to which state-restore can go back"`
	Cut       int  `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Switch) Do(ctx context.Context, e *lab.Env) error {
	op := a.Switch
	return cutShort(e, a.Cut, operation.Run(ctx, e, "switch", &op, ahead("switch", a.SaveState, a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Switch) Shell() (do, undo []string) {
	if a.Method == "snapshot" {
		return shell("ssh <members> edit etcd.yaml; systemctl restart etcd  # listen-client-urls: a socket", "ssh OLD etcdctl snapshot save FILE  # when no revision moves any more",
			"ssh <members> systemctl stop etcd; mv DATA DATA.before", "scp FILE "+lab.Quote(a.To)+":", "ssh <new> etcdutl snapshot restore FILE --initial-cluster-token=NEW …", "ssh <new> systemctl start etcd")
	}
	return shell("# for each of "+lab.Quote(a.To)+":", etcdctl+"member add NEW --peer-urls=URL --learner", "ssh NEW etcd --initial-cluster-state=existing …",
		etcdctl+"member promote ID", etcdctl+"move-leader ID  # when the old one leads", etcdctl+"member remove ID", "ssh OLD systemctl stop etcd; mv DATA DATA.left")
}

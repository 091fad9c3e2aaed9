package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// Rotate gives everybody new certificates; see recovery.Rotate.
type Rotate struct {
	recovery.Rotate
	Cut int `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *Rotate) Do(ctx context.Context, e *lab.Env) error {
	op := a.Rotate
	return cutShort(e, a.Cut, operation.Run(ctx, e, "rotate", &op, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (a *Rotate) Shell() (do, undo []string) {
	leafs := []string{"openssl x509 -req … -CA ca.crt  # server, peer and client of each member, and of the clients", "scp … MEMBER:PKI/"}
	if !a.CA {
		return shell(leafs...)
	}
	return shell("cat old-ca.crt new-ca.crt | ssh MEMBER tee PKI/ca.crt; ssh MEMBER systemctl restart etcd  # one by one", leafs[0], leafs[1],
		"ssh MEMBER tee PKI/ca.crt < new-ca.crt; ssh MEMBER systemctl restart etcd  # one by one")
}

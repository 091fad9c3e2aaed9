package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// Rollback undoes an operation that did not end.
type Rollback struct {
	Cut int `doc:"end after so many records of its journal, those of before included, as if killed again"`
}

// Doc implements lab.Action.
func (*Rollback) Doc() string {
	return "undoes the operation that did not end, the last step first, from its journal and the hosts alone"
}

// Do implements lab.Action.
func (a *Rollback) Do(ctx context.Context, e *lab.Env) error {
	return cutShort(e, a.Cut, operation.Rollback(ctx, e, vault.Kinds, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (*Rollback) Shell() (do, undo []string) { return shell("etcdrill rollback") }

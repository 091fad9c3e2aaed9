package action

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// Resume goes on with an operation that did not end.
type Resume struct {
	Cut int `doc:"end after so many records of its journal, those of before included, as if killed again"`
}

// Doc implements lab.Action.
func (*Resume) Doc() string {
	return "goes on with the operation that did not end, from its journal and the hosts alone"
}

// Do implements lab.Action.
func (a *Resume) Do(ctx context.Context, e *lab.Env) error {
	return cutShort(e, a.Cut, operation.Resume(ctx, e, vault.Kinds, cutAfter(a.Cut)))
}

// Shell implements lab.Shelled.
func (*Resume) Shell() (do, undo []string) { return shell("etcdrill resume") }

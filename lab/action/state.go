package action

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// StateSave saves a state of the lab; see vault.Save.
type StateSave struct{ vault.Save }

// Doc implements lab.Action.
func (*StateSave) Doc() string {
	return "saves a state of all hosts: data, configuration, who votes; of a cluster without quorum what there is of it"
}

// Do implements lab.Action.
func (a *StateSave) Do(ctx context.Context, e *lab.Env) error {
	_, _, err := a.Save.Do(ctx, e)
	return err
}

// Shell implements lab.Shelled.
func (a *StateSave) Shell() (do, undo []string) {
	return shell(etcdctl+"snapshot save STATE/data.db", etcdctl+"member list --write-out=json > STATE/members.json", "scp <all>:/etc/etcd/etcd.yaml STATE/",
		"ssh <all> sha256sum /etc/etcd/pki/* > STATE/pki", "ssh <stopped> tar -cz /var/lib/etcd/member  # when the cluster does not serve")
}

// StateRestore goes back to a state of the lab; see vault.Restore.
type StateRestore struct {
	vault.Restore
	SaveState bool `yaml:"save-state" doc:"save a state of the lab before, to which state-restore can go back"`
	Cut       int  `doc:"end after so many records of its journal, as if killed; resume or rollback must follow"`
}

// Do implements lab.Action.
func (a *StateRestore) Do(ctx context.Context, e *lab.Env) error {
	op := a.Restore // what it decides belongs to this run, not to the drill
	return cutShort(e, a.Cut, operation.Run(ctx, e, recovery.StateRestore, &op, ahead(recovery.StateRestore, a.SaveState, a.Cut)))
}

// Shell implements lab.Shelled.
func (a *StateRestore) Shell() (do, undo []string) {
	return shell("etcdrill state diff live "+word(a.State), "ssh <all> systemctl stop etcd", "ssh <voters of the state> etcdutl snapshot restore STATE/data.db --initial-cluster-token=NEW --bump-revision=N --mark-compacted …",
		"ssh <all> mv DATA BEFORE; mv RESTORED DATA", "scp STATE/etcd.yaml <voters of the state>:/etc/etcd/  # with the new token", "ssh <voters of the state> systemctl start etcd")
}

// StateExport writes a state into an archive.
type StateExport struct {
	State string `default:"latest" doc:"name of a state, a label that one state has, or latest"`
	Store string `doc:"directory on this machine where states are kept; absent: the lab's own"`
	File  string `need:"yes" doc:"the archive, a new file below the lab's directory on this machine"`

	Compress   bool     `doc:"compressed (zstd)"`
	Recipients []string `doc:"encrypted (age), for the owners of these public keys"`
}

func (a *StateExport) packing() snapshot.Packing {
	return snapshot.Packing{Compress: a.Compress, Recipients: a.Recipients}
}

// Valid implements the check of arguments.
func (a *StateExport) Valid() error {
	if err := a.packing().Valid(); err != nil {
		return err
	}
	return localFile(a.File)
}

// localFile refuses what is no file below the lab's directory.
func localFile(file string) error {
	if !filepath.IsLocal(file) {
		return fmt.Errorf("file: %q: expected a path below the lab's directory on this machine", file)
	}
	return nil
}

// Doc implements lab.Action.
func (*StateExport) Doc() string { return "writes a state into one archive" }

// Do implements lab.Action.
func (a *StateExport) Do(_ context.Context, e *lab.Env) error {
	store := vault.OpenStore(e.Cluster, a.Store)
	found, err := store.Find(a.State)
	if err != nil {
		return err
	}
	return vault.Export(store, found, filepath.Join(e.Dir, a.File), a.packing())
}

// Shell implements lab.Shelled.
func (a *StateExport) Shell() (do, undo []string) {
	return shell("tar -cf " + word(a.File) + " STATE")
}

// StateImport takes a state from an archive.
type StateImport struct {
	File string `need:"yes" doc:"the archive, below the lab's directory on this machine"`
	vault.Import
}

// Valid implements the check of arguments.
func (a *StateImport) Valid() error { return localFile(a.File) }

// Doc implements lab.Action.
func (*StateImport) Doc() string {
	return "takes a state from an archive into the store, whole or not at all"
}

// Do implements lab.Action.
func (a *StateImport) Do(_ context.Context, e *lab.Env) error {
	name, err := a.Import.Do(e.Cluster, filepath.Join(e.Dir, a.File))
	if err == nil {
		e.Note("", "state %s is in the store", name)
	}
	return err
}

// Shell implements lab.Shelled.
func (a *StateImport) Shell() (do, undo []string) {
	return shell("tar -xf " + word(a.File) + "  # into a directory of its own; every file compared with the index")
}

// StatePrune lets old states go; see vault.Prune.
type StatePrune struct{ vault.Prune }

// Doc implements lab.Action.
func (*StatePrune) Doc() string {
	return "deletes old states, but never the newest sound one, nor by default those that were saved by themselves"
}

// Do implements lab.Action.
func (a *StatePrune) Do(_ context.Context, e *lab.Env) error {
	stay, gone, err := a.Prune.Do(e.Cluster, false)
	if err == nil {
		e.Note("", "%d states are gone, %d stay", len(gone), len(stay))
	}
	return err
}

// Shell implements lab.Shelled.
func (*StatePrune) Shell() (do, undo []string) { return shell("rm STATES  # the old ones") }

// StateDelete deletes one state.
type StateDelete struct {
	State string `need:"yes" doc:"name of a state, a label that one state has, or latest"`
	Store string `doc:"directory on this machine where states are kept; absent: the lab's own"`
}

// Doc implements lab.Action.
func (*StateDelete) Doc() string { return "deletes one state, named whole" }

// Do implements lab.Action.
func (a *StateDelete) Do(_ context.Context, e *lab.Env) error {
	store := vault.OpenStore(e.Cluster, a.Store)
	found, err := store.Find(a.State)
	if err != nil {
		return err
	}
	e.Note("", "state %s is deleted", found.Name)
	return store.Remove(found)
}

// Shell implements lab.Shelled.
func (a *StateDelete) Shell() (do, undo []string) { return shell("rm -r " + word(a.State)) }

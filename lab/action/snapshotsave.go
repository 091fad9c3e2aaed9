package action

import (
	"context"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// SnapshotSave saves a snapshot that one can trust into a store.
type SnapshotSave struct {
	Member   lab.Target    `doc:"whose state; absent: a voter that is not behind, and not the leader where there is another"`
	Label    string        `doc:"a name for people, by which later steps find it"`
	Store    string        `doc:"where to keep it: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Survivor bool          `doc:"without a quorum too: what the named member knows, which nobody can say is all"`
	NoTrial  bool          `yaml:"no-trial" doc:"do not restore it and boot a throwaway member from it"`
	Timeout  time.Duration `doc:"for the transfer; absent: by the size of the database"`

	Compress   bool     `doc:"keep it compressed (zstd)"`
	Recipients []string `doc:"keep it encrypted (age), for the owners of these public keys; its sidecar is not"`
}

func (a *SnapshotSave) save(member string) *snapshot.Save {
	return &snapshot.Save{Member: member, Label: a.Label, Store: a.Store, Survivor: a.Survivor, NoTrial: a.NoTrial, Timeout: a.Timeout,
		Compress: a.Compress, Recipients: a.Recipients}
}

// Valid implements the check of arguments.
func (a *SnapshotSave) Valid() error { return a.save(a.Member.Role).Valid() }

// Doc implements lab.Action.
func (*SnapshotSave) Doc() string {
	return "saves a snapshot into a store on this machine and proves it: by its bytes, and by a throwaway member booted from it"
}

// Touches says how much of an adopted cluster it changes.
func (*SnapshotSave) Touches() lab.Touch { return lab.Looks }

// Do implements lab.Action.
func (a *SnapshotSave) Do(ctx context.Context, e *lab.Env) error {
	name := ""
	if a.Member.Role != "" {
		m, err := etcd.Seat(e.Cluster, a.Member)
		if err != nil {
			return err
		}
		name = m.Name
	}
	_, _, err := a.save(name).Do(ctx, e)
	return err
}

// Shell implements lab.Shelled.
func (a *SnapshotSave) Shell() (do, undo []string) {
	lines := []string{etcdctl + "snapshot save TEMP --endpoints=" + who(a.Member), "sha256sum TEMP  # all but the last 32 bytes, which are that sum"}
	if !a.NoTrial {
		lines = append(lines, "etcdutl snapshot restore TEMP --data-dir=SCRATCH --initial-cluster-token=FRESH …", "etcd --data-dir=SCRATCH …  # count its keys, compare its hash, throw it away")
	}
	return shell(append(lines, "mv TEMP STORE/NAME.db")...)
}

// SnapshotVerify looks whether a snapshot can be restored.
type SnapshotVerify struct {
	Snapshot string     `default:"latest" doc:"name or label of a snapshot of the store, latest, or a file: its path on this machine, or on a member's host"`
	Member   lab.Target `doc:"the file is on the host of this member, its path relative to the lab's directory there"`
	Store    string     `doc:"where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Trial    bool       `doc:"restore it into a scratch directory, boot a throwaway member from it, and look what that has"`
	Foreign  bool       `doc:"one of another cluster is right too"`
	Identity string     `doc:"file with age secret keys on this machine, for a snapshot that is encrypted"`
}

// Valid implements the check of arguments.
func (a *SnapshotVerify) Valid() error {
	if a.Member.Role == "" {
		return nil
	}
	if a.Store != "" {
		return fmt.Errorf("member, store: expected one of them")
	}
	return (&Snapshot{File: a.Snapshot}).Valid()
}

// Doc implements lab.Action.
func (*SnapshotVerify) Doc() string {
	return "looks whether a snapshot can be restored: trailer, pages, sidecar, cluster, version, and on demand a trial; refuses with the reason"
}

// Touches says how much of an adopted cluster it changes.
func (*SnapshotVerify) Touches() lab.Touch { return lab.Looks }

// Do implements lab.Action.
func (a *SnapshotVerify) Do(ctx context.Context, e *lab.Env) error {
	v := snapshot.Verify{Snapshot: a.Snapshot, Store: a.Store, Trial: a.Trial, Foreign: a.Foreign, Identity: a.Identity}
	if a.Member.Role != "" {
		m, err := etcd.Seat(e.Cluster, a.Member)
		if err != nil {
			return err
		}
		v.Member = m.Name
	}
	_, err := v.Do(ctx, e)
	return err
}

// Shell implements lab.Shelled. etcdutl's own status is no verification (FE9).
func (a *SnapshotVerify) Shell() (do, undo []string) {
	lines := []string{"sha256sum " + word(a.Snapshot) + "  # all but the last 32 bytes, which are that sum"}
	if a.Trial {
		lines = append(lines, "etcdutl snapshot restore "+word(a.Snapshot)+" --data-dir=SCRATCH --initial-cluster-token=FRESH …", "etcd --data-dir=SCRATCH …")
	}
	return shell(lines...)
}

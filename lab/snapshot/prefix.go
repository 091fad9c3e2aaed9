package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// RestorePrefix makes the keys below one prefix of the running cluster what they
// are in a snapshot: such as one namespace that somebody has deleted. Nothing
// else is touched, and the cluster goes on to serve. It is no restore as
// recovery knows it: the keys are written again, at new revisions.
type RestorePrefix struct {
	Snapshot string `default:"latest" doc:"name or label of a snapshot of the store, latest, or the path of a file on this machine, with a slash in it"`
	Prefix   string `need:"yes" doc:"what the keys begin with"`
	Store    string `doc:"where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Foreign  bool   `doc:"although the snapshot is of another cluster"`
	Identity string `doc:"file with age secret keys on this machine, for a snapshot that is encrypted"`
}

// Before is the label of the snapshot that is saved before a prefix is restored:
// the way back is to restore the prefix from that.
const Before = "before-restore-prefix"

// Valid refuses impossible arguments.
func (r *RestorePrefix) Valid() error {
	if r.Prefix == "" {
		return errors.New("prefix: expected how the keys begin; for all of them there is `restore`")
	}
	return ValidStore(r.Store)
}

// Do performs it, or with dry only says what would change. The snapshot is
// verified first, and one of what there is now is saved into the lab's own
// store. A key that changes while it is at work is a *lab.Failure; then, and
// when it was killed, it can be done again. Keys that had a lease in the snapshot
// stay as they are: their time was over long ago.
func (r *RestorePrefix) Do(ctx context.Context, e *lab.Env, dry bool) ([]Change, error) {
	then, err := r.read(ctx, e)
	if err != nil {
		return nil, err
	}
	leased := 0
	want := etcd.Keys{}
	for key, rec := range then {
		if rec.Lease != 0 {
			leased++
			continue
		}
		want[key] = etcd.Value{Sum: etcd.Sum(rec.Value)}
	}
	now, changes, err := r.differ(ctx, e, then, want)
	if err != nil || dry || len(changes) == 0 {
		return changes, err
	}
	if leased > 0 {
		e.Note("", "%d keys had a lease in the snapshot, and stay as they are", leased)
	}
	if _, _, err := (&Save{Label: Before, NoTrial: true}).Do(ctx, e); err != nil {
		return nil, fmt.Errorf("what there is now could not be saved, so nothing was touched: %w", err)
	}
	if err := r.write(ctx, e, then, now, changes); err != nil {
		return nil, err
	}
	_, left, err := r.differ(ctx, e, then, want)
	if err == nil && len(left) > 0 {
		err = &lab.Failure{What: "keys that begin with " + r.Prefix, Want: "as in the snapshot", Got: fmt.Sprintf("%d others, the first is %s: somebody else writes them", len(left), left[0])}
	}
	if err != nil {
		return nil, err
	}
	e.Note("", "%d keys that begin with %s were written or deleted, and are as in snapshot %s", len(changes), r.Prefix, r.Snapshot)
	return changes, nil
}

// read verifies the snapshot and reads what it has below the prefix.
func (r *RestorePrefix) read(ctx context.Context, e *lab.Env) (_ map[string]etcd.Record, err error) {
	v := Verify{Snapshot: r.Snapshot, Store: r.Store, Foreign: r.Foreign, Identity: r.Identity}
	if _, err := v.Do(ctx, e); err != nil {
		return nil, err
	}
	store, err := OpenStore(e, r.Store)
	if err != nil {
		return nil, err
	}
	file, _, done, err := v.find(ctx, e, store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	then, err := etcd.ReadRecords(file, r.Prefix)
	if err == nil && len(then) == 0 {
		err = &lab.Failure{What: "snapshot " + r.Snapshot + ": keys that begin with " + r.Prefix, Want: "at least one: deleting all of them is a command of its own", Got: "none"}
	}
	return then, err
}

// differ compares the cluster with the snapshot, below the prefix and but for
// keys that had a lease.
func (r *RestorePrefix) differ(ctx context.Context, e *lab.Env, then map[string]etcd.Record, want etcd.Keys) (etcd.Keys, []Change, error) {
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return nil, nil, err
	}
	now, _, err := etcd.ReadKeysBelow(ctx, e.Cluster, up[0], r.Prefix, 0)
	if err != nil {
		return nil, nil, err
	}
	for key := range now {
		if then[key].Lease != 0 {
			delete(now, key)
		}
	}
	return now, Diff(now, want), nil
}

// Limits of etcd's defaults: operations per transaction, and bytes per request
// with room for the keys.
const (
	txnOps   = 100
	txnBytes = 1 << 20
)

// write makes the changes, in transactions that want every key to be as it was
// seen.
func (r *RestorePrefix) write(ctx context.Context, e *lab.Env, then map[string]etcd.Record, now etcd.Keys, changes []Change) error {
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		return err
	}
	defer cli.Close()
	for len(changes) > 0 {
		var seen []clientv3.Cmp
		var ops []clientv3.Op
		bytes := 0
		for _, c := range changes[:min(txnOps, len(changes))] {
			if bytes += len(c.Key) + len(then[c.Key].Value); bytes > txnBytes && len(ops) > 0 {
				break
			}
			seen = append(seen, clientv3.Compare(clientv3.ModRevision(c.Key), "=", now[c.Key].Revision))
			if c.What == "gone" {
				ops = append(ops, clientv3.OpDelete(c.Key))
			} else {
				ops = append(ops, clientv3.OpPut(c.Key, string(then[c.Key].Value)))
			}
		}
		limit, cancel := context.WithTimeout(ctx, 30*time.Second)
		answer, err := cli.Txn(limit).If(seen...).Then(ops...).Commit()
		cancel()
		if err != nil {
			return fmt.Errorf("keys from %s on: %w: it can be done again", changes[0].Key, err)
		}
		if !answer.Succeeded {
			return &lab.Failure{What: fmt.Sprintf("keys from %s to %s", changes[0].Key, changes[len(ops)-1].Key), Want: "to be as they were a moment ago",
				Got: "a change: stop who writes them, and do it again"}
		}
		changes = changes[len(ops):]
	}
	return nil
}

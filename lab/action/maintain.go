package action

import (
	"context"
	"fmt"
	"slices"
	"sort"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// Compact forgets the history below a revision.
type Compact struct {
	Revision int64 `doc:"up to where; the current revision when absent"`
	Physical bool  `doc:"return only when the space is free for use again"`
}

// Valid implements the check of arguments.
func (a *Compact) Valid() error {
	if a.Revision < 0 {
		return fmt.Errorf("revision: %d: expected 1 or more, or nothing for the current one", a.Revision)
	}
	return nil
}

// Doc implements lab.Action.
func (*Compact) Doc() string { return "forgets the history below a revision" }

// Do implements lab.Action. The effect asserted is that a read of the revision
// below is answered with "compacted".
func (a *Compact) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	if a.Revision != 0 {
		return etcd.Compact(ctx, e, m, a.Revision, a.Physical)
	}
	// As the member knows it: whether there is a quorum is for the compaction
	// itself to find out.
	var rev int64
	err = local(e, m, func(cli *clientv3.Client) error {
		r, err := cli.Get(ctx, "health", clientv3.WithKeysOnly(), clientv3.WithSerializable())
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("current revision: %w", err)
	}
	if err = etcd.Compact(ctx, e, m, rev, a.Physical); err != nil {
		if gone, lerr := etcd.Compacted(ctx, e, m, rev); lerr == nil && gone {
			return nil // somebody else had compacted it already
		}
	}
	return err
}

// Defrag gives space inside the database back to the filesystem.
type Defrag struct {
	Member lab.Target `default:"all" doc:"the members, one after the other, the leader last: each stands still meanwhile"`
}

// Doc implements lab.Action.
func (*Defrag) Doc() string {
	return "gives free space of the databases back, one member after the other, the leader last"
}

// Do implements lab.Action.
func (a *Defrag) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	for _, s := range e.Look(ctx) {
		if s.Up && s.Role == "leader" {
			if at := slices.IndexFunc(seats, func(m *lab.Member) bool { return m.Name == s.Name }); at >= 0 {
				leader := seats[at]
				seats = append(slices.Delete(seats, at, at+1), leader)
			}
		}
	}
	for _, m := range seats {
		if err := etcd.Defrag(ctx, e, m); err != nil {
			return err
		}
	}
	return nil
}

// Disarm takes alarms away.
type Disarm struct{}

// Doc implements lab.Action.
func (*Disarm) Doc() string {
	return "disarms all alarms and looks that they are away; without space they come back"
}

// Do implements lab.Action.
func (*Disarm) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	return etcd.Disarm(ctx, e, via[0])
}

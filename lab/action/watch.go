package action

import (
	"context"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Watch opens a watch that later steps look at.
type Watch struct {
	Name          string     `need:"yes" doc:"its name, for check watch"`
	Through       lab.Target `doc:"members that may serve it, and take over from each other; all that vote and answer when absent"`
	Key           string     `need:"yes" doc:"the key, or the beginning of keys"`
	Prefix        bool       `doc:"all keys that begin with it"`
	RequireLeader bool       `yaml:"require-leader" doc:"let etcd end it when the member that serves it has no leader; otherwise it stays silent"`
	FromRevision  int64      `yaml:"from-revision" doc:"the first revision to see; the next one when absent"`
}

// Valid implements the check of arguments.
func (a *Watch) Valid() error {
	if a.FromRevision < 0 {
		return fmt.Errorf("from-revision: %d: expected 1 or more", a.FromRevision)
	}
	return nil
}

// Doc implements lab.Action.
func (*Watch) Doc() string { return "opens a watch that is kept for check watch" }

// Do implements lab.Action. It returns when etcd has said that the watch is in
// place, or has ended it at once, which is for the check to judge.
func (a *Watch) Do(ctx context.Context, e *lab.Env) error {
	if e.Held == nil {
		return fmt.Errorf("a watch cannot be kept between two commands: only a drill can have one")
	}
	via, err := etcd.Answering(ctx, e)
	if len(a.Through.Names) > 0 {
		via, err = etcd.Seats(e.Cluster, a.Through)
	}
	if err != nil {
		return err
	}
	w, err := etcd.OpenWatch(ctx, e.Cluster, etcd.WatchSpec{Key: a.Key, Prefix: a.Prefix, RequireLeader: a.RequireLeader, From: a.FromRevision}, via...)
	if err != nil {
		return fmt.Errorf("watch %s: %w", a.Name, err)
	}
	e.Held.Put(etcd.WatchKey(a.Name), w)
	e.Note("", "watch %s on %s from revision %d through %s", a.Name, a.Key, w.From(), names(via))
	return nil
}

func names(seats []*lab.Member) string {
	s := ""
	for i, m := range seats {
		if i > 0 {
			s += ", "
		}
		s += m.Name
	}
	return s
}

// Wait lets time pass.
type Wait struct{}

// Doc implements lab.Action.
func (*Wait) Doc() string { return "holds the state as it is for the step's `for`" }

// Touches says how much of an adopted cluster it changes.
func (*Wait) Touches() lab.Touch { return lab.Looks }

// Do implements lab.Action.
func (*Wait) Do(ctx context.Context, e *lab.Env) error {
	if e.For <= 0 {
		return fmt.Errorf("wait: say how long with `for`")
	}
	t := time.NewTimer(e.For)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

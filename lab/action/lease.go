package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Lease grants a lease and writes keys that die with it.
type Lease struct {
	Name  string        `need:"yes" doc:"its name, for check lease, keepalive and revoke; the key lease/NAME is written with it"`
	TTL   time.Duration `need:"yes" doc:"time to live, whole seconds"`
	Key   string        `doc:"a further key to write with it"`
	Value string        `doc:"the value of the keys"`
}

// Valid implements the check of arguments.
func (l *Lease) Valid() error {
	if l.TTL < time.Second || l.TTL%time.Second != 0 {
		return fmt.Errorf("ttl: %s: expected whole seconds, at least 1s", l.TTL)
	}
	return nil
}

// Doc implements lab.Action.
func (*Lease) Doc() string { return "grants a lease and writes keys that die with it" }

// Do implements lab.Action.
func (l *Lease) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	granted := time.Now()
	out, err := etcd.Tool(ctx, e, m, "etcdctl", "--write-out=json", "lease", "grant", strconv.Itoa(int(l.TTL/time.Second)))
	if err != nil {
		return err
	}
	var r struct {
		ID int64 `json:"ID"`
	}
	if err := json.Unmarshal(out.Stdout, &r); err != nil || r.ID == 0 {
		return fmt.Errorf("%s: etcdctl lease grant exited 0 without a lease: %.200q", m.Name, out.Stdout)
	}
	keys := []string{etcd.LeaseKey(l.Name)}
	if l.Key != "" {
		keys = append(keys, l.Key)
	}
	for _, k := range keys {
		rev, err := ctl(ctx, e, m, "", "put", "--lease="+hexLease(r.ID), "--", k, l.Value)
		if err != nil {
			return err
		}
		if err := holds(ctx, e, m, "the put", k, &l.Value, rev); err != nil {
			return err
		}
	}
	id, err := leaseOf(ctx, e, m, l.Name)
	if errors.Is(err, fs.ErrNotExist) && time.Since(granted) >= l.TTL {
		e.Note(m.Name, "the lease %s has ended before we could look at it: its time was short", l.Name)
		return nil
	}
	if err != nil {
		return err
	}
	if id != r.ID {
		return &lab.Failure{What: "lease of " + etcd.LeaseKey(l.Name), Want: hexLease(r.ID), Got: hexLease(id)}
	}
	return nil
}

// leaseOf finds a lease by its name.
func leaseOf(ctx context.Context, e *lab.Env, m *lab.Member, name string) (id int64, err error) {
	err = local(e, m, func(cli *clientv3.Client) error {
		id, err = etcd.FindLease(ctx, cli, name)
		return err
	})
	return id, err
}

func hexLease(id int64) string { return strconv.FormatInt(id, 16) }

// Keepalive renews a lease once.
type Keepalive struct {
	Name string `need:"yes" doc:"the lease's name"`
}

// Doc implements lab.Action.
func (*Keepalive) Doc() string { return "renews a lease once and looks that its time began again" }

// Do implements lab.Action.
func (k *Keepalive) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	id, err := leaseOf(ctx, e, m, k.Name)
	if err != nil {
		return err
	}
	renewed := time.Now()
	if _, err := etcd.Tool(ctx, e, m, "etcdctl", "lease", "keep-alive", "--once", hexLease(id)); err != nil {
		return err
	}
	return local(e, m, func(cli *clientv3.Client) error {
		r, err := cli.TimeToLive(ctx, clientv3.LeaseID(id))
		if err != nil {
			return fmt.Errorf("the renewal was acknowledged, and the lease could not be looked at: %w", err)
		}
		// TTL counts whole seconds and rounds down.
		least := r.GrantedTTL - 1 - int64(time.Since(renewed)/time.Second)
		if r.TTL < least {
			return &lab.Failure{What: "lease " + k.Name + " after a renewal", Want: fmt.Sprintf("at least %ds of %ds left", least, r.GrantedTTL), Got: fmt.Sprintf("%ds", r.TTL)}
		}
		return nil
	})
}

// Revoke ends a lease.
type Revoke struct {
	Name string `need:"yes" doc:"the lease's name"`
}

// Doc implements lab.Action.
func (*Revoke) Doc() string { return "ends a lease and looks that its keys are gone" }

// Do implements lab.Action.
func (r *Revoke) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	id, err := leaseOf(ctx, e, m, r.Name)
	if err != nil {
		return err
	}
	var keys [][]byte
	err = local(e, m, func(cli *clientv3.Client) error {
		l, err := cli.TimeToLive(ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
		if err == nil {
			keys = l.Keys
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("lease %s: %w", r.Name, err)
	}
	rev, err := ctl(ctx, e, m, "", "lease", "revoke", hexLease(id))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := holds(ctx, e, m, "the revocation", string(k), nil, rev); err != nil {
			return err
		}
	}
	return nil
}

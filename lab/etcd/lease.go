package etcd

import (
	"context"
	"fmt"
	"io/fs"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// LeaseKey is the key that is written with the lease a drill calls name. The
// lease is found again by it, also from another process.
func LeaseKey(name string) string { return "lease/" + name }

// FindLease returns the id of the lease a drill calls name, by a linearizable
// read. When its key is not there, because the lease has ended or was never
// granted, the error matches fs.ErrNotExist.
func FindLease(ctx context.Context, cli *clientv3.Client, name string) (int64, error) {
	r, err := cli.Get(ctx, LeaseKey(name))
	if err != nil {
		return 0, fmt.Errorf("lease %s: %w", name, err)
	}
	if len(r.Kvs) == 0 || r.Kvs[0].Lease == 0 {
		return 0, fmt.Errorf("lease %s: no key %s that has one: it has ended, or `do: lease` never ran: %w", name, LeaseKey(name), fs.ErrNotExist)
	}
	return r.Kvs[0].Lease, nil
}

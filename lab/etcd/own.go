package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// CountOwn counts the keys of lab.OwnKeys in a cluster.
func CountOwn(ctx context.Context, c *lab.Cluster) (int64, error) {
	cli, err := Client(c)
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	r, err := cli.Get(ctx, lab.OwnKeys, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("keys below %s: %w", lab.OwnKeys, err)
	}
	return r.Count, nil
}

// RemoveOwn takes the keys of lab.OwnKeys away again, and writes nothing where
// there are none. It needs a quorum, and waits for one as long as ctx allows.
func RemoveOwn(ctx context.Context, c *lab.Cluster) error {
	n, err := CountOwn(ctx, c)
	if err != nil || n == 0 {
		return err
	}
	cli, err := Client(c)
	if err != nil {
		return err
	}
	defer cli.Close()
	if _, err := cli.Delete(ctx, lab.OwnKeys, clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("keys below %s: %w", lab.OwnKeys, err)
	}
	return nil
}

package etcd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

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
	return countOwn(ctx, cli)
}

func countOwn(ctx context.Context, cli *clientv3.Client) (int64, error) {
	r, err := cli.Get(ctx, lab.OwnKeys, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("keys below %s: %w", lab.OwnKeys, err)
	}
	return r.Count, nil
}

// RemoveOwn takes the keys of lab.OwnKeys away again, and writes nothing where
// there are none. It needs a quorum, and waits for one as long as ctx allows:
// members that have just come back answer that they timed out.
func RemoveOwn(ctx context.Context, c *lab.Cluster) error {
	cli, err := Client(c)
	if err != nil {
		return err
	}
	defer cli.Close()
	var final error
	err = lab.Until(ctx, "a quorum", func(ctx context.Context) error {
		n, err := countOwn(ctx, cli)
		if err == nil && n > 0 {
			if _, err = cli.Delete(ctx, lab.OwnKeys, clientv3.WithPrefix()); err != nil {
				err = fmt.Errorf("keys below %s: %w", lab.OwnKeys, err)
			}
		}
		if err != nil && !slices.ContainsFunc(disturbed, func(text string) bool { return strings.Contains(err.Error(), text) }) {
			final = err
			return nil
		}
		return err
	})
	return cmp.Or(final, err)
}

package action

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// Delete deletes a key, or all that begin with it.
type Delete struct {
	Key     string     `need:"yes" doc:"the key, or the beginning of keys"`
	Prefix  bool       `doc:"all keys that begin with it"`
	Through lab.Target `doc:"members to delete through, one after the other; one that answers when absent"`
}

// Doc implements lab.Action.
func (*Delete) Doc() string {
	return "deletes a key or all with a prefix and looks that they are gone at the revision of the answer"
}

// Do implements lab.Action.
func (d *Delete) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, d.Through)
	if err != nil {
		return err
	}
	args := []string{"del", "--", d.Key}
	if d.Prefix {
		args = []string{"del", "--prefix", "--", d.Key}
	}
	for _, m := range via {
		rev, err := ctl(ctx, e, m, "", args...)
		if err != nil {
			return err
		}
		if !d.Prefix {
			if err := holds(ctx, e, m, "the deletion", d.Key, nil, rev); err != nil {
				return err
			}
			continue
		}
		err = local(e, m, func(cli *clientv3.Client) error {
			r, err := cli.Get(ctx, d.Key, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(rev))
			if err != nil {
				return fmt.Errorf("the deletion was acknowledged at revision %d, and could not be read back: %w", rev, err)
			}
			if r.Count > 0 {
				return &lab.Failure{What: fmt.Sprintf("keys that begin with %q at revision %d, after an acknowledged deletion", d.Key, rev), Want: "none", Got: fmt.Sprint(r.Count)}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

package etcd

import (
	"cmp"
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdrill/etcdrill/lab"
)

// HashAt reads HashKV of one seat at a revision. One that it has not yet, or
// has compacted, gives an error that matches ErrNotComparable.
func HashAt(ctx context.Context, c *lab.Cluster, m *lab.Member, revision int64) (Hash, error) {
	var out Hash
	err := call(ctx, c, m, func(ctx context.Context, _ pb.KVClient, mt pb.MaintenanceClient) error {
		r, err := mt.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		out = Hash{Seat: m, Hash: r.GetHash(), Revision: revision, Compact: r.GetCompactRevision()}
		if status.Code(err) == codes.OutOfRange {
			return fmt.Errorf("%w: revision %d: %s", ErrNotComparable, revision, status.Convert(err).Message())
		}
		return err
	})
	return out, err
}

// RevisionOf reads how far one seat is: the revision of a linearizable read,
// which is that of the cluster, or of a serializable one, which is its own.
func RevisionOf(ctx context.Context, c *lab.Cluster, m *lab.Member, serializable bool) (int64, error) {
	var rev int64
	err := call(ctx, c, m, func(ctx context.Context, k pb.KVClient, _ pb.MaintenanceClient) error {
		r, err := k.Range(ctx, &pb.RangeRequest{Key: []byte{0}, Serializable: serializable, CountOnly: true})
		rev = r.GetHeader().GetRevision()
		return err
	})
	return rev, err
}

// keysPerPage bounds what one answer holds: values may have more than a MiB.
const keysPerPage = 500

// ReadKeys reads through one seat all keys as they were at a revision; 0 means
// now, by a linearizable read. It returns the revision it read at.
func ReadKeys(ctx context.Context, c *lab.Cluster, m *lab.Member, revision int64) (Keys, int64, error) {
	return ReadKeysBelow(ctx, c, m, "", revision)
}

// ReadKeysBelow is ReadKeys of those that begin with a prefix.
func ReadKeysBelow(ctx context.Context, c *lab.Cluster, m *lab.Member, prefix string, revision int64) (Keys, int64, error) {
	cli, err := Local(c, m)
	if err != nil {
		return nil, 0, err
	}
	defer cli.Close()
	out := Keys{}
	end := clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix))
	for from := cmp.Or(prefix, "\x00"); ; {
		r, err := cli.Get(ctx, from, end, clientv3.WithLimit(keysPerPage), clientv3.WithRev(revision))
		if err != nil {
			return nil, 0, fmt.Errorf("keys of %s: %w", m.Name, err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			out[string(kv.Key)] = Value{Revision: kv.ModRevision, Sum: Sum(kv.Value)}
		}
		if !r.More {
			return out, revision, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

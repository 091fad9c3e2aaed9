package action

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Seed writes many keys quickly.
type Seed struct {
	Count  int       `default:"1000" doc:"how many keys"`
	Size   lab.Bytes `default:"1KiB" doc:"bytes per value, random and so not to be compressed"`
	Prefix string    `default:"seed/" doc:"what the keys begin with; they go on with a number"`
}

// Limits of etcd's defaults: operations per transaction, and bytes per request
// with room for the keys.
const (
	seedOps   = 128
	seedBytes = 1 << 20
)

// Valid implements the check of arguments.
func (s *Seed) Valid() error {
	switch {
	case s.Count < 1:
		return fmt.Errorf("count: %d: expected at least 1", s.Count)
	case s.Size < 1 || s.Size > seedBytes:
		return fmt.Errorf("size: %d: expected 1 to %d bytes: etcd refuses larger requests", s.Size, seedBytes)
	}
	return nil
}

// Doc implements lab.Action.
func (*Seed) Doc() string { return "writes many keys in large batches, to have data to lose" }

// Do implements lab.Action. It uses the client library: nobody writes a
// thousand keys by hand. What was written is counted in the end.
func (s *Seed) Do(ctx context.Context, e *lab.Env) error {
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	cli, err := etcd.Client(e.Cluster, up...)
	if err != nil {
		return err
	}
	defer cli.Close()
	batch := min(seedOps, max(1, int(seedBytes/s.Size)))
	var values [32]byte // decides, with the number of a batch, what is in it
	for i := range values[8:] {
		values[8+i] = byte(e.Rand.Uint32())
	}
	const writers = 8
	next := make(chan int)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for from := range next {
				seed := values
				binary.BigEndian.PutUint64(seed[:8], uint64(from))
				r := rand.NewChaCha8(seed)
				var ops []clientv3.Op
				for n := from; n < min(from+batch, s.Count); n++ {
					v := make([]byte, s.Size)
					r.Read(v)
					ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%08d", s.Prefix, n), string(v)))
				}
				if _, err := cli.Txn(ctx).Then(ops...).Commit(); err != nil {
					stop(fmt.Errorf("keys from %d on: %w", from, err))
					return
				}
			}
		})
	}
feed:
	for from := 0; from < s.Count; from += batch {
		select {
		case next <- from:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	r, err := cli.Get(ctx, s.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("seed: written, and could not be counted: %w", err)
	}
	if r.Count < int64(s.Count) {
		return &lab.Failure{What: "keys that begin with " + s.Prefix, Want: fmt.Sprintf("at least the %d that were acknowledged", s.Count), Got: fmt.Sprint(r.Count)}
	}
	e.Note("", "%d keys of %d bytes begin with %s, at revision %d", r.Count, s.Size, s.Prefix, r.Header.Revision)
	return nil
}

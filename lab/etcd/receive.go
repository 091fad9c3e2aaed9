package etcd

import (
	"context"
	"errors"
	"io"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcdrill/etcdrill/lab"
)

// ReceiveSnapshot asks one seat for a snapshot, as etcdctl does, and calls do
// with its bytes while they come. They are to be verified: see VerifySnapshot.
func ReceiveSnapshot(ctx context.Context, c *lab.Cluster, m *lab.Member, do func(io.Reader) error) error {
	// What a member may send before it is answered: so that neither waits for
	// the other.
	const ahead = 4 << 20
	return call(ctx, c, m, func(ctx context.Context, _ pb.KVClient, mt pb.MaintenanceClient) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends what do has not read
		s, err := mt.Snapshot(ctx, &pb.SnapshotRequest{}, grpc.ForceCodecV2(blobs{encoding.GetCodecV2(proto.Name)}))
		if err != nil {
			return err
		}
		return do(&pieces{stream: s})
	}, grpc.WithInitialWindowSize(ahead), grpc.WithInitialConnWindowSize(ahead), grpc.WithReadBufferSize(ahead/16))
}

// pieces are the bytes of a snapshot that comes in pieces.
type pieces struct {
	stream pb.Maintenance_SnapshotClient
	last   piece
	rest   []byte // of the last one
}

// Read implements io.Reader.
func (p *pieces) Read(to []byte) (int, error) {
	for len(p.rest) == 0 {
		if err := p.stream.RecvMsg(&p.last); err != nil {
			return 0, err // io.EOF at the end
		}
		p.rest = p.last.blob
	}
	n := copy(to, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// piece is a SnapshotResponse of etcd's API, as it came, and its field blob.
type piece struct{ all, blob []byte }

// blobs reads pieces into the same memory again and again. The usual way takes
// fresh memory twice for each, and a third of all the time that saving costs us.
type blobs struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2 for a *piece.
func (blobs) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*piece)
	if !ok {
		return errors.New("not a piece of a snapshot")
	}
	p.all = slices.Grow(p.all[:0], data.Len())[:data.Len()]
	data.CopyTo(p.all)
	p.blob = nil
	whole := fields(p.all, func(field protowire.Number, typ protowire.Type, body []byte) {
		if field == 3 && typ == protowire.BytesType {
			p.blob, _ = protowire.ConsumeBytes(body)
		}
	})
	if !whole {
		return errors.New("a piece of a snapshot that makes no sense")
	}
	return nil
}

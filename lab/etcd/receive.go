package etcd

import (
	"context"
	"errors"
	"fmt"
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
	conn, err := connect(c, m, grpc.WithInitialWindowSize(ahead), grpc.WithInitialConnWindowSize(ahead), grpc.WithReadBufferSize(ahead/16))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends what do has not read
	s, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{}, grpc.ForceCodecV2(blobs{encoding.GetCodecV2(proto.Name)}))
	if err == nil {
		err = do(&pieces{stream: s})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return nil
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
	for rest := p.all; len(rest) > 0; {
		field, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		body := rest[n:]
		if n = protowire.ConsumeFieldValue(field, typ, body); n < 0 {
			return protowire.ParseError(n)
		}
		if field == 3 && typ == protowire.BytesType {
			p.blob, _ = protowire.ConsumeBytes(body)
		}
		rest = body[n:]
	}
	return nil
}

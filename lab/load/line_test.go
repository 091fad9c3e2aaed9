package load

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdrill/etcdrill/lab"
)

// member answers every write the same way and counts them.
type member struct {
	pb.UnimplementedKVServer
	n      atomic.Int64
	answer func() error
}

func (m *member) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
	m.n.Add(1)
	if err := m.answer(); err != nil {
		return nil, err
	}
	return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 5}}, nil
}

func (m *member) DeleteRange(context.Context, *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	m.n.Add(1)
	return &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{Revision: 5}}, m.answer()
}

func (m *member) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	m.n.Add(1)
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 5}, Succeeded: true}, m.answer()
}

// Whatever a member answers, a write reaches it once, and only what certainly
// did not happen is called refused.
func TestNeverSentTwice(t *testing.T) {
	for name, c := range map[string]struct {
		answer error
		want   lab.Outcome
	}{
		"acknowledged":     {nil, lab.OK},
		"canceled":         {rpctypes.ErrGRPCCanceled, lab.Unknown},
		"deadline":         {status.Error(codes.DeadlineExceeded, "context deadline exceeded"), lab.Unknown},
		"timed out":        {rpctypes.ErrGRPCTimeout, lab.Unknown},
		"leader failed":    {rpctypes.ErrGRPCTimeoutDueToLeaderFail, lab.Unknown},
		"leader changed":   {rpctypes.ErrGRPCLeaderChanged, lab.Unknown},
		"stopped":          {rpctypes.ErrGRPCStopped, lab.Unknown},
		"no connection":    {status.Error(codes.Unavailable, "there is no connection available"), lab.Unknown},
		"dropped":          {errors.New("raft proposal dropped"), lab.Unknown},
		"no space":         {rpctypes.ErrGRPCNoSpace, lab.Refused},
		"too large":        {rpctypes.ErrGRPCRequestTooLarge, lab.Refused},
		"too many":         {rpctypes.ErrGRPCRequestTooManyRequests, lab.Refused},
		"not permitted":    {rpctypes.ErrGRPCPermissionDenied, lab.Refused},
		"learner":          {rpctypes.ErrGRPCNotSupportedForLearner, lab.Refused},
		"corrupt":          {rpctypes.ErrGRPCCorrupt, lab.Refused},
		"no leader at all": {rpctypes.ErrGRPCNoLeader, lab.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			m := &member{answer: func() error { return c.answer }}
			url, _ := serve(t, m)
			for _, kind := range []string{lab.OpPut, lab.OpDelete, lab.OpTxn} {
				m.n.Store(0)
				op := send(t, url, kind)
				if op.Outcome != c.want || m.n.Load() != 1 {
					t.Errorf("%s: %s after %d requests, want %s after one (%s)", kind, op.Outcome, m.n.Load(), c.want, op.Error)
				}
			}
		})
	}
}

// A connection that breaks under a request is not a refusal.
func TestConnectionBreaks(t *testing.T) {
	m := &member{}
	url, stop := serve(t, m)
	m.answer = func() error { go stop(); time.Sleep(100 * time.Millisecond); return nil }
	if op := send(t, url, lab.OpPut); op.Outcome != lab.Unknown || m.n.Load() != 1 {
		t.Errorf("%s after %d requests, want unknown after one (%s)", op.Outcome, m.n.Load(), op.Error)
	}
}

// No connection at all is.
func TestNobodyListens(t *testing.T) {
	url, stop := serve(t, &member{})
	stop()
	if op := send(t, url, lab.OpPut); op.Outcome != lab.Refused {
		t.Errorf("%s, want refused (%s)", op.Outcome, op.Error)
	}
}

// Nor was anything sent while a connection was still being made.
func TestNobodyAccepts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if op := send(t, "http://"+l.Addr().String(), lab.OpPut); op.Outcome != lab.Refused {
		t.Errorf("%s, want refused (%s)", op.Outcome, op.Error)
	}
}

func serve(t *testing.T, m *member) (url string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterKVServer(s, m)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return "http://" + l.Addr().String(), s.Stop
}

func send(t *testing.T, url, kind string) lab.Op {
	t.Helper()
	h, err := lab.NewHistory(filepath.Join(t.TempDir(), "h"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var l line
	if err := l.open(&lab.Cluster{}, &lab.Member{ClientURL: url}, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	defer l.client.Close()
	op := lab.Op{Kind: kind, Key: "k", Value: "v"}
	l.performOnce(context.Background(), h, &op, 32, time.Second)
	return op
}

func TestValues(t *testing.T) {
	for _, name := range []string{"c1.1", "c1000.123456789", "p.1", ""} {
		v := pad(name, 64)
		if len(v) != 64 || unpad(v, 64) != name {
			t.Errorf("%q came back as %q in %d bytes", name, unpad(v, 64), len(v))
		}
	}
	good := pad("c1.1", 64)
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if got := unpad(bad, 64); got == "c1.1" {
			t.Errorf("a flipped bit in byte %d goes unseen", i)
		}
	}
	if got := unpad(good[:63], 64); got == "c1.1" {
		t.Error("a missing byte goes unseen")
	}
}

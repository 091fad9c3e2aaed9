package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/peer"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// seat is a place for a member, as the load sees it: connections that end at
// this member and nowhere else.
type seat struct {
	name   string
	proc   lab.Proc
	prober line   // apart, so that probes do not queue behind the load
	closer line   // for everything that is not load: watching, looking, reading back
	shared []line // for the clients
}

// connections is how many connections to one member the clients share: enough
// that they do not wait for each other's frames, few enough that a thousand
// clients do not cost thousands of TLS handshakes after every fault.
const connections = 4

func newSeat(c *lab.Cluster, m *lab.Member, spec lab.LoadSpec) (*seat, error) {
	s := &seat{name: m.Name, proc: m.Proc, shared: make([]line, min(spec.Clients, connections))}
	lines := []*line{&s.prober, &s.closer}
	for i := range s.shared {
		lines = append(lines, &s.shared[i])
	}
	for _, l := range lines {
		if err := l.open(c, m, spec.Backoff); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *seat) close() {
	for _, l := range append([]line{s.prober, s.closer}, s.shared...) {
		if l.client != nil {
			l.client.Close()
		}
	}
}

// line is one connection to one member.
//
// Requests go over etcd's client library, but below its KV interface, for two
// reasons. First, nothing may be sent twice: the library would send a write
// again when the *server* answers "canceled" or "deadline exceeded", as it
// does when a proposal was given up that raft may still commit (its retry
// interceptor takes these codes for an expired attempt). MaxUnaryRetries 1
// leaves one attempt. gRPC itself sends again only what the server provably
// never began to process (a stream it refused, or never saw).
//
// Second, an error must tell whether there was a connection at all. With
// WaitForReady off gRPC does not queue a request for a member that cannot be
// reached but fails it, and fills in the peer only once the request was given
// to a connection: no peer means certainly not sent. Unavailable alone says
// nothing, a connection that breaks under a request gives the same code.
type line struct {
	client *clientv3.Client
	kv     pb.KVClient
}

func (l *line) open(c *lab.Cluster, m *lab.Member, pause time.Duration) error {
	cfg := clientv3.Config{
		Endpoints:       []string{m.ClientURL},
		TLS:             c.TLS,
		Logger:          zap.NewNop(),
		MaxUnaryRetries: 1,
		// A link that swallows packets without a word is given up after two
		// seconds (on Linux by TCP_USER_TIMEOUT, which gRPC sets to the
		// timeout), so that what comes after its healing does not wait for
		// TCP's own, ever longer pauses.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		DialOptions: []grpc.DialOption{
			etcd.ViaHosts(m),
			grpc.WithDisableRetry(),
			// gRPC's own pause between two dials begins at one second and
			// would be taken for an outage of the cluster.
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: min(pause, c.Spec.Long(etcd.BackoffMin)), Multiplier: 1.5, Jitter: 0.2, MaxDelay: min(pause, c.Spec.Long(etcd.BackoffMax))},
				MinConnectTimeout: c.Spec.Long(2 * time.Second),
			}),
		},
	}
	if creds := etcd.Credentials(c); creds != nil { // a renewed certificate is shown by the next connection
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithTransportCredentials(creds))
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return err
	}
	l.client, l.kv = client, pb.NewKVClient(client.ActiveConnection())
	return nil
}

// outcome decides what a client knows after an answer.
func outcome(err error, p *peer.Peer) lab.Outcome {
	switch {
	case err == nil:
		return lab.OK
	case p.Addr == nil: // see line
		return lab.Refused
	}
	err = rpctypes.Error(err)
	for _, no := range refusals {
		if errors.Is(err, no) {
			return lab.Refused
		}
	}
	return lab.Unknown
}

// refusals are the answers etcd gives before it proposes a request, or when it
// declines to apply one: nothing was changed and nothing will be. "Timed out",
// "leader changed", "server stopped" and "canceled" are not among them: the
// proposal may be in somebody's log.
var refusals = []error{
	rpctypes.ErrNoSpace,
	rpctypes.ErrCorrupt,
	rpctypes.ErrRequestTooLarge,
	rpctypes.ErrTooManyRequests,
	rpctypes.ErrNoLeader,
	rpctypes.ErrNotCapable,
	rpctypes.ErrPermissionDenied,
	rpctypes.ErrUserEmpty,
	rpctypes.ErrInvalidAuthToken,
	rpctypes.ErrAuthOldRevision,
	rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner),
}

// patience gives calls up that take too long. One serves many calls, one after
// the other.
//
// It does so by canceling them. A deadline would travel with each request, and
// the member would set a timer of its own for each: that costs a small cluster
// a tenth of its throughput.
type patience struct {
	parent context.Context
	limit  time.Duration
	ctx    context.Context
	timer  *time.Timer
}

// begin gives the context of the next call.
func (p *patience) begin() context.Context {
	if p.ctx == nil || p.ctx.Err() != nil {
		ctx, cancel := context.WithCancel(p.parent)
		p.ctx, p.timer = ctx, time.AfterFunc(p.limit, cancel)
	} else {
		p.timer.Reset(p.limit)
	}
	return p.ctx
}

// end says that the call returned, and whether it was given up.
func (p *patience) end() (gaveUp bool) {
	if p.timer.Stop() {
		return false
	}
	p.ctx = nil // the timer has fired, or is firing just now
	return p.parent.Err() == nil
}

// close frees what is held.
func (p *patience) close() {
	if p.ctx != nil {
		p.timer.Reset(0)
	}
}

// perform sends one operation and fills in what came back. op says Kind, Key,
// Value and Prev; size is the length of values in the store.
func (l *line) perform(h *lab.History, op *lab.Op, size int, wait *patience) {
	ctx := wait.begin()
	var p peer.Peer
	opts := []grpc.CallOption{grpc.Peer(&p), grpc.WaitForReady(false)}
	key := []byte(op.Key)
	var err error
	op.Call = h.Now()
	switch op.Kind {
	case lab.OpPut, lab.OpMarker:
		var resp *pb.PutResponse
		if resp, err = l.kv.Put(ctx, &pb.PutRequest{Key: key, Value: pad(op.Value, size)}, opts...); err == nil {
			op.Revision = resp.Header.Revision
		}
	case lab.OpDelete:
		var resp *pb.DeleteRangeResponse
		if resp, err = l.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key}, opts...); err == nil {
			op.Revision, op.Deleted = resp.Header.Revision, resp.Deleted > 0
		}
	case lab.OpTxn:
		var resp *pb.TxnResponse
		if resp, err = l.kv.Txn(ctx, swap(key, op.Prev, op.Value, size), opts...); err == nil {
			op.Revision, op.Swapped = resp.Header.Revision, resp.Succeeded
			if !op.Swapped {
				op.Value, op.Mod = found(resp.Responses[0].GetResponseRange(), size)
			}
		}
	case lab.OpGet:
		var resp *pb.RangeResponse
		if resp, err = l.kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: op.Serializable}, opts...); err == nil {
			op.Revision = resp.Header.Revision
			op.Value, op.Mod = found(resp, size)
		}
	}
	op.Return = h.Now()
	gaveUp := wait.end()
	op.Outcome = outcome(err, &p)
	switch {
	case err != nil && gaveUp:
		op.Error = fmt.Sprintf("no answer within %s", wait.limit)
	case err != nil:
		op.Error = err.Error()
	}
}

// performOnce is perform for an operation that stands alone.
func (l *line) performOnce(ctx context.Context, h *lab.History, op *lab.Op, size int, timeout time.Duration) {
	wait := patience{parent: ctx, limit: timeout}
	defer wait.close()
	l.perform(h, op, size, &wait)
}

// swap puts value where prev stands ("": where nothing stands), and else reads
// what is there instead.
func swap(key []byte, prev, value string, size int) *pb.TxnRequest {
	is := &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: pad(prev, size)}}
	if prev == "" {
		is = &pb.Compare{Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0}}
	}
	return &pb.TxnRequest{
		Compare: []*pb.Compare{is},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: pad(value, size)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	}
}

func found(resp *pb.RangeResponse, size int) (value string, mod int64) {
	if resp == nil || len(resp.Kvs) == 0 {
		return "", 0
	}
	return unpad(resp.Kvs[0].Value, size), resp.Kvs[0].ModRevision
}

// read is a linearizable read of everything below prefix, a page of it, at a
// revision (0 = the newest).
func (l *line) read(ctx context.Context, prefix string, revision int64) (*pb.RangeResponse, error) {
	return l.page(ctx, prefix, prefix, revision, 1)
}

func (l *line) page(ctx context.Context, prefix, from string, revision, limit int64) (*pb.RangeResponse, error) {
	return l.kv.Range(ctx, &pb.RangeRequest{Key: []byte(from), RangeEnd: endOf(prefix), Revision: revision, Limit: limit}, grpc.WaitForReady(false))
}

func endOf(prefix string) []byte { return []byte(clientv3.GetPrefixRangeEnd(prefix)) }

// voters names the voting members that a quorum agrees on.
func (l *line) voters(ctx context.Context) ([]string, error) {
	resp, err := pb.NewClusterClient(l.client.ActiveConnection()).MemberList(ctx, &pb.MemberListRequest{Linearizable: true}, grpc.WaitForReady(false))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range resp.Members {
		if !m.IsLearner {
			out = append(out, m.Name)
		}
	}
	return out, nil
}

// votes tells whether a voting member answers here.
func (l *line) votes(ctx context.Context) bool {
	resp, err := pb.NewMaintenanceClient(l.client.ActiveConnection()).Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(false))
	return err == nil && !resp.IsLearner && resp.Leader != 0
}

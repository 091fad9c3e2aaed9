package etcd

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/etcdrill/etcdrill/lab"
)

// Observer looks at clusters. It keeps one connection per seat, so that a look
// costs a few milliseconds, and the last member list it saw, so that it knows
// who is a member while nobody answers. It is safe for concurrent use; the
// zero Observer is ready. Close it.
type Observer struct {
	mu       sync.Mutex
	clusters map[*lab.Cluster]*view
}

// view is what an Observer knows of one cluster.
type view struct {
	c *lab.Cluster

	mu     sync.Mutex
	conns  []*grpc.ClientConn // by seat, nil until used
	met    []bool             // by seat: it was tried whether its host can be reached
	silent []bool             // by seat: it let the last question's time pass
	list   Membership         // the last one seen
	term   uint64             // of who sent it
	index  uint64
}

func (o *Observer) view(c *lab.Cluster) *view {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.clusters[c]
	if v == nil {
		v = &view{c: c, conns: make([]*grpc.ClientConn, len(c.Seats)), met: make([]bool, len(c.Seats)), silent: make([]bool, len(c.Seats))}
		if o.clusters == nil {
			o.clusters = map[*lab.Cluster]*view{}
		}
		o.clusters[c] = v
	}
	return v
}

// Close closes all connections. The Observer can be used again.
func (o *Observer) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, v := range o.clusters {
		v.close()
	}
	o.clusters = nil
	return nil
}

// forget closes the connections to one cluster.
func (o *Observer) forget(c *lab.Cluster) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if v := o.clusters[c]; v != nil {
		v.close()
		delete(o.clusters, c)
	}
}

func (v *view) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, conn := range v.conns {
		if conn != nil {
			conn.Close()
		}
	}
}

// Look asks every seat for its status, all at once, each for at most a second,
// and one that hung in the last look for a fifth of that. The first time some
// seconds are added for the way to its host.
// What it could not see it says in Status.Error. See lab.Kit.Look.
func (o *Observer) Look(ctx context.Context, c *lab.Cluster) []lab.Status {
	return o.look(ctx, c, c.Seats)
}

// look asks some of the seats.
func (o *Observer) look(ctx context.Context, c *lab.Cluster, seats []*lab.Member) []lab.Status {
	v := o.view(c)
	answers := make([]seen, len(seats))
	Each(seats, func(i int, m *lab.Member) error {
		answers[i] = v.ask(ctx, slices.Index(c.Seats, m))
		return nil
	})
	out := make([]lab.Status, len(seats))
	for i, m := range seats {
		out[i] = v.status(ctx, slices.Index(c.Seats, m), answers[i])
	}
	return out
}

// seen is what one seat answered.
type seen struct {
	status *pb.StatusResponse
	err    error
}

// patience is how long a seat may take to answer. One that hangs, such as a
// paused process, is not waited for in full a second time: when it goes on it
// answers in a moment.
func (v *view) patience(i int) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.silent[i] {
		return v.c.Spec.Long(answer / 5)
	}
	return v.c.Spec.Long(answer)
}

// reach is how long the way to a host may take the first time: a login to a slow
// machine must not pass for a member that does not answer.
const reach = 5 * time.Second

// meet makes the way to a seat's host once.
func (v *view) meet(ctx context.Context, i int) {
	v.mu.Lock()
	met := v.met[i]
	v.met[i] = true
	v.mu.Unlock()
	if met {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, v.c.Spec.Long(reach))
	defer cancel()
	if c, err := v.c.Seats[i].Host.Dial(ctx, parse(v.c.Seats[i].LocalURL).Host); err == nil {
		c.Close()
	}
}

func (v *view) conn(i int) (*grpc.ClientConn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conns[i] == nil {
		conn, err := connect(v.c, v.c.Seats[i])
		if err != nil {
			return nil, err
		}
		v.conns[i] = conn
	}
	return v.conns[i], nil
}

// ask asks one seat for its status and for what it knows of the membership.
func (v *view) ask(outer context.Context, i int) (out seen) {
	v.meet(outer, i)
	ctx, cancel := context.WithTimeout(outer, v.patience(i))
	defer cancel()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.silent[i] = out.err != nil && ctx.Err() != nil && outer.Err() == nil
	}()
	conn, err := v.conn(i)
	if err != nil {
		return seen{err: err}
	}
	maintenance := pb.NewMaintenanceClient(conn)
	st, err := maintenance.Status(ctx, &pb.StatusRequest{})
	if status.Code(err) == codes.Unavailable {
		// This may be an old finding, of before the last back-off. Whether
		// anybody listens now is soon found out, and only then worth a wait.
		var raw net.Conn
		if raw, err = v.c.Seats[i].Host.Dial(ctx, parse(v.c.Seats[i].LocalURL).Host); err == nil {
			raw.Close()
			conn.ResetConnectBackoff()
			st, err = maintenance.Status(ctx, &pb.StatusRequest{}, grpc.WaitForReady(true))
		}
	}
	if err != nil {
		return seen{err: err}
	}
	// Serializable: it must be answered without a quorum too (FE27). A learner
	// does not answer; the others do.
	if l, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{}); err == nil {
		v.learn(listing(v.c, l.GetHeader(), l.GetMembers()), st)
	}
	return seen{status: st}
}

// learn keeps a member list when it is not older than the one known: of a
// later term, or of the same and further on. Without a leader a list may be
// stale, and one from a leader is better.
func (v *view) learn(l Membership, st *pb.StatusResponse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l.Cluster == v.list.Cluster && (st.GetRaftTerm() < v.term || st.GetRaftTerm() == v.term && st.GetRaftAppliedIndex() < v.index) {
		return
	}
	v.list, v.term, v.index = l, st.GetRaftTerm(), st.GetRaftAppliedIndex()
}

// status says what an answer means, in the light of the member list.
func (v *view) status(ctx context.Context, i int, s seen) lab.Status {
	m := v.c.Seats[i]
	v.mu.Lock()
	list := v.list
	v.mu.Unlock()

	out := lab.Status{Name: m.Name}
	listed, in := list.Of(m)
	if in {
		out.ID, out.Cluster = listed.HexID(), HexID(list.Cluster)
		if listed.Learner {
			out.Role = "learner"
		}
	}
	if s.err != nil {
		out.Error = s.err.Error()
		if st, ok := status.FromError(s.err); ok {
			out.Error = st.Message()
		}
		switch {
		case list.Cluster != 0:
			out.Absent = !in
		default: // nobody ever answered: a seat without configuration is none
			if ok, err := Configured(ctx, m); err == nil && !ok {
				out.Absent = true
			}
		}
		return out
	}
	st := s.status
	id := st.GetHeader().GetMemberId()
	out.Up = true
	out.ID, out.Cluster = HexID(id), HexID(st.GetHeader().GetClusterId())
	out.Term, out.Index, out.Applied = st.GetRaftTerm(), st.GetRaftIndex(), st.GetRaftAppliedIndex()
	out.Revision, out.DBSize, out.Version = st.GetHeader().GetRevision(), st.GetDbSize(), st.GetVersion()
	if st.GetLeader() != 0 {
		out.Leader = HexID(st.GetLeader())
	}
	switch {
	case st.GetIsLearner():
		out.Role = "learner"
	case st.GetLeader() == 0:
		out.Role = "none"
	case st.GetLeader() == id:
		out.Role = "leader"
	default:
		out.Role = "follower"
	}
	for _, a := range st.GetErrors() {
		if name, ok := alarm(a); ok && !slices.Contains(out.Alarms, name) {
			out.Alarms = append(out.Alarms, name)
		}
	}
	slices.Sort(out.Alarms)
	if list.Cluster == st.GetHeader().GetClusterId() {
		// Removed, and the process still runs: it is on its way out.
		_, stays := list.ByID(id)
		out.Absent = !stays
	}
	return out
}

// alarm reads an error line of a status, which is an alarm's text form, or
// "etcdserver: no leader".
func alarm(line string) (string, bool) {
	for name := range pb.AlarmType_value {
		if name != pb.AlarmType_NONE.String() && strings.Contains(line, "alarm:"+name) {
			return name, true
		}
	}
	return "", false
}

// The rhythm of Watch: how often it looks, and how often it journals a seat
// of which nothing but the index has changed.
const (
	watchEvery = 100 * time.Millisecond
	watchIndex = time.Second
)

// Watch looks at every seat ten times a second until ctx ends, and journals a
// seat's status when more than its position in the log has changed, and else
// once a second when that has. A seat that hangs holds up nobody else. When it
// ends the Observer forgets the cluster: the run is over. See lab.Kit.Watch.
func (o *Observer) Watch(ctx context.Context, c *lab.Cluster, journal *lab.Journal) {
	v := o.view(c)
	defer o.forget(c)
	var wg sync.WaitGroup
	for i := range c.Seats {
		wg.Go(func() { v.watch(ctx, i, journal) })
	}
	wg.Wait()
}

func (v *view) watch(ctx context.Context, i int, journal *lab.Journal) {
	tick := time.NewTicker(v.c.Spec.Long(watchEvery))
	defer tick.Stop()
	var last lab.Status
	var told time.Time
	for {
		now := v.status(ctx, i, v.ask(ctx, i))
		if ctx.Err() != nil {
			return // what was seen is our own end, not the seat's
		}
		moved := now.Index != last.Index || now.Revision != last.Revision || now.Applied != last.Applied || now.DBSize != last.DBSize
		if told.IsZero() || changed(last, now) || moved && time.Since(told) >= watchIndex {
			journal.Add(lab.Event{Kind: lab.EventStatus, Host: now.Name, Status: &now})
			last, told = now, time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// changed compares what people care about.
func changed(a, b lab.Status) bool {
	return a.Up != b.Up || a.Role != b.Role || a.Term != b.Term || a.Leader != b.Leader || a.Version != b.Version ||
		a.Absent != b.Absent || a.ID != b.ID || !slices.Equal(a.Alarms, b.Alarms)
}

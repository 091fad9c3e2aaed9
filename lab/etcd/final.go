package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"github.com/etcdrill/etcdrill/lab"
)

// Hash is what one member says about its data up to a revision.
type Hash struct {
	Seat     *lab.Member
	Hash     uint32
	Revision int64 // up to which it covers
	Compact  int64 // revision at which the member is compacted
}

// ErrNotComparable says that hashes were read and prove nothing, because the
// members are compacted at different revisions, or one has not yet the
// revision asked for. It passes with time.
var ErrNotComparable = errors.New("hashes cannot be compared now")

// Hashes reads HashKV of the given seats at one explicit revision: the lowest
// current one among them. Only equal revision and equal compact revision make
// hashes comparable (FE32); otherwise the error matches ErrNotComparable. A
// seat that does not answer is any other error. A learner is left out: etcd lets
// none tell its hash.
func Hashes(ctx context.Context, c *lab.Cluster, seats ...*lab.Member) ([]Hash, error) {
	rev := make([]int64, len(seats))
	err := Each(seats, func(i int, m *lab.Member) error {
		return call(ctx, c, m, func(ctx context.Context, k pb.KVClient, _ pb.MaintenanceClient) error {
			// A serializable read of nothing: its header says how far it is.
			r, err := k.Range(ctx, &pb.RangeRequest{Key: []byte{0}, Serializable: true, CountOnly: true})
			rev[i] = r.GetHeader().GetRevision()
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	at := rev[0]
	for _, r := range rev {
		at = min(at, r)
	}
	return HashesAt(ctx, c, at, seats...)
}

// HashesAt is Hashes at a revision that the caller names. A seat that has not
// come there gives an error that matches ErrNotComparable too.
func HashesAt(ctx context.Context, c *lab.Cluster, revision int64, seats ...*lab.Member) ([]Hash, error) {
	out := make([]Hash, len(seats))
	err := Each(seats, func(i int, m *lab.Member) error {
		h, err := HashAt(ctx, c, m, revision)
		if errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) {
			return nil
		}
		out[i] = h
		return err
	})
	if err != nil {
		return nil, err
	}
	out = slices.DeleteFunc(out, func(h Hash) bool { return h.Seat == nil })
	if len(out) == 0 {
		return nil, errors.New("only learners were asked for their hash, and none tells it")
	}
	for _, h := range out {
		if h.Compact != out[0].Compact {
			return out, fmt.Errorf("%w: %s is compacted at revision %d, %s at %d",
				ErrNotComparable, out[0].Seat.Name, out[0].Compact, h.Seat.Name, h.Compact)
		}
	}
	return out, nil
}

// Equal tells whether all hashes are the same.
func Equal(hashes []Hash) bool {
	for _, h := range hashes {
		if h.Hash != hashes[0].Hash {
			return false
		}
	}
	return true
}

// Describe lists hashes for people: "m1 4f2a…, m2 …".
func Describe(hashes []Hash) string {
	var out []string
	for _, h := range hashes {
		out = append(out, fmt.Sprintf("%s %08x", h.Seat.Name, h.Hash))
	}
	if len(hashes) == 0 {
		return "none"
	}
	return fmt.Sprintf("%s at revision %d", strings.Join(out, ", "), hashes[0].Revision)
}

func call(ctx context.Context, c *lab.Cluster, m *lab.Member, do func(context.Context, pb.KVClient, pb.MaintenanceClient) error, how ...grpc.DialOption) error {
	conn, err := connect(c, m, how...)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := do(ctx, pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)); err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return nil
}

// Each works on all seats at once and joins their errors. i counts the seats.
func Each(seats []*lab.Member, do func(i int, m *lab.Member) error) error {
	errs := make([]error, len(seats))
	var wg sync.WaitGroup
	for i, m := range seats {
		wg.Go(func() { errs[i] = do(i, m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Final says whether the cluster stands at the end of a run as promised: so
// many voters and learners, all started and answering, one leader whom all
// follow, one cluster id, no alarm, and equal hashes at one revision and equal
// compact revision. It waits for that as long as ctx allows, since members may
// still be catching up. What it explicitly found otherwise is a *lab.Failure;
// what it could not find out any other error. See lab.Kit.Final.
func (o *Observer) Final(ctx context.Context, c *lab.Cluster, end lab.End) error {
	if end.Skip != "" {
		return nil
	}
	if end.Voters == 0 {
		end.Voters = c.Spec.Members
	}
	var seen error // by the last look that our own deadline did not cut short
	err := lab.Until(ctx, "the cluster to stand as promised", func(ctx context.Context) error {
		err := o.stands(ctx, c, end)
		if ctx.Err() == nil || seen == nil {
			seen = err
		}
		return err
	})
	var f *lab.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(seen, &f):
		return f // that it was waited for says nothing more
	}
	return fmt.Errorf("waiting for the cluster to stand as promised: %w", seen)
}

func (o *Observer) stands(ctx context.Context, c *lab.Cluster, end lab.End) error {
	look := o.Look(ctx, c)
	// Who answers does so for the same cluster, under one leader, without alarm.
	var up, in []*lab.Member
	var cluster, leader string
	var finding *lab.Failure
	find := func(what, want, got string) {
		if finding == nil {
			finding = &lab.Failure{What: what, Want: want, Got: got}
		}
	}
	for i, s := range look {
		if s.Absent {
			continue
		}
		in = append(in, c.Seats[i])
		if !s.Up {
			continue
		}
		up = append(up, c.Seats[i])
		if cluster == "" {
			cluster = s.Cluster
		}
		if s.Cluster != cluster {
			find("cluster id of "+s.Name, cluster, s.Cluster)
		}
		if s.Leader == "" {
			find("leader of "+s.Name, "one", "none")
		} else if leader == "" {
			leader = s.Leader
		} else if leader != s.Leader {
			find("leader of "+s.Name, leader, s.Leader)
		}
		if len(s.Alarms) > 0 {
			find("alarms of "+s.Name, "none", strings.Join(s.Alarms, ", "))
		}
	}
	if finding != nil {
		return finding
	}
	if len(up) == 0 {
		return fmt.Errorf("no member answers: %s", firstError(look))
	}
	list, err := Members(ctx, c, false, up...)
	if err != nil {
		return err
	}
	if list.Voters() != end.Voters {
		return &lab.Failure{What: "voting members", Want: fmt.Sprint(end.Voters), Got: fmt.Sprint(list.Voters())}
	}
	if list.Learners() != end.Learners {
		return &lab.Failure{What: "learners", Want: fmt.Sprint(end.Learners), Got: fmt.Sprint(list.Learners())}
	}
	for _, l := range list.Members {
		if !l.Started() {
			return &lab.Failure{What: "member " + l.HexID(), Want: "started", Got: "added and never started"}
		}
	}
	if len(up) < len(in) {
		for i, s := range look {
			if !s.Absent && !s.Up {
				return notUp(ctx, c.Seats[i], s)
			}
		}
	}
	if n := len(list.Members); len(up) != n {
		return fmt.Errorf("%d of %d listed members answer in this lab", len(up), n)
	}
	hashes, err := Hashes(ctx, c, up...)
	if err != nil {
		return err
	}
	if !Equal(hashes) {
		return &lab.Failure{What: "data of the members", Want: "equal", Got: Describe(hashes)}
	}
	return nil
}

// notUp tells a member whose process has ended, a finding, from one that only
// did not answer.
func notUp(ctx context.Context, m *lab.Member, s lab.Status) error {
	st, err := m.Proc.State(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%s does not answer: %s; its process: %w", m.Name, s.Error, err)
	case !st.Running:
		return &lab.Failure{What: "process of " + m.Name, Want: "running", Got: "not running, " + st.Exit}
	case st.Paused:
		return &lab.Failure{What: "process of " + m.Name, Want: "running", Got: "paused"}
	}
	return fmt.Errorf("%s runs and does not answer: %s", m.Name, s.Error)
}

func firstError(look []lab.Status) string {
	for _, s := range look {
		if s.Error != "" && !s.Absent {
			return s.Name + ": " + s.Error
		}
	}
	return "there is none"
}

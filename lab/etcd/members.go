package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// Listed is one line of the member list, together with the seat it belongs to.
type Listed struct {
	ID         uint64
	Name       string // empty until the member has started for the first time
	PeerURLs   []string
	ClientURLs []string
	Learner    bool
	Seat       *lab.Member // nil for a member that belongs to no seat of the lab
}

// Started tells whether the member has ever joined: etcd learns its name then.
func (l Listed) Started() bool { return l.Name != "" }

// HexID is the id as etcdctl prints and reads it.
func (l Listed) HexID() string { return HexID(l.ID) }

// HexID writes a member or cluster id the way etcdctl prints and reads it.
func HexID(id uint64) string { return strconv.FormatUint(id, 16) }

// Membership is a member list and where it came from.
type Membership struct {
	Cluster uint64 // cluster id
	From    uint64 // id of the member that answered
	Members []Listed
}

// Of finds a seat's member. A seat that has several, such as one that was
// removed and added again under a new id, has the one that runs there; between
// a started and an added member of the same name the added one is the later.
func (l Membership) Of(m *lab.Member) (Listed, bool) {
	var found *Listed
	for i := range l.Members {
		if l.Members[i].Seat == m && (found == nil || !l.Members[i].Started()) {
			found = &l.Members[i]
		}
	}
	if found == nil {
		return Listed{}, false
	}
	return *found, true
}

// ByID finds a member by its id.
func (l Membership) ByID(id uint64) (Listed, bool) {
	for _, m := range l.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Listed{}, false
}

// Voters and Learners count.
func (l Membership) Voters() int { return len(l.Members) - l.Learners() }

// Learners counts the members that do not vote.
func (l Membership) Learners() int {
	n := 0
	for _, m := range l.Members {
		if m.Learner {
			n++
		}
	}
	return n
}

// Initial is the initial-cluster of a member that joins: all that are listed,
// by name and peer URL. One that was added and has not started yet has no name
// in the list; it has its seat's.
func (l Membership) Initial() map[string]string {
	out := map[string]string{}
	for _, m := range l.Members {
		name := m.Name
		if name == "" && m.Seat != nil {
			name = m.Seat.Name
		}
		if name != "" && len(m.PeerURLs) > 0 {
			out[name] = m.PeerURLs[0]
		}
	}
	return out
}

// listing turns an answer into a Membership. Names and URLs are compared
// whole, never in part.
func listing(c *lab.Cluster, h *pb.ResponseHeader, members []*pb.Member) Membership {
	l := Membership{Cluster: h.GetClusterId(), From: h.GetMemberId()}
	for _, m := range members {
		x := Listed{ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(), Learner: m.GetIsLearner()}
		if x.Name != "" && len(x.ClientURLs) == 0 && c.Spec.ByDNS() {
			// Nobody's name yet: members that find each other by DNS count the
			// others until those say what they are called.
			x.Name = ""
		}
		for _, seat := range c.Seats {
			// The names of an adopted cluster are its own affair.
			if x.Name == seat.Name && c.Spec.Adopt == nil || (x.Name == "" || c.Spec.Adopt != nil) && seatURL(c, seat, x.PeerURLs) {
				x.Seat = seat
				break
			}
		}
		l.Members = append(l.Members, x)
	}
	return l
}

// seatURL tells whether one of the URLs is the seat's.
func seatURL(c *lab.Cluster, seat *lab.Member, urls []string) bool {
	return slices.Contains(urls, seat.PeerURL) || slices.Contains(urls, loopback(seat)) || slices.Contains(urls, WrongPeerURL(c, seat))
}

// Members reads the member list through the given seats, all of them when none
// is given. Linearizable by default; a serializable list is what one member
// knows, and the only one there is without a quorum (FE27). It asks one seat
// after the other and returns the first answer.
func Members(ctx context.Context, c *lab.Cluster, serializable bool, through ...*lab.Member) (Membership, error) {
	if len(through) == 0 {
		through = c.Seats
	}
	var errs []error
	for _, m := range through {
		l, err := members(ctx, c, m, !serializable)
		if err == nil {
			return l, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		if ctx.Err() != nil {
			break
		}
	}
	return Membership{}, fmt.Errorf("member list: %w", errors.Join(errs...))
}

// answer is how long one member may take for one small answer.
const answer = time.Second

func members(ctx context.Context, c *lab.Cluster, m *lab.Member, linearizable bool) (Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answer)
	defer cancel()
	conn, err := connect(c, m)
	if err != nil {
		return Membership{}, err
	}
	defer conn.Close()
	r, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
	if err != nil {
		return Membership{}, err
	}
	return listing(c, r.GetHeader(), r.GetMembers()), nil
}

// Serves returns nil when a linearizable read is answered through the given
// seats, any seat when none is given: there is a quorum, and they reach it.
func Serves(ctx context.Context, c *lab.Cluster, through ...*lab.Member) error {
	cli, err := Client(c, through...)
	if err != nil {
		return err
	}
	defer cli.Close()
	_, err = cli.Get(ctx, "health", clientv3.WithKeysOnly())
	return err
}

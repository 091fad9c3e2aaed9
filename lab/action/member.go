package action

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// MemberAdd adds a member and starts it.
type MemberAdd struct {
	Member  lab.Target `default:"spare" doc:"the host that becomes a member"`
	Learner bool       `default:"true" doc:"as a learner, which gets the data first and votes after member-promote; a voter that is not there yet costs the quorum"`
	URL     string     `default:"own" doc:"peer URL to add: own, or wrong for one on which nobody listens; then nothing is started"`
	Start   bool       `default:"true" doc:"write its configuration, move a data directory of earlier aside and start it"`
}

// Valid implements the check of arguments.
func (a *MemberAdd) Valid() error {
	if a.URL != "own" && a.URL != "wrong" {
		return fmt.Errorf("url: %q: expected own or wrong", a.URL)
	}
	return nil
}

// Doc implements lab.Action.
func (*MemberAdd) Doc() string {
	return "adds a member, as a learner, and starts it with an empty data directory; a member that is listed already is only started"
}

// Do implements lab.Action. What is to be done is decided by the member list,
// so it may be called again after half a success (FE25).
func (a *MemberAdd) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	url := m.PeerURL
	if a.URL == "wrong" {
		url = etcd.WrongPeerURL(e.Cluster, m)
	}
	if err := etcd.AddMember(ctx, e, m, url, a.Learner); err != nil {
		return err
	}
	if !a.Start || a.URL == "wrong" {
		return nil
	}
	_, _, listed, err := etcd.Find(ctx, e, m)
	if err != nil {
		return err
	}
	if !listed.Started() {
		// Whatever lies in its data directory is of an earlier life.
		if err := etcd.Aside(ctx, e, m, old(m)); err != nil {
			return err
		}
	}
	return etcd.JoinMember(ctx, e, m)
}

// old names a data directory that is moved aside.
func old(m *lab.Member) string {
	return fmt.Sprintf("%s.before-%x", m.DataDir, time.Now().UnixNano())
}

// MemberPromote makes a learner a voting member.
type MemberPromote struct {
	Member lab.Target `default:"learner" doc:"the learner"`
	Lag    int        `default:"100" doc:"raft entries it may be behind the leader; etcd itself would allow a tenth of all"`
	Now    bool       `doc:"ask etcd at once, without waiting for anything"`
}

// Doc implements lab.Action.
func (*MemberPromote) Doc() string {
	return "makes a learner a voting member, once it has been close behind the leader for a while"
}

// Do implements lab.Action. etcd allows a promotion at 90 % of the leader's
// index (FE24), which is far behind in a long log; so a small and stable
// distance is waited for first.
func (a *MemberPromote) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	if a.Now {
		return etcd.PromoteNow(ctx, e, m)
	}
	return etcd.PromoteMember(ctx, e, m, a.Lag)
}

// MemberRemove removes a member.
type MemberRemove struct {
	Member lab.Target `need:"yes" doc:"the member, alive or not"`
}

// Doc implements lab.Action.
func (*MemberRemove) Doc() string {
	return "removes a member, found in the member list and not by asking its host"
}

// Do implements lab.Action. A member that is not listed is removed already.
func (a *MemberRemove) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	return etcd.RemoveMember(ctx, e, m, 0)
}

// MemberUpdate changes the peer URL under which the others reach a member.
type MemberUpdate struct {
	Member lab.Target `need:"yes" doc:"the member"`
	URL    string     `need:"yes" doc:"own: what its configuration says; lab: the one of its host in the lab, also written into its configuration, for the next restart; wrong: one on which nobody listens"`
}

// Valid implements the check of arguments.
func (a *MemberUpdate) Valid() error {
	if !slices.Contains([]string{"own", "lab", "wrong"}, a.URL) {
		return fmt.Errorf("url: %q: expected own, lab or wrong", a.URL)
	}
	return nil
}

// Doc implements lab.Action.
func (*MemberUpdate) Doc() string {
	return "changes the peer URL under which the others reach a member; its id stays"
}

// Do implements lab.Action.
func (a *MemberUpdate) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	var url string
	switch a.URL {
	case "lab":
		url = m.PeerURL
	case "wrong":
		url = etcd.WrongPeerURL(e.Cluster, m)
	default:
		s, err := etcd.ReadSettings(ctx, m)
		if err != nil {
			return err
		}
		var ok bool
		if url, ok = s.Get("initial-advertise-peer-urls").(string); !ok {
			return fmt.Errorf("configuration of %s: no initial-advertise-peer-urls", m.Name)
		}
	}
	err = etcd.UpdateMember(ctx, e, m, url)
	if err != nil || a.URL != "lab" {
		return err
	}
	err = etcd.Reconfigure(ctx, m, func(s *etcd.Settings) {
		spec := e.Spec
		spec.Peers = "lab"
		fresh := etcd.NewSettings(spec, m, etcd.Join{})
		for _, key := range []string{"listen-peer-urls", "initial-advertise-peer-urls"} {
			s.Set(key, fresh.Get(key))
		}
		s.Set("initial-cluster", m.Name+"="+url) // read only without a WAL, and then it must fit
		s.Delete("discovery-srv")                // etcd refuses both
		s.Delete("discovery-srv-name")
	})
	if err == nil {
		e.Note(m.Name, "configuration: listens for peers where the lab reaches it; takes effect with the next restart")
	}
	return err
}

// MoveLeader hands leadership over.
type MoveLeader struct {
	To lab.Target `default:"follower" doc:"the voting member that is to lead"`
}

// Doc implements lab.Action.
func (*MoveLeader) Doc() string { return "hands leadership over to a member that is to lead" }

// Touches says how much of an adopted cluster it changes.
func (*MoveLeader) Touches() lab.Touch { return lab.Passes }

// Do implements lab.Action. A hand-over that raft has given up is asked for
// again, as long as there is time.
func (a *MoveLeader) Do(ctx context.Context, e *lab.Env) error {
	to, err := etcd.Seat(e.Cluster, a.To)
	if err != nil {
		return err
	}
	return etcd.MoveLeader(ctx, e, to)
}

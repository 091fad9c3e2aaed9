package action

import (
	"context"
	"errors"
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
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	list, err := members(ctx, e, up)
	if err != nil {
		return err
	}
	listed, there := list.Of(m)
	switch {
	case there && listed.Started() && listed.Learner == a.Learner:
		e.Note(m.Name, "is a member already, %s: nothing to add", listed.HexID())
	case there && listed.Started():
		return fmt.Errorf("%s is a member already, %s: use member-promote, or member-remove first", m.Name, listed.HexID())
	case there && listed.Learner == a.Learner:
		e.Note(m.Name, "was added before and never started, as %s: nothing to add", listed.HexID())
	default:
		url := m.PeerURL
		if a.URL == "wrong" {
			url = etcd.WrongPeerURL(e.Cluster, m)
		}
		args := []string{"member", "add", m.Name, "--peer-urls=" + url}
		if a.Learner {
			args = append(args, "--learner")
		}
		// The guard wants all voters but what the new quorum can spare (FE21).
		cause := patiently(ctx, e, up[0], "", lab.Quorum(list.Voters()+1), args...)
		list, err = settled(ctx, e, up[0], cause, func(l etcd.Membership) bool {
			return slices.ContainsFunc(l.Members, func(x etcd.Listed) bool {
				return !x.Started() && slices.Equal(x.PeerURLs, []string{url}) && x.Learner == a.Learner
			})
		})
		if err != nil {
			return err
		}
	}
	if !a.Start || a.URL == "wrong" {
		return nil
	}
	return a.begin(ctx, e, m, up[0], list)
}

// begin configures and starts a member that is listed.
func (a *MemberAdd) begin(ctx context.Context, e *lab.Env, m, via *lab.Member, list etcd.Membership) error {
	listed, ok := list.Of(m)
	if !ok {
		return fmt.Errorf("%s is not in the member list: %s", m.Name, describe(list))
	}
	if !listed.Started() {
		// Whatever lies in its data directory is of an earlier life.
		if err := aside(ctx, e, m); err != nil {
			return err
		}
		spec := e.Spec
		spec.Peers = "lab" // whatever the first members began with, this one is to be reached
		join := etcd.Join{Cluster: list.Initial(), State: etcd.StateExisting, Token: token(ctx, via)}
		if err := etcd.WriteSettings(ctx, m, etcd.NewSettings(spec, m, join)); err != nil {
			return err
		}
		e.Note(m.Name, "configuration written: initial-cluster %s, state existing", join)
	}
	if err := run(ctx, e, m); err != nil {
		return err
	}
	return alive(ctx, m, m.Name+" to join", func(ctx context.Context) error {
		l, err := etcd.Members(ctx, e.Cluster, true, via)
		if err != nil {
			return err
		}
		if x, ok := l.ByID(listed.ID); !ok || !x.Started() {
			return fmt.Errorf("the member list does not show it as started: %s", describe(l))
		}
		for _, s := range e.Look(ctx) {
			if s.Name == m.Name && !s.Up {
				return fmt.Errorf("it does not answer: %s", s.Error)
			} else if s.Name == m.Name && s.ID != listed.HexID() {
				return fmt.Errorf("it answers as %s, and was added as %s", s.ID, listed.HexID())
			}
		}
		return nil
	})
}

// token reads the cluster token from a living member. Who joins takes the
// cluster's id from the others; an equal token only keeps the files alike.
func token(ctx context.Context, m *lab.Member) string {
	if s, err := etcd.ReadSettings(ctx, m); err == nil {
		if t, ok := s.Get("initial-cluster-token").(string); ok {
			return t
		}
	}
	return etcd.NewToken()
}

// aside renames a member's data directory when there is one. Nothing is ever
// deleted, and nothing is ever started on what another life has left.
func aside(ctx context.Context, e *lab.Env, m *lab.Member) error {
	there, err := exists(ctx, m, m.DataDir)
	if err != nil || !there {
		return err
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if st.Running {
		return fmt.Errorf("%s runs on a data directory of an earlier life: stop it first", m.Name)
	}
	_, err = e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"mv", "--", m.DataDir, old(m)}})
	return err
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

// The learner must have been close this many times in a row, this far apart.
const (
	lagSamples = 4
	lagEvery   = 50 * time.Millisecond
)

// Do implements lab.Action. etcd allows a promotion at 90 % of the leader's
// index (FE24), which is far behind in a long log; so a small and stable
// distance is waited for first.
func (a *MemberPromote) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	list, err := members(ctx, e, up)
	if err != nil {
		return err
	}
	listed, ok := list.Of(m)
	if !ok {
		return fmt.Errorf("%s is not in the member list: %s", m.Name, describe(list))
	}
	if !a.Now {
		if !listed.Learner {
			e.Note(m.Name, "votes already")
			return nil
		}
		if err := a.close(ctx, e, m); err != nil {
			return err
		}
	}
	args := []string{"member", "promote", listed.HexID()}
	if a.Now {
		if _, err := etcd.Tool(ctx, e, up[0], "etcdctl", args...); err != nil {
			return err
		}
	}
	var cause error
	if !a.Now {
		cause = patiently(ctx, e, up[0], "", lab.Quorum(list.Voters()), args...)
	}
	_, err = settled(ctx, e, up[0], cause, func(l etcd.Membership) bool {
		x, ok := l.ByID(listed.ID)
		return ok && !x.Learner
	})
	return err
}

// close waits until a learner is near the leader and stays there. One that is
// still too far behind when the time is up is not promoted, and that is a
// refusal of ours: a *lab.Failure that says how far.
func (a *MemberPromote) close(ctx context.Context, e *lab.Env, m *lab.Member) error {
	near, last := 0, 0
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	err := alive(ctx, m, fmt.Sprintf("%s to be at most %d entries behind", m.Name, a.Lag), func(ctx context.Context) error {
		for {
			behind, err := etcd.Lag(e.Look(ctx), m.Name)
			if err != nil {
				near = 0
				return err
			}
			last = behind
			if behind > a.Lag {
				near = 0
				return fmt.Errorf("it is %d behind", behind)
			}
			if near++; near == lagSamples {
				e.Note(m.Name, "%d entries behind the leader, %d looks in a row", behind, near)
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && last > a.Lag {
		return &lab.Failure{What: m.Name + " is not promoted: entries behind the leader", Want: fmt.Sprintf("at most %d", a.Lag), Got: fmt.Sprint(last)}
	}
	return err
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
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	// Better not the one that goes: it ends while it answers.
	slices.SortStableFunc(up, func(a, b *lab.Member) int { return b2i(a == m) - b2i(b == m) })
	list, err := members(ctx, e, up)
	if err != nil {
		return err
	}
	listed, ok := list.Of(m)
	if !ok {
		e.Note(m.Name, "is no member: nothing to remove")
		return nil
	}
	args := []string{"member", "remove", listed.HexID()}
	cause := patiently(ctx, e, up[0], m.Name, lab.Quorum(max(1, list.Voters()-1)), args...)
	_, err = settled(ctx, e, up[0], cause, func(l etcd.Membership) bool {
		_, still := l.ByID(listed.ID)
		return !still
	})
	return err
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
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
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	list, err := members(ctx, e, up)
	if err != nil {
		return err
	}
	listed, ok := list.Of(m)
	if !ok {
		return fmt.Errorf("%s is not in the member list: %s", m.Name, describe(list))
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
		if url, ok = s.Get("initial-advertise-peer-urls").(string); !ok {
			return fmt.Errorf("configuration of %s: no initial-advertise-peer-urls", m.Name)
		}
	}
	_, cause := etcd.Tool(ctx, e, up[0], "etcdctl", "member", "update", listed.HexID(), "--peer-urls="+url)
	_, err = settled(ctx, e, up[0], cause, func(l etcd.Membership) bool {
		x, ok := l.ByID(listed.ID)
		return ok && slices.Equal(x.PeerURLs, []string{url})
	})
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

// transfer is what a hand-over says that came to nothing. raft gives one up
// after an election timeout, when the other member was not level by then, and
// etcd goes on waiting until the deadline of whoever asked.
var transfer = append([]string{"deadline exceeded", "leader transfer took too long", "no leader endpoint given"}, disturbed...)

// Do implements lab.Action. A hand-over that raft has given up is asked for
// again, as long as there is time.
func (a *MoveLeader) Do(ctx context.Context, e *lab.Env) error {
	to, err := etcd.Seat(e.Cluster, a.To)
	if err != nil {
		return err
	}
	for {
		leader, id, err := leads(ctx, e, to)
		if err != nil {
			return err
		}
		if leader == to {
			e.Note(to.Name, "leads")
			return nil
		}
		// It must be sent to the leader (FE29).
		limit := "--command-timeout=" + (time.Second + 2*e.Spec.Election).String()
		_, err = etcd.Tool(ctx, e, leader, "etcdctl", "move-leader", id, limit)
		if err == nil {
			break
		}
		var exit *lab.ExitError
		if !errors.As(err, &exit) || !says(exit, transfer...) || !pause(ctx, 100*time.Millisecond) {
			return err
		}
		e.Note(leader.Name, "the hand-over came to nothing in time: once more")
	}
	// etcd answers when the other one leads: what is left is that a look sees it.
	soon, cancel := context.WithTimeout(ctx, time.Second+2*e.Spec.Election)
	defer cancel()
	var got string
	err = lab.Until(soon, to.Name+" to lead", func(ctx context.Context) error {
		for _, s := range e.Look(ctx) {
			if s.Up && s.Role == "leader" {
				got = s.Name
			}
		}
		if got != to.Name {
			return fmt.Errorf("%q leads", got)
		}
		return nil
	})
	if err != nil && got != "" {
		return &lab.Failure{What: "leader after an acknowledged move", Want: to.Name, Got: got}
	}
	return err
}

// leads finds the leader, and the id of the member that is to lead. During an
// election there is none for a moment.
func leads(ctx context.Context, e *lab.Env, to *lab.Member) (leader *lab.Member, id string, err error) {
	soon, cancel := context.WithTimeout(ctx, time.Second+2*e.Spec.Election)
	defer cancel()
	err = lab.Until(soon, "a leader that could hand over", func(ctx context.Context) error {
		for i, s := range e.Look(ctx) {
			if s.Up && s.Role == "leader" {
				leader = e.Seats[i]
			}
			if s.Name == to.Name {
				id = s.ID
			}
		}
		if leader == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	if err == nil && id == "" {
		err = fmt.Errorf("%s is no member", to.Name)
	}
	return leader, id, err
}

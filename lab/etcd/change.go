package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Changes of the membership. Each is decided and proved by the member list and
// never by an exit code: a command that reported an error may have been
// applied, and one that was repeated after a time-out may have been applied the
// first time (FE25). So each may be called again after half a success.

// Current is where a change of the membership begins: the voting members that
// answer, the leader first, and the member list, agreed upon where there is a
// quorum, else what the first of them knows.
func Current(ctx context.Context, e *lab.Env) (up []*lab.Member, list Membership, err error) {
	if up, err = Answering(ctx, e); err != nil {
		return nil, list, err
	}
	quick, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if list, err = Members(quick, e.Cluster, false, up[0]); err == nil {
		return up, list, nil
	}
	list, err = Members(ctx, e.Cluster, true, up...)
	return up, list, err
}

// Find is Current for changes of a member that has to be listed.
func Find(ctx context.Context, e *lab.Env, m *lab.Member) (up []*lab.Member, list Membership, listed Listed, err error) {
	if up, list, err = Current(ctx, e); err != nil {
		return nil, list, listed, err
	}
	listed, ok := list.Of(m)
	if !ok {
		err = fmt.Errorf("%s is not in the member list: %s", m.Name, list)
	}
	return up, list, listed, err
}

// String lists the members for people.
func (l Membership) String() string {
	var out []string
	for _, m := range l.Members {
		s := m.Name
		if s == "" {
			s = "unstarted " + strings.Join(m.PeerURLs, ",")
		}
		if m.Learner {
			s += " (learner)"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// AddMember adds a seat to the member list under a peer URL; nil when it is
// listed as such already. A seat that is listed otherwise, as a voter instead
// of a learner for instance, is an error.
func AddMember(ctx context.Context, e *lab.Env, m *lab.Member, url string, learner bool) error {
	up, list, err := Current(ctx, e)
	if err != nil {
		return err
	}
	listed, there := list.Of(m)
	switch {
	case there && listed.Started() && listed.Learner == learner:
		e.Note(m.Name, "is a member already, %s: nothing to add", listed.HexID())
		return nil
	case there && listed.Started():
		return fmt.Errorf("%s is a member already, %s: use member-promote, or member-remove first", m.Name, listed.HexID())
	case there && listed.Learner == learner:
		e.Note(m.Name, "was added before and never started, as %s: nothing to add", listed.HexID())
		return nil
	}
	args := []string{"member", "add", m.Name, "--peer-urls=" + url}
	if learner {
		args = append(args, "--learner")
	}
	// The guard wants all voters but what the new quorum can spare (FE21).
	enough := lab.Quorum(list.Voters() + 1)
	cause := patiently(ctx, e, up[0], "", enough, args...)
	var exit *lab.ExitError
	if errors.As(cause, &exit) && says(exit, "etcdserver: member not found") {
		// An id is made of the URLs and the second in which a member is added
		// (FE1). One that was added and removed within this very second had the
		// same, and an id that was removed is never given again.
		e.Note(m.Name, "had the id of this second before, and was removed: added again in the next one")
		if pause(ctx, time.Second) {
			cause = patiently(ctx, e, up[0], "", enough, args...)
		}
	}
	return settled(ctx, e, up[0], cause, func(l Membership) bool {
		return slices.ContainsFunc(l.Members, func(x Listed) bool {
			return !x.Started() && slices.Equal(x.PeerURLs, []string{url}) && x.Learner == learner
		})
	})
}

// JoinMember starts a member that is listed, and waits until it answers as the
// one that was added. One that has never started is configured first; what is
// in its data directory then must be of this life, see Aside.
func JoinMember(ctx context.Context, e *lab.Env, m *lab.Member) error {
	up, list, listed, err := Find(ctx, e, m)
	if err != nil {
		return err
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if !listed.Started() && !st.Running {
		join := Join{Cluster: list.Initial(), State: StateExisting, Token: token(ctx, up[0])}
		spec := e.Spec
		spec.Peers = "lab" // whatever the first members began with, this one is to be reached
		if err := WriteSettings(ctx, m, NewSettings(spec, m, join)); err != nil {
			return err
		}
		e.Note(m.Name, "configuration written: initial-cluster %s, state existing", join)
	}
	if err := Start(ctx, e, m); err != nil {
		return err
	}
	return Await(ctx, m, m.Name+" to join", func(ctx context.Context) error {
		l, err := Members(ctx, e.Cluster, true, up...)
		if err != nil {
			return err
		}
		if x, ok := l.ByID(listed.ID); !ok || !x.Started() {
			return fmt.Errorf("the member list does not show it as started: %s", l)
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
	if s, err := ReadSettings(ctx, m); err == nil {
		if t, ok := s.Get("initial-cluster-token").(string); ok {
			return t
		}
	}
	return NewToken()
}

// A learner must have been close this many times in a row, this far apart.
const (
	lagSamples = 4
	lagEvery   = 50 * time.Millisecond
)

// PromoteMember makes a learner a voting member once it has been at most lag
// raft entries behind the leader for a while: etcd itself allows a promotion at
// 90 % of the leader's index, which is far behind in a long log (FE24). It
// waits as long as ctx allows; a learner that is still too far behind then is
// not promoted, and that is a *lab.Failure which says how far. nil when it
// votes already.
func PromoteMember(ctx context.Context, e *lab.Env, m *lab.Member, lag int) error {
	up, list, listed, err := Find(ctx, e, m)
	if err != nil {
		return err
	}
	if !listed.Learner {
		e.Note(m.Name, "votes already")
		return nil
	}
	if err := near(ctx, e, m, lag); err != nil {
		return err
	}
	cause := patiently(ctx, e, up[0], "", lab.Quorum(list.Voters()), "member", "promote", listed.HexID())
	return promoted(ctx, e, up[0], listed.ID, cause)
}

// PromoteNow asks etcd to promote a member at once, whatever it is.
func PromoteNow(ctx context.Context, e *lab.Env, m *lab.Member) error {
	up, _, listed, err := Find(ctx, e, m)
	if err != nil {
		return err
	}
	if _, err := Tool(ctx, e, up[0], "etcdctl", "member", "promote", listed.HexID()); err != nil {
		return err
	}
	return promoted(ctx, e, up[0], listed.ID, nil)
}

func promoted(ctx context.Context, e *lab.Env, via *lab.Member, id uint64, cause error) error {
	return settled(ctx, e, via, cause, func(l Membership) bool {
		x, ok := l.ByID(id)
		return ok && !x.Learner
	})
}

// near waits until a learner is close to the leader and stays there.
func near(ctx context.Context, e *lab.Env, m *lab.Member, lag int) error {
	times, last := 0, 0
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	err := Await(ctx, m, fmt.Sprintf("%s to be at most %d entries behind", m.Name, lag), func(ctx context.Context) error {
		for {
			behind, err := Lag(e.Look(ctx), m.Name)
			if err != nil {
				times = 0
				return err
			}
			last = behind
			if behind > lag {
				times = 0
				return fmt.Errorf("it is %d behind", behind)
			}
			if times++; times == lagSamples {
				e.Note(m.Name, "%d entries behind the leader, %d looks in a row", behind, times)
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && last > lag {
		return &lab.Failure{What: m.Name + " is not promoted: entries behind the leader", Want: fmt.Sprintf("at most %d", lag), Got: fmt.Sprint(last)}
	}
	return err
}

// RemoveMember removes a seat's member, found in the member list and not by
// asking its host: the one with this id, whichever is listed for the seat when
// id is 0. nil when it is not listed.
func RemoveMember(ctx context.Context, e *lab.Env, m *lab.Member, id uint64) error {
	up, list, err := Current(ctx, e)
	if err != nil {
		return err
	}
	listed, ok := list.Of(m)
	if id != 0 {
		listed, ok = list.ByID(id)
	}
	if !ok {
		e.Note(m.Name, "is no member: nothing to remove")
		return nil
	}
	// Better not sent to the one that goes: it ends while it answers.
	slices.SortStableFunc(up, func(a, b *lab.Member) int { return b2i(a == m) - b2i(b == m) })
	cause := patiently(ctx, e, up[0], m.Name, lab.Quorum(max(1, list.Voters()-1)), "member", "remove", listed.HexID())
	return settled(ctx, e, up[0], cause, func(l Membership) bool {
		_, still := l.ByID(listed.ID)
		return !still
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// UpdateMember changes the peer URL under which the others reach a member; its
// id stays.
func UpdateMember(ctx context.Context, e *lab.Env, m *lab.Member, url string) error {
	up, _, listed, err := Find(ctx, e, m)
	if err != nil {
		return err
	}
	_, cause := Tool(ctx, e, up[0], "etcdctl", "member", "update", listed.HexID(), "--peer-urls="+url)
	return settled(ctx, e, up[0], cause, func(l Membership) bool {
		x, ok := l.ByID(listed.ID)
		return ok && slices.Equal(x.PeerURLs, []string{url})
	})
}

// unhealthy is what etcd says when its guard against unsafe membership changes
// refuses (--strict-reconfig-check).
const unhealthy = "etcdserver: unhealthy cluster"

// window is how long a voter must have been connected before etcd's guard
// counts it (FE21, FE22). A little is added for the connecting itself.
const window = 5*time.Second + 1500*time.Millisecond

// disturbed is what etcd says when an election or a busy machine came between:
// the request may have been carried out or not.
var disturbed = []string{"etcdserver: request timed out", "etcdserver: leader changed", "etcdserver: no leader", "etcdserver: not leader"}

// patiently runs a membership command. etcd's guard refuses for a while after
// every change, until all voters have been connected for five seconds: as
// long as enough answer, that alone can be the reason, and the command is
// given again until the window has passed. enough is the number of voting
// members that must answer, not counting except. After a disturbance it is
// given again too, which is safe: the second of two equal membership commands
// changes nothing (FE25), and whoever calls looks at the member list.
func patiently(ctx context.Context, e *lab.Env, m *lab.Member, except string, enough int, args ...string) error {
	deadline := time.Now().Add(window)
	for {
		_, err := Tool(ctx, e, m, "etcdctl", args...)
		var exit *lab.ExitError
		if err == nil || !errors.As(err, &exit) {
			return err
		}
		if says(exit, disturbed...) {
			e.Note(m.Name, "etcd was disturbed, so that nobody knows whether it was done: the command is given again")
			if !pause(ctx, 500*time.Millisecond) {
				return err
			}
			continue
		}
		if !says(exit, unhealthy) || time.Now().After(deadline) {
			return err
		}
		n := 0
		for _, s := range e.Look(ctx) {
			if s.Up && (s.Role == "leader" || s.Role == "follower") && s.Name != except {
				n++
			}
		}
		if n < enough {
			return err // the guard means it
		}
		e.Note(m.Name, "refused as unhealthy though %d voters answer: etcd counts them after five seconds of connection", n)
		if !pause(ctx, 500*time.Millisecond) {
			return err
		}
	}
}

// says tells whether a tool that refused has printed one of the texts.
func says(exit *lab.ExitError, texts ...string) bool {
	return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(exit.Text(), t) })
}

// pause waits; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// settled turns an unclear end of a membership command into a clear one: it
// may have been applied though the tool reported an error. done looks at the
// member list. Without an answer there is no next step, so a slow one is asked
// for more than once.
func settled(ctx context.Context, e *lab.Env, m *lab.Member, cause error, done func(l Membership) bool) error {
	var l Membership
	soon, cancel := context.WithTimeout(ctx, 5*answer)
	defer cancel()
	err := lab.Until(soon, "the member list", func(ctx context.Context) (err error) {
		l, err = Members(ctx, e.Cluster, true, m)
		return err
	})
	switch {
	case err == nil && done(l):
		if cause != nil {
			e.Note(m.Name, "the command reported an error, and the member list shows that it was applied: %s", cause)
		}
		return nil
	case cause != nil:
		return cause
	case err != nil:
		return fmt.Errorf("the command was acknowledged, and the member list could not be read: %w", err)
	}
	return &lab.Failure{What: "member list of " + m.Name + " after an acknowledged change", Want: "the change", Got: l.String()}
}

package recovery

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	random "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Standing is the cluster as an operation found it when it decided. It is part
// of the plan: what the cluster is compared with before every step.
type Standing struct {
	Cluster string // id, hexadecimal
	Leader  string // name of who led
	Version string // of who led, such as 3.7.3
	Members Roster
	Token   string // in the names of all that the operation puts aside
}

// Roster is a membership as a plan has it.
type Roster []Entry

// Entry is a member of a Roster.
type Entry struct {
	Name    string // of its seat
	ID      string // hexadecimal; empty for one that the operation adds
	Learner bool   `json:",omitempty"`
	Down    bool   `json:",omitempty"` // it did not answer when it was decided
}

func (r Roster) find(name string) (Entry, bool) {
	i := slices.IndexFunc(r, func(x Entry) bool { return x.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return r[i], true
}

func (r Roster) names() []string {
	var out []string
	for _, x := range r {
		out = append(out, x.Name)
	}
	return out
}

// with is the roster with one entry added or, by its name, changed.
func (r Roster) with(x Entry) Roster {
	out := slices.Clone(r)
	if i := slices.IndexFunc(out, func(o Entry) bool { return o.Name == x.Name }); i >= 0 {
		out[i] = x
		return out
	}
	return append(out, x)
}

// without is the roster without a name.
func (r Roster) without(name string) Roster {
	return slices.DeleteFunc(slices.Clone(r), func(x Entry) bool { return x.Name == name })
}

// forecast is how a cluster with this membership stands.
func (r Roster) forecast() *operation.Forecast {
	f := &operation.Forecast{}
	for _, x := range r {
		switch {
		case x.Learner:
			f.Learners++
		case x.Down:
			f.Voters++
		default:
			f.Voters++
			f.Up++
		}
	}
	return f
}

// is tells whether a member list is this roster: the same seats in the same
// roles, under the same ids as far as they were known.
func (r Roster) is(l etcd.Membership) bool {
	if len(l.Members) != len(r) {
		return false
	}
	for _, m := range l.Members {
		if m.Seat == nil {
			return false
		}
		x, ok := r.find(m.Seat.Name)
		if !ok || x.Learner != m.Learner || x.ID != "" && x.ID != m.HexID() {
			return false
		}
	}
	return true
}

// String lists the members for people.
func (r Roster) String() string {
	var out []string
	for _, x := range r {
		s := x.Name + " (new"
		if x.ID != "" {
			s = x.Name + " (" + x.ID
		}
		if x.Learner {
			s += ", learner"
		}
		out = append(out, s+")")
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// listed writes a member list the way a Roster is written.
func listed(l etcd.Membership) string {
	var r Roster
	for _, m := range l.Members {
		name := m.Name
		if name == "" && m.Seat != nil {
			name = m.Seat.Name
		}
		r = append(r, Entry{Name: name, ID: m.HexID(), Learner: m.Learner})
	}
	return r.String()
}

// The patience of looks. An election may come between, and a member that lets
// one look pass is not dead for that.
const (
	agreeWithin = 10 * time.Second
	deadAfter   = 3 * time.Second
)

// agreed is the member list that a quorum agrees on. That there is no quorum,
// since those who answer know no leader, is a *lab.Failure: nothing about the
// membership can be changed then. No answer in time although there is a leader
// says nothing.
func agreed(ctx context.Context, e *lab.Env) (up []*lab.Member, l etcd.Membership, err error) {
	ctx, cancel := context.WithTimeout(ctx, agreeWithin)
	defer cancel()
	leaderless := false
	err = lab.Until(ctx, "a member list that a quorum agrees on", func(ctx context.Context) (err error) {
		if up, err = etcd.Answering(ctx, e); err != nil {
			return err
		}
		if l, err = etcd.Members(ctx, e.Cluster, false, up...); err != nil {
			look := e.Look(context.WithoutCancel(ctx))
			knows := func(leader bool) bool {
				return slices.ContainsFunc(look, func(s lab.Status) bool { return s.Up && (s.Leader != "") == leader })
			}
			leaderless = knows(false) && !knows(true)
		}
		return err
	})
	if err != nil && leaderless {
		err = &lab.Failure{What: "cluster", Want: "a quorum, without which no membership can be changed: bring members back, or recover-quorum", Got: err.Error()}
	}
	return up, l, err
}

// survey looks at a cluster and refuses one that is not fit for a change: no
// quorum, a learner or a member that never started, which another change left
// behind, or a member that is no host of this lab.
func survey(ctx context.Context, e *lab.Env) (Standing, error) {
	up, l, err := agreed(ctx, e)
	if err != nil {
		return Standing{}, err
	}
	s := Standing{Cluster: etcd.HexID(l.Cluster), Token: token()}
	for _, m := range l.Members {
		switch {
		case m.Seat == nil:
			return s, &lab.Failure{What: "member " + m.Name + ", " + m.HexID(), Want: "a host of this lab", Got: "none of them: " + strings.Join(m.PeerURLs, ", ")}
		case !m.Started():
			return s, &lab.Failure{What: "member " + m.HexID() + " for " + m.Seat.Name, Want: "started", Got: "added and never started: member-remove takes it away"}
		case m.Learner:
			return s, &lab.Failure{What: "member " + m.Seat.Name, Want: "no learner: one at a time is all that etcd allows (FE24)", Got: "a learner: member-promote or member-remove it first"}
		}
		if other, twice := s.Members.find(m.Seat.Name); twice {
			return s, &lab.Failure{What: "members of " + m.Seat.Name, Want: "one", Got: other.ID + " and " + m.HexID()}
		}
		s.Members = append(s.Members, Entry{Name: m.Seat.Name, ID: m.HexID(), Down: true})
	}
	slices.SortFunc(s.Members, func(a, b Entry) int { return place(e, a.Name) - place(e, b.Name) })
	patient, cancel := context.WithTimeout(ctx, deadAfter)
	defer cancel()
	_ = lab.Until(patient, "all members to answer", func(context.Context) error {
		var silent error
		for i, st := range e.Look(ctx) { // whole, and not until patience ends
			at := slices.IndexFunc(s.Members, func(x Entry) bool { return x.Name == e.Seats[i].Name })
			if at < 0 {
				continue
			}
			if s.Members[at].Down = s.Members[at].Down && !st.Up; s.Members[at].Down {
				silent = fmt.Errorf("%s: %s", st.Name, st.Error)
			}
			if st.Up && st.Role == "leader" {
				s.Leader, s.Version = st.Name, st.Version
			}
		}
		if silent == nil && s.Leader == "" {
			silent = errors.New("nobody leads")
		}
		return silent
	})
	if s.Leader == "" {
		return s, fmt.Errorf("a quorum agrees on the members, and nobody was seen to lead; %s answered", up[0].Name)
	}
	return s, nil
}

// calm is survey for operations for which a cluster with an alarm is not fit
// either.
func calm(ctx context.Context, e *lab.Env) (Standing, error) {
	s, err := survey(ctx, e)
	if err != nil {
		return s, err
	}
	leader, err := e.Member(s.Leader)
	if err != nil {
		return s, err
	}
	alarms, err := etcd.Alarms(ctx, e, leader)
	if err != nil {
		return s, fmt.Errorf("alarms: %w", err)
	}
	if len(alarms) > 0 {
		return s, &lab.Failure{What: "alarms", Want: "none (`free-space` ends NOSPACE, `repair` CORRUPT)", Got: strings.Join(alarms, ", ")}
	}
	return s, nil
}

// change is calm for operations that change the membership, and so put data
// aside: the WAL has to lie with it.
func change(ctx context.Context, e *lab.Env) (Standing, error) {
	s, err := calm(ctx, e)
	if err != nil {
		return s, err
	}
	return s, etcd.Each(e.Seats, func(_ int, m *lab.Member) error {
		if err := etcd.LogInside(ctx, m); lab.VerdictOf(err) == lab.Fail {
			return err
		}
		return nil // who cannot be asked may be dead, and is to be replaced
	})
}

// aimed are the seats of a target: as the engine of drills has resolved it, or
// by a look of our own when nobody has.
func aimed(ctx context.Context, e *lab.Env, t lab.Target) ([]*lab.Member, error) {
	if len(t.Names) == 0 {
		draw := e.Rand
		if draw == nil {
			draw = random.New(random.NewPCG(random.Uint64(), random.Uint64()))
		}
		names, err := lab.Pick(t.Role, e.Look(ctx), draw)
		if err != nil {
			return nil, &lab.Failure{What: "whom: " + t.Role, Want: "somebody", Got: err.Error()}
		}
		t.Names = names
		e.Journal.Add(lab.Event{Kind: lab.EventAim, Target: &t})
	}
	return etcd.Seats(e.Cluster, t)
}

// aimedOne is aimed for targets that mean one seat.
func aimedOne(ctx context.Context, e *lab.Env, t lab.Target) (*lab.Member, error) {
	seats, err := aimed(ctx, e, t)
	if err == nil && len(seats) != 1 {
		err = &lab.Failure{What: "whom: " + t.Role, Want: "one", Got: fmt.Sprint(len(seats))}
	}
	if err != nil {
		return nil, err
	}
	return seats[0], nil
}

// place is the place of a seat among all.
func place(e *lab.Env, name string) int {
	return slices.IndexFunc(e.Seats, func(m *lab.Member) bool { return m.Name == name })
}

// token is what tells an operation's names from those of others.
func token() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// vacant refuses hosts that cannot become members: those that are not reached,
// run an etcd already, of whatever cluster, or have binaries of another minor
// release than the cluster (FE6, FE50).
func vacant(ctx context.Context, e *lab.Env, s Standing, names []string) error {
	for i, name := range names {
		m, err := e.Member(name)
		if err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return &lab.Failure{What: "host " + name, Want: "once", Got: "twice"}
		}
		st, err := m.Proc.State(ctx)
		if err != nil {
			return fmt.Errorf("host of %s: %w", name, err)
		}
		if st.Running {
			got := fmt.Sprintf("etcd runs there, pid %d, and is no member of this cluster", st.PID)
			for _, look := range e.Look(ctx) {
				if look.Name == name && look.Up {
					got += ": it serves cluster " + look.Cluster + " at revision " + strconv.FormatInt(look.Revision, 10)
				}
			}
			return &lab.Failure{What: "host " + name, Want: "vacant", Got: got}
		}
		version, err := etcd.Release(ctx, e, m, m.Bin)
		if err != nil {
			return err
		}
		if etcd.Minor(version) != etcd.Minor(s.Version) {
			return &lab.Failure{What: "release of etcd on " + name, Want: etcd.Minor(s.Version) + " as the cluster", Got: version}
		}
	}
	return nil
}

// stands compares the cluster with the plan: the member list must be one of the
// rosters, those before and after a step that may be half done. That it is
// another is a *lab.Failure with both.
func (s Standing) stands(ctx context.Context, e *lab.Env, rosters ...Roster) error {
	_, l, err := agreed(ctx, e)
	if err != nil {
		return err
	}
	if got := etcd.HexID(l.Cluster); got != s.Cluster {
		return &lab.Failure{What: "cluster id", Want: s.Cluster, Got: got}
	}
	var want []string
	for _, r := range rosters {
		if r.is(l) {
			return nil
		}
		want = append(want, r.String())
	}
	return &lab.Failure{What: "members", Want: strings.Join(slices.Compact(want), ", or "), Got: listed(l)}
}

// serving waits until all members of a roster that are to answer do, and follow
// one leader. What it saw otherwise until ctx ended is a *lab.Failure.
func serving(ctx context.Context, e *lab.Env, r Roster) error {
	var got string
	err := lab.Until(ctx, "the members to answer", func(ctx context.Context) error {
		got = ""
		leader := ""
		for i, st := range e.Look(ctx) {
			x, in := r.find(e.Seats[i].Name)
			if !in || x.Down {
				continue
			}
			switch {
			case !st.Up:
				got = fmt.Sprintf("%s does not: %s", st.Name, st.Error)
			case st.Leader == "":
				got = st.Name + " knows no leader"
			case leader != "" && st.Leader != leader:
				got = "they follow different leaders"
			default:
				leader = st.Leader
			}
		}
		if got != "" {
			return errors.New(got)
		}
		return nil
	})
	if err != nil && got != "" {
		return &lab.Failure{What: "members", Want: "all answer and follow one leader", Got: got}
	}
	return err
}

// compared waits until the hashes of those members of a roster that are to
// answer can be compared, by HashKV at one revision and equal compact revision
// (FE32).
func compared(ctx context.Context, e *lab.Env, r Roster) (hashes []etcd.Hash, err error) {
	var seats []*lab.Member
	for _, x := range r {
		if m, err := e.Member(x.Name); err != nil {
			return nil, err
		} else if !x.Down {
			seats = append(seats, m)
		}
	}
	err = lab.Until(ctx, "hashes that can be compared", func(ctx context.Context) (err error) {
		hashes, err = etcd.Hashes(ctx, e.Cluster, seats...)
		return err
	})
	return hashes, err
}

// same waits until the data of those members can be compared, and wants it to
// be equal.
func same(ctx context.Context, e *lab.Env, r Roster) error {
	hashes, err := compared(ctx, e, r)
	if err != nil {
		return err
	}
	if !etcd.Equal(hashes) {
		return &lab.Failure{What: "data of the members", Want: "equal", Got: etcd.Describe(hashes)}
	}
	e.Note("", "equal data: %s", etcd.Describe(hashes))
	return nil
}

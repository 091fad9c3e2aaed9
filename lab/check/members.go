package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Members asks about all members together.
type Members struct {
	Healthy  int    `default:"-1" doc:"so many answer, follow a leader and, when they vote, answer a linearizable read"`
	Voters   int    `default:"-1" doc:"so many vote, by the member list"`
	Learners int    `default:"-1" doc:"so many are learners, by the member list"`
	Listed   int    `default:"-1" doc:"so many are in the member list"`
	Equal    string `doc:"hash: all have the same data, by HashKV at one revision and equal compact revision"`
	Differ   string `doc:"hash: they have not, by the same"`
	Cluster  string `doc:"same: the cluster id is the one of right before the last break; other: it is not"`
}

// Valid implements the check of arguments.
func (m *Members) Valid() error {
	for word, v := range map[string]string{"equal": m.Equal, "differ": m.Differ} {
		if v != "" && v != "hash" {
			return fmt.Errorf("%s: %q: expected hash", word, v)
		}
	}
	if m.Cluster != "" && m.Cluster != "same" && m.Cluster != "other" {
		return fmt.Errorf("cluster: %q: expected same or other", m.Cluster)
	}
	switch {
	case m.Equal != "" && m.Differ != "":
		return fmt.Errorf("equal, differ: expected one of them")
	case m.Healthy < 0 && m.Voters < 0 && m.Learners < 0 && m.Listed < 0 && m.Equal == "" && m.Differ == "" && m.Cluster == "":
		return fmt.Errorf("expected healthy, voters, learners, listed, equal, differ or cluster")
	}
	return nil
}

// Doc implements lab.Check.
func (*Members) Doc() string {
	return "asks how many members are healthy, vote, learn or are listed, and whether their data is equal"
}

// Holds implements lab.Check.
func (m *Members) Holds(ctx context.Context, e *lab.Env) error {
	now, err := look(ctx, e)
	if err != nil {
		return err
	}
	var up []*lab.Member
	var down []string
	for i, s := range now {
		switch {
		case s.Absent:
		case s.Up:
			up = append(up, e.Seats[i])
		default:
			down = append(down, s.Name+" does not answer: "+s.Error)
		}
	}
	if m.Healthy >= 0 {
		n, sick, err := m.healthy(ctx, e, now)
		if err != nil {
			return err
		}
		if n != m.Healthy {
			got := fmt.Sprint(n)
			if why := append(sick, down...); len(why) > 0 {
				got += " (" + strings.Join(why, "; ") + ")"
			}
			return &lab.Failure{What: "healthy members", Want: fmt.Sprint(m.Healthy), Got: got}
		}
	}
	if m.Voters >= 0 || m.Learners >= 0 || m.Listed >= 0 {
		// What a quorum agrees on, never what one member remembers.
		list, err := etcd.Members(ctx, e.Cluster, false, up...)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		for _, c := range []struct {
			what      string
			want, got int
		}{
			{"voting members", m.Voters, list.Voters()},
			{"learners", m.Learners, list.Learners()},
			{"listed members", m.Listed, len(list.Members)},
		} {
			if c.want >= 0 {
				if err := wrong(c.what, c.want, c.got); err != nil {
					return err
				}
			}
		}
	}
	if m.Cluster != "" {
		then, err := before(e)
		if err != nil {
			return err
		}
		was := cluster(then)
		if was == "" {
			return fmt.Errorf("no member had told its cluster id right before the last break")
		}
		for _, s := range now {
			switch {
			case !s.Up || s.Absent || (s.Cluster == was) == (m.Cluster == "same"):
			case m.Cluster == "same":
				return wrong("cluster id of "+s.Name, was, s.Cluster)
			default:
				return &lab.Failure{What: "cluster id of " + s.Name, Want: "another one than before", Got: s.Cluster}
			}
		}
	}
	if m.Equal == "" && m.Differ == "" {
		return nil
	}
	if len(down) > 0 && m.Healthy < 0 {
		return fmt.Errorf("could not compare: %s; say how many are to be healthy when that is as it should be", strings.Join(down, "; "))
	}
	hashes, err := etcd.Hashes(ctx, e.Cluster, up...)
	if err != nil {
		return fmt.Errorf("not decided: %w", err)
	}
	if got := etcd.Equal(hashes); got != (m.Equal != "") {
		want := "equal"
		if m.Differ != "" {
			want = "different"
		}
		return &lab.Failure{What: "data of the members", Want: want, Got: etcd.Describe(hashes)}
	}
	return nil
}

// healthy counts, and says what is wrong with those that answer and do not
// count.
func (m *Members) healthy(ctx context.Context, e *lab.Env, now []lab.Status) (int, []string, error) {
	n := 0
	var voting []*lab.Member
	var sick []string
	for i, s := range now {
		switch {
		case s.Absent || !s.Up:
		case s.Leader == "":
			sick = append(sick, s.Name+" knows no leader")
		case s.Role == "learner":
			n++ // it serves no linearizable reads by design
		default:
			voting = append(voting, e.Seats[i])
		}
	}
	for _, p := range askAll(ctx, e, inside, voting, linearizable) {
		switch p.answer {
		case accepted:
			n++
		case unclear:
			return 0, nil, fmt.Errorf("could not tell whether %s", p)
		default:
			sick = append(sick, p.String())
		}
	}
	return n, sick, nil
}

// Revision asks how far the members are.
type Revision struct {
	Equal   bool  `doc:"all members that answer are at the same revision"`
	AtLeast int64 `yaml:"at-least" doc:"all members that answer are at least there"`
}

// Valid implements the check of arguments.
func (r *Revision) Valid() error {
	if !r.Equal && r.AtLeast <= 0 {
		return fmt.Errorf("expected equal or at-least")
	}
	return nil
}

// Doc implements lab.Check.
func (*Revision) Doc() string { return "asks at which revision the members are" }

// Holds implements lab.Check.
func (r *Revision) Holds(ctx context.Context, e *lab.Env) error {
	now, err := look(ctx, e)
	if err != nil {
		return err
	}
	var first *lab.Status
	for i, s := range now {
		if !s.Up || s.Absent {
			continue
		}
		if r.AtLeast > 0 && s.Revision < r.AtLeast {
			return &lab.Failure{What: "revision of " + s.Name, Want: fmt.Sprintf("at least %d", r.AtLeast), Got: fmt.Sprint(s.Revision)}
		}
		if first == nil {
			first = &now[i]
		}
		if r.Equal && s.Revision != first.Revision {
			return &lab.Failure{What: "revision of " + s.Name, Want: fmt.Sprintf("%d as %s", first.Revision, first.Name), Got: fmt.Sprint(s.Revision)}
		}
	}
	return nil
}

// Lag asks how far a member is behind the leader.
type Lag struct {
	Member lab.Target `need:"yes" doc:"the member"`
	Max    int        `need:"yes" doc:"raft entries it may have still to apply"`
}

// Valid implements the check of arguments.
func (l *Lag) Valid() error {
	if l.Max < 0 {
		return fmt.Errorf("max: %d: expected 0 or more", l.Max)
	}
	return nil
}

// Doc implements lab.Check.
func (*Lag) Doc() string { return "asks how many raft entries a member is behind the leader" }

// Holds implements lab.Check.
func (l *Lag) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, l.Member)
	if err != nil {
		return err
	}
	now := e.Look(ctx)
	for _, m := range seats {
		behind, err := etcd.Lag(now, m.Name)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		if behind > l.Max {
			return &lab.Failure{What: m.Name + " behind the leader", Want: fmt.Sprintf("at most %d entries", l.Max), Got: fmt.Sprint(behind)}
		}
	}
	return nil
}

// Alarms asks for alarms.
type Alarms struct {
	None bool   `doc:"no member that answers knows one"`
	Is   string `doc:"nospace or corrupt: some member knows this one"`
}

// Valid implements the check of arguments.
func (a *Alarms) Valid() error {
	switch {
	case a.Is != "" && !slices.Contains([]string{"nospace", "corrupt"}, strings.ToLower(a.Is)):
		return fmt.Errorf("is: %q: expected nospace or corrupt", a.Is)
	case a.None == (a.Is != ""):
		return fmt.Errorf("expected one of none and is")
	}
	return nil
}

// Doc implements lab.Check.
func (*Alarms) Doc() string { return "asks whether an alarm is raised" }

// Holds implements lab.Check. Alarms are read from the members' status, which
// also works without a quorum.
func (a *Alarms) Holds(ctx context.Context, e *lab.Env) error {
	now, err := look(ctx, e)
	if err != nil {
		return err
	}
	var got []string
	found := false
	for _, s := range now {
		for _, alarm := range s.Alarms {
			got = append(got, alarm+" at "+s.Name)
			found = found || strings.EqualFold(alarm, a.Is)
		}
	}
	switch {
	case a.None && len(got) > 0:
		return &lab.Failure{What: "alarms", Want: "none", Got: strings.Join(got, ", ")}
	case a.Is != "" && !found:
		s := strings.Join(got, ", ")
		if s == "" {
			s = "none"
		}
		return &lab.Failure{What: "alarms", Want: strings.ToUpper(a.Is), Got: s}
	}
	return nil
}

// Listing asks what the member list says of one seat.
type Listing struct {
	Member       lab.Target `need:"yes" doc:"the seat"`
	Started      string     `doc:"true: it has joined; false: it was added and never started"`
	Learner      string     `doc:"true: as a learner; false: as a voting member"`
	Absent       bool       `doc:"it is not listed"`
	Serializable bool       `doc:"what one member remembers, without asking the quorum"`
	Refused      bool       `doc:"the list is not to be had: no member that answers gives it in time"`
	Same         bool       `doc:"under the id it had right before the last break"`
}

// Valid implements the check of arguments.
func (l *Listing) Valid() error {
	for word, v := range map[string]string{"started": l.Started, "learner": l.Learner} {
		if _, _, err := asked(v); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	if (l.Absent || l.Refused) && (l.Started != "" || l.Learner != "" || l.Same) || l.Absent && l.Refused {
		return fmt.Errorf("absent, refused: expected alone")
	}
	return nil
}

// Doc implements lab.Check.
func (*Listing) Doc() string { return "asks what the member list says of a seat" }

// Holds implements lab.Check.
func (l *Listing) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, l.Member)
	if err != nil {
		return err
	}
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return fmt.Errorf("could not look: %w", err)
	}
	list, err := etcd.Members(ctx, e.Cluster, l.Serializable, up...)
	switch {
	case l.Refused && err == nil:
		return &lab.Failure{What: "member list", Want: "no answer", Got: fmt.Sprintf("%d members", len(list.Members))}
	case l.Refused && ctx.Err() == nil:
		e.Note("", "member list refused: %s", err)
		return nil
	case err != nil:
		return fmt.Errorf("could not look: %w", err)
	}
	for _, m := range seats {
		x, there := list.Of(m)
		if there == l.Absent {
			return &lab.Failure{What: m.Name + " in the member list", Want: yesno(!l.Absent), Got: yesno(there)}
		}
		if want, given, _ := asked(l.Started); given {
			if err := wrong(m.Name+" started", want, x.Started()); err != nil {
				return err
			}
		}
		if want, given, _ := asked(l.Learner); given {
			if err := wrong(m.Name+" is a learner", want, x.Learner); err != nil {
				return err
			}
		}
		if l.Same {
			then, err := before(e)
			if err != nil {
				return err
			}
			for _, s := range then {
				if s.Name == m.Name {
					if err := wrong("id of "+m.Name, s.ID, x.HexID()); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// cluster is the cluster id of a look, empty when nobody told it.
func cluster(look []lab.Status) string {
	for _, s := range look {
		if s.Up {
			return s.Cluster
		}
	}
	return ""
}

func yesno(b bool) string {
	if b {
		return "listed"
	}
	return "not listed"
}

package check

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
)

// Leader asks about the leader: one that a quorum follows.
type Leader struct {
	Exists  bool       `doc:"there is one; asked when nothing else is"`
	Changed bool       `doc:"there is one, and another than right before the last break"`
	Same    bool       `doc:"it is the one of right before the last break"`
	Is      lab.Target `doc:"it is this member"`
	None    bool       `doc:"no member that answers knows one"`
}

// Valid implements the check of arguments.
func (l *Leader) Valid() error {
	if l.None && (l.Exists || l.Changed || l.Same || l.Is.Role != "") {
		return fmt.Errorf("none: expected alone")
	}
	if l.Changed && l.Same {
		return fmt.Errorf("changed, same: expected one of them")
	}
	return nil
}

// Doc implements lab.Check.
func (*Leader) Doc() string {
	return "asks about the leader that a quorum follows: exists, changed, same, is, none"
}

// Holds implements lab.Check.
func (l *Leader) Holds(ctx context.Context, e *lab.Env) error {
	now, err := look(ctx, e)
	if err != nil {
		return err
	}
	if l.None {
		for _, s := range now {
			if s.Up && s.Leader != "" {
				return &lab.Failure{What: "leader", Want: "none", Got: s.Name + " says " + name(now, s.Leader)}
			}
		}
		return nil
	}
	is, ok := leader(now)
	if !ok {
		return &lab.Failure{What: "leader that a quorum follows", Want: "one", Got: "none"}
	}
	if l.Changed || l.Same {
		then, err := before(e)
		if err != nil {
			return err
		}
		was, ok := claimed(then)
		switch {
		case !ok:
			return fmt.Errorf("there was no leader right before the last break, so none to compare with")
		case l.Changed && was.ID == is.ID:
			return &lab.Failure{What: "leader", Want: "another one than " + was.Name, Got: fmt.Sprintf("%s in term %d", is.Name, is.Term)}
		case l.Same && was.ID != is.ID:
			return &lab.Failure{What: "leader", Want: was.Name + " as before", Got: fmt.Sprintf("%s in term %d", is.Name, is.Term)}
		}
	}
	switch len(l.Is.Names) {
	case 0:
		return nil
	case 1:
		return wrong("leader", l.Is.Names[0], is.Name)
	}
	return fmt.Errorf("is: %s: expected one member", l.Is)
}

// name finds the seat of a member id.
func name(look []lab.Status, id string) string {
	for _, s := range look {
		if s.ID == id {
			return s.Name
		}
	}
	return id
}

// Term asks whether there were elections. A member tells the term of the last
// entry it has applied, so a new term shows a moment after its leader does: ask
// with `within`.
type Term struct {
	Grew bool `doc:"it is higher than right before the last break"`
	Same bool `doc:"it is the one of right before the last break"`
	By   int  `doc:"it grew by at least so many"`
}

// Valid implements the check of arguments.
func (t *Term) Valid() error {
	switch {
	case t.By < 0:
		return fmt.Errorf("by: %d: expected 1 or more", t.By)
	case t.Same == (t.Grew || t.By > 0):
		return fmt.Errorf("expected grew (or by) or same")
	}
	return nil
}

// Doc implements lab.Check.
func (*Term) Doc() string {
	return "asks whether the raft term grew, or stayed, since right before the last break"
}

// Holds implements lab.Check.
func (t *Term) Holds(ctx context.Context, e *lab.Env) error {
	then, err := before(e)
	if err != nil {
		return err
	}
	now, err := look(ctx, e)
	if err != nil {
		return err
	}
	was, is := newest(then), newest(now)
	switch by := uint64(max(t.By, 1)); {
	case was == 0:
		return fmt.Errorf("no member had told its term right before the last break")
	case t.Same && is != was:
		return &lab.Failure{What: "term", Want: fmt.Sprintf("%d as before", was), Got: fmt.Sprint(is)}
	case !t.Same && is < was+by:
		return &lab.Failure{What: "term", Want: fmt.Sprintf("at least %d", was+by), Got: fmt.Sprint(is)}
	}
	return nil
}

func newest(look []lab.Status) uint64 {
	var term uint64
	for _, s := range look {
		if s.Up {
			term = max(term, s.Term)
		}
	}
	return term
}

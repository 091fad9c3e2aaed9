package recovery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Shrink removes voting members, one at a time. The dead go first, since they
// cost most; who leads stays, or hands over before it goes (FE29).
type Shrink struct {
	To      int           `need:"yes" doc:"how many voting members there are to be"`
	Members []string      `doc:"who goes; when absent the dead, then followers from the last one on"`
	CatchUp time.Duration `yaml:"catch-up" default:"5m" doc:"how long each may take to come close to the leader when it has to come back"`

	Decided ShrinkPlan `yaml:"-"`
}

// ShrinkPlan is what a shrinking has decided.
type ShrinkPlan struct {
	Was   Standing
	Leave []string // seats, in order
	Heir  string   // who leads when one that leaves does
}

// Doc is one sentence for lists and help.
func (*Shrink) Doc() string {
	return "removes voting members one at a time, leadership moved first, and fences them"
}

// Valid refuses arguments that cannot be.
func (s *Shrink) Valid() error {
	if s.To < 1 {
		return fmt.Errorf("to: %d: expected 1 or more", s.To)
	}
	return nil
}

// Decide implements operation.Operation.
func (s *Shrink) Decide(ctx context.Context, e *lab.Env) error {
	was, err := change(ctx, e)
	if err != nil {
		return err
	}
	less := len(was.Members) - s.To
	switch {
	case less == 0:
		e.Note("", "there are %d voters: nothing to do", s.To)
		return nil
	case less < 0:
		return &lab.Failure{What: "voting members", Want: fmt.Sprintf("at least %d, to shrink to that", s.To), Got: fmt.Sprintf("%d: grow adds members", len(was.Members))}
	}
	leave := slices.Clone(s.Members)
	if len(leave) == 0 {
		leave = expendable(was)[:less]
	}
	if len(leave) != less {
		return &lab.Failure{What: "members that go", Want: fmt.Sprintf("%d, from %d to %d", less, len(was.Members), s.To), Got: fmt.Sprintf("%d: %v", len(leave), leave)}
	}
	for i, name := range leave {
		if _, in := was.Members.find(name); !in || slices.Contains(leave[:i], name) {
			return &lab.Failure{What: "members that go", Want: "each once, of " + was.Members.String(), Got: fmt.Sprint(leave)}
		}
	}
	was.line(leave)
	heir := ""
	for _, x := range was.Members {
		if !x.Down && !slices.Contains(leave, x.Name) && (heir == "" || x.Name == was.Leader) {
			heir = x.Name
		}
	}
	if heir == "" {
		return &lab.Failure{What: "members that stay", Want: "one that answers", Got: "none of them does"}
	}
	s.Decided = ShrinkPlan{Was: was, Leave: leave, Heir: heir}
	return nil
}

// line puts members into the order in which they are worked on: the dead first;
// who leads last, so that there is one hand-over at most.
func (s Standing) line(names []string) {
	rank := func(name string) int {
		x, _ := s.Members.find(name)
		switch {
		case x.Down:
			return 0
		case name == s.Leader:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
}

// expendable orders the members by who can best be spared: the dead, then the
// followers from the last one on, then who leads.
func expendable(was Standing) []string {
	out := was.Members.names()
	slices.Reverse(out)
	was.line(out)
	return out
}

// Steps implements operation.Operation.
func (s *Shrink) Steps(e *lab.Env) ([]operation.Step, error) {
	d := s.Decided
	c := begin(e, d.Was, s.CatchUp)
	for _, name := range d.Leave {
		if x, _ := d.Was.Members.find(name); x.Down {
			c.fence(name)
			c.remove(name, d.Heir)
			continue
		}
		if name == d.Was.Leader {
			c.handOver(name, d.Heir)
		}
		c.remove(name, d.Heir)
		c.fence(name)
	}
	return c.done()
}

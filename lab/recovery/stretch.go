package recovery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Stretch moves a cluster to other hosts by letting it reach over both for a
// while: one host joins, one member leaves, and so on. Nothing is copied by
// hand, revisions never go back, watches go on, and it stays the same cluster
// (facts 2(d), method 1). The way back is the same again: what lies on the
// hosts that were left is never started.
type Stretch struct {
	To      []string      `need:"yes" doc:"the hosts that are to be the members, and nobody else"`
	CatchUp time.Duration `yaml:"catch-up" default:"5m" doc:"how long each may take to come close to the leader"`

	Decided StretchPlan `yaml:"-"`
}

// StretchPlan is what a switch has decided.
type StretchPlan struct {
	Was         Standing
	Join, Leave []string // seats, in order; who leads leaves last
}

// Doc is one sentence for lists and help.
func (*Stretch) Doc() string {
	return "moves a running cluster to other hosts: one joins, one leaves, and so on; it stays the same cluster"
}

// Valid refuses arguments that cannot be.
func (s *Stretch) Valid() error {
	for i, name := range s.To {
		if slices.Contains(s.To[:i], name) {
			return fmt.Errorf("to: %s is given twice", name)
		}
	}
	if len(s.To) == 0 {
		return fmt.Errorf("to: expected at least one host")
	}
	return nil
}

// Decide implements operation.Operation.
func (s *Stretch) Decide(ctx context.Context, e *lab.Env) error {
	was, err := change(ctx, e)
	if err != nil {
		return err
	}
	for _, x := range was.Members {
		if x.Down {
			return &lab.Failure{What: "member " + x.Name, Want: "answering, as all members must before a switch", Got: "no answer: bring it back, replace it or shrink first"}
		}
	}
	var join, leave []string
	for _, name := range s.To {
		if _, err := e.Member(name); err != nil {
			return err
		}
		if _, in := was.Members.find(name); !in {
			join = append(join, name)
		}
	}
	for _, x := range was.Members {
		if !slices.Contains(s.To, x.Name) {
			leave = append(leave, x.Name)
		}
	}
	if len(join)+len(leave) == 0 {
		e.Note("", "the members are %v: nothing to do", was.Members.names())
		return nil
	}
	if len(join) == 0 {
		return &lab.Failure{What: "switch", Want: "a host that joins", Got: fmt.Sprintf("%v are members already: shrink takes others away", s.To)}
	}
	if err := vacant(ctx, e, was, join); err != nil {
		return err
	}
	slices.SortStableFunc(leave, func(a, b string) int { return rank(was, a) - rank(was, b) })
	s.Decided = StretchPlan{Was: was, Join: join, Leave: leave}
	return nil
}

// Steps implements operation.Operation.
func (s *Stretch) Steps(e *lab.Env) ([]operation.Step, error) {
	d := s.Decided
	c := begin(e, d.Was, s.CatchUp)
	heir := ""
	for i := range max(len(d.Join), len(d.Leave)) {
		if i < len(d.Join) {
			c.join(d.Join[i])
			heir = d.Join[i]
		}
		if i < len(d.Leave) {
			if d.Leave[i] == d.Was.Leader {
				c.handOver(d.Leave[i], heir)
			}
			c.remove(d.Leave[i], heir)
			c.fence(d.Leave[i])
		}
	}
	return c.done()
}

package recovery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Grow adds voting members, one at a time, each as a learner first.
type Grow struct {
	To      int           `need:"yes" doc:"how many voting members there are to be"`
	With    []string      `doc:"hosts that join, in order; the first ones without a member when absent"`
	CatchUp time.Duration `yaml:"catch-up" default:"5m" doc:"how long each may take to come close to the leader"`

	Decided GrowPlan `yaml:"-"`
}

// GrowPlan is what a growth has decided.
type GrowPlan struct {
	Was  Standing
	Join []string // seats, in order
}

// Doc is one sentence for lists and help.
func (*Grow) Doc() string {
	return "adds voting members one at a time, each as a learner first"
}

// Valid refuses arguments that cannot be.
func (g *Grow) Valid() error {
	if g.To < 1 {
		return fmt.Errorf("to: %d: expected 1 or more", g.To)
	}
	return nil
}

// Decide implements operation.Operation.
func (g *Grow) Decide(ctx context.Context, e *lab.Env) error {
	was, err := change(ctx, e)
	if err != nil {
		return err
	}
	more := g.To - len(was.Members)
	switch {
	case more == 0:
		e.Note("", "there are %d voters: nothing to do", g.To)
		return nil
	case more < 0:
		return &lab.Failure{What: "voting members", Want: fmt.Sprintf("at most %d, to grow to that", g.To), Got: fmt.Sprintf("%d: shrink takes members away", len(was.Members))}
	}
	join := slices.Clone(g.With)
	for _, m := range e.Seats {
		if _, in := was.Members.find(m.Name); !in && len(g.With) == 0 && len(join) < more {
			join = append(join, m.Name)
		}
	}
	if len(join) != more {
		return &lab.Failure{What: "hosts without a member", Want: fmt.Sprintf("%d, to grow from %d to %d", more, len(was.Members), g.To), Got: fmt.Sprintf("%d: %v", len(join), join)}
	}
	for _, name := range join {
		if _, in := was.Members.find(name); in {
			return &lab.Failure{What: "host " + name, Want: "no member yet", Got: "a member"}
		}
	}
	if err := vacant(ctx, e, was, join); err != nil {
		return err
	}
	if g.To%2 == 0 {
		e.Note("", "%d voters tolerate the loss of %d, as %d do", g.To, lab.Tolerates(g.To), g.To-1)
	}
	g.Decided = GrowPlan{Was: was, Join: join}
	return nil
}

// Steps implements operation.Operation.
func (g *Grow) Steps(e *lab.Env) ([]operation.Step, error) {
	c := begin(e, g.Decided.Was, g.CatchUp)
	for _, name := range g.Decided.Join {
		c.join(name)
	}
	return c.done()
}

package recovery

import (
	"context"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Replace puts another host in a member's place.
//
// A dead member is removed first: etcd's guard refuses to add to a cluster of
// which one in three is dead (FE21), and its host is never asked for anything
// (facts 2(c)). One that lives is removed last, after the new one votes and
// leadership is away, so that there are never fewer voters than before. Either
// way the old one is fenced.
type Replace struct {
	Member  lab.Target    `need:"yes" doc:"the member that goes, dead or alive"`
	With    lab.Target    `default:"spare" doc:"the host that comes; a dead member's own host may"`
	CatchUp time.Duration `yaml:"catch-up" default:"5m" doc:"how long the new one may take to come close to the leader"`

	Decided ReplacePlan `yaml:"-"`
}

// ReplacePlan is what a replacement has decided. Without an Out there is
// nothing to do.
type ReplacePlan struct {
	Was     Standing
	Out, In string // seats
	Dead    bool   // Out does not answer
}

// Doc is one sentence for lists and help.
func (*Replace) Doc() string {
	return "puts another host in a member's place: a dead member goes first, one that lives goes last; the old one is fenced"
}

// Decide implements operation.Operation.
func (r *Replace) Decide(ctx context.Context, e *lab.Env) error {
	from, err := aimedOne(ctx, e, r.Member)
	if err != nil {
		return err
	}
	to, err := aimedOne(ctx, e, r.With)
	if err != nil {
		return err
	}
	was, err := change(ctx, e)
	if err != nil {
		return err
	}
	x, in := was.Members.find(from.Name)
	_, there := was.Members.find(to.Name)
	switch {
	case !in && there:
		e.Note("", "%s is no member, and %s is one: nothing to do", from.Name, to.Name)
		return nil
	case !in:
		return &lab.Failure{What: "member " + from.Name, Want: "one of " + was.Members.String(), Got: "no member"}
	case there && to != from:
		return &lab.Failure{What: "host " + to.Name, Want: "no member yet", Got: "a member"}
	case !x.Down && to == from:
		return &lab.Failure{What: "member " + from.Name, Want: "another host in its place, as long as it lives", Got: "its own"}
	}
	if to != from {
		if err := vacant(ctx, e, was, []string{to.Name}); err != nil {
			return err
		}
	}
	r.Decided = ReplacePlan{Was: was, Out: from.Name, In: to.Name, Dead: x.Down}
	return nil
}

// Steps implements operation.Operation.
func (r *Replace) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	c := begin(e, d.Was, r.CatchUp)
	switch {
	case d.Out == "":
	case d.Dead:
		c.fence(d.Out)
		c.remove(d.Out, d.Was.Leader)
		c.join(d.In)
	default:
		c.join(d.In)
		if d.Was.Leader == d.Out {
			c.handOver(d.Out, d.In)
		}
		c.remove(d.Out, d.In)
		c.fence(d.Out)
	}
	return c.done()
}

package recovery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Switch moves a cluster to other hosts. There are two methods (facts 2(d)).
//
// By stretch the cluster reaches over both sets of hosts for a while: one host
// joins, one member leaves, and so on. Nothing is copied by hand, revisions
// never go back, watches go on, and it stays the same cluster.
//
// By snapshot the world stands still: no client is let in any more, which is
// proved, a snapshot is taken of exactly what there is then, and the other
// hosts go on from it as a new cluster. It is for hosts that do not trust or
// reach each other, and costs an outage. See freeze.go.
//
// The way back is the same again, by either method: what lies on the hosts that
// were left is never started.
type Switch struct {
	To      []string      `need:"yes" doc:"the hosts that are to be the members, and nobody else"`
	Method  string        `default:"stretch" doc:"stretch (one joins, one leaves; no outage) or snapshot (all stand still, and the others go on from a snapshot)"`
	CatchUp time.Duration `yaml:"catch-up" default:"5m" doc:"by stretch: how long each may take to come close to the leader"`
	Still   time.Duration `default:"1s" doc:"by snapshot: how long no revision may have moved on any member before the snapshot is taken"`
	Bump    bool          `doc:"by snapshot: go on far above the old revisions and end old watches, although nothing is lost"`

	Decided SwitchPlan `yaml:"-"`
}

// SwitchPlan is what a switch has decided.
type SwitchPlan struct {
	Was         Standing
	Join, Leave []string    // seats, in order; who leads leaves last
	Source      string      `json:",omitempty"` // by snapshot: the seat whose snapshot it is
	Restore     RestorePlan `json:",omitzero"`  // by snapshot; what is in it is known once it is taken
}

// The methods of a Switch.
const (
	byStretch  = "stretch"
	bySnapshot = "snapshot"
)

// Doc is one sentence for lists and help.
func (*Switch) Doc() string {
	return "moves a cluster to other hosts: running, one joins and one leaves and it stays the same cluster; or by a snapshot of a cluster that stands still"
}

// Valid refuses arguments that cannot be.
func (s *Switch) Valid() error {
	for i, name := range s.To {
		if slices.Contains(s.To[:i], name) {
			return fmt.Errorf("to: %s is given twice", name)
		}
	}
	switch {
	case len(s.To) == 0:
		return fmt.Errorf("to: expected at least one host")
	case s.Method != byStretch && s.Method != bySnapshot:
		return fmt.Errorf("method: %q: expected stretch or snapshot", s.Method)
	case s.Bump && s.Method != bySnapshot:
		return fmt.Errorf("bump: revisions go on as they are when a cluster is stretched: expected method snapshot")
	case s.Still < 0:
		return fmt.Errorf("still: %s: expected a time above 0", s.Still)
	}
	return nil
}

// Decide implements operation.Operation.
func (s *Switch) Decide(ctx context.Context, e *lab.Env) error {
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
	was.line(leave)
	plan := SwitchPlan{Was: was, Join: join, Leave: leave}
	if s.Method == bySnapshot {
		err = s.decideFreeze(ctx, e, &plan)
	} else {
		err = trusting(ctx, e, was, join)
	}
	if err == nil {
		s.Decided = plan
	}
	return err
}

// trusting refuses hosts whose certificates the members do not believe, or that
// would not believe theirs. Each member is asked as the host would ask it: what
// counts is whom it trusts, and that is what it read when it was started.
func trusting(ctx context.Context, e *lab.Env, was Standing, join []string) error {
	if e.TLS == nil {
		return nil
	}
	if err := familiar(ctx, e, join); err != nil {
		return err
	}
	for _, name := range join {
		m, err := e.Member(name)
		if err != nil {
			return err
		}
		who, err := etcd.Peer(ctx, m)
		if err != nil {
			return err
		}
		for _, x := range was.Members {
			member, err := e.Member(x.Name)
			if err != nil {
				return err
			}
			r, err := etcd.Call(ctx, member, etcd.PeerPort, who)
			if err != nil {
				return err
			}
			if !r.Accepted {
				return &lab.Failure{What: fmt.Sprintf("%s at the peer port of %s", name, x.Name), Want: "accepted, as members must trust each other: a bundle of both authorities on all of them and a rolling restart, or method snapshot", Got: r.String()}
			}
		}
	}
	return nil
}

// familiar refuses hosts whose certificates the lab's clients do not believe.
func familiar(ctx context.Context, e *lab.Env, names []string) error {
	if e.TLS == nil {
		return nil
	}
	for _, name := range names {
		m, err := e.Member(name)
		if err != nil {
			return err
		}
		if err := etcd.Familiar(ctx, e.Cluster, m); err != nil {
			return err
		}
	}
	return nil
}

// Steps implements operation.Operation.
func (s *Switch) Steps(e *lab.Env) ([]operation.Step, error) {
	if s.Method == bySnapshot {
		return s.freezeSteps(e)
	}
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

package recovery

import (
	"context"
	"fmt"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// RollingRestart restarts members one after the other: who follows first, who
// leads last and after a hand-over. Each must be ready and level with the
// leader before the next is touched.
type RollingRestart struct {
	Member lab.Target `default:"voters" doc:"the members; one that does not answer is left as it is"`

	Decided Ordered `yaml:"-"`
}

// Ordered is what an operation that goes from member to member has decided.
type Ordered struct {
	Was   Standing
	Order []string // seats, who leads last
}

// Doc is one sentence for lists and help.
func (*RollingRestart) Doc() string {
	return "restarts members one after the other, the leader last and after a hand-over, each ready and level before the next"
}

// Decide implements operation.Operation.
func (r *RollingRestart) Decide(ctx context.Context, e *lab.Env) error {
	was, err := survey(ctx, e)
	if err != nil {
		return err
	}
	order, err := lively(ctx, e, was, r.Member)
	if err != nil {
		return err
	}
	r.Decided = Ordered{Was: was, Order: order}
	return nil
}

// lively are the members among those that are meant that answer: in order of
// name, the leader last.
func lively(ctx context.Context, e *lab.Env, was Standing, whom lab.Target) ([]string, error) {
	seats, err := aimed(ctx, e, whom)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range seats {
		if _, in := was.Members.find(m.Name); !in {
			return nil, &lab.Failure{What: "member " + m.Name, Want: "one of " + was.Members.String(), Got: "no member"}
		}
		names = append(names, m.Name)
	}
	var order []string
	for _, x := range was.Members {
		switch {
		case !slices.Contains(names, x.Name):
		case x.Down:
			e.Note(x.Name, "does not answer: left as it is")
		default:
			order = append(order, x.Name)
		}
	}
	was.line(order)
	return order, nil
}

// heir is who leads while the leader is restarted: any other that answers.
func (s Standing) heir() (string, bool) {
	for _, x := range s.Members {
		if !x.Down && x.Name != s.Leader {
			return x.Name, true
		}
	}
	return "", false
}

// Steps implements operation.Operation.
func (r *RollingRestart) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	c := begin(e, d.Was, 0)
	for _, name := range d.Order {
		if heir, ok := d.Was.heir(); ok && name == d.Was.Leader {
			c.handOver(name, heir)
		}
		c.restart(name)
	}
	return c.done()
}

// restart stops and starts a member, in two steps, so that the plan shows with
// how many the cluster stands between them.
func (c *course) restart(name string) {
	c.halt(name, "")
	c.launch(name, operation.Step{Name: "start " + name + " again"})
}

// halt stops a member that is to be started again; why tells one time from
// another.
func (c *course) halt(name, why string) {
	m, all := c.seat(name), c.now
	x, _ := all.find(name)
	x.Down = true
	c.now = all.with(x)
	others := c.now
	c.add(operation.Step{
		Name:      "stop " + name + why,
		Shell:     []string{at(m, "systemctl", "stop", "etcd")},
		ShellUndo: []string{at(m, "systemctl", "start", "etcd")},
		Before: func(ctx context.Context, e *lab.Env) error {
			if !others.forecast().Quorate() {
				return nil // nobody can be asked any more once it is stopped
			}
			if err := c.was.stands(ctx, e, all); err != nil {
				return err
			}
			return serving(ctx, e, others)
		},
		Do: func(ctx context.Context, e *lab.Env) error { return etcd.Stop(ctx, e, m) },
		Undo: func(ctx context.Context, e *lab.Env) error {
			if err := etcd.Start(ctx, e, m); err != nil {
				return err
			}
			return etcd.Ready(ctx, e, m)
		},
	})
}

// launch starts a member that was halted, as a step that says what is special
// about it, and waits until it is level with the leader.
func (c *course) launch(name string, s operation.Step) {
	m := c.seat(name)
	x, _ := c.now.find(name)
	x.Down = false
	c.now = c.now.with(x)
	s.Shell = append([]string{at(m, "systemctl", "start", "etcd")}, s.Shell...)
	s.Do = func(ctx context.Context, e *lab.Env) error {
		if err := etcd.Start(ctx, e, m); err != nil {
			return err
		}
		return etcd.Ready(ctx, e, m)
	}
	also := s.Gate
	s.Gate = func(ctx context.Context, e *lab.Env) error {
		if err := level(ctx, e, m); err != nil || also == nil {
			return err
		}
		return also(ctx, e)
	}
	c.add(s)
}

// level waits until a member is at the revision the leader is at now.
func level(ctx context.Context, e *lab.Env, m *lab.Member) error {
	var want, got int64
	err := lab.Until(ctx, m.Name+" to be level with the leader", func(ctx context.Context) error {
		look := e.Look(ctx)
		for _, s := range look {
			if want == 0 && s.Up && s.Role == "leader" {
				want = s.Revision
			}
		}
		got = look[place(e, m.Name)].Revision
		if want == 0 {
			return fmt.Errorf("nobody leads")
		}
		if got < want {
			return fmt.Errorf("it is at revision %d of %d", got, want)
		}
		return nil
	})
	if err != nil && want > 0 {
		return &lab.Failure{What: "revision of " + m.Name, Want: fmt.Sprintf("at least %d, where the leader was", want), Got: fmt.Sprint(got)}
	}
	return err
}

package recovery

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Defrag gives free space of the databases back, one member at a time, who
// leads last and after a hand-over: a member stands still while it copies its
// database.
type Defrag struct {
	Member lab.Target `default:"voters" doc:"the members; one that does not answer is left as it is"`
	Gain   lab.Bytes  `default:"1MiB" doc:"a member that would gain less is left as it is"`
	Anyway bool       `doc:"also a member without which there is no quorum, and nobody is served, while it stands still"`

	Decided Ordered `yaml:"-"`
}

// Doc is one sentence for lists and help.
func (*Defrag) Doc() string {
	return "defragments members one after the other, the leader last and after a hand-over; skips whom the quorum needs"
}

// Decide implements operation.Operation.
func (d *Defrag) Decide(ctx context.Context, e *lab.Env) error {
	was, err := survey(ctx, e)
	if err != nil {
		return err
	}
	order, err := worth(ctx, e, was, d.Member, d.Gain, d.Anyway)
	if err != nil {
		return err
	}
	if len(order) == 0 {
		e.Note("", "nothing to do")
	}
	d.Decided = Ordered{Was: was, Order: order}
	return nil
}

// worth are the members that are to be defragmented, in order.
func worth(ctx context.Context, e *lab.Env, was Standing, whom lab.Target, gain lab.Bytes, anyway bool) ([]string, error) {
	all, err := lively(ctx, e, was, whom)
	if err != nil {
		return nil, err
	}
	f := was.Members.forecast()
	f.Up--
	var out []string
	for _, name := range all {
		m, err := e.Member(name)
		if err != nil {
			return nil, err
		}
		size, used, _, err := space(ctx, e, m)
		if err != nil {
			return nil, err
		}
		switch {
		case size-used < int64(gain):
			e.Note(name, "%d of its %d bytes are free: left alone", size-used, size)
		case !anyway && !f.Quorate():
			e.Note(name, "skipped: while it stands still there is no quorum: %s", f)
		default:
			out = append(out, name)
		}
	}
	return out, nil
}

// space is how large a member's database is, how much of it is in use, and how
// large it may be, 0 where the release does not tell.
func space(ctx context.Context, e *lab.Env, m *lab.Member) (size, used, quota int64, err error) {
	cli, err := etcd.Local(e.Cluster, m)
	if err != nil {
		return 0, 0, 0, err
	}
	defer cli.Close()
	s, err := cli.Status(ctx, m.LocalURL)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("%s: %w", m.Name, err)
	}
	return s.DbSize, s.DbSizeInUse, s.DbSizeQuota, nil
}

// Steps implements operation.Operation.
func (d *Defrag) Steps(e *lab.Env) ([]operation.Step, error) {
	c := begin(e, d.Decided.Was, 0)
	c.defrag(d.Decided.Order)
	return c.done()
}

// defrag defragments members one after the other.
func (c *course) defrag(order []string) {
	for _, name := range order {
		if heir, ok := c.was.heir(); ok && name == c.was.Leader {
			c.handOver(name, heir)
		}
		m, now := c.seat(name), c.now
		c.add(operation.Step{
			Name:   "defragment " + name,
			Shell:  []string{"etcdctl defrag --endpoints=" + m.ClientURL},
			Limit:  patience,
			Before: func(ctx context.Context, e *lab.Env) error { return serving(ctx, e, now) },
			Do:     func(ctx context.Context, e *lab.Env) error { return etcd.Defrag(ctx, e, m) },
			Gate: func(ctx context.Context, e *lab.Env) error {
				if err := etcd.Ready(ctx, e, m); err != nil {
					return err
				}
				return level(ctx, e, m)
			},
		})
	}
}

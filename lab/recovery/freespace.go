package recovery

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// FreeSpace ends a NOSPACE alarm in the order that works: compact the history,
// defragment the members one by one, who leads last, and only then disarm
// (FE36). Without freed space the alarm would be back with the next write; so
// one is made, and looked at.
//
// A history that is gone cannot be brought back: the undo of the compaction
// says so and does nothing.
type FreeSpace struct {
	Decided FreeSpacePlan `yaml:"-"`
}

// FreeSpacePlan is what is decided about freeing space.
type FreeSpacePlan struct {
	Was      Standing
	Revision int64    // history below it goes; 0: there is nothing to do
	Order    []string // seats, who leads last
}

// Doc is one sentence for lists and help.
func (*FreeSpace) Doc() string {
	return "ends a NOSPACE alarm: compacts, defragments one by one, disarms, writes, and sees that it stays away"
}

// Decide implements operation.Operation.
func (f *FreeSpace) Decide(ctx context.Context, e *lab.Env) error {
	was, err := survey(ctx, e)
	if err != nil {
		return err
	}
	m, err := e.Member(was.Leader)
	if err != nil {
		return err
	}
	alarms, err := etcd.Alarms(ctx, e, m)
	if err != nil {
		return fmt.Errorf("alarms: %w", err)
	}
	for _, a := range alarms {
		if !strings.HasPrefix(a, "NOSPACE") {
			return &lab.Failure{What: "alarms", Want: "NOSPACE and no other", Got: strings.Join(alarms, ", ")}
		}
	}
	if len(alarms) == 0 {
		e.Note("", "there is no alarm: nothing to do")
		return nil
	}
	// Writes are refused already: that a member stands still costs little.
	order, err := worth(ctx, e, was, lab.Target{Role: "voters"}, 0, true)
	if err != nil {
		return err
	}
	f.Decided = FreeSpacePlan{Was: was, Order: order}
	for _, s := range e.Look(ctx) {
		f.Decided.Revision = max(f.Decided.Revision, s.Revision)
	}
	return nil
}

// probe is the key that is written to see whether there is space.
const probe = "etcdrill/free-space"

// Steps implements operation.Operation.
func (f *FreeSpace) Steps(e *lab.Env) ([]operation.Step, error) {
	d := f.Decided
	c := begin(e, d.Was, 0)
	if d.Revision == 0 {
		return c.done()
	}
	revision := strconv.FormatInt(d.Revision, 10)
	c.add(operation.Step{
		Name:      "compact the history below revision " + revision,
		Shell:     []string{"etcdctl compact " + revision + " --physical"},
		ShellUndo: []string{"# nothing: what was compacted cannot be brought back"},
		Limit:     patience,
		Do: throughLeader(func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			if gone, err := etcd.Compacted(ctx, e, m, d.Revision); err != nil || gone {
				return err
			}
			return etcd.Compact(ctx, e, m, d.Revision, true)
		}),
		Gate: throughLeader(func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			gone, err := etcd.Compacted(ctx, e, m, d.Revision)
			if err == nil && !gone {
				err = &lab.Failure{What: "history below revision " + revision, Want: "compacted", Got: "it can be read"}
			}
			return err
		}),
		Undo: func(_ context.Context, e *lab.Env) error {
			e.Note("", "history below revision %s is gone: a compaction cannot be taken back", revision)
			return nil
		},
	})
	c.defrag(d.Order)
	c.add(operation.Step{
		Name:  "disarm",
		Shell: []string{"etcdctl alarm disarm"},
		Before: func(ctx context.Context, e *lab.Env) error {
			for _, name := range d.Order {
				m, err := e.Member(name)
				if err != nil {
					return err
				}
				size, _, quota, err := space(ctx, e, m)
				if err != nil {
					return err
				}
				if quota > 0 && size >= quota {
					return &lab.Failure{What: "database of " + name, Want: fmt.Sprintf("below its quota of %d bytes: delete something, or raise the quota", quota), Got: fmt.Sprint(size)}
				}
			}
			return nil
		},
		Do:   throughLeader(etcd.Disarm),
		Gate: throughLeader(quiet),
	})
	c.add(operation.Step{
		Name:      "write, and see that the alarm stays away",
		Shell:     []string{"etcdctl put " + probe + " " + d.Was.Token, "etcdctl alarm list", "etcdctl del " + probe},
		ShellUndo: []string{"etcdctl del " + probe},
		Do: throughLeader(func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			_, err := etcd.Tool(ctx, e, m, "etcdctl", "put", probe, d.Was.Token)
			return err
		}),
		Gate: throughLeader(func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			if err := quiet(ctx, e, m); err != nil {
				return err
			}
			return forget(ctx, e, m)
		}),
		Undo: throughLeader(forget),
	})
	return c.done()
}

func quiet(ctx context.Context, e *lab.Env, m *lab.Member) error {
	alarms, err := etcd.Alarms(ctx, e, m)
	if err == nil && len(alarms) > 0 {
		err = &lab.Failure{What: "alarms after space was freed", Want: "none", Got: strings.Join(alarms, ", ")}
	}
	return err
}

// forget deletes the probe.
func forget(ctx context.Context, e *lab.Env, m *lab.Member) error {
	_, err := etcd.Tool(ctx, e, m, "etcdctl", "del", probe)
	return err
}

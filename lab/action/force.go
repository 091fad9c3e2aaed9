package action

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// ForceNewCluster makes one survivor a cluster of its own.
type ForceNewCluster struct {
	Member lab.Target `need:"yes" doc:"the survivor"`
}

// Doc implements lab.Action.
func (*ForceNewCluster) Doc() string {
	return "makes one survivor a cluster of one member, once, with a copy of its data kept; every other member must be down"
}

// forceFlag is the setting, and the flag, in question.
const forceFlag = "force-new-cluster"

// Do implements lab.Action. The survivor keeps its ids (FE18), so a member of
// before that still runs, or comes back later, may mix with it: it refuses
// while one runs. Left in the configuration the flag would reset the
// membership at every restart (FE19): it is taken out again, and the member
// restarted without it, before anything is called done.
func (a *ForceNewCluster) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	for _, o := range e.Seats {
		if o == m {
			continue
		}
		st, err := o.Proc.State(ctx)
		if err != nil {
			return fmt.Errorf("cannot tell whether %s is down: %w", o.Name, err)
		}
		if st.Running {
			return &lab.Failure{What: "force-new-cluster on " + m.Name + " refused: other members", Want: "down", Got: o.Name + " runs"}
		}
	}
	for _, s := range e.Look(ctx) {
		if s.Name == m.Name && s.Role == "learner" {
			return &lab.Failure{What: "force-new-cluster refused: " + m.Name, Want: "a voting member", Got: "a learner, which would end without voters"}
		}
	}
	if err := etcd.Stop(ctx, e, m); err != nil {
		return err
	}
	if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"cp", "-a", "--", m.DataDir, old(m)}}); err != nil {
		return err
	}
	if err := a.cycle(ctx, e, m, func(s *etcd.Settings) { s.Set(forceFlag, true) }); err != nil {
		return err
	}
	with, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if err := etcd.Stop(ctx, e, m); err != nil {
		return err
	}
	if err := a.cycle(ctx, e, m, func(s *etcd.Settings) { s.Delete(forceFlag) }); err != nil {
		return err
	}
	without, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	s, err := etcd.ReadSettings(ctx, m)
	if err != nil {
		return err
	}
	if s.Get(forceFlag) != nil {
		return &lab.Failure{What: "configuration of " + m.Name, Want: "no " + forceFlag, Got: fmt.Sprintf("%s: %v", forceFlag, s.Get(forceFlag))}
	}
	if with.PID == without.PID && with.Started == without.Started {
		return &lab.Failure{What: "process of " + m.Name, Want: "another one than the one with " + forceFlag, Got: fmt.Sprintf("still pid %d", with.PID)}
	}
	l, err := etcd.Members(ctx, e.Cluster, false, m)
	if err != nil {
		return err
	}
	if me, ok := l.Of(m); len(l.Members) != 1 || !ok || me.Learner {
		return &lab.Failure{What: "members after force-new-cluster", Want: m.Name + " alone, voting", Got: l.String()}
	}
	return nil
}

// cycle changes the configuration, starts the member and waits until it
// answers a linearizable read.
func (*ForceNewCluster) cycle(ctx context.Context, e *lab.Env, m *lab.Member, change func(*etcd.Settings)) error {
	if err := etcd.Reconfigure(ctx, m, change); err != nil {
		return err
	}
	s, err := etcd.ReadSettings(ctx, m)
	if err != nil {
		return err
	}
	e.Note(m.Name, "configuration: %s: %v", forceFlag, s.Get(forceFlag) != nil)
	if err := etcd.Start(ctx, e, m); err != nil {
		return err
	}
	return etcd.Ready(ctx, e, m)
}

package fault

import (
	"context"
	"errors"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
)

// Crash kills members' processes without a goodbye. A crashed leader hands
// nothing over, so the others wait for about an election timeout: 1.1 to 1.8 s
// with etcd's defaults, against 0.03 to 0.08 s after a polite [Stop].
//
// It is a process crash, not a power cut: what the process had written is in
// the page cache and survives (FF12).
//
// Where a supervisor revives members it is told to leave this one dead, unless
// it is to show what it does.
type Crash struct {
	Member  lab.Target `default:"leader" doc:"whose process gets SIGKILL"`
	Revived bool       `doc:"the host's supervisor is not told, and has to start it again (cluster: revive)"`

	was map[string]lab.ProcState // who was killed and is to be revived
}

// Doc says what the fault does.
func (*Crash) Doc() string { return "kill a member's process with SIGKILL; healing starts it again" }

// Touches says how much of an adopted cluster it changes.
func (*Crash) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Crash) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *Crash) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl kill --signal=KILL etcd"), operator(f.Member, "systemctl start etcd")
}

// Inject kills. All members must run.
func (f *Crash) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	was, err := running(ctx, ms)
	if err != nil {
		return err
	}
	end := kill
	if f.Revived {
		if !e.Spec.Revive {
			return errors.New("crash, revived: expected a cluster with `revive: true`: nobody starts its members again")
		}
		f.was, end = was, signalKill
	}
	for _, m := range ms {
		if err := end(ctx, e, m); err != nil {
			return err
		}
	}
	return nil
}

// Prove looks at the processes and their ports. What is revived has bitten once
// another process runs.
func (f *Crash) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	if f.was == nil {
		return away(ctx, e, ms)
	}
	var again, same, not []string
	for _, m := range ms {
		was := f.was[m.Name]
		switch st, err := m.Proc.State(ctx); {
		case err != nil:
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		case !st.Running:
			not = append(not, m.Name+" does not run")
		case st.Started == was.Started && st.PID == was.PID:
			same = append(same, fmt.Sprintf("%s still runs as process %d", m.Name, st.PID))
		default:
			again = append(again, fmt.Sprintf("%s: process %d was killed, its supervisor has started %d", m.Name, was.PID, st.PID))
		}
	}
	return verdict(len(ms), again, same, not), nil
}

// Heal starts who is down and still a member.
func (f *Crash) Heal(ctx context.Context, e *lab.Env) error {
	f.was = nil
	return startAll(ctx, e, f.Member)
}

// startAll starts everybody of a target who is down and still a member. It
// waits for nobody, since the first may need the second for a quorum (FE43).
func startAll(ctx context.Context, e *lab.Env, t lab.Target) error {
	return every(e, t, func(m *lab.Member) error { return start(ctx, e, m) })
}

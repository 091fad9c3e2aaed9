package fault

import (
	"context"

	"github.com/etcdrill/etcdrill/lab"
)

// Crash kills members' processes without a goodbye. A crashed leader hands
// nothing over, so the others wait for about an election timeout: 1.1 to 1.8 s
// with etcd's defaults, against 0.03 to 0.08 s after a polite [Stop].
//
// It is a process crash, not a power cut: what the process had written is in
// the page cache and survives (FF12).
type Crash struct {
	Member lab.Target `default:"leader" doc:"whose process gets SIGKILL"`
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
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := kill(ctx, e, m); err != nil {
			return err
		}
	}
	return nil
}

// Prove looks at the processes and their ports.
func (f *Crash) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	return away(ctx, e, ms)
}

// Heal starts who is down and still a member.
func (f *Crash) Heal(ctx context.Context, e *lab.Env) error { return startAll(ctx, e, f.Member) }

// startAll starts everybody of a target who is down and still a member. It
// waits for nobody, since the first may need the second for a quorum (FE43).
func startAll(ctx context.Context, e *lab.Env, t lab.Target) error {
	return every(e, t, func(m *lab.Member) error { return start(ctx, e, m) })
}

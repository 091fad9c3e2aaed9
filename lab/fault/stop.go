package fault

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/etcdrill/etcdrill/lab"
)

// Stop asks members' processes to end. A leader that is asked moves its
// leadership to another member first (FE28), which a [Crash] gives it no time
// for.
type Stop struct {
	Member lab.Target `need:"yes" doc:"whose process is asked to end with SIGTERM"`
}

// Doc says what the fault does.
func (*Stop) Doc() string {
	return "ask a member's process to end with SIGTERM; healing starts it again"
}

// Touches says how much of an adopted cluster it changes.
func (*Stop) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Stop) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *Stop) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl stop etcd"), operator(f.Member, "systemctl start etcd")
}

// Inject stops all of them at once. All members must run.
func (f *Stop) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	errs := make([]error, len(ms))
	var wg sync.WaitGroup
	for i, m := range ms {
		wg.Go(func() {
			if err := m.Proc.Stop(ctx); err != nil {
				errs[i] = fmt.Errorf("stop of %s: %w", m.Name, err)
				return
			}
			e.Note(m.Name, "stopped with SIGTERM")
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Prove looks at the processes and their ports.
func (f *Stop) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	return away(ctx, e, ms)
}

// Heal starts who is down and still a member.
func (f *Stop) Heal(ctx context.Context, e *lab.Env) error { return startAll(ctx, e, f.Member) }

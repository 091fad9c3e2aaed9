package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Pause freezes members' processes. It is not a [Cut]: the kernel still
// accepts connections and data for a frozen process, so clients hang to their
// deadline instead of turning to another member (FF1). A member that goes on
// may for a moment believe what was true before (FF2).
type Pause struct {
	Member lab.Target `need:"yes" doc:"whose process gets SIGSTOP"`
}

// Doc says what the fault does.
func (*Pause) Doc() string {
	return "freeze a member's process with SIGSTOP; healing continues it"
}

// Touches says how much of an adopted cluster it changes.
func (*Pause) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Pause) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *Pause) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl kill --signal=STOP etcd"), operator(f.Member, "systemctl kill --signal=CONT etcd")
}

// Inject pauses. All members must run.
func (f *Pause) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := m.Proc.Signal(ctx, "STOP"); err != nil {
			return fmt.Errorf("SIGSTOP to %s: %w", m.Name, err)
		}
		e.Note(m.Name, "SIGSTOP")
	}
	return nil
}

// Prove wants three signs: the process is stopped, its port accepts a
// connection, and a request over it gets no answer.
func (f *Pause) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		switch {
		case !st.Running:
			gone = append(gone, fmt.Sprintf("%s does not run, so nothing of it is paused", m.Name))
		case st.Paused:
			conn, err := listens(ctx, m.Host, m.HealthURL), answers(ctx, m, patience)
			switch {
			case err == nil:
				unclear = append(unclear, m.Name+" is stopped and answers all the same")
			case conn != nil:
				unclear = append(unclear, fmt.Sprintf("%s is stopped, but its port does not accept: %s", m.Name, conn))
			default:
				bites = append(bites, fmt.Sprintf("process %d of %s is stopped, its port accepts, a request gets no answer within %s", st.PID, m.Name, patience))
			}
		default:
			if err := answers(ctx, m, time.Second); err != nil {
				unclear = append(unclear, fmt.Sprintf("%s goes on and does not answer yet: %s", m.Name, err))
			} else {
				gone = append(gone, m.Name+" goes on and answers")
			}
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal continues the processes that run. One that was killed meanwhile is not
// started: that was another fault's doing, and is its business.
func (f *Pause) Heal(ctx context.Context, e *lab.Env) error {
	return every(e, f.Member, func(m *lab.Member) error {
		err := m.Proc.Signal(ctx, "CONT")
		if errors.Is(err, lab.ErrNotRunning) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("SIGCONT to %s: %w", m.Name, err)
		}
		e.Note(m.Name, "SIGCONT")
		return nil
	})
}

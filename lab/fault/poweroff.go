package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// PowerOff takes hosts' power away, with all that runs on them. Nobody is told:
// peers and clients see silence until their time-outs. On a machine of its own
// what was not synced to disk is lost, which is what a [Crash] never shows
// (FF12); a container shares the page cache of its machine and loses nothing.
//
// Healing switches the hosts on and starts their members. etcd itself is not
// started by a boot: a lab's members come back when the drill says so.
type PowerOff struct {
	Member lab.Target `default:"leader" doc:"whose host loses its power"`
}

// Doc says what the fault does.
func (*PowerOff) Doc() string {
	return "take the power of a member's host away; healing switches it on and starts the member"
}

// Touches says how much of an adopted cluster it changes.
func (*PowerOff) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*PowerOff) Needs() []lab.Cap { return []lab.Cap{lab.CapPower} }

// Shell shows the commands it amounts to.
func (f *PowerOff) Shell() (do, undo []string) {
	return operator(f.Member, "echo o > /proc/sysrq-trigger"), []string{"# power button of <" + f.Member.Role + ">", "ssh <" + f.Member.Role + "> systemctl start etcd"}
}

// Inject switches off. All members must run.
func (f *PowerOff) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	return atOnce(ms, func(m *lab.Member) error {
		if err := e.Power.Off(ctx, m.Host.Name()); err != nil {
			return fmt.Errorf("power of %s: %w", m.Host.Name(), err)
		}
		e.Note(m.Name, "power off")
		return nil
	})
}

// Prove wants that no command can be run on the hosts and no port answers.
func (f *PowerOff) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		short, cancel := context.WithTimeout(ctx, 4*patience)
		_, err := m.Host.Run(short, lab.Cmd{Dir: "/", Argv: []string{"true"}})
		cancel()
		var exit *lab.ExitError
		switch {
		case err == nil || errors.As(err, &exit):
			// It is on: then its member decides.
			p, err := away(ctx, e, []*lab.Member{m})
			if err != nil {
				return p, err
			}
			if p.State == lab.Gone {
				gone = append(gone, p.Evidence)
			} else {
				unclear = append(unclear, m.Name+"'s host runs commands; "+p.Evidence)
			}
		case listens(ctx, m.Host, m.LocalURL) == nil:
			unclear = append(unclear, m.Name+"'s host runs no commands, and its port accepts")
		default:
			bites = append(bites, m.Name+"'s host runs no commands and accepts no connections")
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal switches on and starts who is still a member.
func (f *PowerOff) Heal(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	err = atOnce(ms, func(m *lab.Member) error {
		if err := e.Power.On(ctx, m.Host.Name()); err != nil {
			return fmt.Errorf("power of %s: %w", m.Host.Name(), err)
		}
		e.Note(m.Name, "power on")
		// What starts members needs a moment after a boot.
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return lab.Until(ctx, m.Name+"'s host to say what runs on it", func(ctx context.Context) error {
			_, err := m.Proc.State(ctx)
			return err
		})
	})
	return errors.Join(err, startAll(ctx, e, f.Member))
}

// atOnce does something for all members at the same time.
func atOnce(ms []*lab.Member, do func(*lab.Member) error) error {
	errs := make(chan error, len(ms))
	for _, m := range ms {
		go func() { errs <- do(m) }()
	}
	var all []error
	for range ms {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

package fault

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
)

// Destroy loses members with their data. Nothing brings them back: a destroyed
// member is replaced, by a `member-remove` and a `member-add`, not healed.
// Healing only closes the books.
type Destroy struct {
	Member lab.Target `need:"yes" doc:"whose process is killed and whose data is lost for good"`
}

// Doc says what the fault does.
func (*Destroy) Doc() string {
	return "lose a member with its data for good; it must be replaced, healing brings nothing back"
}

// Needs lists the abilities it must have.
func (*Destroy) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *Destroy) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl kill --signal=KILL etcd", "rm -rf /var/lib/etcd"), nil
}

// The two names of lost data: until the fault is healed, and after. It is kept
// for whoever wants to look, until the lab goes.
const (
	lost   = "lost"
	buried = "buried"
)

// Inject kills and moves the data out of sight. A member that is down can be
// destroyed too, one without data cannot.
func (f *Destroy) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if err := withData(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := kill(ctx, e, m); err != nil {
			return err
		}
		if err := move(ctx, e, m, m.DataDir, aside(e, m, lost)); err != nil {
			return err
		}
	}
	return nil
}

// withData returns an error when a member has no data directory.
func withData(ctx context.Context, ms []*lab.Member) error {
	for _, m := range ms {
		there, err := exists(ctx, m.Host, m.DataDir)
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%s has no data that could be lost: %s is not there", m.Name, m.DataDir)
		}
	}
	return nil
}

// Prove looks for the data that was moved away.
func (f *Destroy) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		is, err := stand(ctx, m, m.DataDir, aside(e, m, lost), aside(e, m, buried))
		if err != nil {
			return lab.Proof{}, err
		}
		data, inLost, inBuried := is[0], is[1], is[2]
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		switch {
		case inLost && !data && !st.Running:
			bites = append(bites, fmt.Sprintf("%s does not run (%s) and its data directory is gone", m.Name, st.Exit))
		case inBuried:
			gone = append(gone, m.Name+" is given up: it is to be replaced, not healed")
		case !inLost && data:
			p, err := away(ctx, e, []*lab.Member{m})
			if err != nil {
				return p, err
			}
			if p.State == lab.Gone {
				gone = append(gone, p.Evidence)
				continue
			}
			unclear = append(unclear, "its data is there; "+p.Evidence)
		default:
			unclear = append(unclear, fmt.Sprintf("%s: data there: %v, old data lost: %v, running: %v", m.Name, data, inLost, st.Running))
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// stand tells of each path on a member's host whether it is there.
func stand(ctx context.Context, m *lab.Member, paths ...string) ([]bool, error) {
	var out []bool
	for _, p := range paths {
		there, err := exists(ctx, m.Host, p)
		if err != nil {
			return nil, err
		}
		out = append(out, there)
	}
	return out, nil
}

// Heal gives up on what is lost. A member that was only killed, because the
// injection did not come further, is started.
func (f *Destroy) Heal(ctx context.Context, e *lab.Env) error {
	return every(e, f.Member, func(m *lab.Member) error {
		is, err := stand(ctx, m, aside(e, m, lost), aside(e, m, buried))
		if err != nil {
			return err
		}
		switch {
		case is[0]:
			return move(ctx, e, m, aside(e, m, lost), aside(e, m, buried))
		case !is[1]:
			return start(ctx, e, m)
		}
		return nil
	})
}

package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Wipe takes members' data away and leaves them members, as a careless `rm` or
// a fresh disk does. Such a member must not simply be started again: with state
// `new` it says that it was bootstrapped already, with `existing` raft panics,
// and a majority of wiped members started as `new` is an empty cluster that
// accepts writes.
//
// Healing puts the old data back, which is as if the member had only been
// down. Where the drill has replaced the member meanwhile, or its process runs
// on new data, the old data is dropped instead: two lives of one member must
// never mix (FE3).
type Wipe struct {
	Member lab.Target `default:"follower" doc:"whose process is killed and whose data directory is taken away"`
}

// Doc says what the fault does.
func (*Wipe) Doc() string {
	return "take a member's data directory away; healing puts it back unless the member was replaced"
}

// Needs lists the abilities it must have.
func (*Wipe) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *Wipe) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl kill --signal=KILL etcd", "mv /var/lib/etcd /var/lib/etcd.wiped"),
		operator(f.Member, "mv /var/lib/etcd.wiped /var/lib/etcd", "systemctl start etcd")
}

const wiped = "wiped"

// Inject kills and moves the data aside.
func (f *Wipe) Inject(ctx context.Context, e *lab.Env) error {
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
		if err := move(ctx, e, m, m.DataDir, aside(e, m, wiped)); err != nil {
			return err
		}
	}
	return nil
}

// Prove looks for the old data, the data directory and the process.
func (f *Wipe) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		is, err := stand(ctx, m, m.DataDir, aside(e, m, wiped))
		if err != nil {
			return lab.Proof{}, err
		}
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		if data, old := is[0], is[1]; old {
			if !data && !st.Running {
				bites = append(bites, fmt.Sprintf("%s does not run (%s) and its data directory is gone", m.Name, st.Exit))
			} else {
				unclear = append(unclear, fmt.Sprintf("%s: its old data is aside, new data there: %v, running: %v", m.Name, data, st.Running))
			}
			continue
		}
		p, err := away(ctx, e, []*lab.Member{m})
		if err != nil {
			return p, err
		}
		if p.State == lab.Gone {
			gone = append(gone, p.Evidence)
		} else {
			unclear = append(unclear, p.Evidence+", its data was not taken away")
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal puts the old data back or drops it, see Wipe.
func (f *Wipe) Heal(ctx context.Context, e *lab.Env) error {
	return mend(ctx, e, f.Member, func(m *lab.Member) error { return putBack(ctx, e, m, aside(e, m, wiped)) })
}

// putBack makes a kept directory a member's data directory again. It is
// dropped instead when the member serves, on data it got since, or is not the
// member any more that it was.
func putBack(ctx context.Context, e *lab.Env, m *lab.Member, kept string) error {
	there, err := exists(ctx, m.Host, kept)
	if err != nil || !there {
		return err
	}
	data, err := exists(ctx, m.Host, m.DataDir)
	if err != nil {
		return err
	}
	if replaced(ctx, e, m) || data && serves(ctx, e, m) {
		e.Note(m.Name, "%s has a new life: its old data is dropped", m.Name)
		return remove(ctx, e, m, kept)
	}
	if err := m.Proc.Stop(ctx); err != nil {
		return fmt.Errorf("stop of %s: %w", m.Name, err)
	}
	if err := remove(ctx, e, m, m.DataDir); err != nil {
		return err
	}
	return move(ctx, e, m, kept, m.DataDir)
}

// serves tells whether a member is in service, and waits a little for one that
// runs and is not yet: a member that was started on data that is not its own
// runs for a moment too, and then exits or panics.
func serves(ctx context.Context, e *lab.Env, m *lab.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	up := false
	lab.Until(ctx, m.Name+" to serve or to end", func(ctx context.Context) error {
		if st, err := m.Proc.State(ctx); err != nil || !st.Running {
			return err
		}
		for _, s := range e.Look(ctx) {
			up = up || s.Name == m.Name && s.Up
		}
		if !up {
			return errors.New("it runs and does not serve")
		}
		return nil
	})
	return up
}

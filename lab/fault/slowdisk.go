package fault

import (
	"context"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// SlowDisk delays a member's writes to its WAL or database, or the syncs of
// them, by stopping each of those system calls for a while. etcd stays stock.
//
// A delayed `write` of the WAL widens the window in which a killed process
// loses what it had only in memory; a delayed `sync` does not, since the page
// cache outlives a process (FF12).
type SlowDisk struct {
	Member lab.Target    `default:"leader" doc:"whose disk is slow"`
	File   string        `default:"wal" doc:"wal or db"`
	Call   string        `default:"sync" doc:"write or sync"`
	Delay  time.Duration `need:"yes" doc:"how long each call is held up, at least 5ms"`
}

func (f *SlowDisk) disk() disk { return disk{f.File, f.Call} }

// Doc says what the fault does.
func (*SlowDisk) Doc() string {
	return "hold up every write or sync of a member's WAL or database for a time"
}

// Touches says how much of an adopted cluster it changes.
func (*SlowDisk) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*SlowDisk) Needs() []lab.Cap { return []lab.Cap{lab.CapTrace} }

// Valid refuses arguments that do not go together.
func (f *SlowDisk) Valid() error {
	if err := f.disk().valid(); err != nil {
		return err
	}
	if f.Delay < least {
		return fmt.Errorf("delay: %s: expected at least %s, less cannot be told from a busy disk", f.Delay, least)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *SlowDisk) Shell() (do, undo []string) {
	in := f.disk().injection()
	return operator(f.Member, fmt.Sprintf("strace -f -p '$(pidof etcd)' -P /var/lib/etcd/%s -e trace=%s -e inject=%s:delay_enter=%d",
			in.Files, in.Calls[0], in.Calls[0], f.Delay.Microseconds())),
		operator(f.Member, "pkill -KILL strace")
}

// Inject attaches the tracer.
func (f *SlowDisk) Inject(ctx context.Context, e *lab.Env) error {
	in := f.disk().injection()
	in.Delay = f.Delay
	return inject(ctx, e, f.Member, in)
}

// Prove wants that the tracer has hit calls, and that they take as long by
// etcd's own measure, where it has one. It is gone when they are not hit any
// more and take less.
func (f *SlowDisk) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	before, err := hits(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	limit := time.Second + 10*f.Delay // several calls, one after the other
	var bites, gone, unclear []string
	for _, m := range ms {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		if !st.Running {
			gone = append(gone, fmt.Sprintf("%s does not run, so nothing of it is held up", m.Name))
			continue
		}
		took, measured, err := f.disk().mean(ctx, e, m, limit)
		if err != nil {
			unclear = append(unclear, fmt.Sprintf("%s: %s", m.Name, err))
			continue
		}
		if !measured {
			// The tracer counts.
			if err := touch(ctx, e, limit); err != nil {
				unclear = append(unclear, fmt.Sprintf("%s: nothing is written that could be held up: %s", m.Name, err))
				continue
			}
		}
		after, err := hits(ctx, e)
		if err != nil {
			return lab.Proof{}, err
		}
		text := fmt.Sprintf("%s: each %s takes %s on average", m.Name, f.disk(), took.Round(100*time.Microsecond))
		if !measured {
			text = fmt.Sprintf("%s: etcd does not measure a %s", m.Name, f.disk())
		}
		switch slow := took >= f.Delay; {
		case after > 0 && (slow || !measured && after > before):
			bites = append(bites, fmt.Sprintf("%s; %d calls held up by %s so far", text, after, f.Delay))
		case after == before && !slow:
			gone = append(gone, text+"; none is held up any more")
		default:
			unclear = append(unclear, fmt.Sprintf("%s; %d calls held up so far", text, after))
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal detaches the tracer.
func (f *SlowDisk) Heal(ctx context.Context, e *lab.Env) error { return untrace(ctx, e) }

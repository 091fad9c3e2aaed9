package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// ClockStep sets the clock of hosts forward or back in one step, and keeps time
// synchronisation from correcting it. raft does not care, it counts ticks of
// the monotonic clock; certificates and tokens do, and so do people who read
// logs.
//
// Only a host that owns its clock can suffer it: a container shows the clock of
// its machine (FF14). Healing sets the clock back by what it is off by now, so
// it can be done again, and lets synchronisation go on. A host that is left
// alone does so by itself, by the time since it booted, which no step changes.
type ClockStep struct {
	Member lab.Target    `default:"follower" doc:"whose host gets another time"`
	By     time.Duration `need:"yes" doc:"how far, 10s to 2400h"`
	Back   bool          `doc:"into the past instead of the future"`
}

// Doc says what the fault does.
func (*ClockStep) Doc() string {
	return "step the clock of a member's host, time synchronisation stopped; healing steps it back"
}

// Touches says how much of an adopted cluster it changes.
func (*ClockStep) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*ClockStep) Needs() []lab.Cap { return []lab.Cap{lab.CapClock} }

// Valid refuses steps that are too small to be told from the clocks' own
// difference.
func (f *ClockStep) Valid() error {
	if f.By < 10*time.Second || f.By > 100*24*time.Hour {
		return fmt.Errorf("by: %s: expected at least 10s and at most 2400h", f.By)
	}
	return nil
}

// by is how far, with its sign.
func (f *ClockStep) by() time.Duration {
	if f.Back {
		return -f.By
	}
	return f.By
}

// Shell shows the commands it amounts to.
func (f *ClockStep) Shell() (do, undo []string) {
	return operator(f.Member, "systemctl stop "+strings.Join(synchronisers, " "), "date --set="+step(f.by())),
		operator(f.Member, "date --set="+step(-f.by()), "systemctl start "+synchronisers[0])
}

// synchronisers are the services that correct clocks.
var synchronisers = []string{"chrony.service", "chronyd.service", "systemd-timesyncd.service", "ntpsec.service", "ntp.service", "ntpd.service"}

// step is a relative time as GNU date reads it.
func step(by time.Duration) string {
	return fmt.Sprintf("%+.3f seconds", by.Seconds())
}

// clock is what a host's clock was before, kept on the host.
type clock struct {
	Offset time.Duration `json:"offset"` // from the clock here
	Units  []string      `json:"units"`  // synchronisers that ran
}

func (f *ClockStep) file(e *lab.Env, m *lab.Member) string {
	return path.Join(m.Host.Dir(), "clock-"+url.PathEscape(e.Owner)+".json")
}

// clockBase prints which boot of the host this is, and by how many nanoseconds
// its clock is ahead of the time since then, which nobody can step.
const clockBase = `
read -r up _ </proc/uptime
echo "$(cat /proc/sys/kernel/random/boot_id) $(($(date +%s%N) - ${up%.*}${up#*.}0000000))"
`

// clockBack sets a clock back to what clockBase has printed, $1 and $2, when it
// is off by more than $3 nanoseconds. After another boot the clock is that of
// the hardware, which was never stepped.
const clockBack = `
[ "$(cat /proc/sys/kernel/random/boot_id)" = "$1" ] || exit 0
read -r up _ </proc/uptime
right=$((${up%.*}${up#*.}0000000 + $2))
off=$(($(date +%s%N) - right))
[ "$off" -lt "$3" ] && [ "$off" -gt "-$3" ] && exit 0
exec date --set="@$((right / 1000000000)).$(printf %09d $((right % 1000000000)))"
`

// arm makes the host set its clock right by itself when nobody heals it.
func (f *ClockStep) arm(ctx context.Context, e *lab.Env, m *lab.Member, was clock) error {
	out, err := m.Host.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", clockBase}})
	if err != nil {
		return err
	}
	base := strings.Fields(string(out.Stdout))
	if len(base) != 2 {
		return fmt.Errorf("%s: expected a boot id and a number, got %q", m.Host.Name(), out.Stdout)
	}
	undo := [][]string{{"sh", "-c", clockBack, "etcdrill", base[0], base[1], fmt.Sprint(tolerance.Nanoseconds())}}
	if len(was.Units) > 0 {
		undo = append(undo, append([]string{"systemctl", "start"}, was.Units...))
	}
	return arm(ctx, e, m, undo...)
}

// Inject steps.
func (f *ClockStep) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	for _, m := range ms {
		before, _, err := lab.Clock(ctx, m.Host)
		if err != nil {
			return err
		}
		was := clock{Offset: before}
		if was.Units, err = synchronising(ctx, m.Host); err != nil {
			return err
		}
		data, err := json.Marshal(was)
		if err != nil {
			return err
		}
		if err := m.Host.Put(ctx, f.file(e, m), 0o600, data); err != nil {
			return err
		}
		if err := f.arm(ctx, e, m, was); err != nil {
			return err
		}
		if len(was.Units) > 0 {
			if _, err := e.Run(ctx, m.Host, lab.Cmd{Dir: "/", Argv: append([]string{"systemctl", "stop"}, was.Units...)}); err != nil {
				return err
			}
		}
		if _, err := e.Run(ctx, m.Host, lab.Cmd{Dir: "/", Argv: []string{"date", "--set=" + step(f.by())}}); err != nil {
			return err
		}
	}
	return nil
}

// synchronising returns the services that correct a host's clock now.
func synchronising(ctx context.Context, h lab.Host) ([]string, error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: append([]string{"systemctl", "is-active"}, synchronisers...)})
	if exit := (*lab.ExitError)(nil); err != nil && !errors.As(err, &exit) { // it exits with 3 when none runs
		return nil, err
	}
	states := strings.Fields(string(out.Stdout))
	if len(states) != len(synchronisers) {
		return nil, fmt.Errorf("%s: systemctl is-active: expected the states of %d services, got %q", h.Name(), len(synchronisers), states)
	}
	var units []string
	for i, state := range states {
		if state == "active" {
			units = append(units, synchronisers[i])
		}
	}
	return units, nil
}

// tolerance of a proof: more than a slow answer and a clock that is being
// corrected make up, and less than half the smallest step.
const tolerance = 3 * time.Second

// Prove compares the hosts' clocks with the one here.
func (f *ClockStep) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		was, err := f.before(ctx, e, m)
		if err != nil {
			return lab.Proof{}, err
		}
		now, _, err := lab.Clock(ctx, m.Host)
		if err != nil {
			return lab.Proof{}, err
		}
		off := now - was.Offset
		says := fmt.Sprintf("the clock of %s is %s off from where it was", m.Name, off.Round(10*time.Millisecond))
		switch {
		case (off - f.by()).Abs() < tolerance:
			bites = append(bites, says)
		case off.Abs() < tolerance:
			gone = append(gone, says)
		default:
			unclear = append(unclear, says)
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// before reads what was kept; a host that was not touched has its clock still.
func (f *ClockStep) before(ctx context.Context, e *lab.Env, m *lab.Member) (clock, error) {
	var was clock
	data, err := m.Host.Get(ctx, f.file(e, m))
	if errors.Is(err, fs.ErrNotExist) {
		was.Offset, _, err = lab.Clock(ctx, m.Host)
		return was, err
	}
	if err == nil {
		err = json.Unmarshal(data, &was)
	}
	return was, err
}

// Heal steps back by what the clocks are off by, and lets synchronisation go on.
func (f *ClockStep) Heal(ctx context.Context, e *lab.Env) error {
	return every(e, f.Member, func(m *lab.Member) error {
		was, err := f.before(ctx, e, m)
		if err != nil {
			return err
		}
		now, _, err := lab.Clock(ctx, m.Host)
		if err != nil {
			return err
		}
		if off := now - was.Offset; off.Abs() >= tolerance {
			if _, err := e.Run(ctx, m.Host, lab.Cmd{Dir: "/", Argv: []string{"date", "--set=" + step(-off)}}); err != nil {
				return err
			}
		}
		if len(was.Units) > 0 {
			if _, err := e.Run(ctx, m.Host, lab.Cmd{Dir: "/", Argv: append([]string{"systemctl", "start"}, was.Units...)}); err != nil {
				return err
			}
		}
		return disarm(ctx, e, m)
	})
}

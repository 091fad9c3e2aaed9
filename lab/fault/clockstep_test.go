package fault

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// clocked is a host that is this machine, but for its clock: that is off by as
// many nanoseconds as a file says. One synchroniser runs on it.
type clocked struct {
	lab.Host
	dir string
}

// date knows the forms that the fault uses.
const date = `#!/bin/sh
dir=${0%/*}
now=$(/bin/date +%s%N)
off=$(cat "$dir/off")
case $1 in
+%s%N) echo $((now + off)) ;;
+%s.%N) echo "$(((now + off) / 1000000000)).$(printf %09d $(((now + off) % 1000000000)))" ;;
--set=@*.*)
	v=${1#--set=@}
	f=${v#*.}
	while [ "${f#0}" != "$f" ]; do f=${f#0}; done
	echo $((${v%.*} * 1000000000 + ${f:-0} - now)) >"$dir/off" ;;
--set=[+-]*.000\ seconds)
	v=${1#--set=}
	echo $((off + 1000000000 * ${v%.000 seconds})) >"$dir/off" ;;
--set=[+-]*\ seconds) # what it was off by, measured
	echo 0 >"$dir/off" ;;
*) echo "date: $1" >&2; exit 1 ;;
esac
echo "$1" >>"$dir/dates"
`

const systemctl = `#!/bin/sh
echo "$@" >>"${0%/*}/units"
[ "$1" = is-active ] || exit 0
shift
for unit; do
	case $unit in chrony.service) echo active ;; *) echo inactive ;; esac
done
`

func newClocked(t *testing.T) clocked {
	h := clocked{dir: t.TempDir()}
	for name, text := range map[string]string{"date": date, "systemctl": systemctl, "off": "0"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h clocked) Name() string { return "m1" }
func (h clocked) Dir() string  { return h.dir }
func (h clocked) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "env", append([]string{"PATH=" + h.dir + ":" + os.Getenv("PATH")}, c.Argv...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	o := lab.Output{Stdout: out.Bytes(), Stderr: complaint.Bytes()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return o, &lab.ExitError{Host: "m1", Argv: c.Argv, Code: exit.ExitCode(), Output: o}
	}
	return o, err
}
func (h clocked) Put(_ context.Context, path string, mode fs.FileMode, data []byte) error {
	return os.WriteFile(path, data, mode)
}
func (h clocked) Get(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }

// off is how far its clock is from that of this machine.
func (h clocked) off(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "off"))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ns)
}

// booked is a dead man's switch that only remembers.
type booked struct {
	arm  func()
	undo [][]string
}

func (b *booked) Arm(_ context.Context, owner, host string, undo ...[]string) error {
	if owner != "step-1" || host != "m1" {
		return errors.New("armed by " + owner + " on " + host)
	}
	b.arm()
	b.undo = undo
	return nil
}

func (b *booked) Disarm(context.Context, string, string) error {
	b.undo = nil
	return nil
}

// TestClockStepIsUndoneByTheHost: what the fault arms is armed before it steps,
// sets the clock right without asking anybody, may be run again, and leaves the
// clock alone after a boot.
func TestClockStepIsUndoneByTheHost(t *testing.T) {
	ctx := t.Context()
	for _, f := range []*ClockStep{{Member: whom("m1"), By: 10 * time.Minute}, {Member: whom("m1"), By: 2400 * time.Hour, Back: true}} {
		h := newClocked(t)
		b := &booked{arm: func() {
			if off := h.off(t); off.Abs() > tolerance {
				t.Errorf("armed when the clock was off by %s already", off)
			}
		}}
		e := &lab.Env{Cluster: &lab.Cluster{Seats: []*lab.Member{{Name: "m1", Host: h}}, DeadMan: b}, Owner: "step-1"}
		prove := func(want lab.ProofState) {
			t.Helper()
			if p, err := f.Prove(ctx, e); err != nil || p.State != want {
				t.Errorf("%s: %v (%v), want %s", p.State, p.Evidence, err, want)
			}
		}
		undo := func() {
			t.Helper()
			for _, argv := range b.undo {
				if out, err := h.Run(ctx, lab.Cmd{Argv: argv}); err != nil {
					t.Errorf("%v: %s", err, out.Stderr)
				}
			}
		}
		if err := f.Inject(ctx, e); err != nil {
			t.Fatal(err)
		}
		if h.off(t) != f.by() || len(b.undo) != 2 || !slices.Equal(b.undo[1], []string{"systemctl", "start", "chrony.service"}) {
			t.Fatalf("off by %s, want %s; undo: %q", h.off(t), f.by(), b.undo)
		}
		prove(lab.Bites)

		was := b.undo[0][4]
		b.undo[0][4] = "another-boot"
		undo()
		if h.off(t) != f.by() {
			t.Errorf("after another boot the clock was set, it is off by %s", h.off(t))
		}
		b.undo[0][4] = was
		undo()
		if off := h.off(t); off.Abs() > tolerance {
			t.Errorf("undone, and off by %s", off)
		}
		prove(lab.Gone)
		undo()
		dates, err := os.ReadFile(filepath.Join(h.dir, "dates"))
		if err != nil || strings.Count(string(dates), "--set=@") != 1 {
			t.Errorf("set again though it was right: %s (%v)", dates, err)
		}

		// Whoever heals later finds nothing to step, and disarms.
		for range 2 {
			if err := f.Heal(ctx, e); err != nil {
				t.Error(err)
			}
		}
		if b.undo != nil || h.off(t).Abs() > tolerance {
			t.Errorf("healed: armed %q, off by %s", b.undo, h.off(t))
		}
		units, err := os.ReadFile(filepath.Join(h.dir, "units"))
		if err != nil || !strings.Contains(string(units), "stop chrony.service\nstart chrony.service") {
			t.Errorf("synchronisers: %s (%v)", units, err)
		}

		// And without anybody vanishing.
		if err := f.Inject(ctx, e); err != nil {
			t.Fatal(err)
		}
		prove(lab.Bites)
		if err := f.Heal(ctx, e); err != nil || b.undo != nil {
			t.Errorf("%v, armed: %q", err, b.undo)
		}
		prove(lab.Gone)
	}
}

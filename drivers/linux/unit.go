package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// unit is a member's process, seen by the agent on the same host: a systemd
// unit.
type unit struct {
	name string
	// dropIn is that of an adopted unit: as long as it is there nobody restarts
	// the unit; empty for one that the lab has made.
	dropIn string

	mu     sync.Mutex
	paused int           // pid that was sent STOP, and no CONT since
	last   lab.ProcState // the process that systemd named last
}

func systemctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

func (u *unit) start(ctx context.Context) error {
	if u.dropIn == "" {
		_, err := systemctl(ctx, "start", u.name)
		return err
	}
	// A unit that says when it is ready would keep us waiting for a quorum.
	if _, err := systemctl(ctx, "start", "--no-block", u.name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return lab.Until(ctx, u.name+" to run", func(ctx context.Context) error {
		s, err := u.state(ctx)
		if err == nil && !s.Running {
			err = fmt.Errorf("it does not: %s", s.Exit)
		}
		return err
	})
}

// revive makes an adopted unit go on by itself.
func (u *unit) revive(ctx context.Context) error {
	err := u.signal(ctx, "CONT")
	if errors.Is(err, lab.ErrNotRunning) {
		err = nil
	}
	gone := os.Remove(u.dropIn)
	if gone == nil {
		os.Remove(filepath.Dir(u.dropIn)) // unless others have something there
		_, gone = systemctl(ctx, "daemon-reload")
	} else if errors.Is(gone, fs.ErrNotExist) {
		gone = nil
	}
	return errors.Join(err, gone, u.start(ctx))
}

// stop: systemd sends SIGCONT after SIGTERM, so that a paused process ends too.
func (u *unit) stop(ctx context.Context) error {
	_, err := systemctl(ctx, "stop", u.name)
	return err
}

// kill ends the process whatever state it is in.
func (u *unit) kill(ctx context.Context) error {
	if err := u.signal(ctx, "KILL"); err != nil && !errors.Is(err, lab.ErrNotRunning) {
		return err
	}
	return nil
}

var signals = map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

func (u *unit) signal(ctx context.Context, name string) error {
	sig, ok := signals[name]
	if !ok {
		return fmt.Errorf("signal %q: expected KILL, STOP or CONT", name)
	}
	s, err := u.state(ctx)
	if err != nil {
		return err
	}
	if !s.Running {
		return lab.ErrNotRunning
	}
	if err := syscall.Kill(s.PID, sig); errors.Is(err, syscall.ESRCH) {
		return lab.ErrNotRunning
	} else if err != nil {
		return err
	}
	if name != "KILL" {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.paused = 0; name == "STOP" {
			u.paused = s.PID
		}
		return nil
	}
	return lab.Until(ctx, "the killed process to be gone", func(ctx context.Context) error {
		now, err := u.state(ctx)
		if err == nil && now.Running && now.PID == s.PID {
			err = errors.New("it is there")
		}
		return err
	})
}

// state asks the kernel for the unit's process, and systemd where that is not
// known or gone: a unit has no other one while that lives.
// systemd takes ten milliseconds and more to answer, and a fault is proved by
// half a dozen looks.
func (u *unit) state(ctx context.Context) (lab.ProcState, error) {
	u.mu.Lock()
	out := u.last
	u.mu.Unlock()
	if out.Running {
		if started, letter, err := process.State(out.PID); err == nil && started == out.Started {
			return u.live(out, letter), nil
		}
	}
	err := lab.Until(ctx, "systemd to notice the end of a process", func(ctx context.Context) error {
		text, err := systemctl(ctx, "show", u.name, "--timestamp=us+utc", "-p", processProperties)
		if err != nil {
			return err
		}
		if out, err = parseShow(text); err != nil || !out.Running {
			return err
		}
		started, letter, err := process.State(out.PID)
		if err != nil {
			return err // dead, and about to be written down
		}
		out.Started = started
		out = u.live(out, letter)
		return nil
	})
	return out, err
}

// live keeps in mind which process it is, and adds whether it is paused: of a
// traced one, which shows as such, whether it was sent STOP as well.
func (u *unit) live(s lab.ProcState, letter byte) lab.ProcState {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = s
	s.Paused = letter == 'T' || letter == 't' && u.paused == s.PID
	return s
}

// processProperties are what systemctl show tells about a service's process.
const processProperties = "MainPID,ExecMainCode,ExecMainStatus,ExecMainExitTimestamp"

// properties reads what systemctl show prints.
func properties(text string) map[string]string {
	p := map[string]string{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		p[k] = v
	}
	return p
}

// parseShow reads what systemctl show tells about a service.
func parseShow(text string) (lab.ProcState, error) { return stateOf(properties(text)) }

func stateOf(p map[string]string) (lab.ProcState, error) {
	var out lab.ProcState
	pid, err := strconv.Atoi(p["MainPID"])
	if err != nil {
		return out, fmt.Errorf("systemctl show: MainPID=%q: expected a number", p["MainPID"])
	}
	if pid != 0 {
		return lab.ProcState{Running: true, PID: pid}, nil
	}
	status, err := strconv.Atoi(p["ExecMainStatus"])
	if err != nil {
		return out, fmt.Errorf("systemctl show: ExecMainStatus=%q: expected a number", p["ExecMainStatus"])
	}
	if p["ExecMainExitTimestamp"] == "" || p["ExecMainExitTimestamp"] == "n/a" {
		return out, nil // never started
	}
	if out.Ended, err = time.Parse("Mon 2006-01-02 15:04:05.999999 MST", p["ExecMainExitTimestamp"]); err != nil {
		return out, fmt.Errorf("systemctl show: %w", err)
	}
	// The kernel's codes: 1 exited, 2 killed, 3 killed and dumped.
	switch p["ExecMainCode"] {
	case "1":
		out.Exit = fmt.Sprintf("exit %d", status)
	default:
		out.Exit = syscall.Signal(status).String()
	}
	return out, nil
}

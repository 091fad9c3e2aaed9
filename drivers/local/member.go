package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// member is a member's process, seen by the supervisor, its parent.
type member struct {
	dir    dir
	id     string
	seat   seat
	env    []string // see record.names
	forker process.Forker
	revive bool // a life that nobody asked to end is followed by another one

	mu      sync.Mutex
	cmd     *exec.Cmd     // of the present or last life, nil before the first
	gone    chan struct{} // closed when that life is over and written down
	state   lab.ProcState
	stopped bool // it was sent STOP, and no CONT since
	wanted  bool // it was started, and not asked to end since
}

// start begins a new life, unless one is going on.
func (m *member) start(context.Context, control.Ask) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = true
	return nil, m.begin()
}

func (m *member) begin() error {
	if m.state.Running {
		return nil
	}
	home := m.dir.host(m.seat.Name)
	log, err := os.OpenFile(m.dir.log(m.seat.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start etcd on %s: %w", m.seat.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(home, "bin", "etcd"), "--config-file", configFile(home))
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, log, log
	cmd.Env = append(environ(), throughSOCKS(m.seat)...)
	cmd.Env = append(cmd.Env, m.env...)
	cmd.Env = append(cmd.Env, labels(m.dir, m.id, m.seat.Name)...)
	cmd.SysProcAttr = process.DieWithParent()
	if err := m.forker.Start(cmd); err != nil {
		return fmt.Errorf("start etcd on %s: %w", m.seat.Name, err)
	}
	started, _, err := process.State(cmd.Process.Pid)
	if err != nil {
		started = "" // it is dead already, which Wait will tell
	}
	m.cmd, m.gone, m.stopped = cmd, make(chan struct{}), false
	m.state = lab.ProcState{Running: true, PID: cmd.Process.Pid, Started: started}
	m.write()
	go m.wait(cmd, m.gone)
	return nil
}

// throughSOCKS makes etcd reach all addresses but loopback through the host's
// listener.
func throughSOCKS(s seat) []string {
	proxy := "socks5://" + loopback(s.SOCKS)
	var out []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		out = append(out, name+"="+proxy, strings.ToLower(name)+"="+proxy)
	}
	return append(out, "NO_PROXY=", "no_proxy=")
}

// wait writes down how a life ended.
func (m *member) wait(cmd *exec.Cmd, gone chan struct{}) {
	cmd.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = lab.ProcState{Exit: ending(cmd.ProcessState), Ended: time.Now()}
	m.write()
	if m.revive && m.wanted {
		time.AfterFunc(reviveAfter, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.wanted {
				m.begin() // its log, if any, tells why not
			}
		})
	}
	close(gone)
}

// reviveAfter is how long a supervisor waits, as the units of hosts do.
const reviveAfter = time.Second

func ending(s *os.ProcessState) string {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal().String()
	}
	return fmt.Sprintf("exit %d", s.ExitCode())
}

// write puts the state on disk, for a time when there is no supervisor. There
// is nobody to tell that it could not: the state in memory is right.
func (m *member) write() { writeJSON(m.dir.life(m.seat.Name), m.state) }

func (m *member) stop(ctx context.Context, _ control.Ask) (any, error) {
	m.mu.Lock()
	m.wanted = false
	if !m.state.Running {
		m.mu.Unlock()
		return nil, nil
	}
	gone := m.gone
	// The order matters: a process that is stopped takes the signal along
	// when it goes on.
	m.cmd.Process.Signal(syscall.SIGTERM)
	m.cmd.Process.Signal(syscall.SIGCONT)
	m.stopped = false
	m.mu.Unlock()
	select {
	case <-gone:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var signals = map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

func (m *member) signal(ctx context.Context, a control.Ask) (any, error) {
	sig, ok := signals[a.Signal]
	if !ok {
		return nil, fmt.Errorf("signal %q: expected KILL, STOP or CONT", a.Signal)
	}
	m.mu.Lock()
	if !m.state.Running {
		m.mu.Unlock()
		return nil, lab.ErrNotRunning
	}
	gone, err := m.gone, m.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = lab.ErrNotRunning
	} else if err == nil && sig != syscall.SIGKILL {
		m.stopped = sig == syscall.SIGSTOP
	}
	m.mu.Unlock()
	if err != nil || sig != syscall.SIGKILL {
		return nil, err
	}
	select {
	case <-gone:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *member) look(ctx context.Context, _ control.Ask) (any, error) {
	m.mu.Lock()
	s, gone, stopped := m.state, m.gone, m.stopped
	m.mu.Unlock()
	if !s.Running {
		return s, nil
	}
	_, letter, err := process.State(s.PID)
	if err != nil {
		// Dead, and about to be written down.
		select {
		case <-gone:
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.state, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// A stopped process that is traced shows as such.
	s.Paused = letter == 'T' || letter == 't' && stopped
	return s, nil
}

// kill ends the present life, if there is one.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wanted = false
	if m.state.Running {
		m.cmd.Process.Kill()
	}
}

// Package trace injects delays and errors into the system calls of a process
// on its files, with strace attached from outside: the binary stays stock. It
// works on the machine it runs on.
package trace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// Target is a process that can be traced.
type Target struct {
	// State looks at the process.
	State func(context.Context) (lab.ProcState, error)
	// Data is the directory that an injection's files are below.
	Data string
	// Env is the environment of the tracer.
	Env []string
}

// Traces are the system call injections of a lab's hosts. A process can have
// one tracer, so a host can have one injection at a time. Its methods are those
// of lab.Tracer.
type Traces struct {
	forker  process.Forker
	targets map[string]Target // by host

	mu  sync.Mutex
	all map[string]*trace // by host
	old map[string]int    // hits of injections that are over, by owner
}

// New makes a Traces without any injection. The tracers die with the thread of
// the Forker.
func New(f process.Forker, targets map[string]Target) *Traces {
	return &Traces{forker: f, targets: targets, all: map[string]*trace{}, old: map[string]int{}}
}

// trace is one injection.
type trace struct {
	owner  string
	host   string
	in     lab.Injection
	data   string       // data directory
	life   process.Life // of the traced process
	env    []string
	forker process.Forker
	hits   atomic.Int64
	seen   atomic.Int64  // calls let pass so far, when In.After is set
	passed chan struct{} // closed when enough have passed
	stop   context.CancelFunc
	done   chan struct{} // closed when the tracer is gone
}

// Inject implements lab.Tracer.
func (t *Traces) Inject(ctx context.Context, owner, host string, in lab.Injection) error {
	target, known := t.targets[host]
	switch {
	case !known:
		return fmt.Errorf("no host %q in this lab", host)
	case owner == "":
		return errors.New("an injection needs an owner")
	case len(in.Calls) == 0:
		return errors.New("an injection needs the names of system calls")
	case in.Delay <= 0 && in.Errno == "":
		return errors.New("an injection needs a delay or an error")
	case in.After < 0:
		return fmt.Errorf("after: %d: expected no negative number", in.After)
	}
	state, err := target.State(ctx)
	if err != nil {
		return err
	}
	if !state.Running {
		return lab.ErrNotRunning
	}
	t.mu.Lock()
	if old := t.all[host]; old != nil && old.owner != owner && old.alive() {
		t.mu.Unlock()
		return fmt.Errorf("%s is traced already, for %s: a process has one tracer at most", host, old.owner)
	}
	old := t.all[host]
	running, stop := context.WithCancel(context.Background())
	tr := &trace{owner: owner, host: host, in: in, data: target.Data, life: process.Life{PID: state.PID, Started: state.Started},
		env: target.Env, forker: t.forker,
		passed: make(chan struct{}), stop: stop, done: make(chan struct{})}
	t.all[host] = tr
	if old != nil {
		t.old[old.owner] += int(old.hits.Load())
	}
	t.mu.Unlock()
	if old != nil {
		old.end()
	}

	attached := make(chan error, 1)
	go func() {
		defer close(tr.done)
		tr.run(running, attached)
	}()
	select {
	case err = <-attached:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		tr.end()
		t.mu.Lock()
		if t.all[host] == tr {
			delete(t.all, host)
		}
		t.mu.Unlock()
		return fmt.Errorf("trace etcd of %s: %w", host, err)
	}
	return nil
}

// Clear implements lab.Tracer.
func (t *Traces) Clear(_ context.Context, owner string) error {
	t.mu.Lock()
	var ours []*trace
	for host, tr := range t.all {
		if tr.owner == owner {
			ours = append(ours, tr)
			delete(t.all, host)
		}
	}
	t.mu.Unlock()
	for _, tr := range ours {
		tr.end()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tr := range ours {
		t.old[owner] += int(tr.hits.Load())
	}
	return nil
}

// Hits implements lab.Tracer.
func (t *Traces) Hits(_ context.Context, owner string) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.old[owner]
	for _, tr := range t.all {
		if tr.owner == owner {
			n += int(tr.hits.Load())
		}
	}
	return n, nil
}

// Close ends all injections.
func (t *Traces) Close() {
	t.mu.Lock()
	all := t.all
	t.all = map[string]*trace{}
	t.mu.Unlock()
	for _, tr := range all {
		tr.end()
	}
}

func (t *trace) alive() bool {
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// end takes the tracer away and waits until it is.
func (t *trace) end() {
	t.stop()
	<-t.done
}

// rotation is how often the data directory is looked at for new files. etcd
// begins a WAL segment every 64 MB; calls on a new one go untouched that long.
const rotation = 25 * time.Millisecond

// run keeps a tracer on the process until ctx or the process ends. strace is
// given each file by name: its path filter matches nothing inside a directory
// (strace 6.1), and the name of the next WAL segment cannot be known. It takes
// files that are named, or renamed, later; so when a new one appears it is
// started again with all names.
func (t *trace) run(ctx context.Context, attached chan<- error) {
	inject := t.in.After == 0
	report := func(err error) bool {
		if attached != nil {
			attached <- err
			attached = nil
		}
		return err == nil
	}
	for ctx.Err() == nil && t.life.Alive() {
		files, err := filepath.Glob(filepath.Join(t.data, t.in.Files))
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("no file matches %s in %s", t.in.Files, t.data)
		}
		if err != nil {
			report(err)
			return
		}
		s, err := t.attach(ctx, files, inject)
		if err == nil {
			err = s.wait(ctx)
		}
		if !report(err) {
			if s != nil {
				s.kill()
			}
			return
		}
		inject = t.watch(ctx, s, files, inject)
		s.kill()
	}
	report(lab.ErrNotRunning)
}

// watch returns when the tracer has to be replaced or is gone, and says
// whether the next one is to inject.
func (t *trace) watch(ctx context.Context, s *strace, files []string, inject bool) bool {
	tick := time.NewTicker(rotation)
	defer tick.Stop()
	passed := t.passed
	if inject {
		passed = nil
	}
	for {
		select {
		case <-ctx.Done():
			return inject
		case <-s.gone:
			return inject
		case <-passed:
			return true
		case <-tick.C:
			now, err := filepath.Glob(filepath.Join(t.data, t.in.Files))
			if err == nil && slices.ContainsFunc(now, func(f string) bool { return !slices.Contains(files, f) }) {
				return inject
			}
		}
	}
}

// strace is one run of the tracer.
type strace struct {
	cmd    *exec.Cmd
	target int
	gone   chan struct{}
	said   strings.Builder // its complaints, whole when gone is closed
}

// attach starts a tracer. Without inject it only counts: that is how the calls
// are let pass that are to go first, since strace's own count is one per
// thread, and Go's runtime moves the work from thread to thread.
func (t *trace) attach(ctx context.Context, files []string, inject bool) (*strace, error) {
	calls := strings.Join(t.in.Calls, ",")
	args := []string{"-f", "-p", strconv.Itoa(t.life.PID), "-e", "trace=" + calls, "-e", "signal=none"}
	if inject {
		what := "inject=" + calls
		if t.in.Errno != "" {
			what += ":error=" + t.in.Errno
		}
		if t.in.Delay > 0 {
			what += ":delay_enter=" + strconv.FormatInt(max(1, t.in.Delay.Microseconds()), 10)
		}
		args = append(args, "-e", what)
	}
	for _, f := range files {
		args = append(args, "-P", f)
	}
	return startStrace(t.forker, t.life.PID, args, t.env, t.line)
}

// answered matches a call that has returned; strace aligns the results.
var answered = regexp.MustCompile(`\) += `)

// line counts what the tracer reports. strace marks the calls it has hit.
func (t *trace) line(s string) {
	switch {
	case strings.HasSuffix(s, "(INJECTED)") || strings.HasSuffix(s, "(DELAYED)"):
		t.hits.Add(1)
	case t.in.After > 0 && answered.MatchString(s):
		if t.seen.Add(1) == int64(t.in.After) {
			close(t.passed)
		}
	}
}

func startStrace(f process.Forker, target int, args, env []string, line func(string)) (*strace, error) {
	path, err := exec.LookPath("strace")
	if err != nil {
		return nil, err
	}
	s := &strace{cmd: exec.Command(path, args...), target: target, gone: make(chan struct{})}
	s.cmd.Env = env
	s.cmd.SysProcAttr = process.DieWithParent()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stderr = in
	err = f.Start(s.cmd)
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if text := lines.Text(); strings.HasPrefix(text, "strace: ") {
				if s.said.Len() < 1000 {
					s.said.WriteString(text + " ")
				}
			} else {
				line(text)
			}
		}
		io.Copy(io.Discard, out) // a line too long must not block it
		out.Close()
		s.cmd.Wait()
		close(s.gone)
	}()
	return s, nil
}

// wait returns when every thread of the target is traced.
func (s *strace) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return lab.Until(ctx, "strace to attach", func(ctx context.Context) error {
		select {
		case <-s.gone:
			cancel()
			return fmt.Errorf("it ended: %s", strings.TrimSpace(s.said.String()))
		default:
		}
		return traced(s.target, s.cmd.Process.Pid)
	})
}

// kill ends the tracer at once: its process goes on, untraced, even when the
// tracer gets no chance to let go of it (strace 6.1, Linux).
func (s *strace) kill() {
	s.cmd.Process.Kill()
	<-s.gone
}

// traced returns nil when tracer traces all threads of a process.
func traced(pid, tracer int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return fmt.Errorf("process %d is gone", pid)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		_, rest, _ := strings.Cut(string(data), "\nTracerPid:")
		if by, _, _ := strings.Cut(strings.TrimSpace(rest), "\n"); by != strconv.Itoa(tracer) {
			return fmt.Errorf("thread %s is not traced yet", filepath.Base(filepath.Dir(task)))
		}
	}
	return nil
}

// Probe tells why processes of this machine cannot be traced, "" when
// they can. It traces a child the way a member is traced: from a process
// beside it, which is what systems that restrict tracing forbid.
func Probe(ctx context.Context) string {
	if _, err := exec.LookPath("strace"); err != nil {
		return "needs strace, which is not installed or does not exist for this system"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	child := exec.CommandContext(ctx, "sleep", "60")
	if err := child.Start(); err != nil {
		return "could not be tried: " + err.Error()
	}
	defer child.Wait()
	defer child.Process.Kill()
	args := []string{"-p", strconv.Itoa(child.Process.Pid), "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=1"}
	fork := process.NewForker()
	defer close(fork)
	s, err := startStrace(fork, child.Process.Pid, args, nil, func(string) {})
	if err != nil {
		return err.Error()
	}
	defer s.kill()
	if err := s.wait(ctx); err != nil {
		return "tracing is not permitted here: " + err.Error()
	}
	return ""
}

// Package process knows what the systems etcdrill runs on tell about
// processes: which life of a pid it is, what it does, and how to start one that
// ends with its parent.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Life is one life of a process: pids are used again, start times are not.
type Life struct {
	PID     int    `json:"pid"`
	Started string `json:"started"`
}

// Alive tells whether that process still runs.
func (l Life) Alive() bool {
	started, _, err := State(l.PID)
	return err == nil && started == l.Started
}

// Self is the life of this process.
func Self() (Life, error) {
	started, _, err := State(os.Getpid())
	if err != nil {
		return Life{}, fmt.Errorf("looking at this process: %w", err)
	}
	return Life{PID: os.Getpid(), Started: started}, nil
}

// ParseStat is State of a process of some Linux host, from its /proc/PID/stat.
func ParseStat(data []byte) (started string, state byte, err error) {
	f, err := fields(data)
	if err != nil {
		return "", 0, err
	}
	return stateOf(f)
}

// fields are those of /proc/PID/stat from the third on: the second, the name of
// the executable, may hold anything.
func fields(data []byte) ([]string, error) {
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return nil, errors.New("/proc/PID/stat: expected more fields")
	}
	return f, nil
}

func stateOf(f []string) (started string, state byte, err error) {
	if f[0] == "Z" || f[0] == "X" {
		return "", 0, fs.ErrNotExist
	}
	return f[19], f[0][0], nil
}

// Forker starts processes from one thread that never ends. The parent-death
// signal is sent when the thread that forked ends, not the process, and Go
// ends threads as it likes.
type Forker chan func()

// NewForker starts the thread; close the Forker to let it go.
func NewForker() Forker {
	f := make(Forker)
	go func() {
		runtime.LockOSThread()
		for do := range f {
			do()
		}
	}()
	return f
}

// Start starts cmd. A file that was written a moment ago may be busy, when
// another thread of its writer forked at that moment; that passes.
func (f Forker) Start(cmd *exec.Cmd) error {
	var err error
	for range 50 {
		done := make(chan struct{})
		f <- func() { err = cmd.Start(); close(done) }
		<-done
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(2 * time.Millisecond) // nothing tells when
		again := exec.Command(cmd.Path, cmd.Args[1:]...)
		again.Args, again.Env, again.Dir, again.SysProcAttr = cmd.Args, cmd.Env, cmd.Dir, cmd.SysProcAttr
		again.Stdin, again.Stdout, again.Stderr = cmd.Stdin, cmd.Stdout, cmd.Stderr
		*cmd = *again
	}
	return err
}

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// DieWithParent makes a child that is killed when the thread that started it
// ends.
func DieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// stat returns the fields of /proc/PID/stat from the third on: the second, the
// name of the executable, may hold anything.
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, syscall.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return fields(data)
}

// State returns when a process was started, in clock ticks since the
// machine was, and the letter of its state. A process that is dead but not yet
// waited for counts as not there.
func State(pid int) (started string, state byte, err error) {
	f, err := stat(pid)
	if err != nil {
		return "", 0, err
	}
	return stateOf(f)
}

// Parent is the process that a process descends from, 0 when nobody knows.
func Parent(pid int) int {
	f, err := stat(pid)
	if err != nil {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

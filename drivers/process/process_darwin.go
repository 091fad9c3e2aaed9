package process

import (
	"errors"
	"io/fs"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// DieWithParent makes a child in a process group of its own. macOS has no
// parent-death signal: when a supervisor is killed its members stay until the
// lab is taken down.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// PS asks the system's ps; fs.ErrNotExist when it found nobody.
func PS(args ...string) (string, error) {
	out, err := exec.Command("/bin/ps", args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return "", fs.ErrNotExist
	}
	return strings.TrimSpace(string(out)), err
}

// State returns when a process was started and the letter of its state. A
// process that is dead but not yet waited for counts as not there.
func State(pid int) (started string, state byte, err error) {
	out, err := PS("-o", "stat=,lstart=", "-p", strconv.Itoa(pid))
	if err != nil {
		return "", 0, err
	}
	stat, started, _ := strings.Cut(out, " ")
	if stat == "" || stat[0] == 'Z' {
		return "", 0, fs.ErrNotExist
	}
	return strings.TrimSpace(started), stat[0], nil
}

// Parent is the process that a process descends from, 0 when nobody knows.
func Parent(pid int) int {
	out, err := PS("-o", "ppid=", "-p", strconv.Itoa(pid))
	if err != nil {
		return 0
	}
	ppid, _ := strconv.Atoi(out)
	return ppid
}

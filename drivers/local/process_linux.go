package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent makes a child that is killed when the thread that started it
// ends.
func dieWithParent() *syscall.SysProcAttr {
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
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat: expected more fields", pid)
	}
	return f, nil
}

// procState returns when a process was started, in clock ticks since the
// machine was, and the letter of its state. A process that is dead but not yet
// waited for counts as not there.
func procState(pid int) (started string, state byte, err error) {
	f, err := stat(pid)
	if err != nil {
		return "", 0, err
	}
	if f[0] == "Z" || f[0] == "X" {
		return "", 0, fs.ErrNotExist
	}
	return f[19], f[0][0], nil
}

func parent(pid int) int {
	f, err := stat(pid)
	if err != nil {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

// listLabelled finds the processes of all labs of this user.
func listLabelled() ([]labelled, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []labelled
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// What cannot be read is another user's, or gone.
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !bytes.Contains(env, []byte(LabelDir+"=")) {
			continue
		}
		l, ok := parseEnviron(strings.Split(string(env), "\x00"))
		if !ok {
			continue
		}
		started, _, err := procState(pid)
		if err != nil {
			continue
		}
		l.life = life{PID: pid, Started: started}
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		first, _, _ := bytes.Cut(args, []byte{0})
		l.name = filepath.Base(string(first))
		out = append(out, l)
	}
	return out, nil
}

package local

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent makes a child in a process group of its own. macOS has no
// parent-death signal: when a supervisor is killed its members stay until the
// lab is taken down.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func ps(args ...string) (string, error) {
	out, err := exec.Command("/bin/ps", args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return "", fs.ErrNotExist
	}
	return strings.TrimSpace(string(out)), err
}

// procState returns when a process was started and the letter of its state. A
// process that is dead but not yet waited for counts as not there.
func procState(pid int) (started string, state byte, err error) {
	out, err := ps("-o", "stat=,lstart=", "-p", strconv.Itoa(pid))
	if err != nil {
		return "", 0, err
	}
	stat, started, _ := strings.Cut(out, " ")
	if stat == "" || stat[0] == 'Z' {
		return "", 0, fs.ErrNotExist
	}
	return strings.TrimSpace(started), stat[0], nil
}

func parent(pid int) int {
	out, err := ps("-o", "ppid=", "-p", strconv.Itoa(pid))
	if err != nil {
		return 0
	}
	ppid, _ := strconv.Atoi(out)
	return ppid
}

// listLabelled finds the processes of all labs of this user. ps shows the
// environment behind the command, parted by blanks; the directory of a lab is
// read up to the next label.
func listLabelled() ([]labelled, error) {
	out, err := ps("eww", "-x", "-o", "pid=,command=")
	if err != nil {
		return nil, err
	}
	var all []labelled
	for _, line := range strings.Split(out, "\n") {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		_, env, ok := strings.Cut(command, " "+LabelDir+"=")
		if !ok {
			continue
		}
		var l labelled
		var rest string
		l.dir, rest, _ = strings.Cut(env, " "+LabelLab+"=")
		if _, host, ok := strings.Cut(rest, " "+LabelHost+"="); ok {
			l.host, _, _ = strings.Cut(host, " ")
		}
		started, _, err := procState(pid)
		if err != nil {
			continue
		}
		l.life = life{PID: pid, Started: started}
		first, _, _ := strings.Cut(command, " ")
		l.name = filepath.Base(first)
		all = append(all, l)
	}
	return all, nil
}

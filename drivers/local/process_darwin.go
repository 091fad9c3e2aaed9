package local

import (
	"path/filepath"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/drivers/process"
)

// listLabelled finds the processes of all labs of this user. ps shows the
// environment behind the command, parted by blanks; the directory of a lab is
// read up to the next label.
func listLabelled() ([]labelled, error) {
	out, err := process.PS("eww", "-x", "-o", "pid=,command=")
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
		started, _, err := process.State(pid)
		if err != nil {
			continue
		}
		l.Life = process.Life{PID: pid, Started: started}
		first, _, _ := strings.Cut(command, " ")
		l.name = filepath.Base(first)
		all = append(all, l)
	}
	return all, nil
}

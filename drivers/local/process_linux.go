package local

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/drivers/process"
)

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
		started, _, err := process.State(pid)
		if err != nil {
			continue
		}
		l.Life = process.Life{PID: pid, Started: started}
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		first, _, _ := bytes.Cut(args, []byte{0})
		l.name = filepath.Base(string(first))
		out = append(out, l)
	}
	return out, nil
}

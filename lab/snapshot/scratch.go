package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// scratch is how names begin of what a save or a trial needs for a while: a
// directory on a host, a file in a store.
const scratch = ".snapshot-work"

// newScratch makes such a name. It carries machine and process, so that those
// who come later can tell what a process that was killed has left.
func newScratch() string {
	return fmt.Sprintf("%s.%s.%d.%08x", scratch, machine(), os.Getpid(), rand.Uint32())
}

func machine() string {
	name, _ := os.Hostname() // without one all names are alike, and only the process counts
	h := fnv.New32a()
	h.Write([]byte(name))
	return fmt.Sprintf("%08x", h.Sum32())
}

// orphaned tells a scratch whose process, of this machine, is gone. Of other
// machines nobody knows.
func orphaned(name string) bool {
	parts := strings.Split(strings.TrimPrefix(name, scratch+"."), ".")
	if !strings.HasPrefix(name, scratch+".") || len(parts) != 3 || parts[0] != machine() {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	return err == nil && pid > 0 && pid != os.Getpid() && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// workspace makes a directory on a host, for its owner alone, after it has
// deleted what dead processes have left there. done deletes it.
func workspace(ctx context.Context, e *lab.Env, h lab.Host) (dir string, done func() error, err error) {
	out, err := h.Run(ctx, lab.Cmd{Argv: []string{"find", h.Dir(), "-maxdepth", "1", "-name", scratch + ".*"}})
	if err != nil {
		return "", nil, err
	}
	for _, old := range strings.Fields(string(out.Stdout)) {
		if orphaned(path.Base(old)) {
			e.Note(h.Name(), "%s was left by a process that is gone: it is deleted", old)
			if err := sweep(ctx, h, old); err != nil {
				return "", nil, err
			}
		}
	}
	dir = path.Join(h.Dir(), newScratch())
	if _, err := e.Run(ctx, h, lab.Cmd{Argv: []string{"mkdir", "-m", "0700", "--", dir}}); err != nil {
		return "", nil, err
	}
	return dir, func() error { return sweep(ctx, h, dir) }, nil
}

// sweep deletes what we have put on a host, also when ctx has ended. It deletes
// nothing outside of the lab's directory.
func sweep(ctx context.Context, h lab.Host, dir string) error {
	if !strings.HasPrefix(path.Clean(dir), path.Clean(h.Dir())+"/") {
		return fmt.Errorf("%s: %s is not below %s: not deleted", h.Name(), dir, h.Dir())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return lab.Until(ctx, dir+" to be gone", func(ctx context.Context) error {
		// A process that was killed a moment ago may have made another file.
		_, err := h.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", "--", dir}})
		return err
	})
}

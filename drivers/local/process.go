package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/drivers/process"
)

// The environment of every process of a lab: by LabelDir it is found again,
// the others are for people who look at it. Never export LabelDir in a shell
// that is to outlive the lab.
const (
	LabelDir  = "ETCDRILL_LAB_DIR" // the lab's directory
	LabelLab  = "ETCDRILL_LAB"     // the lab's id
	LabelHost = "ETCDRILL_HOST"    // the host's name, empty for the supervisor
)

func labels(d dir, id, host string) []string {
	return []string{LabelDir + "=" + string(d), LabelLab + "=" + id, LabelHost + "=" + host}
}

// environ is this process's environment without what would mislead etcd and
// its tools: their settings may be given as variables.
func environ() []string {
	var out []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "ETCD_") || strings.HasPrefix(name, "ETCDCTL_") || strings.HasPrefix(name, "ETCDUTL_") {
			continue
		}
		out = append(out, v)
	}
	return out
}

// labelled is a process that carries a label.
type labelled struct {
	process.Life
	dir  string // of the lab
	host string
	name string // of the executable
}

func (l labelled) String() string {
	what := l.name
	if l.host != "" {
		what += " of " + l.host
	} else if l.name == filepath.Base(dir("").binary()) {
		what = "supervisor"
	}
	return fmt.Sprintf("process %d (%s)", l.PID, what)
}

// parseEnviron finds the labels among variables.
func parseEnviron(vars []string) (l labelled, ok bool) {
	for _, v := range vars {
		switch name, value, _ := strings.Cut(v, "="); name {
		case LabelDir:
			l.dir, ok = value, value != ""
		case LabelHost:
			l.host = value
		}
	}
	return l, ok
}

// killLabelled kills all processes of a lab and waits until they are gone. It
// spares this process and those it descends from: someone may take a lab down
// from a shell that was started on one of its hosts.
func killLabelled(ctx context.Context, d dir) error {
	spare := map[int]bool{}
	for pid := os.Getpid(); pid > 1 && !spare[pid]; pid = process.Parent(pid) {
		spare[pid] = true
	}
	for {
		all, err := listLabelled()
		if err != nil {
			return fmt.Errorf("looking for processes of the lab: %w", err)
		}
		var left []string
		for _, l := range all {
			if l.dir != string(d) || spare[l.PID] {
				continue
			}
			left = append(left, l.String())
			if err := kill(l.Life); err != nil {
				return fmt.Errorf("kill %s: %w", l, err)
			}
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still there: %s: %w", strings.Join(left, ", "), ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// kill kills one life of a process; nil when it is gone already.
func kill(l process.Life) error {
	p, err := os.FindProcess(l.PID) // holds on to this very process where the system can
	if err != nil {
		return nil
	}
	defer p.Release()
	if !l.Alive() {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

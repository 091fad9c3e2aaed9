// Package recovery holds the operations that bring a cluster back: what an
// operator does on the worst day, as steps that survive the death of who does
// them (see lab/operation). One file per operation.
//
// All of them keep the same rules. What is decided is decided once, written
// down, and the same on all hosts: token, revision bump, who is restored. The
// tools that run on hosts are etcd's own and those of any Unix. What came of
// them is read from the cluster and from the files, never from an exit code
// alone. Nothing is deleted: what is replaced lies aside, under a name that
// carries the operation's token, and an undo puts it back. Before every step
// the identities in the hosts' directories are compared with the plan, so that
// an operation which was interrupted does not go on in a world that somebody
// else has changed.
package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Kinds makes an empty operation of a name, to be filled from a journal.
func Kinds(name string) (operation.Operation, bool) {
	op, ok := kinds()[name]
	return op, ok
}

// kinds is the table of all operations.
func kinds() map[string]operation.Operation {
	return map[string]operation.Operation{
		"restore":         &Restore{},
		"start-majority":  &StartMajority{},
		"salvage":         &Salvage{},
		"replace":         &Replace{},
		"grow":            &Grow{},
		"shrink":          &Shrink{},
		"switch":          &Switch{},
		"rolling-restart": &RollingRestart{},
		"defrag-all":      &Defrag{},
		"free-space":      &FreeSpace{},
		"repair":          &Repair{},
		"upgrade":         &Upgrade{},
		"rotate":          &Rotate{},
	}
}

// seats finds the seats of names, in the order of the lab.
func seats(c *lab.Cluster, names []string) ([]*lab.Member, error) {
	var out []*lab.Member
	for _, name := range names {
		if _, err := c.Member(name); err != nil {
			return nil, err
		}
	}
	for _, m := range c.Seats {
		if slices.Contains(names, m.Name) {
			out = append(out, m)
		}
	}
	if len(out) != len(names) {
		return nil, fmt.Errorf("hosts: %s: expected each once", strings.Join(names, ", "))
	}
	return out, nil
}

// sized is a limit for work on so many bytes: what is usual, and one second
// more for every 5 MB, which a slow disk still does (facts 7.2).
func sized(bytes int64) time.Duration {
	return time.Minute + time.Duration(bytes/(5<<20))*time.Second
}

// stop stops processes politely and looks that they have ended: all at once,
// but the leader after the others. It hands over before it ends, and to one that
// ends as well it would try that for six seconds and more.
func stop(ctx context.Context, e *lab.Env, seats []*lab.Member) error {
	leads := map[string]bool{}
	if len(seats) > 1 {
		for _, s := range e.Look(ctx) {
			leads[s.Name] = s.Up && s.Role == "leader"
		}
	}
	var errs []error
	for _, last := range []bool{false, true} {
		errs = append(errs, etcd.Each(seats, func(_ int, m *lab.Member) error {
			if leads[m.Name] != last {
				return nil
			}
			st, err := m.Proc.State(ctx)
			if err != nil {
				return fmt.Errorf("process of %s: %w", m.Name, err)
			}
			if !st.Running {
				return nil
			}
			return etcd.Stop(ctx, e, m)
		}))
	}
	return errors.Join(errs...)
}

// start starts processes, all at once: waiting for the first before the second
// is started would never end (FE43).
func start(ctx context.Context, e *lab.Env, seats []*lab.Member) error {
	return etcd.Each(seats, func(_ int, m *lab.Member) error {
		e.Note(m.Name, "start etcd")
		if err := m.Proc.Start(ctx); err != nil {
			return fmt.Errorf("start of %s: %w", m.Name, err)
		}
		return nil
	})
}

// ready waits until all of the seats serve. That a process has ended instead
// is a finding; that it takes too long is none.
func ready(ctx context.Context, e *lab.Env, seats []*lab.Member) error {
	err := etcd.WaitReady(ctx, e.Cluster, seats...)
	if err == nil {
		return nil
	}
	for _, m := range seats {
		if st, serr := m.Proc.State(context.WithoutCancel(ctx)); serr == nil && !st.Running {
			return &lab.Failure{What: "etcd on " + m.Name, Want: "running", Got: err.Error()}
		}
	}
	return err
}

// silent wants no process and nobody who listens, on any of the seats. A
// member that runs on the old data while the new cluster comes up would be a
// second truth.
func silent(ctx context.Context, seats []*lab.Member) error {
	return etcd.Each(seats, func(_ int, m *lab.Member) error {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return fmt.Errorf("process of %s: %w", m.Name, err)
		}
		if st.Running {
			return &lab.Failure{What: "etcd on " + m.Name, Want: "stopped", Got: fmt.Sprintf("pid %d runs", st.PID)}
		}
		return lab.Until(ctx, m.Name+" to listen no more", func(ctx context.Context) error {
			for _, u := range []string{m.LocalURL, m.HealthURL, cmp.Or(m.PeerBind, m.PeerURL)} {
				quick, cancel := context.WithTimeout(ctx, time.Second)
				c, err := m.Host.Dial(quick, hostPort(u))
				cancel()
				if err == nil {
					c.Close()
					return &lab.Failure{What: "ports of " + m.Name, Want: "closed", Got: "somebody listens at " + hostPort(u)}
				}
			}
			return nil
		})
	})
}

func hostPort(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	return strings.TrimSuffix(rest, "/")
}

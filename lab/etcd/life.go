package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// The life of one member: its process and what lies on its host.

// Start starts a member's process and looks that it runs; nil when it runs
// already. It does not wait until it serves. When it did not come up the error
// has the last lines of its log.
func Start(ctx context.Context, e *lab.Env, m *lab.Member) error {
	e.Note(m.Name, "start etcd")
	if err := m.Proc.Start(ctx); err != nil {
		return WithLog(ctx, m, fmt.Errorf("start of %s: %w", m.Name, err))
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if !st.Running {
		return WithLog(ctx, m, fmt.Errorf("%s was started and does not run: %s", m.Name, st.Exit))
	}
	return nil
}

// Stop stops a member's process politely and looks that it has ended; nil when
// it does not run. A leader hands over first (FE28).
func Stop(ctx context.Context, e *lab.Env, m *lab.Member) error {
	e.Note(m.Name, "stop etcd")
	if err := m.Proc.Stop(ctx); err != nil {
		return fmt.Errorf("stop of %s: %w", m.Name, err)
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if st.Running {
		return &lab.Failure{What: "process of " + m.Name + " after a stop", Want: "ended", Got: fmt.Sprintf("pid %d runs", st.PID)}
	}
	return nil
}

// Await waits for what while a member's process runs: when it ends there is
// nothing to wait for, and the error has the last lines of its log.
func Await(ctx context.Context, m *lab.Member, what string, try func(ctx context.Context) error) error {
	ctx, over := context.WithCancelCause(ctx)
	defer over(nil)
	err := lab.Until(ctx, what, func(ctx context.Context) error {
		err := try(ctx)
		if err != nil {
			if st, serr := m.Proc.State(ctx); serr == nil && !st.Running {
				over(WithLog(ctx, m, fmt.Errorf("%s does not run while waiting for %s: %s", m.Name, what, st.Exit)))
			}
		}
		return err
	})
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() {
		return cause
	}
	return err
}

// Ready waits until a member's /readyz says 200, which means that it serves
// linearizable reads and is no learner (FE30), and it answers at its client
// port, which opens a little later than the health port. It ends early, with
// an error, when the process ends.
func Ready(ctx context.Context, e *lab.Env, m *lab.Member) error {
	return Await(ctx, m, m.Name+" to be ready", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		code, body, err := Health(ctx, m, "/readyz")
		if err != nil {
			return err
		}
		if code != 200 {
			return fmt.Errorf("/readyz says %d: %s", code, strings.TrimSpace(body))
		}
		for _, s := range e.Look(ctx) {
			if s.Name == m.Name && !s.Up {
				return fmt.Errorf("/readyz says 200, and it does not answer: %s", s.Error)
			}
		}
		return nil
	})
}

// Exists looks for a file or directory on a member's host.
func Exists(ctx context.Context, m *lab.Member, path string) (bool, error) {
	_, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"test", "-e", path}})
	var exit *lab.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: looking for %s: %w", m.Name, path, err)
	}
	return true, nil
}

// Aside renames a member's data directory to another path of the same
// filesystem; nil when there is none. Nothing is ever deleted, and nothing is
// ever started on what another life has left. It refuses while the process
// runs.
func Aside(ctx context.Context, e *lab.Env, m *lab.Member, to string) error {
	there, err := Exists(ctx, m, m.DataDir)
	if err != nil || !there {
		return err
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if st.Running {
		return fmt.Errorf("%s runs on a data directory of an earlier life: stop it first", m.Name)
	}
	return Rename(ctx, e, m, m.DataDir, to)
}

// Rename moves a file or directory of a member's host to a name of the same
// filesystem that nothing has; nil when there is nothing to move, or no more.
// Both being there is a *lab.Failure: nothing is ever overwritten.
func Rename(ctx context.Context, e *lab.Env, m *lab.Member, from, to string) error {
	if there, err := Exists(ctx, m, from); err != nil || !there {
		return err
	}
	if there, err := Exists(ctx, m, to); err != nil {
		return err
	} else if there {
		return &lab.Failure{What: fmt.Sprintf("%s: %s is to become %s", m.Name, from, to), Want: "nothing of that name", Got: "both are there"}
	}
	_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"mv", "--", from, to}})
	return err
}

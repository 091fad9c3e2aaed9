// Package action holds the verbs of `do`: what an operator does to a cluster.
// One file per verb.
//
// An action runs etcd's own tools on a host, so that the journal reads like a
// runbook, and then looks at the effect: an exit code is never the proof
// (removed commands of etcdctl exit 0, FE20). A tool that refused gives its
// *lab.ExitError; an effect that is not what the tool claimed, and a deed that
// we refuse ourselves because it would do damage, a *lab.Failure; everything
// else means that we cannot tell.
//
// Who does it by default is a voting member that answers, the leader first.
package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// through are the members a command is sent to, one after the other: those the
// drill names, or one that answers.
func through(ctx context.Context, e *lab.Env, t lab.Target) ([]*lab.Member, error) {
	if len(t.Names) > 0 {
		return etcd.Seats(e.Cluster, t)
	}
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return nil, err
	}
	return up[:1], nil
}

// ctl runs etcdctl against one member and returns the revision its answer
// carries.
func ctl(ctx context.Context, e *lab.Env, m *lab.Member, stdin string, args ...string) (int64, error) {
	cmd := etcd.ToolCmd(m, "etcdctl", append([]string{"--write-out=json"}, args...)...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := e.Run(ctx, m.Host, cmd)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Header struct {
			Revision int64 `json:"revision"`
		} `json:"header"`
	}
	if err := json.Unmarshal(out.Stdout, &answer); err != nil || answer.Header.Revision == 0 {
		return 0, fmt.Errorf("%s: etcdctl %s exited 0 without an answer that has a revision: %.200q", m.Name, args[0], out.Stdout)
	}
	return answer.Header.Revision, nil
}

// local calls do with a client that talks to one member over its host.
func local(e *lab.Env, m *lab.Member, do func(cli *clientv3.Client) error) error {
	cli, err := etcd.Local(e.Cluster, m)
	if err != nil {
		return err
	}
	defer cli.Close()
	return do(cli)
}

// holds asserts what a key is at a revision, as seen by the member that
// answered. nil stands for a key that is not there.
func holds(ctx context.Context, e *lab.Env, m *lab.Member, what, key string, want *string, revision int64) error {
	return local(e, m, func(cli *clientv3.Client) error {
		r, err := cli.Get(ctx, key, clientv3.WithRev(revision))
		if errors.Is(err, rpctypes.ErrCompacted) {
			// Somebody compacts faster than we look; then only the present is left.
			r, err = cli.Get(ctx, key)
		}
		if err != nil {
			return fmt.Errorf("%s was acknowledged at revision %d, and could not be read back: %w", what, revision, err)
		}
		got := "nothing"
		if len(r.Kvs) > 0 {
			if want != nil && string(r.Kvs[0].Value) == *want {
				return nil
			}
			got = fmt.Sprintf("%q", r.Kvs[0].Value)
		} else if want == nil {
			return nil
		}
		w := "nothing"
		if want != nil {
			w = fmt.Sprintf("%q", *want)
		}
		return &lab.Failure{What: fmt.Sprintf("%s at revision %d, which was acknowledged", key, revision), Want: w, Got: got}
	})
}

// members reads the member list through members that answer: linearizable
// where there is a quorum, else what the first of them knows.
func members(ctx context.Context, e *lab.Env, up []*lab.Member) (etcd.Membership, error) {
	quick, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	l, err := etcd.Members(quick, e.Cluster, false, up[0])
	if err == nil {
		return l, nil
	}
	return etcd.Members(ctx, e.Cluster, true, up...)
}

// unhealthy is what etcd says when its guard against unsafe membership changes
// refuses (--strict-reconfig-check).
const unhealthy = "etcdserver: unhealthy cluster"

// window is how long a voter must have been connected before etcd's guard
// counts it (FE21, FE22). A little is added for the connecting itself.
const window = 5*time.Second + 1500*time.Millisecond

// disturbed is what etcd says when an election or a busy machine came between:
// the request may have been carried out or not.
var disturbed = []string{"etcdserver: request timed out", "etcdserver: leader changed", "etcdserver: no leader", "etcdserver: not leader"}

// patiently runs a membership command. etcd's guard refuses for a while after
// every change, until all voters have been connected for five seconds: as
// long as enough answer, that alone can be the reason, and the command is
// given again until the window has passed. enough is the number of voting
// members that must answer, not counting except. After a disturbance it is
// given again too, which is safe: the second of two equal membership commands
// changes nothing (FE25), and whoever calls looks at the member list.
func patiently(ctx context.Context, e *lab.Env, m *lab.Member, except string, enough int, args ...string) error {
	deadline := time.Now().Add(window)
	for {
		_, err := etcd.Tool(ctx, e, m, "etcdctl", args...)
		var exit *lab.ExitError
		if err == nil || !errors.As(err, &exit) {
			return err
		}
		if says(exit, disturbed...) {
			e.Note(m.Name, "etcd was disturbed, so that nobody knows whether it was done: the command is given again")
			if !pause(ctx, 500*time.Millisecond) {
				return err
			}
			continue
		}
		if !says(exit, unhealthy) || time.Now().After(deadline) {
			return err
		}
		n := 0
		for _, s := range e.Look(ctx) {
			if s.Up && (s.Role == "leader" || s.Role == "follower") && s.Name != except {
				n++
			}
		}
		if n < enough {
			return err // the guard means it
		}
		e.Note(m.Name, "refused as unhealthy though %d voters answer: etcd counts them after five seconds of connection", n)
		if !pause(ctx, 500*time.Millisecond) {
			return err
		}
	}
}

// says tells whether a tool that refused has printed one of the texts.
func says(exit *lab.ExitError, texts ...string) bool {
	return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(exit.Text(), t) })
}

// pause waits; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// settled turns an unclear end of a membership command into a clear one: it
// may have been applied though the tool reported an error. done looks at the
// member list. Without an answer there is no next step.
func settled(ctx context.Context, e *lab.Env, m *lab.Member, cause error, done func(l etcd.Membership) bool) (etcd.Membership, error) {
	l, err := etcd.Members(ctx, e.Cluster, true, m)
	switch {
	case err == nil && done(l):
		if cause != nil {
			e.Note(m.Name, "the command reported an error, and the member list shows that it was applied: %s", cause)
		}
		return l, nil
	case cause != nil:
		return l, cause
	case err != nil:
		return l, fmt.Errorf("the command was acknowledged, and the member list could not be read: %w", err)
	}
	return l, &lab.Failure{What: "member list of " + m.Name + " after an acknowledged change", Want: "the change", Got: describe(l)}
}

// describe lists members for people.
func describe(l etcd.Membership) string {
	var out []string
	for _, m := range l.Members {
		s := m.Name
		if s == "" {
			s = "unstarted " + strings.Join(m.PeerURLs, ",")
		}
		if m.Learner {
			s += " (learner)"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// exists looks for a file or directory on a member's host.
func exists(ctx context.Context, m *lab.Member, path string) (bool, error) {
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

// run starts a member's process and looks that it runs.
func run(ctx context.Context, e *lab.Env, m *lab.Member) error {
	e.Note(m.Name, "start etcd")
	if err := m.Proc.Start(ctx); err != nil {
		return etcd.WithLog(ctx, m, fmt.Errorf("start of %s: %w", m.Name, err))
	}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if !st.Running {
		return etcd.WithLog(ctx, m, fmt.Errorf("%s was started and does not run: %s", m.Name, st.Exit))
	}
	return nil
}

// halt stops a member's process politely and looks that it has ended.
func halt(ctx context.Context, e *lab.Env, m *lab.Member) error {
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

// alive waits for what while a member's process runs: when it ends there is
// nothing to wait for, and its log says why.
func alive(ctx context.Context, m *lab.Member, what string, try func(ctx context.Context) error) error {
	ctx, over := context.WithCancelCause(ctx)
	defer over(nil)
	err := lab.Until(ctx, what, func(ctx context.Context) error {
		err := try(ctx)
		if err != nil {
			if st, serr := m.Proc.State(ctx); serr == nil && !st.Running {
				over(etcd.WithLog(ctx, m, fmt.Errorf("%s does not run while waiting for %s: %s", m.Name, what, st.Exit)))
			}
		}
		return err
	})
	if cause := context.Cause(ctx); err != nil && cause != nil && cause != ctx.Err() {
		return cause
	}
	return err
}

// ready waits until a member's /readyz says 200, which means that it serves
// linearizable reads and is no learner (FE30), and it answers at its client
// port, which opens a little later than the health port.
func ready(ctx context.Context, e *lab.Env, m *lab.Member) error {
	return alive(ctx, m, m.Name+" to be ready", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		code, body, err := etcd.Health(ctx, m, "/readyz")
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

// each works on several members at once and joins their errors.
func each(seats []*lab.Member, do func(m *lab.Member) error) error {
	errs := make(chan error, len(seats))
	for _, m := range seats {
		go func() { errs <- do(m) }()
	}
	var all []error
	for range seats {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

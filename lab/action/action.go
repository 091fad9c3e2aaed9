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
	"strings"

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
	cmd := etcd.ToolCmd(e.Cluster, m, "etcdctl", append([]string{"--write-out=json"}, args...)...)
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

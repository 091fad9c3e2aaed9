// Package check holds the verbs of `check`: what can be asked of a cluster.
// One file per verb.
//
// A check looks once. It returns nil when it holds, a *lab.Failure when it
// explicitly does not, and any other error when it could not look: a member
// that does not answer is a finding only where the question was whether it
// does. It changes nothing, but for the probe key that the check of writes
// writes.
package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// ProbeKey is the key that probe writes go to.
const ProbeKey = "etcdrill/probe"

// look is a look at the cluster that at least one member answered.
func look(ctx context.Context, e *lab.Env) ([]lab.Status, error) {
	statuses := e.Look(ctx)
	for _, s := range statuses {
		if s.Up {
			return statuses, nil
		}
	}
	why := "the lab has none"
	for _, s := range statuses {
		if !s.Absent {
			why = s.Name + ": " + s.Error
			break
		}
	}
	return nil, fmt.Errorf("could not look: no member answers: %s", why)
}

// seated are the seats that are, or are to be, members.
func seated(c *lab.Cluster, look []lab.Status) []*lab.Member {
	var out []*lab.Member
	for i, s := range look {
		if !s.Absent {
			out = append(out, c.Seats[i])
		}
	}
	return out
}

// voters counts the seats that vote.
func voters(look []lab.Status) int {
	n := 0
	for _, s := range look {
		if !s.Absent && s.Role != "learner" {
			n++
		}
	}
	return n
}

// leader finds the leader that a quorum of voters follows. One that has been
// deposed and does not know it yet has no quorum behind it.
func leader(look []lab.Status) (lab.Status, bool) {
	for _, s := range look {
		if !s.Up || s.Role != "leader" {
			continue
		}
		n := 0
		for _, o := range look {
			if o.Up && !o.Absent && o.Role != "learner" && o.Leader == s.ID && o.Term == s.Term {
				n++
			}
		}
		if n >= lab.Quorum(voters(look)) {
			return s, true
		}
	}
	return lab.Status{}, false
}

// claimed is the leader of a look of earlier, as the newest term has it.
func claimed(look []lab.Status) (lab.Status, bool) {
	var out lab.Status
	for _, s := range look {
		if s.Up && s.Role == "leader" && s.Term > out.Term {
			out = s
		}
	}
	return out, out.Term > 0
}

// before is how the cluster looked right before the last break.
func before(e *lab.Env) ([]lab.Status, error) {
	if len(e.Before) == 0 {
		return nil, fmt.Errorf("nothing was broken yet, so there is no earlier state to compare with")
	}
	return e.Before, nil
}

// An answer is how one member took one request.
type answer int

const (
	accepted answer = iota
	refused         // an explicit no: by etcd, or nobody there to connect to
	silent          // no answer within the client's own deadline
	unclear         // our own end of the line, or an error we do not know
)

// classify sorts the outcome of a request that had a deadline of its own. ctx
// is the context the deadline was put on.
func classify(ctx context.Context, err error) answer {
	switch {
	case err == nil:
		return accepted
	case ctx.Err() != nil:
		return unclear // our own time was up, not the member's
	case errors.Is(err, context.DeadlineExceeded):
		return silent
	}
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		if known.Code() == codes.Unknown {
			return unclear
		}
		return refused
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return silent
	case codes.Unavailable, codes.FailedPrecondition, codes.ResourceExhausted, codes.PermissionDenied,
		codes.Unauthenticated, codes.InvalidArgument, codes.OutOfRange, codes.DataLoss:
		return refused
	}
	return unclear
}

// patience is how long a probe waits for one answer: at least a second, and
// long enough that a leader could be elected meanwhile, so that "refused" does
// not mean "during an election".
func patience(e *lab.Env) time.Duration { return max(time.Second, 2*e.Spec.Election) }

// A probe is one request to one member.
type probe struct {
	seat   *lab.Member
	answer answer
	err    error
}

func (p probe) String() string {
	switch p.answer {
	case accepted:
		return p.seat.Name + " answered"
	case silent:
		return p.seat.Name + " gave no answer within the deadline"
	}
	return fmt.Sprintf("%s: %s", p.seat.Name, p.err)
}

// A way to a member.
type way func(c *lab.Cluster, m *lab.Member) (*clientv3.Client, error)

// outside is the way of a client, over the links of the lab.
func outside(c *lab.Cluster, m *lab.Member) (*clientv3.Client, error) { return etcd.Client(c, m) }

// inside is the way over the member's own host, past links that are cut.
func inside(c *lab.Cluster, m *lab.Member) (*clientv3.Client, error) { return etcd.Local(c, m) }

// ask sends a request to one member.
func ask(ctx context.Context, e *lab.Env, to way, m *lab.Member, do func(ctx context.Context, cli *clientv3.Client) error) probe {
	cli, err := to(e.Cluster, m)
	if err != nil {
		return probe{m, unclear, err}
	}
	defer cli.Close()
	bound, cancel := context.WithTimeout(ctx, patience(e))
	defer cancel()
	err = do(bound, cli)
	return probe{m, classify(ctx, err), err}
}

// askAll sends a request to several members at once.
func askAll(ctx context.Context, e *lab.Env, to way, seats []*lab.Member, do func(ctx context.Context, cli *clientv3.Client) error) []probe {
	answers := make(chan probe, len(seats))
	for _, m := range seats {
		go func() { answers <- ask(ctx, e, to, m, do) }()
	}
	var out []probe
	for range seats {
		out = append(out, <-answers)
	}
	return out
}

// linearizable reads what only a quorum can answer.
func linearizable(ctx context.Context, cli *clientv3.Client) error {
	_, err := cli.Get(ctx, ProbeKey, clientv3.WithKeysOnly())
	return err
}

// service is what the checks of writes and reads have in common. With through
// each of the members must accept, or none may; without it one acknowledgement
// by any member decides.
func service(ctx context.Context, e *lab.Env, what string, through lab.Target, wantRefused bool, do func(ctx context.Context, cli *clientv3.Client) error) error {
	var seats []*lab.Member
	var err error
	all := len(through.Names) > 0
	if all {
		seats, err = etcd.Seats(e.Cluster, through)
	} else if seats, err = etcd.Answering(ctx, e); err != nil || wantRefused {
		// Nobody may acknowledge it, nor one that does not tell its status.
		seats, err = seated(e.Cluster, e.Look(ctx)), nil
	}
	if err != nil {
		return err
	}
	if len(seats) == 0 {
		return fmt.Errorf("could not look: there is no member to send a %s through", what)
	}
	if !wantRefused && !all {
		// One is enough, and the first mostly will do.
		if p := ask(ctx, e, outside, seats[0], do); p.answer == accepted {
			return nil
		}
	}
	answers := askAll(ctx, e, outside, seats, do)
	var yes, no, lost []string
	for _, p := range answers {
		switch p.answer {
		case accepted:
			yes = append(yes, p.String())
		case unclear:
			lost = append(lost, p.String())
		default:
			no = append(no, p.String())
		}
	}
	switch {
	case wantRefused && len(yes) > 0:
		return &lab.Failure{What: what, Want: "refused by all", Got: strings.Join(yes, "; ")}
	case wantRefused && len(lost) > 0:
		return fmt.Errorf("could not tell whether a %s is refused: %s", what, strings.Join(lost, "; "))
	case wantRefused:
		e.Note("", "%s refused: %s", what, strings.Join(no, "; "))
		return nil
	case !all && len(yes) > 0, len(yes) == len(seats):
		return nil
	case len(no) > 0 && (all || len(lost) == 0):
		return &lab.Failure{What: what, Want: "accepted", Got: strings.Join(no, "; ")}
	}
	return fmt.Errorf("could not tell whether a %s is accepted: %s", what, strings.Join(lost, "; "))
}

// either refuses two questions that exclude each other, and none at all.
func either(acceptedAsked, refusedAsked bool) error {
	if acceptedAsked == refusedAsked {
		return fmt.Errorf("expected one of accepted and refused")
	}
	return nil
}

// asked reads an argument that may be true, false or absent.
func asked(text string) (want, given bool, err error) {
	switch strings.ToLower(text) {
	case "":
		return false, false, nil
	case "true", "yes":
		return true, true, nil
	case "false", "no":
		return false, true, nil
	}
	return false, false, fmt.Errorf("%q: expected true or false", text)
}

// wrong is a Failure unless got is want.
func wrong[T comparable](what string, want, got T) error {
	if want == got {
		return nil
	}
	return &lab.Failure{What: what, Want: fmt.Sprint(want), Got: fmt.Sprint(got)}
}

package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Wiretap asks whether a stranger can listen to what members say to each other:
// he connects to a peer port, takes a follower's place, and waits for what a
// client of the lab writes. Like the check of writes it writes the probe key;
// the follower takes its place back at once.
type Wiretap struct {
	Member  lab.Target `default:"leader" doc:"whose peer port is tapped; only a leader has something to say"`
	With    string     `default:"none" doc:"who listens: none, foreign or any other of check handshake"`
	Heard   bool       `doc:"what the client wrote is heard"`
	Refused bool       `doc:"he is not let in"`
}

// Valid implements the check of arguments.
func (w *Wiretap) Valid() error {
	switch {
	case !slices.Contains(callers, w.With):
		return fmt.Errorf("with: %q: expected one of %s", w.With, strings.Join(callers, ", "))
	case w.Heard == w.Refused:
		return fmt.Errorf("expected one of heard and refused")
	}
	return nil
}

// Doc implements lab.Check.
func (*Wiretap) Doc() string {
	return "asks whether a stranger at a peer port can read what clients write, by taking a follower's place"
}

// Touches says how much of an adopted cluster it changes.
func (*Wiretap) Touches() lab.Touch { return lab.Lasts }

// Holds implements lab.Check.
func (w *Wiretap) Holds(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, w.Member)
	if err != nil {
		return err
	}
	who, err := (&Handshake{With: w.With}).caller(ctx, e, m)
	if err != nil {
		return err
	}
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		return err
	}
	defer cli.Close()
	text := fmt.Sprintf("for nobody else %x", time.Now().UnixNano())
	r, err := etcd.Tap(ctx, m, who, text, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience(e))
		defer cancel()
		_, err := cli.Put(ctx, ProbeKey, text)
		return err
	})
	what := fmt.Sprintf("wiretap at %s by a client: %s", m.Name, w.With)
	switch {
	case err != nil:
		return fmt.Errorf("could not look: %w", err)
	case w.Refused && r.Accepted:
		return &lab.Failure{What: what, Want: "refused", Got: "heard " + r.Body}
	case w.Heard && !r.Accepted:
		return &lab.Failure{What: what, Want: "heard", Got: r.Why}
	}
	e.Note(m.Name, "%s: %s", what, r)
	return nil
}

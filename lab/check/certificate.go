package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Certificate examines the certificates that lie on members' hosts, which is
// what a member will start with: ask before it is restarted.
type Certificate struct {
	Member lab.Target    `need:"yes" doc:"the members"`
	Pair   string        `doc:"server, peer or client; all when absent"`
	Left   time.Duration `doc:"they are good for at least so long"`
	Finds  string        `doc:"something is wrong with one of them, and the finding says this; absent: they are all in order"`
}

// Valid implements the check of arguments.
func (c *Certificate) Valid() error {
	if c.Pair != "" && !slices.Contains(etcd.Pairs, c.Pair) {
		return fmt.Errorf("pair: %q: expected server, peer or client", c.Pair)
	}
	return nil
}

// Doc implements lab.Check.
func (*Certificate) Doc() string {
	return "examines certificates on members' hosts: key and certificate belong together, trusted, not ended, right names"
}

// Holds implements lab.Check.
func (c *Certificate) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, c.Member)
	if err != nil {
		return err
	}
	pairs := etcd.Pairs
	if c.Pair != "" {
		pairs = []string{c.Pair}
	}
	for _, m := range seats {
		if m.PKI == "" {
			return fmt.Errorf("could not look: this lab has no certificates: set `cluster.tls: mutual`")
		}
		var found []string
		for _, pair := range pairs {
			err := etcd.Examine(ctx, m, pair, c.Left)
			var f *lab.Failure
			switch {
			case errors.As(err, &f):
				found = append(found, f.Error())
			case err != nil:
				return fmt.Errorf("could not look: %w", err)
			}
		}
		all := strings.Join(found, "; ")
		switch {
		case c.Finds == "" && len(found) > 0:
			return &lab.Failure{What: "certificates of " + m.Name, Want: "in order", Got: all}
		case c.Finds != "" && !strings.Contains(all, c.Finds):
			if all == "" {
				all = "nothing"
			}
			return &lab.Failure{What: "what is wrong with the certificates of " + m.Name, Want: fmt.Sprintf("%q", c.Finds), Got: all}
		case c.Finds != "":
			e.Note(m.Name, "found: %s", all)
		}
	}
	return nil
}

package etcd

import (
	"context"
	"fmt"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
)

// Seats finds the seats a target was resolved to. An empty target is an error.
func Seats(c *lab.Cluster, t lab.Target) ([]*lab.Member, error) {
	if len(t.Names) == 0 {
		return nil, fmt.Errorf("%q means no member", t.Role)
	}
	var out []*lab.Member
	for _, name := range t.Names {
		m, err := c.Member(name)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// Seat is Seats for verbs that work on exactly one.
func Seat(c *lab.Cluster, t lab.Target) (*lab.Member, error) {
	seats, err := Seats(c, t)
	if err != nil {
		return nil, err
	}
	if len(seats) != 1 {
		return nil, fmt.Errorf("%s: expected one member, got %d", t, len(seats))
	}
	return seats[0], nil
}

// Answering lists the members that answer and vote, by a look: the leader
// first, then who follows one, then who knows none. It is whom an operator
// would send a command to. When nobody answers it is an error.
func Answering(ctx context.Context, e *lab.Env) ([]*lab.Member, error) {
	return answering(e.Cluster, e.Look(ctx))
}

func answering(c *lab.Cluster, look []lab.Status) ([]*lab.Member, error) {
	rank := map[string]int{"leader": 0, "follower": 1, "none": 2}
	type candidate struct {
		seat *lab.Member
		rank int
	}
	var up []candidate
	for i, s := range look {
		if r, votes := rank[s.Role]; s.Up && !s.Absent && votes {
			up = append(up, candidate{c.Seats[i], r})
		}
	}
	if len(up) == 0 {
		return nil, fmt.Errorf("no voting member answers: %s", firstError(look))
	}
	slices.SortStableFunc(up, func(a, b candidate) int { return a.rank - b.rank })
	var out []*lab.Member
	for _, u := range up {
		out = append(out, u.seat)
	}
	return out, nil
}

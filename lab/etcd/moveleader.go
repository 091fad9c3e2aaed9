package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// transfer is what a hand-over says that came to nothing. raft gives one up
// after an election timeout, when the other member was not level by then, and
// etcd goes on waiting until the deadline of whoever asked.
var transfer = append([]string{"deadline exceeded", "leader transfer took too long", "no leader endpoint given"}, disturbed...)

// MoveLeader hands leadership over to a voting member; nil when it leads
// already. A hand-over that raft has given up is asked for again, as long as
// ctx allows. Somebody else who leads after an acknowledged move is a
// *lab.Failure.
func MoveLeader(ctx context.Context, e *lab.Env, to *lab.Member) error {
	for {
		leader, id, err := leads(ctx, e, to)
		if err != nil {
			return err
		}
		if leader == to {
			e.Note(to.Name, "leads")
			return nil
		}
		// It must be sent to the leader (FE29).
		limit := "--command-timeout=" + (time.Second + 2*e.Spec.Election).String()
		_, err = Tool(ctx, e, leader, "etcdctl", "move-leader", id, limit)
		if err == nil {
			break
		}
		var exit *lab.ExitError
		if !errors.As(err, &exit) || !says(exit, transfer...) || !pause(ctx, 100*time.Millisecond) {
			return err
		}
		e.Note(leader.Name, "the hand-over came to nothing in time: once more")
	}
	// etcd answers when the other one leads: what is left is that a look sees it.
	soon, cancel := context.WithTimeout(ctx, time.Second+2*e.Spec.Election)
	defer cancel()
	var got string
	err := lab.Until(soon, to.Name+" to lead", func(ctx context.Context) error {
		for _, s := range e.Look(ctx) {
			if s.Up && s.Role == "leader" {
				got = s.Name
			}
		}
		if got != to.Name {
			return fmt.Errorf("%q leads", got)
		}
		return nil
	})
	if err != nil && got != "" {
		return &lab.Failure{What: "leader after an acknowledged move", Want: to.Name, Got: got}
	}
	return err
}

// leads finds the leader, and the id of the member that is to lead. During an
// election there is none for a moment.
func leads(ctx context.Context, e *lab.Env, to *lab.Member) (leader *lab.Member, id string, err error) {
	soon, cancel := context.WithTimeout(ctx, time.Second+2*e.Spec.Election)
	defer cancel()
	err = lab.Until(soon, "a leader that could hand over", func(ctx context.Context) error {
		for i, s := range e.Look(ctx) {
			if s.Up && s.Role == "leader" {
				leader = e.Seats[i]
			}
			if s.Name == to.Name {
				id = s.ID
			}
		}
		if leader == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	if err == nil && id == "" {
		err = fmt.Errorf("%s is no member", to.Name)
	}
	return leader, id, err
}

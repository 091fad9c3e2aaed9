package etcd

import (
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
)

// Lag is how many raft entries a member has still to apply to be where the
// leader is, by one look. Without a leader, or without an answer of the
// member, it is unknown.
func Lag(look []lab.Status, name string) (int, error) {
	var leader, member *lab.Status
	for i, s := range look {
		if s.Up && s.Role == "leader" && (leader == nil || s.Term > leader.Term) {
			leader = &look[i]
		}
		if s.Name == name {
			member = &look[i]
		}
	}
	switch {
	case member == nil:
		return 0, fmt.Errorf("no member %q in this lab", name)
	case leader == nil:
		return 0, fmt.Errorf("there is no leader to be behind of")
	case !member.Up:
		return 0, fmt.Errorf("%s does not answer: %s", name, member.Error)
	case member.Applied >= leader.Index:
		return 0, nil
	}
	return int(leader.Index - member.Applied), nil
}

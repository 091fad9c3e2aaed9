// Package recovery holds the operations that bring a cluster back, or from one
// state to another: one file per operation, each a struct whose exported fields
// are its arguments and what it has decided; see package operation for how they
// survive whoever performs them.
//
// An operation decides by what the cluster says: the member list that a quorum
// agrees on, ids, hashes, what lies on the hosts. Its steps run the tools an
// operator would run. What is in the way is renamed, with the operation's token
// in its name, and never deleted: the way back finds it there.
package recovery

import (
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Kinds makes an empty operation of a name, for operation.Resume and
// operation.Rollback.
func Kinds(name string) (operation.Operation, bool) {
	op, ok := kinds()[name]
	return op, ok
}

// kinds is the table of all operations.
func kinds() map[string]operation.Operation {
	return map[string]operation.Operation{
		"replace":         &Replace{},
		"grow":            &Grow{},
		"shrink":          &Shrink{},
		"switch":          &Stretch{},
		"rolling-restart": &RollingRestart{},
		"defrag-all":      &Defrag{},
		"free-space":      &FreeSpace{},
	}
}

package action

import (
	"errors"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// ahead are the options of an operation before which a state of the lab is saved,
// where a drill asks for that, and that is to be cut as in cutAfter.
func ahead(op string, save bool, cut int) operation.Options {
	o := cutAfter(cut)
	if save {
		o.Ahead = vault.Ahead(op)
	}
	return o
}

// cutAfter are the options of an operation that is to end after n records of
// its journal as if killed there, and of one that is not when n is 0.
func cutAfter(n int) operation.Options {
	if n <= 0 {
		return operation.Options{}
	}
	return operation.Options{Written: operation.Cut(n)}
}

// cutShort turns the end of an operation that was to be cut into a success, and
// every other end of it into an error.
func cutShort(e *lab.Env, n int, err error) error {
	switch {
	case n <= 0:
		return err
	case operation.WasCut(err):
		open, oerr := operation.Unfinished(e.Cluster)
		if oerr != nil {
			return oerr
		}
		if open == nil {
			return fmt.Errorf("cut: %d: record %d is the last one of this operation: it is over", n, n)
		}
		e.Note("", "cut as if killed: %s", open)
		return nil
	case err != nil:
		return err
	}
	return errors.New("cut: the operation ended before it had so many records")
}

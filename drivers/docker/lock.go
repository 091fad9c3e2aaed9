package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/etcdrill/etcdrill/lab"
)

// lock takes the lock on a file when it is free, and returns how to give it
// back. The system gives it back when this process ends.
func lock(ctx context.Context, path, what string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = lab.Until(ctx, what, func(context.Context) error {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("it holds %s", path)
		}
		return err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

package check

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// File asks whether something is there on a host.
type File struct {
	Member lab.Target `need:"yes" doc:"on whose hosts"`
	Path   string     `need:"yes" doc:"file or directory, relative to the lab's directory there"`
	There  string     `default:"true" doc:"true or false"`
}

// Valid implements the check of arguments.
func (f *File) Valid() error {
	if path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || strings.HasPrefix(f.Path, "..") || f.Path == "." {
		return fmt.Errorf("path: %q: expected a relative path inside the lab's directory", f.Path)
	}
	_, given, err := asked(f.There)
	if err == nil && !given {
		err = errors.New("expected true or false")
	}
	if err != nil {
		return fmt.Errorf("there: %w", err)
	}
	return nil
}

// Doc implements lab.Check.
func (*File) Doc() string { return "asks whether a file or directory is there on a host" }

// Holds implements lab.Check.
func (f *File) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, f.Member)
	if err != nil {
		return err
	}
	want, _, _ := asked(f.There)
	for _, m := range seats {
		_, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"test", "-e", path.Join(m.Host.Dir(), f.Path)}})
		var exit *lab.ExitError
		gone := errors.As(err, &exit) && exit.Code == 1
		if err != nil && !gone {
			return fmt.Errorf("could not look: %w", err)
		}
		if gone == want {
			return &lab.Failure{What: f.Path + " on " + m.Name, Want: there(want), Got: there(!want)}
		}
	}
	return nil
}

func there(is bool) string {
	if is {
		return "there"
	}
	return "not there"
}

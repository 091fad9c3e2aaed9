package action

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Snapshot saves a member's state into a file on its host.
type Snapshot struct {
	Member  lab.Target `need:"yes" doc:"whose state; a snapshot is what this one member knows"`
	File    string     `need:"yes" doc:"path on the member's host, relative to the lab's directory there"`
	Replace bool       `doc:"a file of that name may be replaced"`
}

// Valid implements the check of arguments.
func (a *Snapshot) Valid() error {
	if path.IsAbs(a.File) || path.Clean(a.File) != a.File || strings.HasPrefix(a.File, "..") || a.File == "." {
		return fmt.Errorf("file: %q: expected a relative path inside the lab's directory", a.File)
	}
	return nil
}

// Doc implements lab.Action.
func (*Snapshot) Doc() string {
	return "saves a member's state into a file on its host and verifies it: trailer, revision"
}

// Do implements lab.Action.
func (a *Snapshot) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	file := path.Join(m.Host.Dir(), a.File)
	if !a.Replace {
		there, err := etcd.Exists(ctx, m, file)
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("%s: %s exists already: choose another name, or say replace", m.Name, a.File)
		}
	}
	// What must be in it at least: where the cluster is, as far as there is a
	// quorum to say so.
	floor, err := a.floor(ctx, e)
	if err != nil {
		e.Note(m.Name, "no linearizable read before the snapshot, so it may lack what others have: %s", err)
	}
	if _, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"mkdir", "-p", "-m", "0700", path.Dir(file)}}); err != nil {
		return err
	}
	if _, err := etcd.Tool(ctx, e, m, "etcdctl", "snapshot", "save", file, etcd.TimeLeft(ctx)); err != nil {
		return err
	}
	copied, err := snapshot.Fetch(ctx, m.Host, file, os.TempDir())
	if err != nil {
		return fmt.Errorf("etcdctl said it saved %s on %s, and it cannot be read: %w", a.File, m.Name, err)
	}
	defer os.Remove(copied)
	_, size, err := etcd.VerifyFile(a.File, copied)
	if err != nil {
		return err
	}
	rev, err := etcd.FileRevision(copied)
	if err != nil {
		return err
	}
	e.Note(m.Name, "snapshot %s: %d bytes, SHA-256 trailer right, revision %d", a.File, size, rev)
	if rev < floor {
		return &lab.Failure{What: fmt.Sprintf("revision of snapshot %s, of %s", a.File, m.Name), Want: fmt.Sprintf("at least %d, where the cluster was before", floor), Got: fmt.Sprint(rev)}
	}
	return nil
}

// floor is the revision a linearizable read gives.
func (a *Snapshot) floor(ctx context.Context, e *lab.Env) (rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return 0, err
	}
	err = local(e, up[0], func(cli *clientv3.Client) error {
		r, err := cli.Get(ctx, "health", clientv3.WithKeysOnly())
		if err == nil {
			rev = r.Header.Revision
		}
		return err
	})
	return rev, err
}

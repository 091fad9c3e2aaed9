package recovery

import (
	"context"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Place is a host as an operation found it when it was decided.
type Place struct {
	Name   string // of the seat
	Target bool   `json:",omitempty"` // it becomes a member of the restored cluster
	Ran    bool   `json:",omitempty"` // its etcd ran
	Config bool   `json:",omitempty"` // it had a configuration
	Dir    bool   `json:",omitempty"` // it had a data directory
	Away   bool   `json:",omitempty"` // it could not be looked at, and is no target
	Old    string `json:",omitempty"` // whose the data in it was; empty without any
	New    string `json:",omitempty"` // whose it will be
}

// dirs are the directories of one seat that an operation works with. All are
// inside the data directory, and so on one filesystem with it, which may be a
// mount point: what goes from one to the other goes by rename.
type dirs struct{ data, fresh, before string }

func dirsOf(m *lab.Member, token string) dirs {
	return dirs{data: m.DataDir, fresh: path.Join(m.DataDir, "restore-"+token), before: path.Join(m.DataDir, "before-"+token)}
}

// Contents tells whose the data in directories is: the identity that the WAL
// in each of them tells, empty where there is no WAL. It asks the host once.
func Contents(ctx context.Context, m *lab.Member, dirs ...string) ([]string, error) {
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: append([]string{"sh", "-c", `for d in "$@"; do
  set -- "$d"/member/wal/*.wal
  if [ -e "$1" ]; then head -c ` + strconv.Itoa(etcd.WALHead) + ` "$1" | od -An -v -tx1 | tr -d ' \n'; fi
  echo
done`, "sh"}, dirs...)})
	if err != nil {
		return nil, fmt.Errorf("%s: whose data there is: %w", m.Name, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out.Stdout), "\n"), "\n")
	if len(lines) != len(dirs) {
		return nil, fmt.Errorf("%s: whose data there is: %d answers for %d directories: %.200q", m.Name, len(lines), len(dirs), out.Stdout)
	}
	for i, l := range lines {
		if l == "" {
			continue
		}
		head, err := hex.DecodeString(l)
		if err != nil {
			return nil, fmt.Errorf("%s: whose data there is: %w", m.Name, err)
		}
		id, err := etcd.WALIdentity(head)
		if err != nil {
			// It is there, and is nobody's: damaged, or not of etcd.
			lines[i] = "unknown: " + err.Error()
			continue
		}
		lines[i] = id.String()
	}
	return lines, nil
}

// there tells of paths on a host whether they are there. It asks the host once.
func there(ctx context.Context, m *lab.Member, paths ...string) ([]bool, error) {
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: append([]string{"sh", "-c", `for p in "$@"; do if [ -e "$p" ]; then echo yes; else echo no; fi; done`, "sh"}, paths...)})
	if err != nil {
		return nil, fmt.Errorf("%s: looking for %s: %w", m.Name, strings.Join(paths, ", "), err)
	}
	said := strings.Fields(string(out.Stdout))
	if len(said) != len(paths) {
		return nil, fmt.Errorf("%s: looking for %s: %.200q", m.Name, strings.Join(paths, ", "), out.Stdout)
	}
	is := make([]bool, len(said))
	for i, s := range said {
		is[i] = s == "yes"
	}
	return is, nil
}

// found looks at a seat: what there is before anything is done. A WAL that lies
// elsewhere is a *lab.Failure, see etcd.LogInside; every other error says that
// the seat could not be looked at.
func found(ctx context.Context, m *lab.Member) (Place, error) {
	p := Place{Name: m.Name}
	st, err := m.Proc.State(ctx)
	if err != nil {
		return p, fmt.Errorf("process of %s: %w", m.Name, err)
	}
	p.Ran = st.Running
	if p.Config, err = etcd.Configured(ctx, m); err != nil {
		return p, err
	}
	if err := etcd.LogInside(ctx, m); err != nil {
		return p, err
	}
	is, err := there(ctx, m, m.DataDir)
	if err != nil {
		return p, err
	}
	p.Dir = is[0]
	ids, err := Contents(ctx, m, m.DataDir)
	if err != nil {
		return p, err
	}
	p.Old = ids[0]
	return p, nil
}

// free is how many bytes there are left for a path of a host, or for the
// nearest directory above it that exists.
func free(ctx context.Context, m *lab.Member, at string) (int64, error) {
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", `d=$1; while [ ! -e "$d" ]; do d=$(dirname "$d"); done; df -Pk "$d"`, "sh", at}})
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(out.Stdout)), "\n")
	f := strings.Fields(lines[len(lines)-1])
	if len(f) < 6 {
		return 0, fmt.Errorf("%s: df answered %.200q", m.Name, out.Stdout)
	}
	kb, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: df answered %.200q", m.Name, out.Stdout)
	}
	return kb << 10, nil
}

// named shows an identity, or that there is none.
func named(id string) string {
	if id == "" {
		return "no data"
	}
	return id
}

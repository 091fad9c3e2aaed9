package action

import (
	"context"
	"fmt"
	"path"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Copy copies a file or directory on a host as it is, whoever writes to it: for
// showing what a nightly tar of a data directory is worth.
type Copy struct {
	Member  lab.Target `need:"yes" doc:"on whose host"`
	From    string     `need:"yes" doc:"file or directory, relative to the lab's directory there, such as data"`
	To      string     `need:"yes" doc:"where the copy goes, relative to the same"`
	Replace bool       `doc:"what is there is deleted first; the member's process must be down"`
}

// Doc implements lab.Action.
func (*Copy) Doc() string {
	return "copies a file or directory on a member's host by hand, as it is at the moment, without asking who writes to it"
}

// Valid implements the check of arguments.
func (a *Copy) Valid() error {
	for key, p := range map[string]string{"from": a.From, "to": a.To} {
		if err := (&Snapshot{File: p}).Valid(); err != nil {
			return fmt.Errorf("%s: %q: expected a relative path inside the lab's directory", key, p)
		}
	}
	if a.From == a.To {
		return fmt.Errorf("from, to: %q: expected two paths", a.From)
	}
	return nil
}

// Do implements lab.Action.
func (a *Copy) Do(ctx context.Context, e *lab.Env) error {
	m, err := etcd.Seat(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	from, to := path.Join(m.Host.Dir(), a.From), path.Join(m.Host.Dir(), a.To)
	there, err := etcd.Exists(ctx, m, to)
	if err != nil {
		return err
	}
	if there && !a.Replace {
		return fmt.Errorf("%s: %s exists already: choose another name, or say replace", m.Name, a.To)
	}
	if there {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return err
		}
		if st.Running {
			return &lab.Failure{What: "copy over " + a.To + " of " + m.Name + " refused: its process", Want: "down", Got: "running"}
		}
		if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-rf", "--", to}}); err != nil {
			return err
		}
	}
	_, err = e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"cp", "-a", "--", from, to}})
	return err
}

// Shell implements lab.Shelled.
func (a *Copy) Shell() (do, undo []string) {
	ssh := "ssh " + who(a.Member) + " "
	var lines []string
	if a.Replace {
		lines = append(lines, ssh+"rm -rf "+word(a.To))
	}
	return shell(append(lines, ssh+"cp -a "+word(a.From)+" "+word(a.To))...)
}

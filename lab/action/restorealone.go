package action

import (
	"context"
	"fmt"
	"path"
	"strconv"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// RestoreAlone restores single members, as runbooks without guards do: it is
// for showing what comes of that. The right way is Restore.
type RestoreAlone struct {
	Member lab.Target `need:"yes" doc:"the members, each by itself; their processes must be down"`
	From   string     `need:"yes" doc:"the host on which the snapshot lies"`
	File   string     `need:"yes" doc:"the snapshot, below the lab's directory there"`
	Token  string     `doc:"cluster token; the old one when absent"`
	Bump   int64      `doc:"revisions to add, with everything before marked as compacted; none when absent"`
	Start  bool       `doc:"start them then, all at once"`
}

// Doc implements lab.Action.
func (*RestoreAlone) Doc() string {
	return "restores single members by hand, without any of the guards of restore, to show what comes of it"
}

// Valid implements the check of arguments.
func (a *RestoreAlone) Valid() error {
	if a.Bump < 0 {
		return fmt.Errorf("bump: %d: expected 0 or more", a.Bump)
	}
	return nil
}

// Do implements lab.Action.
func (a *RestoreAlone) Do(ctx context.Context, e *lab.Env) error {
	targets, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	source, err := e.Member(a.From)
	if err != nil {
		return err
	}
	data, err := source.Host.Get(ctx, path.Join(source.Host.Dir(), a.File))
	if err != nil {
		return err
	}
	err = etcd.Each(targets, func(_ int, m *lab.Member) error {
		if err := etcd.Aside(ctx, e, m, old(m)); err != nil {
			return err
		}
		s, err := etcd.ReadSettings(ctx, m)
		if err != nil {
			return err
		}
		if a.Token != "" {
			s.Set("initial-cluster-token", a.Token)
			if err := etcd.WriteSettings(ctx, m, s); err != nil {
				return err
			}
		}
		copied := path.Join(m.Host.Dir(), "by-hand.snapshot")
		if err := m.Host.Put(ctx, copied, 0o600, data); err != nil {
			return err
		}
		args := []string{"snapshot", "restore", copied, "--data-dir=" + m.DataDir, "--name=" + m.Name, "--initial-cluster=" + fmt.Sprint(s.Get("initial-cluster")),
			"--initial-cluster-token=" + fmt.Sprint(s.Get("initial-cluster-token")), "--initial-advertise-peer-urls=" + m.PeerURL}
		if a.Bump > 0 {
			args = append(args, "--bump-revision="+strconv.FormatInt(a.Bump, 10), "--mark-compacted")
		}
		if _, err := etcd.Tool(ctx, e, m, "etcdutl", args...); err != nil {
			return err
		}
		there, err := etcd.Exists(ctx, m, path.Join(m.DataDir, "member", "wal"))
		if err == nil && !there {
			err = &lab.Failure{What: "data of " + m.Name + " after a restore that exited 0", Want: "a WAL", Got: "none"}
		}
		return err
	})
	if err != nil || !a.Start {
		return err
	}
	return etcd.Each(targets, func(_ int, m *lab.Member) error { return etcd.Start(ctx, e, m) })
}

// Shell implements lab.Shelled.
func (a *RestoreAlone) Shell() (do, undo []string) {
	bump := ""
	if a.Bump > 0 {
		bump = fmt.Sprintf(" --bump-revision=%d --mark-compacted", a.Bump)
	}
	token := ""
	if a.Token != "" {
		token = " --initial-cluster-token=" + word(a.Token)
	}
	return shell("ssh " + who(a.Member) + " etcdutl snapshot restore " + word(a.File) + token + bump + " …")
}

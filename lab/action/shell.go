package action

import (
	"fmt"
	"sort"

	"github.com/etcdrill/etcdrill/lab"
)

// What each action amounts to, as an operator would type it; see lab.Shelled.
// An action has no undo of its own. Whom it concerns stands as <role> where it
// is known only when the step begins.

const etcdctl = "etcdctl "

func who(t lab.Target) string {
	if t.Role == "" {
		return "<any>"
	}
	if _, role := lab.Roles[t.Role]; role {
		return "<" + t.Role + ">"
	}
	return t.Role
}

// via is the endpoint flag of a command that goes through given members.
func via(t lab.Target) string {
	if t.Role == "" {
		return ""
	}
	return " --endpoints=" + who(t)
}

func word(s string) string { return lab.Quote([]string{s}) }

func flag(on bool, text string) string {
	if on {
		return " " + text
	}
	return ""
}

func shell(lines ...string) (do, undo []string) { return lines, nil }

// Shell implements lab.Shelled.
func (p *Put) Shell() (do, undo []string) {
	return shell(etcdctl + "put " + word(p.Key) + " " + word(p.Value) + via(p.Through))
}

// Shell implements lab.Shelled.
func (g *Get) Shell() (do, undo []string) {
	return shell(etcdctl + "get " + word(g.Key) + flag(g.Serializable, "--consistency=s") + via(g.Through))
}

// Shell implements lab.Shelled.
func (d *Delete) Shell() (do, undo []string) {
	return shell(etcdctl + "del " + word(d.Key) + flag(d.Prefix, "--prefix") + via(d.Through))
}

// Shell implements lab.Shelled.
func (t *Txn) Shell() (do, undo []string) {
	other := ""
	if t.Else != "" {
		other = fmt.Sprintf("put %s %s", word(t.Key), word(t.Else))
	}
	return shell(fmt.Sprintf("printf '%%s\\n\\n' %s | %stxn%s", lab.Quote([]string{t.compare(), fmt.Sprintf("put %s %s", word(t.Key), word(t.Then)), other}), etcdctl, via(t.Through)))
}

// Shell implements lab.Shelled.
func (s *Seed) Shell() (do, undo []string) {
	return shell(fmt.Sprintf("for i in $(seq %d); do %sput %s$i \"$(head -c %d /dev/urandom | base64)\"; done", s.Count, etcdctl, s.Prefix, int64(s.Size)))
}

// Shell implements lab.Shelled.
func (l *Lease) Shell() (do, undo []string) {
	lines := []string{fmt.Sprintf("%slease grant %d", etcdctl, int(l.TTL.Seconds())), etcdctl + "put --lease=ID lease/" + l.Name + " " + word(l.Value)}
	if l.Key != "" {
		lines = append(lines, etcdctl+"put --lease=ID "+word(l.Key)+" "+word(l.Value))
	}
	return shell(lines...)
}

// Shell implements lab.Shelled.
func (k *Keepalive) Shell() (do, undo []string) {
	return shell(etcdctl + "lease keep-alive --once ID  # of lease/" + k.Name)
}

// Shell implements lab.Shelled.
func (r *Revoke) Shell() (do, undo []string) {
	return shell(etcdctl + "lease revoke ID  # of lease/" + r.Name)
}

// Shell implements lab.Shelled.
func (a *MemberAdd) Shell() (do, undo []string) {
	m := who(a.Member)
	url := "https://" + m + ":2380"
	if a.URL == "wrong" {
		url = "https://nobody-listens-here:2380"
	}
	lines := []string{etcdctl + "member add " + m + " --peer-urls=" + url + flag(a.Learner, "--learner")}
	if a.Start && a.URL != "wrong" {
		lines = append(lines, "ssh "+m+" etcd --initial-cluster=LIST --initial-cluster-state=existing …")
	}
	return shell(lines...)
}

// Shell implements lab.Shelled.
func (p *MemberPromote) Shell() (do, undo []string) {
	return shell(etcdctl + "member promote ID  # of " + who(p.Member))
}

// Shell implements lab.Shelled.
func (r *MemberRemove) Shell() (do, undo []string) {
	return shell(etcdctl+"member list", etcdctl+"member remove ID  # of "+who(r.Member))
}

// Shell implements lab.Shelled.
func (u *MemberUpdate) Shell() (do, undo []string) {
	return shell(etcdctl + "member update ID --peer-urls=URL  # of " + who(u.Member) + ", " + u.URL)
}

// Shell implements lab.Shelled.
func (m *MoveLeader) Shell() (do, undo []string) {
	return shell(etcdctl + "move-leader ID --endpoints=<leader>  # to " + who(m.To))
}

// Shell implements lab.Shelled.
func (s *Start) Shell() (do, undo []string) {
	return shell("ssh " + who(s.Member) + " systemctl start etcd")
}

// Shell implements lab.Shelled.
func (s *Stop) Shell() (do, undo []string) {
	return shell("ssh " + who(s.Member) + " systemctl stop etcd")
}

// Shell implements lab.Shelled.
func (r *Restart) Shell() (do, undo []string) {
	return shell("ssh " + who(r.Member) + " systemctl restart etcd")
}

// Shell implements lab.Shelled.
func (r *Reconfigure) Shell() (do, undo []string) {
	var lines []string
	for k, v := range r.Set {
		lines = append(lines, fmt.Sprintf("ssh %s: set %s: %s in etcd.yaml", who(r.Member), k, v))
	}
	sort.Strings(lines)
	if r.Restart {
		lines = append(lines, "ssh "+who(r.Member)+" systemctl restart etcd")
	}
	return shell(lines...)
}

// Shell implements lab.Shelled.
func (c *Compact) Shell() (do, undo []string) {
	rev := "CURRENT"
	if c.Revision > 0 {
		rev = fmt.Sprint(c.Revision)
	}
	return shell(etcdctl + "compact " + rev + flag(c.Physical, "--physical"))
}

// Shell implements lab.Shelled.
func (d *Defrag) Shell() (do, undo []string) {
	return shell(etcdctl + "defrag --endpoints=" + who(d.Member) + "  # one by one, the leader last")
}

// Shell implements lab.Shelled.
func (*Disarm) Shell() (do, undo []string) {
	return shell(etcdctl+"alarm disarm", etcdctl+"alarm list")
}

// Shell implements lab.Shelled.
func (s *Snapshot) Shell() (do, undo []string) {
	return shell(etcdctl + "snapshot save " + word(s.File) + " --endpoints=" + who(s.Member))
}

// Shell implements lab.Shelled.
func (f *ForceNewCluster) Shell() (do, undo []string) {
	m := who(f.Member)
	return shell("ssh "+m+" cp -a DATA DATA.before", "ssh "+m+" etcd --force-new-cluster …", "ssh "+m+" etcd …  # again, without the flag")
}

// Shell implements lab.Shelled.
func (w *Watch) Shell() (do, undo []string) {
	rev := ""
	if w.FromRevision > 0 {
		rev = fmt.Sprintf(" --rev=%d", w.FromRevision)
	}
	return shell(etcdctl + "watch " + word(w.Key) + flag(w.Prefix, "--prefix") + rev + via(w.Through) + " &")
}

// Shell implements lab.Shelled.
func (*Wait) Shell() (do, undo []string) { return nil, nil }

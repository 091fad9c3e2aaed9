package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// patience is how long a proof waits for one answer. What hangs is told from
// what is slow by a second sign, never by this time alone.
const patience = 250 * time.Millisecond

// seats returns the members a target was resolved to.
func seats(e *lab.Env, t lab.Target) ([]*lab.Member, error) {
	if len(t.Names) == 0 {
		return nil, fmt.Errorf("nobody is hit: %q was not resolved to members", t.Role)
	}
	var out []*lab.Member
	for _, n := range t.Names {
		m, err := e.Member(n)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// running returns the processes of members, and an error when one of them does
// not run or is paused: what is down already cannot be broken, and a fault
// that found nothing to break must not look like one that did.
func running(ctx context.Context, ms []*lab.Member) (map[string]lab.ProcState, error) {
	out := map[string]lab.ProcState{}
	for _, m := range ms {
		st, err := m.Proc.State(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("process of %s: %w", m.Name, err)
		case !st.Running:
			return nil, fmt.Errorf("%s does not run already, there is nothing to break", m.Name)
		case st.Paused:
			return nil, fmt.Errorf("%s is paused already, heal that first", m.Name)
		}
		out[m.Name] = st
	}
	return out, nil
}

// kill ends the process of a member the hard way, and sees to it that nobody
// starts it again; nil when it does not run.
func kill(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := signalKill(ctx, e, m); err != nil {
		return err
	}
	if e.Spec.Revive {
		if err := m.Proc.Stop(ctx); err != nil {
			return fmt.Errorf("telling the supervisor of %s: %w", m.Name, err)
		}
	}
	// Some faults go on to the member's files, which nobody may have open.
	if now, err := m.Proc.State(ctx); err != nil || now.Running {
		return errors.Join(err, fmt.Errorf("process %d of %s still runs after SIGKILL", now.PID, m.Name))
	}
	return nil
}

func signalKill(ctx context.Context, e *lab.Env, m *lab.Member) error {
	st, err := m.Proc.State(ctx)
	if err != nil {
		return fmt.Errorf("process of %s: %w", m.Name, err)
	}
	err = m.Proc.Signal(ctx, "KILL")
	if errors.Is(err, lab.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("SIGKILL to %s: %w", m.Name, err)
	}
	e.Note(m.Name, "SIGKILL to process %d", st.PID)
	return nil
}

// start starts a member, unless it is no member any more.
func start(ctx context.Context, e *lab.Env, m *lab.Member) error {
	st, err := m.Proc.State(ctx)
	if err != nil {
		return fmt.Errorf("process of %s: %w", m.Name, err)
	}
	if st.Running {
		return nil
	}
	if replaced(ctx, e, m) {
		e.Note(m.Name, "%s is not the member it was before, it is not brought back", m.Name)
		return nil
	}
	if err := m.Proc.Start(ctx); err != nil {
		return etcd.WithLog(ctx, m, fmt.Errorf("start of %s: %w", m.Name, err))
	}
	e.Note(m.Name, "started")
	return nil
}

// every heals the members of a target one by one. It goes on after one that
// cannot be healed, whose host may be gone: the others can.
func every(e *lab.Env, t lab.Target, heal func(*lab.Member) error) error {
	ms, err := seats(e, t)
	for _, m := range ms {
		err = errors.Join(err, heal(m))
	}
	return err
}

// mend heals members one by one and starts who is down and still a member.
func mend(ctx context.Context, e *lab.Env, t lab.Target, heal func(*lab.Member) error) error {
	return every(e, t, func(m *lab.Member) error {
		if err := heal(m); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		return start(ctx, e, m)
	})
}

// replaced tells whether the member that had this seat before the fault is no
// member now: it was removed, and perhaps another was added in its place. What
// cannot be told, without a quorum for instance, counts as no: the old member
// is the one to bring back.
func replaced(ctx context.Context, e *lab.Env, m *lab.Member) bool {
	was := ""
	for _, s := range e.Before {
		if s.Name == m.Name {
			was = s.ID
		}
	}
	for _, s := range e.Look(ctx) {
		if s.Name == m.Name {
			return s.Absent || was != "" && s.ID != "" && s.ID != was
		}
	}
	return false
}

// answers returns nil when a member's process answers its metrics port. It
// does so without a quorum, but not before it has read its WAL.
func answers(ctx context.Context, m *lab.Member, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, _, err := etcd.Health(ctx, m, "/metrics")
	return err
}

// listens returns nil when somebody accepts connections at a URL of a host.
func listens(ctx context.Context, h lab.Host, raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := h.Dial(ctx, u.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}

// arm books on a member's host what it is to do by itself when nobody is there
// any more to heal it, see lab.DeadMan.
func arm(ctx context.Context, e *lab.Env, m *lab.Member, undo ...[]string) error {
	if e.DeadMan == nil {
		return nil
	}
	if err := e.DeadMan.Arm(ctx, e.Owner, m.Host.Name(), undo...); err != nil {
		return fmt.Errorf("dead man's switch of %s: %w", m.Name, err)
	}
	return nil
}

// disarm takes that back.
func disarm(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if e.DeadMan == nil {
		return nil
	}
	if err := e.DeadMan.Disarm(ctx, e.Owner, m.Host.Name()); err != nil {
		return fmt.Errorf("dead man's switch of %s: %w", m.Name, err)
	}
	return nil
}

// away is the proof of all faults that take processes away: it bites when all
// of them are down and their ports refuse, and is gone when all run and
// answer. Who is no member any more need not come back.
func away(ctx context.Context, e *lab.Env, ms []*lab.Member) (lab.Proof, error) {
	var down, back, unclear []string
	for _, m := range ms {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		switch {
		case st.Running && st.Paused:
			unclear = append(unclear, m.Name+" is paused")
		case st.Running:
			if err := answers(ctx, m, time.Second); err != nil {
				unclear = append(unclear, fmt.Sprintf("%s runs as process %d and does not answer yet: %s", m.Name, st.PID, err))
			} else {
				back = append(back, fmt.Sprintf("%s runs as process %d and answers", m.Name, st.PID))
			}
		default:
			if listens(ctx, m.Host, m.LocalURL) == nil || listens(ctx, m.Host, m.HealthURL) == nil {
				unclear = append(unclear, m.Name+" does not run, but its port is still open")
			} else if replaced(ctx, e, m) {
				back = append(back, m.Name+" is no member any more")
			} else {
				down = append(down, fmt.Sprintf("%s does not run (%s), its ports refuse", m.Name, st.Exit))
			}
		}
	}
	return verdict(len(ms), down, back, unclear), nil
}

// verdict adds up what was seen of n things: all bite, all are gone, or it is
// not clear.
func verdict(n int, bites, gone, unclear []string) lab.Proof {
	p := lab.Proof{Evidence: strings.Join(append(append(bites, gone...), unclear...), "; ")}
	switch n {
	case 0:
		p.Evidence = "nothing to look at"
	case len(bites):
		p.State = lab.Bites
	case len(gone):
		p.State = lab.Gone
	}
	return p
}

// aside is where a fault puts what it takes away from a member: beside the
// data directory, so that a rename is enough, and named after the fault, so
// that it is found again. It lies below the lab's directory and goes with it.
func aside(e *lab.Env, m *lab.Member, what string) string {
	return m.DataDir + "." + what + "-" + url.PathEscape(e.Owner)
}

// exists looks for a file or directory on a host.
func exists(ctx context.Context, h lab.Host, p string) (bool, error) {
	_, err := h.Run(ctx, lab.Cmd{Argv: []string{"test", "-e", p}})
	var exit *lab.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return false, nil
	}
	return err == nil, err
}

// move renames. It refuses to move onto something, or into it.
func move(ctx context.Context, e *lab.Env, m *lab.Member, from, to string) error {
	if there, err := exists(ctx, m.Host, to); err != nil {
		return err
	} else if there {
		return fmt.Errorf("%s: %s is there already", m.Name, to)
	}
	_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"mv", "--", from, to}})
	return err
}

// remove deletes files below the lab's directory and nowhere else.
func remove(ctx context.Context, e *lab.Env, m *lab.Member, p string) error {
	if dir := path.Clean(m.Host.Dir()); !strings.HasPrefix(path.Clean(p), dir+"/") {
		return fmt.Errorf("%s: %s is not below %s: not deleted", m.Name, p, dir)
	}
	_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-rf", "--", p}})
	return err
}

// nudge sends a transaction that can never hold through the given members, all
// of them when there are none. It needs a quorum, is written to the WAL of
// every member and changes nothing; it is refused like any other write. Its
// put is what a member's quota and its NOSPACE alarm look at.
func nudge(ctx context.Context, e *lab.Env, through ...*lab.Member) error {
	cli, err := etcd.Client(e.Cluster, through...)
	if err != nil {
		return err
	}
	defer cli.Close()
	_, err = cli.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(own+"nudge"), "=", -1)).
		Then(clientv3.OpPut(own+"nudge", "")).
		Commit()
	return err
}

// touch grants a lease and takes it back: unlike a nudge that makes every
// member write its database as well as its WAL, and leaves nothing. What a
// member without a leader was asked it answers only after its own time-out of
// seven seconds, so it is asked again after limit.
func touch(ctx context.Context, e *lab.Env, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		return err
	}
	defer cli.Close()
	g, err := cli.Grant(ctx, 5) // should it not be taken back, it goes by itself
	if err != nil {
		return err
	}
	_, err = cli.Revoke(ctx, g.ID)
	return err
}

// own is the prefix of keys that faults write.
const own = "etcdrill/fault/"

// operator shows commands on a host for `plan`, as an operator would type them
// there.
func operator(t lab.Target, commands ...string) []string {
	role := t.Role
	if role == "" {
		role = "member"
	}
	var out []string
	for _, c := range commands {
		out = append(out, fmt.Sprintf("ssh <%s> %s", role, c))
	}
	return out
}

// hostPort is the host:port of a URL.
func hostPort(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return "", fmt.Errorf("%s: expected a URL with a port", raw)
	}
	return u.Host, nil
}

// oneOf refuses a word that is not in the list.
func oneOf(key, word string, words ...string) error {
	for _, w := range words {
		if w == word {
			return nil
		}
	}
	return fmt.Errorf("%s: %q: expected one of %s", key, word, strings.Join(words, ", "))
}

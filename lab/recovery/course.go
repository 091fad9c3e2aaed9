package recovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// course puts the steps of a change of the membership together, and keeps the
// membership that each of them leaves: what the next one begins with.
type course struct {
	e       *lab.Env
	was     Standing
	now     Roster
	catchUp time.Duration // how long a learner may take
	steps   []operation.Step
	err     error
}

func begin(e *lab.Env, was Standing, catchUp time.Duration) *course {
	if catchUp == 0 {
		catchUp = patience
	}
	return &course{e: e, was: was, now: was.Members, catchUp: catchUp}
}

// patience with what takes as long as a database is large.
const patience = 5 * time.Minute

// done are the steps, with a last one that looks at everything.
func (c *course) done() ([]operation.Step, error) {
	if c.err != nil || len(c.steps) == 0 {
		return nil, c.err
	}
	now := c.now
	c.add(operation.Step{
		Name:  "look at the whole cluster",
		Shell: []string{"etcdctl member list", "etcdctl endpoint hashkv --cluster"},
		Gate: func(ctx context.Context, e *lab.Env) error {
			if err := c.was.stands(ctx, e, now); err != nil {
				return err
			}
			if err := serving(ctx, e, now); err != nil {
				return err
			}
			return same(ctx, e, now)
		},
	})
	return c.steps, c.err
}

func (c *course) seat(name string) *lab.Member {
	m, err := c.e.Member(name)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return &lab.Member{Name: name}
	}
	return m
}

// add appends a step, with the membership as the course has it by now.
func (c *course) add(s operation.Step) {
	s.Forecast = c.now.forecast()
	c.steps = append(c.steps, s)
}

// The names of what is put aside: what lay on a host that joins, what the way
// back took off it again, what lay on a host that left, and that again when the
// way back lets it join anew.
const (
	before = "before"
	undone = "undone"
	left   = "left"
	back   = "back"
)

// data is what a member keeps in its data directory. It is moved inside of
// that, since the directory itself may be the root of a filesystem.
func data(m *lab.Member) string { return path.Join(m.DataDir, "member") }

func (c *course) dataAside(m *lab.Member, why string) string {
	return path.Join(m.DataDir, why+"-"+c.was.Token)
}

func (c *course) configAside(m *lab.Member, why string) string {
	return m.Config + "." + why + "-" + c.was.Token
}

// put moves a member's data and configuration under other names.
func (c *course) put(ctx context.Context, e *lab.Env, m *lab.Member, why string) error {
	if err := c.putData(ctx, e, m, why); err != nil {
		return err
	}
	return etcd.Rename(ctx, e, m, m.Config, c.configAside(m, why))
}

func (c *course) putData(ctx context.Context, e *lab.Env, m *lab.Member, why string) error {
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if st.Running {
		return &lab.Failure{What: "process of " + m.Name, Want: "none on data that is moved", Got: fmt.Sprintf("pid %d runs", st.PID)}
	}
	return etcd.Rename(ctx, e, m, data(m), c.dataAside(m, why))
}

// restore puts them back where they were.
func (c *course) restore(ctx context.Context, e *lab.Env, m *lab.Member, why string) error {
	if err := etcd.Rename(ctx, e, m, c.dataAside(m, why), data(m)); err != nil {
		return err
	}
	return etcd.Rename(ctx, e, m, c.configAside(m, why), m.Config)
}

// gone wants neither data nor configuration at their place, and no process.
func gone(ctx context.Context, m *lab.Member) error {
	st, err := m.Proc.State(ctx)
	if err != nil {
		return err
	}
	if st.Running {
		return &lab.Failure{What: "process of " + m.Name, Want: "none", Got: fmt.Sprintf("pid %d runs", st.PID)}
	}
	for _, p := range []string{data(m), m.Config} {
		there, err := etcd.Exists(ctx, m, p)
		if err != nil {
			return err
		}
		if there {
			return &lab.Failure{What: m.Name + ": " + p, Want: "not there", Got: "there"}
		}
	}
	return nil
}

// at is a command as one would type it from elsewhere.
func at(m *lab.Member, argv ...string) string { return "ssh " + m.Name + " " + lab.Quote(argv) }

func (c *course) mv(m *lab.Member, why string) (do, undo []string) {
	return []string{at(m, "mv", "--", data(m), c.dataAside(m, why)), at(m, "mv", "--", m.Config, c.configAside(m, why))},
		[]string{at(m, "mv", "--", c.dataAside(m, why), data(m)), at(m, "mv", "--", c.configAside(m, why), m.Config)}
}

// closeEnough is how many raft entries a learner may be behind to be promoted.
const closeEnough = 100

// join lets a host become a voting member in four steps: what lies on it is put
// aside; it is added as a learner, which costs no quorum; it is started on an
// empty directory; it votes once it is close to the leader.
//
// A voting member cannot become a learner again: the undo of the promotion
// removes it, and what the undos of the steps before find gone is done.
func (c *course) join(name string) {
	m := c.seat(name)
	if voters, up := c.now.forecast().Voters, c.now.forecast().Up; voters > 1 && up < lab.Quorum(voters+1) && c.e.Spec.Flags["strict-reconfig-check"] != "false" {
		// Foreseen, and not tried: etcd's guard counts like this (FE21).
		c.err = errors.Join(c.err, &lab.Failure{What: "join of " + name, Want: fmt.Sprintf("%d of %d voters up, or etcd refuses to add one", lab.Quorum(voters+1), voters), Got: fmt.Sprint(up)})
	}
	was := c.now
	mv, mvBack := c.mv(m, before)
	c.add(operation.Step{
		Name: "clear " + name, Shell: mv, ShellUndo: mvBack,
		Before: func(ctx context.Context, e *lab.Env) error {
			if err := c.was.stands(ctx, e, was); err != nil {
				return err
			}
			st, err := m.Proc.State(ctx)
			if err == nil && st.Running {
				err = &lab.Failure{What: "host " + name, Want: "no etcd", Got: fmt.Sprintf("one runs, pid %d", st.PID)}
			}
			return err
		},
		Do:   func(ctx context.Context, e *lab.Env) error { return c.put(ctx, e, m, before) },
		Gate: func(ctx context.Context, e *lab.Env) error { return gone(ctx, m) },
		Undo: func(ctx context.Context, e *lab.Env) error { return c.restore(ctx, e, m, before) },
	})
	c.now = c.now.with(Entry{Name: name, Learner: true})
	learner := c.now
	c.add(operation.Step{
		Name:      "add " + name + " as a learner",
		Shell:     []string{"etcdctl member add " + name + " --peer-urls=" + m.PeerURL + " --learner"},
		ShellUndo: []string{"etcdctl member remove ID  # of " + name},
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, was, learner) },
		Do:        func(ctx context.Context, e *lab.Env) error { return etcd.AddMember(ctx, e, m, m.PeerURL, true) },
		Gate:      func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, learner) },
		Undo:      func(ctx context.Context, e *lab.Env) error { return c.leave(ctx, e, m) },
	})
	c.add(operation.Step{
		Name:      "start " + name,
		Shell:     []string{at(m, "etcd", "--config-file="+m.Config) + "  # initial-cluster-state existing"},
		ShellUndo: []string{at(m, "systemctl", "stop", "etcd"), at(m, "mv", "--", data(m), c.dataAside(m, undone))},
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, learner) },
		Do:        func(ctx context.Context, e *lab.Env) error { return etcd.JoinMember(ctx, e, m) },
		Undo: func(ctx context.Context, e *lab.Env) error {
			if err := etcd.Stop(ctx, e, m); err != nil {
				return err
			}
			if err := c.put(ctx, e, m, undone); err != nil {
				return err
			}
			return gone(ctx, m)
		},
	})
	c.now = c.now.with(Entry{Name: name})
	voter := c.now
	c.add(operation.Step{
		Name:      "promote " + name,
		Shell:     []string{"etcdctl member promote ID  # of " + name + ", when it is close to the leader"},
		ShellUndo: []string{"etcdctl member remove ID  # of " + name + ": a voter is never a learner again"},
		Limit:     c.catchUp,
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, learner, voter) },
		Do:        func(ctx context.Context, e *lab.Env) error { return etcd.PromoteMember(ctx, e, m, closeEnough) },
		Gate:      func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, voter) },
		Undo: func(ctx context.Context, e *lab.Env) error {
			_, l, err := agreed(ctx, e)
			if err != nil {
				return err
			}
			if x, ok := l.Of(m); !ok || x.Learner {
				return nil // the promotion did not come to pass: the undos of the steps before see to it
			}
			return c.leave(ctx, e, m)
		},
	})
}

// leave takes a member out that the operation has let in, handing leadership
// over first. Members that were there before are never touched.
func (c *course) leave(ctx context.Context, e *lab.Env, m *lab.Member) error {
	up, l, err := agreed(ctx, e)
	if err != nil {
		return err
	}
	x, ok := l.Of(m)
	if !ok || slices.ContainsFunc(c.was.Members, func(o Entry) bool { return o.ID == x.HexID() }) {
		return nil
	}
	if !x.Learner {
		to, err := c.heir(up, l, m)
		if err != nil {
			return err
		}
		if err := away(ctx, e, m, to); err != nil {
			return err
		}
	}
	return etcd.RemoveMember(ctx, e, m, x.ID)
}

// heir is a voting member that may lead when another goes: of those that answer
// one that was there before the operation, if there is one.
func (c *course) heir(up []*lab.Member, l etcd.Membership, not *lab.Member) (*lab.Member, error) {
	var others []*lab.Member
	for _, m := range up {
		if x, ok := l.Of(m); !ok || x.Learner || m == not {
			continue
		}
		if _, old := c.was.Members.find(m.Name); old {
			return m, nil
		}
		others = append(others, m)
	}
	if len(others) == 0 {
		return nil, &lab.Failure{What: "voting members beside " + not.Name, Want: "one that answers and can lead", Got: "none"}
	}
	return others[0], nil
}

// leader finds who leads.
func leader(ctx context.Context, e *lab.Env) (*lab.Member, error) {
	var out *lab.Member
	ctx, cancel := context.WithTimeout(ctx, agreeWithin)
	defer cancel()
	err := lab.Until(ctx, "a leader", func(ctx context.Context) error {
		names, err := lab.Pick("leader", e.Look(ctx), nil)
		if err != nil {
			return err
		}
		out, err = e.Member(names[0])
		return err
	})
	return out, err
}

// throughLeader makes a part of a step of what one member is asked for: whoever
// leads, though any would do.
func throughLeader(do func(ctx context.Context, e *lab.Env, m *lab.Member) error) func(ctx context.Context, e *lab.Env) error {
	return func(ctx context.Context, e *lab.Env) error {
		m, err := leader(ctx, e)
		if err != nil {
			return err
		}
		return do(ctx, e, m)
	}
}

// away hands leadership over from a member, if it leads.
func away(ctx context.Context, e *lab.Env, m, to *lab.Member) error {
	now, err := leader(ctx, e)
	if err != nil || now != m {
		return err
	}
	return etcd.MoveLeader(ctx, e, to)
}

// handOver moves leadership off a member that is to go or to stand still.
// There is nothing to undo: any voting member may lead.
func (c *course) handOver(from, to string) {
	m, heir, now := c.seat(from), c.seat(to), c.now
	c.add(operation.Step{
		Name:   fmt.Sprintf("hand leadership over from %s to %s", from, to),
		Shell:  []string{"etcdctl move-leader ID --endpoints=" + m.ClientURL + "  # of " + to},
		Before: func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, now) },
		Do:     func(ctx context.Context, e *lab.Env) error { return away(ctx, e, m, heir) },
		Gate: func(ctx context.Context, e *lab.Env) error {
			now, err := leader(ctx, e)
			if err == nil && now == m {
				err = &lab.Failure{What: "leader", Want: "another one than " + from, Got: from}
			}
			return err
		},
	})
}

// remove takes a member out of the list, by the id it had when that was
// decided. heir may lead instead. The undo lets a member that lived join again,
// as a new one on an empty directory; a dead one is not added again.
func (c *course) remove(name, heir string) {
	m, to, was := c.seat(name), c.seat(heir), c.now
	x, _ := was.find(name)
	id, err := strconv.ParseUint(x.ID, 16, 64)
	if err != nil {
		c.err = errors.Join(c.err, fmt.Errorf("id of %s: %w", name, err))
		return
	}
	c.now = c.now.without(name)
	now := c.now
	s := operation.Step{
		Name:   "remove " + name,
		Shell:  []string{"etcdctl member remove " + x.ID, "etcdctl lease grant 5  # the next entry, with which the removal is known on disk"},
		Limit:  c.catchUp, // of the undo
		Before: func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, was, now) },
		Do: func(ctx context.Context, e *lab.Env) error {
			if err := away(ctx, e, m, to); err != nil {
				return err
			}
			if err := etcd.RemoveMember(ctx, e, m, id); err != nil {
				return err
			}
			return writtenDown(ctx, e, to)
		},
		Gate: func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, now) },
		Undo: func(ctx context.Context, e *lab.Env) error { return c.rejoin(ctx, e, m, id) },
		ShellUndo: []string{at(m, "mv", "--", data(m), c.dataAside(m, back)), "etcdctl member add " + name + " --peer-urls=" + m.PeerURL + " --learner",
			at(m, "etcd", "--config-file="+m.Config), "etcdctl member promote ID"},
	}
	if old, _ := c.was.Members.find(name); old.Down {
		s.ShellUndo, s.Undo = []string{"# nothing: a dead member is not added again"}, nil
	}
	c.add(s)
}

// writtenDown has the members write down that a removal is committed. They learn it
// with the next entry of the log, and etcd flushes what they learned along with
// one: members that die before come back counting the one that is gone, and too
// few are left to agree. A lease that ends by itself is such an entry, and
// changes no key. One that an alarm forbids is one as well: it is refused when
// the entry is applied.
func writtenDown(ctx context.Context, e *lab.Env, through *lab.Member) error {
	_, err := etcd.Tool(ctx, e, through, "etcdctl", "lease", "grant", "5")
	var exit *lab.ExitError
	alarm := func(text string) bool { return strings.Contains(exit.Text(), text) }
	if errors.As(err, &exit) && slices.ContainsFunc([]string{"etcdserver: corrupt cluster", "etcdserver: mvcc: database space exceeded"}, alarm) {
		return nil
	}
	return err
}

// rejoin is the way back of a removal: the host becomes a member anew. Its old
// directory cannot be used again, whatever is in it: it was removed.
func (c *course) rejoin(ctx context.Context, e *lab.Env, m *lab.Member, id uint64) error {
	_, l, err := agreed(ctx, e)
	if err != nil {
		return err
	}
	if _, never := l.ByID(id); never {
		return nil
	}
	x, listed := l.Of(m)
	if listed && !x.Learner {
		return nil // it was here before
	}
	there, err := etcd.Exists(ctx, m, c.dataAside(m, back))
	if err != nil {
		return err
	}
	if !there { // what lies there is of the member that was removed
		if err := etcd.Stop(ctx, e, m); err != nil {
			return err
		}
		if err := c.putData(ctx, e, m, back); err != nil {
			return err
		}
	}
	if err := etcd.AddMember(ctx, e, m, m.PeerURL, true); err != nil {
		return err
	}
	if err := etcd.JoinMember(ctx, e, m); err != nil {
		return err
	}
	return etcd.PromoteMember(ctx, e, m, closeEnough)
}

// fence makes sure that a member that was removed, or is given up, does not
// come back: its process is stopped, its data and its configuration are put
// aside, so that whoever starts it starts nothing. A host that cannot be
// reached cannot be fenced, and the journal says so: what it has is the data of
// a member that was removed, which etcd refuses.
func (c *course) fence(name string) {
	m, now := c.seat(name), c.now
	x, member := now.find(name) // it is fenced before it is removed
	if member {
		out := x
		out.Down = true
		c.now = now.with(out)
	}
	others := c.now
	mv, mvBack := c.mv(m, left)
	if member {
		mvBack = append(mvBack, at(m, "systemctl", "start", "etcd"))
	}
	reached := func(ctx context.Context, e *lab.Env) bool {
		_, err := m.Proc.State(ctx)
		if err != nil {
			e.Note(name, "cannot be reached, and so not fenced: do not switch it on before its disk is wiped: %s", err)
		}
		return err == nil
	}
	c.add(operation.Step{
		Name: "fence " + name, Shell: append([]string{at(m, "systemctl", "stop", "etcd")}, mv...), ShellUndo: mvBack,
		Before: func(ctx context.Context, e *lab.Env) error {
			if err := c.was.stands(ctx, e, now); err != nil || !member {
				return err
			}
			if !x.Down {
				return serving(ctx, e, others)
			}
			for _, s := range e.Look(ctx) {
				if s.Name == name && s.Up {
					return &lab.Failure{What: "member " + name, Want: "dead, as when this was decided", Got: "it answers again"}
				}
			}
			return nil
		},
		Do: func(ctx context.Context, e *lab.Env) error {
			if !reached(ctx, e) {
				return nil
			}
			if err := etcd.Stop(ctx, e, m); err != nil {
				return err
			}
			return c.put(ctx, e, m, left)
		},
		Gate: func(ctx context.Context, e *lab.Env) error {
			if !reached(ctx, e) {
				return nil
			}
			return gone(ctx, m)
		},
		Undo: func(ctx context.Context, e *lab.Env) error {
			if !reached(ctx, e) {
				return nil
			}
			listed := false
			if member {
				_, l, err := agreed(ctx, e)
				if err != nil {
					return err
				}
				o, ok := l.Of(m)
				if ok && o.HexID() != x.ID {
					return nil // it has joined anew, on data of its own
				}
				listed = ok
			}
			if err := c.restore(ctx, e, m, left); err != nil || !listed {
				return err // one that was removed does not run on this any more; the undo of its removal sees to it
			}
			there, err := etcd.Exists(ctx, m, data(m))
			if err != nil || !there {
				return err
			}
			return m.Proc.Start(ctx) // it may have been cut off only; whether it lives is not for us to say
		},
	})
}

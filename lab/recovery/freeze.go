package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// A switch by snapshot (facts 2(d), method 2): the members are started again
// where no client finds them, and stand still; that is proved, and what they
// have then is what the new members begin with. Everything behind that is a
// Restore, which fences the old hosts, and which goes on at the revision where
// they stopped.

// freeze is what the steps of a switch by snapshot share.
type freeze struct {
	was     Standing
	still   time.Duration
	sources []*lab.Member
	source  *lab.Member // of them, whose snapshot it is
	restore *Restore    // its content is known once the snapshot is taken
}

// restore is the restore that is a part of a switch by snapshot; nil when there
// is none.
func (s *Switch) restore() *Restore {
	if s.Method != bySnapshot || s.Decided.Source == "" {
		return nil
	}
	return &Restore{Hosts: s.To, From: s.Decided.Source, File: "switch-" + s.Decided.Restore.Token + ".snapshot", Decided: s.Decided.Restore}
}

// decideFreeze decides what is special to a switch by snapshot.
func (s *Switch) decideFreeze(ctx context.Context, e *lab.Env, plan *SwitchPlan) error {
	if len(plan.Join) < len(s.To) {
		return &lab.Failure{What: "hosts of a switch by snapshot", Want: "none that is a member now: its way back would be gone", Got: strings.Join(s.To, ", ")}
	}
	if err := familiar(ctx, e, plan.Join); err != nil {
		return err
	}
	if err := same(ctx, e, plan.Was.Members); err != nil {
		return err
	}
	sources, err := seats(e.Cluster, plan.Was.Members.names())
	if err != nil {
		return err
	}
	for _, m := range sources {
		if d := door(m); len(d) > longestDoor {
			return &lab.Failure{What: "socket on " + m.Name, Want: fmt.Sprintf("a path of at most %d bytes", longestDoor), Got: d}
		}
	}
	plan.Source = plan.Was.Leader
	if x, ok := plan.Was.heir(); ok {
		plan.Source = x // the leader has more to do
	}
	source, err := e.Member(plan.Source)
	if err != nil {
		return err
	}
	if err := withoutUsers(ctx, e, source); err != nil {
		return err
	}

	r := &Restore{Hosts: s.To}
	if r.Decided.Places, err = r.places(ctx, e, nil); err != nil {
		return err
	}
	look := e.Look(ctx)
	known, err := knownOf(ctx, e, r.Decided.Places, look)
	if err != nil {
		return err
	}
	if err := r.identify(e, known); err != nil {
		return err
	}
	if r.Decided.Highest = known.highest; s.Bump {
		r.Decided.Bump = leap
	}
	for _, st := range look {
		r.Decided.Size = max(r.Decided.Size, st.DBSize)
	}
	if err := r.room(ctx, e); err != nil {
		return err
	}
	if err := roomFor(ctx, source, source.Host.Dir(), r.Decided.Size); err != nil {
		return err
	}
	plan.Restore = r.Decided
	return nil
}

// withoutUsers refuses a cluster with authentication: behind the door nobody
// shows a certificate, and so nobody is a user who may take a snapshot.
func withoutUsers(ctx context.Context, e *lab.Env, m *lab.Member) error {
	cli, err := etcd.Local(e.Cluster, m)
	if err != nil {
		return err
	}
	defer cli.Close()
	r, err := cli.AuthStatus(ctx)
	if err == nil && r.Enabled {
		err = &lab.Failure{What: "authentication", Want: "off for a switch by snapshot (`etcdctl auth disable`), or method stretch", Got: "on"}
	}
	return err
}

// door is the only place where a frozen member listens for clients: a socket in
// a directory that only its own user may enter.
func door(m *lab.Member) string { return path.Join(m.Host.Dir(), "door") }

// longestDoor is how long the path of a socket may be on any Unix.
const longestDoor = 103

// behind runs etcdctl against a frozen member.
func behind(e *lab.Env, m *lab.Member, args ...string) lab.Cmd {
	inside := *m
	inside.LocalURL, inside.PKI = "unix://"+door(m), ""
	return etcd.ToolCmd(e.Cluster, &inside, "etcdctl", args...)
}

// open is where a member's configuration lies while it is frozen.
func (f *freeze) open(m *lab.Member) string { return m.Config + ".open-" + f.restore.Decided.Token }

// snapshot and note are the paths of the snapshot on the host of the source, and
// of what is known about it.
func (f *freeze) snapshot() string { return path.Join(f.source.Host.Dir(), f.restore.File) }
func (f *freeze) note() string     { return f.snapshot() + ".json" }

// freezeSteps are the steps of a switch by snapshot.
func (s *Switch) freezeSteps(e *lab.Env) ([]operation.Step, error) {
	d := s.Decided
	r := s.restore()
	if r == nil {
		return nil, nil
	}
	f := &freeze{was: d.Was, still: s.Still, restore: r}
	var err error
	if f.sources, err = seats(e.Cluster, d.Was.Members.names()); err != nil {
		return nil, err
	}
	if f.source, err = e.Member(d.Source); err != nil {
		return nil, err
	}
	rest, err := r.Steps(e)
	if err != nil {
		return nil, err
	}
	here := names(f.sources)
	limit := sized(d.Restore.Size) + s.Still
	steps := []operation.Step{{
		Name: "freeze " + here,
		Shell: append(ssh(f.sources, func(m *lab.Member) string {
			return "edit " + m.Config + "  # listen-client-urls: unix://" + door(m)
		}), append(ssh(f.sources, func(*lab.Member) string { return "systemctl restart etcd &" }),
			"ssh "+f.source.Name+" etcdctl --endpoints=unix://"+door(f.source)+" endpoint status  # on each, again and again: revision R, unmoved")...),
		ShellUndo: ssh(f.sources, func(m *lab.Member) string {
			return "mv -- " + f.open(m) + " " + m.Config + "; systemctl restart etcd &"
		}),
		Limit:  limit,
		Before: func(ctx context.Context, e *lab.Env) error { return r.stands(ctx, e, untouched) },
		Do:     f.close,
		Gate: func(ctx context.Context, e *lab.Env) error {
			c, err := f.stillness(ctx, e, s.Still)
			if err == nil {
				e.Note("", "frozen: no client is let in, and no revision has moved for %s: all members are at %d, hash %08x", s.Still, c.Revision, c.Hash)
			}
			return err
		},
		Undo: f.reopen,
	}, {
		Name:      "save a snapshot of " + f.source.Name + " as it stands still",
		Shell:     []string{"ssh " + f.source.Name + " etcdctl --endpoints=unix://" + door(f.source) + " snapshot save " + f.snapshot() + "  # its revision must be R"},
		ShellUndo: []string{"ssh " + f.source.Name + " rm " + f.snapshot()},
		Limit:     limit,
		Before: func(ctx context.Context, e *lab.Env) error {
			_, err := f.stillness(ctx, e, 0)
			return err
		},
		Do: f.save,
		Gate: func(ctx context.Context, e *lab.Env) error {
			if err := f.learn(ctx); err != nil {
				return err
			}
			return f.unmoved(ctx, e)
		},
		Undo: func(ctx context.Context, e *lab.Env) error {
			_, err := e.Run(ctx, f.source.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", f.snapshot(), f.note()}})
			return err
		},
	}}
	for _, step := range rest {
		step.Before, step.Do, step.Gate = f.knowing(step.Before), f.knowing(step.Do), f.knowing(step.Gate)
		steps = append(steps, step)
	}
	first, last := &steps[2], &steps[len(steps)-1]
	first.Before = all(first.Before, f.knowing(f.unmoved))
	first.Gate = all(first.Gate, f.knowing(f.unmoved))
	last.Do = all(last.Do, f.clear)
	last.Shell = append(last.Shell, "ssh "+f.source.Name+" rm "+f.snapshot())
	last.Gate = f.phases
	return steps, nil
}

// all calls one function of a step after the other.
func all(do ...func(context.Context, *lab.Env) error) func(context.Context, *lab.Env) error {
	return func(ctx context.Context, e *lab.Env) error {
		for _, f := range do {
			if err := f(ctx, e); err != nil {
				return err
			}
		}
		return nil
	}
}

// knowing lets a function know what is in the snapshot.
func (f *freeze) knowing(do func(context.Context, *lab.Env) error) func(context.Context, *lab.Env) error {
	if do == nil {
		return nil
	}
	return all(func(ctx context.Context, _ *lab.Env) error {
		if f.restore.Decided.SHA256 != "" {
			return nil
		}
		return f.learn(ctx)
	}, do)
}

// learn reads what was written down about the snapshot.
func (f *freeze) learn(ctx context.Context) error {
	data, err := f.source.Host.Get(ctx, f.note())
	if err != nil {
		return err
	}
	var c Content
	if err := json.Unmarshal(data, &c); err != nil || c.SHA256 == "" || c.Revision == 0 {
		return fmt.Errorf("%s: %s: expected what is in the snapshot, as JSON: %.200q", f.source.Name, f.note(), data)
	}
	f.restore.Decided.Content = c
	f.restore.Decided.Highest = max(f.restore.Decided.Highest, c.Revision)
	return nil
}

// close starts the members again where no client finds them. The configuration
// they had lies aside meanwhile.
func (f *freeze) close(ctx context.Context, e *lab.Env) error {
	err := etcd.Each(f.sources, func(_ int, m *lab.Member) error {
		aside, err := etcd.Exists(ctx, m, f.open(m))
		if err != nil {
			return err
		}
		if !aside {
			if err := runAll(ctx, e, m, [][]string{{"cp", "-p", "--", m.Config, f.open(m) + ".part"}, {"mv", "--", f.open(m) + ".part", f.open(m)}}); err != nil {
				return err
			}
		}
		e.Note(m.Name, "configuration: clients find it at %s alone", door(m))
		return etcd.Reconfigure(ctx, m, func(s *etcd.Settings) {
			s.Set("listen-client-urls", "unix://"+door(m))
			s.Delete("listen-client-http-urls")
			s.Delete("client-transport-security") // of no use on a socket
		})
	})
	if err != nil {
		return err
	}
	if err := stop(ctx, e, f.sources); err != nil {
		return err
	}
	return start(ctx, e, f.sources)
}

// reopen is the undo of close.
func (f *freeze) reopen(ctx context.Context, e *lab.Env) error {
	closed := make([]bool, len(f.sources))
	err := etcd.Each(f.sources, func(i int, m *lab.Member) (err error) {
		closed[i], err = etcd.Exists(ctx, m, f.open(m))
		return err
	})
	if err != nil {
		return err
	}
	for i, m := range f.sources {
		if !closed[i] {
			continue
		}
		if err := stop(ctx, e, []*lab.Member{m}); err != nil {
			return err
		}
		if err := runAll(ctx, e, m, [][]string{{"mv", "-f", "--", f.open(m), m.Config}, {"rm", "-f", "--", f.open(m) + ".part", door(m)}}); err != nil {
			return err
		}
	}
	if err := start(ctx, e, f.sources); err != nil {
		return err
	}
	if err := ready(ctx, e, f.sources); err != nil {
		return err
	}
	return f.was.stands(ctx, e, f.was.Members)
}

// seen is what a frozen member says.
type seen struct {
	revision int64
	hash     uint32
	compact  int64
}

// ask asks a frozen member where it is, and for the hash of its data there.
func ask(ctx context.Context, e *lab.Env, m *lab.Member) (seen, error) {
	var status []struct {
		Status struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		}
	}
	var hash []struct {
		HashKV struct {
			Hash    uint32 `json:"hash"`
			Compact int64  `json:"compact_revision"`
		}
	}
	if err := tell(ctx, e, m, &status, "endpoint", "status"); err != nil {
		return seen{}, err
	}
	if len(status) != 1 || status[0].Status.Header.Revision == 0 || status[0].Status.Leader == 0 {
		return seen{}, fmt.Errorf("%s: it tells no revision, or knows no leader", m.Name)
	}
	s := seen{revision: status[0].Status.Header.Revision}
	if err := tell(ctx, e, m, &hash, "endpoint", "hashkv", fmt.Sprintf("--rev=%d", s.revision)); err != nil {
		return seen{}, err
	}
	if len(hash) != 1 || hash[0].HashKV.Hash == 0 {
		return seen{}, fmt.Errorf("%s: it tells no hash", m.Name)
	}
	s.hash, s.compact = hash[0].HashKV.Hash, hash[0].HashKV.Compact
	return s, nil
}

// tell asks a frozen member something that etcdctl answers with JSON. It
// changes nothing, and is not journaled each time.
func tell(ctx context.Context, e *lab.Env, m *lab.Member, into any, args ...string) error {
	out, err := m.Host.Run(ctx, behind(e, m, append(args, "--write-out=json")...))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out.Stdout, into); err != nil {
		return fmt.Errorf("%s: etcdctl %s: %w: %.200q", m.Name, strings.Join(args, " "), err, out.Stdout)
	}
	return nil
}

// stillness waits until nobody can reach a member as a client, all members are
// at one revision with equal data, and none of them has moved for a while.
func (f *freeze) stillness(ctx context.Context, e *lab.Env, while time.Duration) (Content, error) {
	if err := etcd.Each(f.sources, func(_ int, m *lab.Member) error { return shut(ctx, m) }); err != nil {
		return Content{}, err
	}
	var at seen
	var since time.Time
	var finding error
	err := lab.Until(ctx, "the members to stand still", func(ctx context.Context) error {
		all := make([]seen, len(f.sources))
		err := etcd.Each(f.sources, func(i int, m *lab.Member) (err error) {
			all[i], err = ask(ctx, e, m)
			return err
		})
		if err != nil {
			since, finding = time.Time{}, nil
			return err
		}
		for i, s := range all {
			if s != all[0] {
				since = time.Time{}
				finding = &lab.Failure{What: "data of the frozen members", Want: "equal", Got: fmt.Sprintf("%s at revision %d has %08x, %s at %d has %08x", f.sources[0].Name, all[0].revision, all[0].hash, f.sources[i].Name, s.revision, s.hash)}
				return finding
			}
		}
		if all[0] != at || since.IsZero() {
			at, since = all[0], time.Now()
		}
		if quiet := time.Since(since); quiet < while {
			finding = &lab.Failure{What: "revision of the frozen members", Want: fmt.Sprintf("unmoved for %s", while), Got: fmt.Sprintf("%d, since %s", at.revision, quiet.Round(time.Millisecond))}
			return finding
		}
		finding = nil
		return nil
	})
	if err != nil && finding != nil {
		err = finding
	}
	return Content{Revision: at.revision, Hash: at.hash, Compacted: at.compact}, err
}

// shut wants nobody who listens where clients go.
func shut(ctx context.Context, m *lab.Member) error {
	return lab.Until(ctx, m.Name+" to listen for clients no more", func(ctx context.Context) error {
		quick, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err := m.Host.Dial(quick, hostPort(m.LocalURL))
		if err != nil {
			return ctx.Err()
		}
		c.Close()
		return &lab.Failure{What: "client port of " + m.Name, Want: "closed", Got: "somebody listens at " + hostPort(m.LocalURL)}
	})
}

// save takes the snapshot, again when something has moved meanwhile, such as a
// lease that ran out, and writes down what is in it.
func (f *freeze) save(ctx context.Context, e *lab.Env) error {
	m := f.source
	return lab.Until(ctx, "a snapshot of what stands still", func(ctx context.Context) error {
		if err := runAll(ctx, e, m, [][]string{{"rm", "-f", "--", f.snapshot(), f.snapshot() + ".part", f.note()}}); err != nil {
			return err
		}
		if _, err := e.Run(ctx, m.Host, behind(e, m, "snapshot", "save", f.snapshot(), etcd.TimeLeft(ctx))); err != nil {
			return err
		}
		c, err := contentOn(ctx, m.Host, f.snapshot(), f.restore.File)
		if err != nil {
			return err
		}
		now, err := f.stillness(ctx, e, 0)
		if err != nil {
			return err
		}
		if now.Revision != c.Revision {
			return &lab.Failure{What: "revision of the snapshot", Want: fmt.Sprintf("%d, where the members stand", now.Revision), Got: fmt.Sprint(c.Revision)}
		}
		c.Hash, c.Compacted = now.Hash, now.Compacted
		note, err := json.Marshal(c)
		if err != nil {
			return err
		}
		e.Note(m.Name, "snapshot: %d keys at revision %d, where all members stand with hash %08x", c.Keys, c.Revision, c.Hash)
		return m.Host.Put(ctx, f.note(), 0o600, note)
	})
}

// unmoved wants every member where the snapshot is: by its answer when it runs,
// by its database when it does not. One that has gone further has taken a write
// that the snapshot lacks.
func (f *freeze) unmoved(ctx context.Context, e *lab.Env) error {
	want := f.restore.Decided.Content
	return etcd.Each(f.sources, func(_ int, m *lab.Member) error {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return fmt.Errorf("process of %s: %w", m.Name, err)
		}
		var got int64
		if st.Running {
			if err := shut(ctx, m); err != nil {
				return err
			}
			s, err := ask(ctx, e, m)
			if err != nil {
				return err
			}
			got = s.revision
		} else if got, err = storedRevision(ctx, e, m); err != nil {
			return err
		}
		if got != want.Revision {
			return &lab.Failure{What: "revision of " + m.Name, Want: fmt.Sprintf("%d, as when the snapshot was taken", want.Revision), Got: fmt.Sprintf("%d: it was written to meanwhile", got)}
		}
		return nil
	})
}

// clear takes away what was only for the switch, and puts the configuration of
// the old members beside their data.
func (f *freeze) clear(ctx context.Context, e *lab.Env) error {
	err := etcd.Each(f.sources, func(_ int, m *lab.Member) error {
		to := path.Join(dirsOf(m, f.restore.Decided.Token).before, "etcd.yaml")
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `if [ -e "$1" ]; then mv -f -- "$1" "$2"; fi; rm -f -- "$3"`, "sh", f.open(m), to, door(m)}})
		return err
	})
	_, serr := e.Run(ctx, f.source.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", f.snapshot(), f.note()}})
	return errors.Join(err, serr)
}

// phases notes how long each step of the outage took, by the journal of the
// operation, so that a part that another process did is counted too.
func (f *freeze) phases(_ context.Context, e *lab.Env) error {
	s, err := operation.Unfinished(e.Cluster)
	if err != nil || s == nil {
		return err
	}
	var parts []string
	at := s.Began
	for _, step := range s.Done {
		parts = append(parts, fmt.Sprintf("%s %.1f s", step, s.DoneAt[step].Sub(at).Seconds()))
		at = s.DoneAt[step]
	}
	e.Note("", "the world stood still for %.1f s: %s", at.Sub(s.Began).Seconds(), strings.Join(parts, "; "))
	return nil
}

package action

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Start starts members' processes.
type Start struct {
	Member lab.Target `need:"yes" doc:"the members, all at once"`
	State  string     `doc:"initial-cluster-state to start with: new or existing; as configured when absent. Only a member without a WAL reads it"`
	Empty  bool       `doc:"state new also for a member without a WAL, which then begins with nothing, and for hosts that were never configured, which found a cluster of their own together; refused otherwise"`
	Ready  bool       `doc:"wait until /readyz says 200; otherwise only until the process runs"`
}

// Valid implements the check of arguments.
func (a *Start) Valid() error {
	if a.State != "" && a.State != etcd.StateNew && a.State != etcd.StateExisting {
		return fmt.Errorf("state: %q: expected new or existing", a.State)
	}
	return nil
}

// Doc implements lab.Action.
func (*Start) Doc() string { return "starts members' processes, all at once" }

// Touches says how much of an adopted cluster it changes.
func (*Start) Touches() lab.Touch { return lab.Passes }

// Do implements lab.Action.
func (a *Start) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	if a.State == etcd.StateNew && a.Empty {
		if err := strangers(ctx, e, seats); err != nil {
			return err
		}
	}
	return etcd.Each(seats, func(_ int, m *lab.Member) error {
		if a.State == etcd.StateNew && !a.Empty {
			if err := founded(ctx, m); err != nil {
				return err
			}
		}
		if a.State != "" {
			err := etcd.Reconfigure(ctx, m, func(s *etcd.Settings) { s.Set("initial-cluster-state", a.State) })
			if err != nil {
				return err
			}
			e.Note(m.Name, "configuration: initial-cluster-state: %s", a.State)
		}
		// Whether it stays is for a check to ask: what ends at once, on damaged
		// files for instance, has been started too.
		e.Note(m.Name, "start etcd")
		if err := m.Proc.Start(ctx); err != nil {
			return etcd.WithLog(ctx, m, fmt.Errorf("start of %s: %w", m.Name, err))
		}
		if a.Ready {
			return etcd.Ready(ctx, e, m)
		}
		return nil
	})
}

// strangers configures those of the seats that never were, to found a cluster
// of their own.
func strangers(ctx context.Context, e *lab.Env, seats []*lab.Member) error {
	join := etcd.Join{Cluster: map[string]string{}, State: etcd.StateNew, Token: etcd.NewToken()}
	var bare []*lab.Member
	for _, m := range seats {
		ok, err := etcd.Configured(ctx, m)
		if err != nil {
			return err
		}
		if !ok {
			bare = append(bare, m)
			join.Cluster[m.Name] = m.PeerURL
		}
	}
	for _, m := range bare {
		if err := etcd.WriteSettings(ctx, m, etcd.NewSettings(e.Spec, m, join)); err != nil {
			return err
		}
		e.Note(m.Name, "configuration written: initial-cluster %s, state new", join)
	}
	return nil
}

// founded refuses to begin with state new where nothing lies: a member of a
// cluster that has lost its directory would take part in founding an empty
// one, and a majority of such members is a healthy cluster without any data
// (FE4).
func founded(ctx context.Context, m *lab.Member) error {
	wal := path.Join(m.DataDir, "member", "wal")
	there, err := etcd.Exists(ctx, m, wal)
	if err == nil && !there {
		err = &lab.Failure{What: "start of " + m.Name + " with state new refused: its WAL", Want: "there, or `empty: true`", Got: "none: it would begin with nothing"}
	}
	return err
}

// Stop stops members' processes politely.
type Stop struct {
	Member lab.Target `need:"yes" doc:"the members, all at once"`
}

// Doc implements lab.Action.
func (*Stop) Doc() string {
	return "stops members' processes politely, all at once; a leader hands over first"
}

// Touches says how much of an adopted cluster it changes.
func (*Stop) Touches() lab.Touch { return lab.Passes }

// Do implements lab.Action.
func (a *Stop) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	return etcd.Each(seats, func(_ int, m *lab.Member) error { return etcd.Stop(ctx, e, m) })
}

// Restart stops and starts members' processes.
type Restart struct {
	Member  lab.Target `need:"yes" doc:"the members"`
	Rolling bool       `doc:"one after the other, each ready before the next; otherwise all at once, without waiting until they serve"`
	Ready   bool       `doc:"wait until /readyz of all says 200"`
}

// Doc implements lab.Action.
func (*Restart) Doc() string { return "stops and starts members' processes, at once or rolling" }

// Touches says how much of an adopted cluster it changes.
func (*Restart) Touches() lab.Touch { return lab.Passes }

// Do implements lab.Action.
func (a *Restart) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	return restart(ctx, e, seats, a.Rolling, a.Ready)
}

func restart(ctx context.Context, e *lab.Env, seats []*lab.Member, rolling, wait bool) error {
	if rolling {
		for _, m := range seats {
			if err := restart(ctx, e, []*lab.Member{m}, false, true); err != nil {
				return err
			}
		}
		return nil
	}
	if err := etcd.Each(seats, func(_ int, m *lab.Member) error { return etcd.Stop(ctx, e, m) }); err != nil {
		return err
	}
	if err := etcd.Each(seats, func(_ int, m *lab.Member) error { return etcd.Start(ctx, e, m) }); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	return etcd.Each(seats, func(_ int, m *lab.Member) error { return etcd.Ready(ctx, e, m) })
}

// Reconfigure changes the configuration of members.
type Reconfigure struct {
	Member  lab.Target        `need:"yes" doc:"the members"`
	Set     map[string]string `need:"yes" doc:"settings of etcd's configuration file with their values; a slash goes into a section; an empty value takes the setting away"`
	Restart bool              `default:"true" doc:"restart them, so that it takes effect"`
	Rolling bool              `doc:"restart one after the other, each ready before the next"`
}

// Valid implements the check of arguments.
func (a *Reconfigure) Valid() error {
	if a.Rolling && !a.Restart {
		return fmt.Errorf("rolling: expected with restart only")
	}
	if len(a.Set) == 0 {
		return fmt.Errorf("set: expected at least one setting")
	}
	for _, k := range sortedKeys(a.Set) {
		if k == "" || strings.HasPrefix(k, "-") || strings.ContainsAny(k, " :\n") {
			return fmt.Errorf("set: %q: expected a key of etcd's configuration file, such as heartbeat-interval", k)
		}
	}
	return nil
}

// Doc implements lab.Action.
func (*Reconfigure) Doc() string {
	return "changes settings in members' configuration files and restarts them"
}

// Do implements lab.Action. The effect asserted is that the file says so when
// it is read again, and that the process came up on it.
func (a *Reconfigure) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	for _, m := range seats {
		change := func(s *etcd.Settings) {
			for _, k := range sortedKeys(a.Set) {
				if a.Set[k] == "" {
					s.Delete(k)
				} else {
					s.SetText(k, a.Set[k])
				}
			}
		}
		before, err := etcd.ReadSettings(ctx, m)
		if err != nil {
			return err
		}
		if err := etcd.Reconfigure(ctx, m, change); err != nil {
			return err
		}
		after, err := etcd.ReadSettings(ctx, m)
		if err != nil {
			return err
		}
		change(&before)
		for _, k := range sortedKeys(a.Set) {
			if want, got := fmt.Sprint(before.Get(k)), fmt.Sprint(after.Get(k)); want != got {
				return &lab.Failure{What: "setting " + k + " of " + m.Name + " after it was written", Want: want, Got: got}
			}
			e.Note(m.Name, "configuration: %s: %s", k, a.Set[k])
		}
	}
	if !a.Restart {
		return nil
	}
	return restart(ctx, e, seats, a.Rolling, false)
}

package vault

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Difference is what two states have not in common. Its lines begin with + for
// what was added, ~ for what changed and - for what is gone.
type Difference struct {
	Topology      []string          `json:"topology"`
	Configuration []string          `json:"configuration"`
	Keys          []snapshot.Change `json:"keys"`
	// NoKeys says why keys were not compared, when they were not.
	NoKeys string `json:"noKeys,omitempty"`
}

// None tells whether there is none, as far as could be seen.
func (d Difference) None() bool { return len(d.Topology)+len(d.Configuration)+len(d.Keys) == 0 }

// Lines are all of it, the keys last.
func (d Difference) Lines() []string {
	out := slices.Concat(d.Topology, d.Configuration)
	for _, c := range d.Keys {
		out = append(out, c.String())
	}
	return out
}

// Diff compares two states of a store, found as Find does; live is the lab as
// it stands. Both must be sound.
func Diff(ctx context.Context, e *lab.Env, store Store, before, after string) (Difference, error) {
	a, keysA, err := store.open(ctx, e, before)
	if err != nil {
		return Difference{}, err
	}
	b, keysB, err := store.open(ctx, e, after)
	if err != nil {
		return Difference{}, err
	}
	d := Difference{Topology: topology(a, b)}
	if d.Configuration, err = store.configuration(a, b, false); err != nil {
		return d, err
	}
	switch {
	case keysA == nil:
		d.NoKeys = before + " has no data that can be read"
	case keysB == nil:
		d.NoKeys = after + " has no data that can be read"
	default:
		d.Keys = snapshot.Diff(keysA, keysB)
	}
	return d, nil
}

// open reads a state, which is sound, and its keys; nil when it has none.
func (s Store) open(ctx context.Context, e *lab.Env, ref string) (*State, etcd.Keys, error) {
	if ref == snapshot.Live {
		st, err := Now(ctx, e)
		if err != nil || !st.Served {
			return st, nil, err
		}
		keys, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
		return st, keys, err
	}
	found, err := s.Find(ref)
	if err == nil {
		err = s.Sound(found)
	}
	if err != nil || found.State.Data == nil {
		return found.State, nil, err
	}
	d, err := etcd.ReadDatabase(s.Blob(found.State.Data.SHA256))
	if err != nil {
		return nil, nil, err
	}
	return found.State, d.Keys, nil
}

// topology compares who is a member, how, and where.
func topology(a, b *State) []string {
	out := roles(a, b)
	changed := func(what, was, is string) {
		if was != is && was != "" && is != "" {
			out = append(out, fmt.Sprintf("~ %s: %s → %s", what, was, is))
		}
	}
	changed("cluster", a.Epoch.Cluster, b.Epoch.Cluster)
	for _, name := range union(a.Seats, b.Seats) {
		x, y := a.Host(name), b.Host(name)
		if x == nil || y == nil {
			continue
		}
		if x.Role != "" && x.Role == y.Role {
			changed(name+": member", x.Member, y.Member)
			if x.Problem+y.Problem == "" {
				changed(name, runs(x.Running), runs(y.Running))
			}
		}
		changed(name+": peer URL", x.Peer, y.Peer)
		changed(name+": client URL", x.Client, y.Client)
		changed(name+": etcd", x.Version, y.Version)
	}
	return out
}

// roles compares who is a member, and how.
func roles(a, b *State) []string {
	var out []string
	line := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, name := range union(a.Seats, b.Seats) {
		switch x, y := a.Host(name), b.Host(name); {
		case x == nil:
			line("+ host %s%s", name, as(y.Role))
		case y == nil:
			line("- host %s%s", name, as(x.Role))
		case x.Role == "" && y.Role != "":
			line("+ %s is a %s", name, y.Role)
		case x.Role != "" && y.Role == "":
			line("- %s is no %s any more", name, x.Role)
		case x.Role != y.Role:
			line("~ %s: %s → %s", name, x.Role, y.Role)
		}
	}
	return out
}

func runs(is bool) string { return map[bool]string{true: "running", false: "stopped"}[is] }

func as(role string) string {
	if role == "" {
		return ""
	}
	return ", a " + role
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// identity are the settings that say how a member begins. With data they are
// not read (FE5), and every restore gives others.
var identity = []string{"initial-cluster", "initial-cluster-state", "initial-cluster-token", "force-new-cluster"}

// configuration compares the files of hosts. bare leaves out what going back to
// b does not bring back: how members begin, what b knows by its checksum alone,
// and learners, which are added anew.
func (s Store) configuration(a, b *State, bare bool) ([]string, error) {
	var out []string
	for _, name := range union(a.Seats, b.Seats) {
		x, y := a.Host(name), b.Host(name)
		if x == nil || y == nil || x.Problem+y.Problem != "" || bare && y.Role == Learner {
			continue
		}
		files := map[string]bool{}
		for _, f := range slices.Concat(x.Files, y.Files) {
			files[f.Path] = true
		}
		for _, p := range slices.Sorted(maps.Keys(files)) {
			lines, err := s.files(name, x.file(p), y.file(p), bare)
			if err != nil {
				return nil, err
			}
			out = append(out, lines...)
		}
	}
	return out, nil
}

// files compares one file of a host, as far as both were kept.
func (s Store) files(host string, x, y *File, bare bool) ([]string, error) {
	switch {
	case x == nil && bare && y.Blob == "" && y.content == nil:
		return nil, nil
	case x == nil:
		return []string{fmt.Sprintf("+ %s: %s", host, y.Path)}, nil
	case bare && y != nil && y.Blob == "" && y.content == nil, bare && y == nil && x.Kind == PKI:
		return nil, nil
	case y == nil:
		return []string{fmt.Sprintf("- %s: %s", host, x.Path)}, nil
	case x.SHA256 == y.SHA256:
		return nil, nil
	case y.Kind != Config:
		return []string{fmt.Sprintf("~ %s: %s", host, x.Path)}, nil
	}
	was, err := s.settings(host, x)
	if err != nil {
		return nil, err
	}
	is, err := s.settings(host, y)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range union(slices.Collect(maps.Keys(was)), slices.Collect(maps.Keys(is))) {
		if bare && slices.Contains(identity, key) {
			continue
		}
		old, there := was[key]
		now, still := is[key]
		where := host + ": " + path.Base(x.Path) + ": " + key
		switch {
		case !there:
			out = append(out, fmt.Sprintf("+ %s: %s", where, now))
		case !still:
			out = append(out, fmt.Sprintf("- %s: %s", where, old))
		case old != now:
			out = append(out, fmt.Sprintf("~ %s: %s → %s", where, old, now))
		}
	}
	return out, nil
}

func (s Store) settings(host string, f *File) (map[string]string, error) {
	data := f.content
	if data == nil {
		var err error
		if data, err = s.get(f.Blob); err != nil {
			return nil, err
		}
	}
	c, err := etcd.ParseSettings(&lab.Member{Name: host, Config: f.Path}, data)
	return c.Flat(), err
}

// clipped is the first so many lines, and how many more there are.
func clipped(lines []string, max int) string {
	if len(lines) > max {
		lines = append(slices.Clone(lines[:max]), fmt.Sprintf("and %d more", len(lines)-max))
	}
	return strings.Join(lines, "; ")
}

// Compare is Diff of the lab as it stands with a state, but for what going back
// to one changes by design: ids, the token, and with it who is configured to
// begin. A lab that serves no data that can be read is an error.
func Compare(ctx context.Context, e *lab.Env, store Store, ref string) (Difference, error) {
	a, keys, err := store.open(ctx, e, snapshot.Live)
	if err != nil {
		return Difference{}, err
	}
	b, then, err := store.open(ctx, e, ref)
	if err != nil {
		return Difference{}, err
	}
	if keys == nil || then == nil {
		return Difference{}, fmt.Errorf("state %s and the lab cannot be compared: one of them has no data that can be read", ref)
	}
	d := Difference{Topology: roles(a, b), Keys: snapshot.Diff(keys, then)}
	d.Configuration, err = store.configuration(a, b, true)
	return d, err
}

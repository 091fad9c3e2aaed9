package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Kinds makes an empty operation of a name, to be filled from a journal: those
// of package recovery, and Restore.
func Kinds(name string) (operation.Operation, bool) {
	if name == recovery.StateRestore {
		return &Restore{}, true
	}
	return recovery.Kinds(name)
}

// Restore goes back to a state, on all hosts at once.
//
// It is a recovery.Restore, with all its guards: a new token, a revision above
// all that were seen, the old data aside, undone on all hosts together until
// the new cluster serves. What it adds is that the hosts become what they were:
// those that voted vote again, those that came later are put out of service,
// the configuration is as it was saved, and what was configured since is gone.
// Only who the members are, and the token, is of the new cluster. Learners are
// added again when the voters serve, with the configuration of a new member.
//
// The new cluster is proved to be the state before it is given to clients: key
// by key, and setting by setting.
type Restore struct {
	State    string   `need:"yes" doc:"name of a state, a label that one state has, or latest"`
	Store    string   `doc:"directory on this machine where states are kept; absent: the lab's own"`
	On       []string `yaml:"hosts" doc:"hosts that become the members, all voting; those that voted in the state when absent"`
	Identity string   `doc:"file with age secret keys on this machine: certificates and private keys are put back too, as they were saved"`
	Other    bool     `yaml:"foreign" doc:"although it is a state of another lab"`
	Drop     bool     `yaml:"discard-old" doc:"remove the data that was replaced, once the new cluster serves; else it stays aside"`

	recovery.Restore `yaml:"-"`
	Name             string   `yaml:"-"` // of the state, decided
	Difference       []string `yaml:"-"` // from the lab as it stood to the state
}

// Doc is one sentence for lists and help.
func (*Restore) Doc() string {
	return "goes back to a saved state on all hosts: data, configuration and who the members are, by difference, as a new cluster above all old revisions"
}

// Valid refuses arguments that cannot be.
func (r *Restore) Valid() error {
	if r.State == "" {
		return fmt.Errorf("state: expected a name, a label or latest")
	}
	return nil
}

func (r *Restore) store(e *lab.Env) Store { return OpenStore(e.Cluster, r.Store) }

// Decide implements operation.Operation.
func (r *Restore) Decide(ctx context.Context, e *lab.Env) error {
	// Who resumes it may do so elsewhere.
	for _, p := range []*string{&r.Store, &r.Identity} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	store := r.store(e)
	found, err := store.Find(r.State)
	if err != nil {
		return err
	}
	if err := store.Sound(found); err != nil {
		return err
	}
	st := found.State
	r.Name = found.Name // latest may be another one by the time it is resumed
	if st.Data == nil {
		return &lab.Failure{What: "state " + r.Name, Want: "data that can be restored", Got: "none: " + strings.Join(st.Missing, "; ")}
	}
	if err := r.ours(e, st); err != nil {
		return err
	}
	// Also whether the etcd here can read it.
	if _, err := (&snapshot.Verify{Snapshot: store.Blob(st.Data.SHA256), Foreign: true}).Do(ctx, e); err != nil {
		return err
	}
	now, err := Now(ctx, e)
	if err != nil {
		return err
	}
	hosts := r.On
	if len(hosts) == 0 {
		hosts = st.Members(Voter)
	}
	if err := r.reached(e, now, hosts); err != nil {
		return err
	}
	r.Restore = recovery.Restore{File: store.Blob(st.Data.SHA256), Hosts: hosts, Anyway: true, Foreign: true, Discard: r.Drop, Files: map[string][]recovery.File{}}
	r.Source = r.source(store, st)
	for _, h := range now.Hosts {
		if other := st.others(&h); r.Identity == "" && len(other) > 0 {
			e.Note(h.Name, "has other certificates than then, and keeps them: %s", strings.Join(other, ", "))
		}
		if r.Files[h.Name], err = r.files(st, &h, slices.Contains(hosts, h.Name)); err != nil {
			return err
		}
	}
	files, err := store.configuration(now, st, true)
	if err != nil {
		return err
	}
	r.Difference = append(roles(now, st), files...)
	for _, l := range r.Difference {
		e.Note("", "difference: %s", l)
	}
	return r.Restore.Decide(ctx, e)
}

// ours refuses a state of a cluster that this lab never was.
func (r *Restore) ours(e *lab.Env, st *State) error {
	known, err := snapshot.Clusters(e.Cluster)
	if err != nil || r.Other || slices.Contains(known, st.Epoch.Cluster) {
		return err
	}
	return &lab.Failure{What: "state " + r.Name + ": cluster", Want: "one that this lab was: " + cmp.Or(strings.Join(known, ", "), "none is known") + " (or `foreign`)", Got: st.Epoch.Cluster + ", of lab " + st.Lab}
}

// reached refuses hosts that are not there, or cannot be looked at.
func (r *Restore) reached(e *lab.Env, now *State, hosts []string) error {
	if len(hosts) == 0 {
		return &lab.Failure{What: "state " + r.Name, Want: "voting members", Got: "none"}
	}
	for _, name := range hosts {
		h := now.Host(name)
		if h == nil {
			return &lab.Failure{What: "host " + name + " of state " + r.Name, Want: "in this lab, or `hosts` that are", Got: "the lab has " + strings.Join(e.Names(), ", ")}
		}
		if h.Problem != "" {
			return &lab.Failure{What: "host " + name + " of state " + r.Name, Want: "reached, or `hosts` that are", Got: h.Problem}
		}
	}
	return nil
}

// files decides what becomes of the files of a host: as they were saved, and
// those that were not there then are gone. now is the host as it stands.
func (r *Restore) files(st *State, now *Host, voter bool) ([]recovery.File, error) {
	then := st.Host(now.Name)
	if now.Problem != "" {
		return nil, nil // it is left out
	}
	if then == nil {
		then = &Host{Name: now.Name}
	}
	var out []recovery.File
	for _, f := range then.Files {
		is := now.file(f.Path)
		switch {
		case f.Kind == Config && !voter: // a learner is configured when it joins
		case f.Kind != PKI && f.Kind != Config && is != nil && is.SHA256 == f.SHA256:
		case f.Kind != PKI:
			out = append(out, recovery.File{Path: f.Path, Blob: f.Blob, Mode: f.mode()})
		case r.Identity != "" && f.Blob == "":
			return nil, &lab.Failure{What: "certificates of state " + r.Name, Want: "encrypted ones, for `identity`", Got: f.Path + " by its checksum alone"}
		case r.Identity != "":
			if is == nil || is.SHA256 != f.SHA256 {
				out = append(out, recovery.File{Path: f.Path, Blob: f.Blob, Mode: f.mode()})
			}
		case is == nil && voter:
			return nil, &lab.Failure{What: f.Path + " on " + now.Name, Want: "there: the state has its checksum alone (`identity`, where it has more)", Got: "none"}
		}
	}
	for _, f := range now.Files {
		if f.Kind == Beside && then.file(f.Path) == nil {
			out = append(out, recovery.File{Path: f.Path})
		}
	}
	return out, nil
}

// others are the certificates and keys of a host that are not those of the state.
func (s *State) others(now *Host) []string {
	then := s.Host(now.Name)
	var out []string
	for _, f := range now.Files {
		if f.Kind != PKI || then == nil {
			continue
		}
		if was := then.file(f.Path); was != nil && was.SHA256 != f.SHA256 {
			out = append(out, f.Path)
		}
	}
	return out
}

// source reads what a state has for the files of hosts.
func (r *Restore) source(store Store, st *State) func(blob string) ([]byte, error) {
	sealed := map[string]bool{}
	for _, h := range st.Hosts {
		for _, f := range h.Files {
			sealed[f.Blob] = sealed[f.Blob] || f.Sealed()
		}
	}
	return func(blob string) ([]byte, error) {
		data, err := store.get(blob)
		if err != nil || !sealed[blob] {
			return data, err
		}
		p := snapshot.Packing{Recipients: []string{"sealed"}}
		in, err := snapshot.Unpacked("part", blob+p.Ext(), bytes.NewReader(data), r.Identity)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(in)
	}
}

// Steps implements operation.Operation.
func (r *Restore) Steps(e *lab.Env) ([]operation.Step, error) {
	store := r.store(e)
	found, err := store.Find(r.Name)
	if err == nil {
		err = found.Problem
	}
	if err != nil {
		return nil, err
	}
	st := found.State
	r.Source = r.source(store, st)
	steps, err := r.Restore.Steps(e)
	if err != nil {
		return nil, err
	}
	// What the new cluster is proved to be belongs to the gate of its start: as
	// long as that has not held all of it is undone.
	start, last := &steps[len(steps)-2], steps[len(steps)-1]
	serves := start.Gate
	start.Shell = append(start.Shell, "# every key and every setting is compared with state "+r.Name)
	start.Gate = func(ctx context.Context, e *lab.Env) error {
		if err := serves(ctx, e); err != nil {
			return err
		}
		return r.as(ctx, e, store, st)
	}
	steps[0].Shell = slices.Concat(comments(r.Difference), steps[0].Shell)
	steps = steps[:len(steps)-1]
	for _, name := range st.Members(Learner) {
		if m, err := e.Member(name); err == nil && !slices.Contains(r.Hosts, name) {
			steps = append(steps, learner(m)...)
		}
	}
	return append(steps, last), nil
}

func comments(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, "# "+l)
	}
	return out
}

// learner are the steps that let a learner of the state be one again.
func learner(m *lab.Member) []operation.Step {
	return []operation.Step{{
		Name:  "add " + m.Name + " as a learner",
		Shell: []string{"etcdctl member add " + m.Name + " --peer-urls=" + m.PeerURL + " --learner"},
		Do:    func(ctx context.Context, e *lab.Env) error { return etcd.AddMember(ctx, e, m, m.PeerURL, true) },
	}, {
		Name:  "start " + m.Name,
		Shell: []string{"ssh " + m.Name + " systemctl start etcd  # initial-cluster-state existing"},
		Do:    func(ctx context.Context, e *lab.Env) error { return etcd.JoinMember(ctx, e, m) },
	}}
}

// as proves that the cluster is the state: every key that it serves at the
// revision it began with, the settings of all members, and that what was not
// there then is gone.
func (r *Restore) as(ctx context.Context, e *lab.Env, store Store, st *State) error {
	d, err := etcd.ReadDatabase(store.Blob(st.Data.SHA256))
	if err != nil {
		return err
	}
	m, err := e.Member(r.Hosts[0])
	if err != nil {
		return err
	}
	from := r.Decided.Revision + r.Decided.Bump
	keys, _, err := etcd.ReadKeys(ctx, e.Cluster, m, from)
	switch {
	case isCompacted(err):
		e.Note(m.Name, "keys at revision %d cannot be compared any more: it is compacted", from)
	case err != nil:
		return err
	default:
		if changes := snapshot.Diff(d.Keys, keys); len(changes) > 0 {
			return &lab.Failure{What: fmt.Sprintf("keys at revision %d", from), Want: "those of state " + r.Name, Got: fmt.Sprintf("%d differ, the first is %s", len(changes), changes[0])}
		}
	}
	now, err := Now(ctx, e)
	if err != nil {
		return err
	}
	var wrong []string
	for _, name := range r.Hosts {
		then, is := st.Host(name), now.Host(name)
		if then == nil || len(then.Files) == 0 {
			continue // a host that is new
		}
		if is.Problem != "" {
			return errors.New(name + ": " + is.Problem)
		}
		for _, f := range slices.Concat(then.Files, is.Files) {
			if f.Kind == PKI && r.Identity == "" {
				continue
			}
			lines, err := store.files(name, is.file(f.Path), then.file(f.Path), true)
			if err != nil {
				return err
			}
			wrong = append(wrong, lines...)
		}
	}
	slices.Sort(wrong)
	if wrong = slices.Compact(wrong); len(wrong) > 0 {
		return &lab.Failure{What: "configuration", Want: "that of state " + r.Name, Got: clipped(wrong, 3)}
	}
	e.Note("", "the cluster is state %s: %d keys, and the configuration of %s", r.Name, len(d.Keys), strings.Join(r.Hosts, ", "))
	return nil
}

// isCompacted tells a read that came too late.
func isCompacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }

package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Save saves a state of a lab.
type Save struct {
	Label      string   `doc:"a name for people, part of the state's"`
	Store      string   `doc:"directory on this machine to keep it in; absent: the lab's own"`
	NoTrial    bool     `yaml:"no-trial" doc:"do not boot a throwaway member from its snapshot"`
	Recipients []string `doc:"keep certificates and private keys too, encrypted (age) for the owners of these public keys; absent: their checksums alone"`

	before string // the operation before which it is saved by itself
}

// Valid refuses impossible arguments.
func (s *Save) Valid() error {
	if err := s.packing().Valid(); err != nil {
		return err
	}
	if s.Label == "" {
		return nil
	}
	if strings.HasPrefix(s.Label, automatic) {
		return fmt.Errorf("label: %q: expected one that does not begin with %s, as those do that are saved by themselves", s.Label, automatic)
	}
	return snapshot.ValidLabel(s.Label)
}

func (s *Save) packing() snapshot.Packing { return snapshot.Packing{Recipients: s.Recipients} }

// Do performs it, and returns the name of the new state. All of it is of one
// epoch: that the members were others at its end than at its beginning, or an
// operation has not ended, is a *lab.Failure, and then there is no state.
func (s *Save) Do(ctx context.Context, e *lab.Env) (name string, st *State, err error) {
	if s.before == "" {
		if open, err := operation.Unfinished(e.Cluster); err != nil {
			return "", nil, err
		} else if open != nil {
			return "", nil, &lab.Failure{What: "state refused: lab " + e.ID, Want: "no unfinished operation, in the middle of which hosts are of two epochs (`resume` or `rollback` ends it)", Got: open.String()}
		}
	}
	store := OpenStore(e.Cluster, s.Store)
	if st, err = Now(ctx, e); err != nil {
		return "", nil, err
	}
	st.Label, st.Before = s.Label, s.before
	var file string
	if st.Served {
		take := &snapshot.Save{Store: store.Dir, NoTrial: s.NoTrial}
		if file, st.Data, err = take.Take(ctx, e); err != nil {
			return "", nil, err
		}
		st.hash(ctx, e)
		if err := s.same(ctx, e, st); err != nil {
			return "", nil, errors.Join(err, os.Remove(file))
		}
	} else if file, err = s.broken(ctx, e, store, st); err != nil {
		return "", nil, err
	}
	if file != "" {
		defer os.Remove(file) // nil when it was kept
		st.Epoch.Revision, st.Highest = st.Data.Revision, st.Data.Highest
	}
	st.Epoch.ID = newID()
	for i := range st.Hosts {
		st.Hosts[i].Epoch = st.Epoch
	}
	err = store.locked(func() (err error) {
		if file != "" {
			if err := store.adopt(file, st.Data.SHA256); err != nil {
				return err
			}
		}
		for i := range st.Hosts {
			if err := s.keep(store, &st.Hosts[i]); err != nil {
				return err
			}
		}
		name, err = store.add(st)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	e.Note("", "state %s: %s; %d hosts%s", name, st.Epoch, len(st.Hosts), missing(st))
	return name, st, nil
}

func missing(st *State) string {
	if len(st.Missing) == 0 {
		return ""
	}
	return ", missing: " + strings.Join(st.Missing, "; ")
}

func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// hash reads what the members hash their data to, at the revision of the
// snapshot. One that cannot tell is told of in the state by having none.
func (s *State) hash(ctx context.Context, e *lab.Env) {
	etcd.Each(e.Seats, func(i int, m *lab.Member) error {
		if s.Hosts[i].Role != Voter || s.Hosts[i].Version == "" { // a learner tells none
			return nil
		}
		h, err := etcd.HashAt(ctx, e.Cluster, m, s.Data.Revision)
		if err == nil {
			s.Hosts[i].Hash = h.Hash
		}
		return err
	})
}

// same refuses a state during which the members changed.
func (s *Save) same(ctx context.Context, e *lab.Env, st *State) error {
	list, err := etcd.Members(ctx, e.Cluster, false)
	if err != nil {
		return err
	}
	if got := etcd.HexID(list.Cluster); got != st.Epoch.Cluster || got != st.Data.Cluster {
		return &lab.Failure{What: "state refused: cluster id", Want: st.Epoch.Cluster + ", as at the beginning", Got: got}
	}
	var was, is []string
	for _, h := range st.Hosts {
		if h.Role != "" {
			was = append(was, h.Name+" "+h.Member+" "+h.Role)
		}
	}
	for _, m := range e.Seats {
		if l, ok := list.Of(m); ok {
			is = append(is, m.Name+" "+l.HexID()+" "+map[bool]string{true: Learner, false: Voter}[l.Learner])
		}
	}
	if a, b := strings.Join(was, ", "), strings.Join(is, ", "); a != b {
		return &lab.Failure{What: "state refused: members while it was saved", Want: a, Got: b}
	}
	return nil
}

// broken fills in what there is of a cluster that does not serve: the
// directories of stopped members, never of running ones, which are not
// consistent; and as data that can be restored what the best survivor knows.
func (s *Save) broken(ctx context.Context, e *lab.Env, store Store, st *State) (file string, err error) {
	e.Note("", "the cluster does not serve: it is saved as it is")
	failed := make([]error, len(e.Seats))
	etcd.Each(e.Seats, func(i int, m *lab.Member) error {
		h := &st.Hosts[i]
		if h.Problem != "" || h.Holds == "" || h.Running {
			return nil
		}
		out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"tar", "-C", m.DataDir, "-czf", "-", "member"}})
		if err != nil {
			failed[i] = err
			return nil
		}
		h.Dir = &File{Path: path.Join(m.DataDir, "member"), Kind: "data", Size: int64(len(out.Stdout)), SHA256: checksum(out.Stdout), content: out.Stdout}
		return nil
	})
	for i, h := range st.Hosts {
		switch {
		case failed[i] != nil:
			st.Missing = append(st.Missing, "directory of "+h.Name+": "+failed[i].Error())
		case h.Role != "" && h.Problem == "" && h.Holds == "":
			st.Missing = append(st.Missing, "data of "+h.Name+": there is none")
		case h.Running && h.Problem == "":
			st.Missing = append(st.Missing, "directory of "+h.Name+": it runs, and one that is written to is not archived")
		}
	}
	file, side, err := salvage(ctx, e, store)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		st.Missing = append(st.Missing, "data that could be restored: "+err.Error())
		return "", nil
	}
	side.Cluster, side.Label = st.Epoch.Cluster, s.Label
	st.Data, st.Salvaged = side, true
	st.Missing = append(st.Missing, fmt.Sprintf("what %s did not know at revision %d: nobody can say whether that is all", side.Source, side.Revision))
	return file, nil
}

// salvage saves what the survivor knows whose log goes furthest, into a file of
// the store that is nothing of it yet.
func salvage(ctx context.Context, e *lab.Env, store Store) (file string, side *snapshot.Sidecar, err error) {
	op := &recovery.Salvage{}
	if err := op.Decide(ctx, e); err != nil {
		return "", nil, err
	}
	steps, err := op.Steps(e)
	if err != nil {
		return "", nil, err
	}
	m, err := e.Member(op.Decided.Survivor)
	if err != nil {
		return "", nil, err
	}
	for _, step := range steps {
		limited, cancel := context.WithTimeout(ctx, step.Limit)
		defer cancel()
		defer func() {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, step.Undo(clean, e))
		}()
		if err := step.Before(limited, e); err != nil {
			return "", nil, err
		}
		if err := step.Do(limited, e); err != nil {
			return "", nil, err
		}
	}
	survivor, cluster, _ := etcd.ParseIdentity(op.Decided.Old)
	file, err = snapshot.Fill(store.Dir, func(f *os.File) (err error) {
		if err = lab.Download(ctx, m.Host, op.Decided.File, f); err == nil {
			side, err = snapshot.Inspect("salvaged from "+m.Name, f.Name())
		}
		if err == nil {
			// Nobody may answer any more who could say which cluster it was.
			was := lab.Status{Up: true, Cluster: cluster}
			side.Highest, err = snapshot.Record(e.Cluster, append(e.Look(ctx), was), side.Revision)
		}
		return err
	})
	if err != nil {
		return "", nil, err
	}
	side.Version, side.Time, side.Lab, side.Source, side.Lag = 1, time.Now().UTC(), e.ID, m.Name, -1
	side.SourceID = survivor
	return file, side, nil
}

// keep puts the files of a host into the store: private keys and certificates
// only encrypted.
func (s *Save) keep(store Store, h *Host) (err error) {
	for i := range h.Files {
		f := &h.Files[i]
		switch {
		case f.Kind != PKI:
			f.Blob, err = store.put(f.content)
		case len(s.Recipients) > 0:
			var sealed bytes.Buffer
			w, seal, perr := s.packing().Writer(&sealed)
			if perr != nil {
				return perr
			}
			_, err = w.Write(f.content)
			if err = errors.Join(err, seal()); err == nil {
				f.Blob, err = store.put(sealed.Bytes())
			}
		}
		if err != nil {
			return err
		}
	}
	if h.Dir != nil {
		h.Dir.Blob, err = store.put(h.Dir.content)
	}
	return err
}

// automatic is how labels begin of states that were saved by themselves.
const automatic = "before-"

// Ahead saves a state by itself before an operation that replaces what is
// there; see operation.Options. It saves once, however many operations are made
// of it.
func Ahead(op string) func(ctx context.Context, e *lab.Env) error {
	saved := false
	return func(ctx context.Context, e *lab.Env) error {
		if saved {
			return nil
		}
		s := &Save{Label: automatic + op, NoTrial: true, before: op}
		name, _, err := s.Do(ctx, e)
		if err != nil {
			return fmt.Errorf("the state that is to be replaced cannot be saved before (`no-state` goes on without): %w", err)
		}
		saved = true
		e.Note("", "saved before %s, to go back to: etcdrill state restore %s", op, name)
		return nil
	}
}

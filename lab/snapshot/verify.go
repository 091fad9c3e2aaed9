package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Verify looks whether a snapshot can be restored into a lab.
type Verify struct {
	Snapshot string `doc:"name or label of a snapshot of the store, latest, or the path of a file: on this machine, with a slash in it, or on a member's host"`
	Member   string `doc:"the file is on the host of this member, relative to the lab's directory there"`
	Store    string `doc:"where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Trial    bool   `doc:"restore it into a scratch directory, boot a throwaway member from it, and look what that has"`
	Foreign  bool   `doc:"one of another cluster is right too"`
	Identity string `doc:"file with age secret keys on this machine, for a snapshot that is encrypted"`
}

// Do performs it and returns what the file has in it. It refuses, with a
// *lab.Failure: what is not there or was never finished; an empty, packed,
// encrypted, truncated or damaged file, or one without trailer; one that is not
// what its sidecar tells of; one of another cluster; one that a newer etcd has
// written. It leaves nothing behind.
func (v *Verify) Do(ctx context.Context, e *lab.Env) (_ *Sidecar, err error) {
	store, err := OpenStore(e, v.Store)
	if err != nil {
		return nil, err
	}
	file, known, done, err := v.find(ctx, e, store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	now := &Sidecar{}
	if err := now.read(v.Snapshot, file); err != nil {
		return nil, err
	}
	if known != nil {
		if err := known.Same(v.Snapshot, now); err != nil {
			return nil, err
		}
		now = known
	}
	look := e.Look(ctx)
	if _, err := Record(e.Cluster, look, 0); err != nil {
		return nil, err
	}
	if !v.Foreign {
		if err := v.ours(e, look, now); err != nil {
			return nil, err
		}
	}
	if err := NotNewer(ctx, e, look, e.Seats[0], v.Snapshot, now.Storage); err != nil {
		return nil, err
	}
	e.Note(v.Member, "snapshot %s: %d bytes, SHA-256 right, revision %d, %d keys%s", v.Snapshot, now.Size, now.Revision, now.Keys,
		map[bool]string{true: ", as its sidecar says"}[known != nil])
	if v.Trial {
		trial, err := v.try(ctx, e, look, file, now)
		if err != nil {
			return nil, err
		}
		now.Trial = trial
	}
	return now, nil
}

// find finds the file, and its sidecar where there is one. A file of a host is
// copied to this machine, and one that is packed is unpacked: done deletes that
// copy.
func (v *Verify) find(ctx context.Context, e *lab.Env, store Store) (file string, known *Sidecar, done func() error, err error) {
	nothing := func() error { return nil }
	if strings.HasSuffix(v.Snapshot, ".part") {
		return "", nil, nil, &lab.Failure{What: "snapshot " + v.Snapshot, Want: "a snapshot", Got: "a .part, whose saving never ended"}
	}
	if v.Member != "" {
		m, err := e.Member(v.Member)
		if err != nil {
			return "", nil, nil, err
		}
		file, err = Fetch(ctx, m.Host, v.Snapshot, store.scratch())
		if errors.Is(err, fs.ErrNotExist) {
			err = &lab.Failure{What: "snapshot " + v.Snapshot + " on " + m.Name, Want: "a file", Got: "none"}
		}
		return file, nil, func() error { return remove(file) }, err
	}
	if strings.ContainsRune(v.Snapshot, os.PathSeparator) {
		info, err := os.Stat(v.Snapshot)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", nil, nil, &lab.Failure{What: "snapshot " + v.Snapshot, Want: "a file", Got: "none"}
		case err != nil:
			return "", nil, nil, err
		case !info.Mode().IsRegular():
			return "", nil, nil, &lab.Failure{What: "snapshot " + v.Snapshot, Want: "a file", Got: info.Mode().Type().String()}
		}
		beside, err := os.Open(strings.TrimSuffix(v.Snapshot, fileExt) + sidecarExt)
		if errors.Is(err, fs.ErrNotExist) {
			return v.Snapshot, nil, nothing, nil
		}
		if err != nil {
			return "", nil, nil, err
		}
		defer beside.Close()
		known, err := readSidecar(beside.Name(), beside)
		return v.Snapshot, known, nothing, err
	}
	entry, err := store.Find(ctx, v.Snapshot)
	if err == nil {
		err = entry.Problem
	}
	if err != nil {
		return "", nil, nil, err
	}
	file, done, err = entry.Open(ctx, v.Identity)
	return file, entry.Sidecar, done, err
}

// ours refuses a snapshot of another cluster: by the cluster's id where a
// sidecar knows it, else by the members it lists, since a database does not
// know its cluster.
func (v *Verify) ours(e *lab.Env, look []lab.Status, s *Sidecar) error {
	if s.Cluster != "" {
		ids, err := Clusters(e.Cluster)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return fmt.Errorf("snapshot %s: nobody knows any more which cluster lab %s was: say foreign when you are sure", v.Snapshot, e.ID)
		}
		if !slices.Contains(ids, s.Cluster) {
			return &lab.Failure{What: "snapshot " + v.Snapshot + ": cluster id", Want: "one of this lab: " + strings.Join(ids, ", "), Got: s.Cluster + ": it is of another cluster"}
		}
		return nil
	}
	var now []string
	for _, st := range look {
		if st.ID == "" {
			continue
		}
		now = append(now, st.ID)
		if slices.ContainsFunc(s.Members, func(m Member) bool { return m.ID == st.ID }) {
			return nil
		}
	}
	if len(now) == 0 {
		e.Note("", "nobody answers and there is no sidecar: nobody can say whose snapshot %s is", v.Snapshot)
		return nil
	}
	var has []string
	for _, m := range s.Members {
		has = append(has, m.ID)
	}
	return &lab.Failure{What: "snapshot " + v.Snapshot + ": members", Want: "some of this lab: " + strings.Join(now, ", "), Got: strings.Join(has, ", ") + ": it is of another cluster"}
}

// NotNewer refuses, with a *lab.Failure, a snapshot that a newer etcd has
// written: etcdutl restores it and etcd then refuses the directory (N123). What
// is to read it is the oldest etcd that answers, or where none does that of m.
func NotNewer(ctx context.Context, e *lab.Env, look []lab.Status, m *lab.Member, name, storage string) error {
	if storage == "" {
		return nil
	}
	lowest := ""
	for _, st := range look {
		if st.Version != "" && (lowest == "" || older(st.Version, lowest)) {
			lowest = st.Version
		}
	}
	if lowest == "" { // nobody answers: ask the tool that would restore it
		out, err := m.Host.Run(ctx, etcd.ToolCmd(e.Cluster, m, "etcdutl", "version"))
		if err != nil {
			return fmt.Errorf("version of etcd in this lab: %w", err)
		}
		line, _, _ := strings.Cut(string(out.Stdout), "\n")
		lowest = strings.TrimSpace(strings.TrimPrefix(line, "etcdutl version:"))
	}
	if older(lowest, storage) {
		return &lab.Failure{What: "snapshot " + name + ": storage version", Want: "at most that of the etcd that is to read it, " + lowest, Got: storage}
	}
	return nil
}

// older compares versions by major and minor.
func older(a, b string) bool {
	x, y := minor(a), minor(b)
	return x[0] < y[0] || x[0] == y[0] && x[1] < y[1]
}

func minor(version string) (out [2]int) {
	for i, p := range strings.SplitN(version, ".", 3) {
		if i < 2 {
			out[i], _ = strconv.Atoi(p) // what is no number is 0, older than all
		}
	}
	return out
}

// try performs a trial of a file on this machine.
func (v *Verify) try(ctx context.Context, e *lab.Env, look []lab.Status, file string, s *Sidecar) (out *Outcome, err error) {
	m := e.Seats[0]
	for i, st := range look {
		if st.Up && !st.Absent { // a host that works
			m = e.Seats[i]
			break
		}
	}
	return trial(ctx, e, m, file, s)
}

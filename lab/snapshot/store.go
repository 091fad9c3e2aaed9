package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Store is where snapshots are kept: a directory on this machine or on a host,
// or a bucket of an object store. Each is two files, NAME.db, which may be
// packed, see [Packing], and NAME.json, its [Sidecar]. Names are made of time
// and revision, never of a count, and no file is ever overwritten. A file has
// its name when it is whole and was verified, not before.
type Store struct {
	Dir   string // on this machine; empty for a store that is elsewhere
	Where string // for people: the directory, or a URL
	files
}

// StoreDoc says what may name a store, for help.
const StoreDoc = "where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"

// OpenStore is the store of a name: a directory on this machine, ssh://HOST/PATH
// of the inventory, s3://BUCKET/PREFIX?endpoint=URL&region=REGION, or the lab's
// own when it is empty. Nobody is asked before the store is used.
func OpenStore(e *lab.Env, ref string) (Store, error) {
	if ref == "" {
		ref = filepath.Join(e.Cluster.Dir, "snapshots")
	}
	u, err := parseStore(ref)
	switch {
	case err != nil:
		return Store{}, err
	case u == nil:
		return Store{Dir: ref, Where: ref, files: directory(ref)}, nil
	case u.Scheme == schemeS3:
		b, err := openBucket(u)
		return Store{Where: ref, files: b}, err
	}
	if e.Kit.Machine == nil {
		return Store{}, fmt.Errorf("store %s: no inventory says where %s is", ref, u.Host)
	}
	h, err := e.Kit.Machine(u.Host)
	if err != nil {
		return Store{}, fmt.Errorf("store %s: %w", ref, err)
	}
	return Store{Where: ref, files: onHost{h, path.Clean(u.Path)}}, nil
}

// Entry is a snapshot in a store.
type Entry struct {
	Name    string
	File    string   // its path on this machine, or its name in a store elsewhere
	Beside  string   // the same of its sidecar
	Sidecar *Sidecar // nil when there is none that can be used
	Problem error    // why not

	store Store
}

// The files of a snapshot.
const (
	fileExt    = ".db"
	sidecarExt = ".json"
)

// place is where a file of the store is: on this machine, or in the store.
func (s Store) place(name string) string {
	if s.Dir == "" {
		return name
	}
	return filepath.Join(s.Dir, name)
}

// List lists the snapshots of a store, the oldest first. A store that nobody
// has saved to is empty.
func (s Store) List(ctx context.Context) ([]Entry, error) {
	files, err := s.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("store of snapshots: %w", err)
	}
	slices.Sort(files) // in order of name, which is that of time
	var out []Entry
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimSuffix(f, ageExt), zstdExt)
		name, ok := strings.CutSuffix(name, fileExt)
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		e := Entry{Name: name, File: s.place(f), Beside: s.place(name + sidecarExt), store: s}
		e.Sidecar, e.Problem = s.sidecar(ctx, name)
		if errors.Is(e.Problem, fs.ErrNotExist) {
			e.Problem = &lab.Failure{What: "snapshot " + name, Want: "a sidecar beside it", Got: "none"}
		}
		out = append(out, e)
	}
	return out, ctx.Err()
}

func (s Store) sidecar(ctx context.Context, name string) (*Sidecar, error) {
	r, err := s.get(ctx, name+sidecarExt)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readSidecar(s.place(name+sidecarExt), r)
}

// Latest is the word for the last snapshot of a store.
const Latest = "latest"

// Find finds a snapshot by name, by label, the last one that has it, or by the
// word latest. What is not there is a *lab.Failure.
func (s Store) Find(ctx context.Context, ref string) (Entry, error) {
	all, err := s.List(ctx)
	if err != nil {
		return Entry{}, err
	}
	for _, e := range slices.Backward(all) {
		if ref == Latest || e.Name == ref || e.Sidecar != nil && e.Sidecar.Label == ref || LabelIn(e.Name) == ref {
			return e, nil
		}
	}
	got := fmt.Sprintf("%d others", len(all))
	if len(all) == 0 {
		got = "an empty store"
	}
	files, err := s.list(ctx)
	if err != nil {
		return Entry{}, err
	}
	if slices.ContainsFunc(files, func(f string) bool {
		n, part := strings.CutSuffix(f, fileExt+".part")
		return part && (ref == Latest || n == ref || LabelIn(n) == ref)
	}) {
		got = "a .part, which is a snapshot whose saving never ended"
	}
	return Entry{}, &lab.Failure{What: "snapshot " + ref, Want: "one of that name or label in " + s.Where, Got: got}
}

// Name is what something is called that was saved then, at a revision, with a
// label or none. In the order of such names is the order of time.
func Name(at time.Time, revision int64, label string) string {
	name := fmt.Sprintf("%s-r%d", at.UTC().Format("20060102-150405.000"), revision)
	if label != "" {
		name += "-" + label
	}
	return name
}

// LabelIn is the label in a Name; empty without one.
func LabelIn(name string) string {
	if m := named.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

var named = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}\.[0-9]{3}-r[0-9]+-(.+)$`)

// ValidLabel refuses what is no part of a file name.
func ValidLabel(label string) error {
	ok := len(label) <= 64 && label != Latest
	for i, r := range label {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || i > 0 && r == '-')
	}
	if !ok {
		return fmt.Errorf("label: %q: expected lower case letters, digits and dashes, at most 64, and not %q", label, Latest)
	}
	return nil
}

// scratch is where files lie that have no name in the store: its directory, or
// for a store that is elsewhere that for temporary files.
func (s Store) scratch() string { return cmp.Or(s.Dir, os.TempDir()) }

// Fetch copies a file of a host into a new one of this machine, see [Fill],
// that the caller deletes. Its errors are those of lab.Download.
func Fetch(ctx context.Context, h lab.Host, path, dir string) (file string, err error) {
	return Fill(dir, func(f *os.File) error { return lab.Download(ctx, h, path, f) })
}

// Fill makes a file in the directory of a store that is nothing of it yet, for
// its owner alone, and deletes those that processes have left which are gone.
// When write fails there is no file.
func Fill(dir string, write func(f *os.File) error) (file string, err error) {
	if err := tidy(dir); err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(dir, newScratch()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// TempDir makes such a directory, with nothing in it.
func TempDir(dir string) (string, error) {
	if err := tidy(dir); err != nil {
		return "", err
	}
	temp := filepath.Join(dir, newScratch())
	if err := os.Mkdir(temp, 0o700); err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	return temp, nil
}

// tidy makes the directory of a store, and deletes from it what processes have
// left that are gone.
func tidy(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	for _, o := range old {
		if orphaned(o.Name()) {
			// In a common directory somebody else's may lie.
			if err := os.RemoveAll(filepath.Join(dir, o.Name())); err != nil && !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("store: %w", err)
			}
		}
	}
	return nil
}

// add gives a verified file and its sidecar their names, the sidecar first. The
// files are for reading only from then on: some tools write into a snapshot
// they were to look at (FE11).
func (s Store) add(ctx context.Context, temp string, side *Sidecar, how Packing) (string, error) {
	if how.Ext() != "" {
		packed, err := s.pack(temp, how)
		if err != nil {
			return "", err
		}
		defer remove(packed)
		temp = packed
	}
	data, err := json.MarshalIndent(side, "", "  ")
	if err != nil {
		return "", err
	}
	beside, err := Fill(s.scratch(), func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return errors.Join(err, f.Sync(), f.Chmod(0o400))
	})
	if err != nil {
		return "", err
	}
	defer os.Remove(beside)
	if err := os.Chmod(temp, 0o400); err != nil {
		return "", err
	}
	for at := side.Time; ; at = at.Add(time.Millisecond) {
		name := Name(at, side.Revision, side.Label)
		err := s.put(ctx, name+sidecarExt, beside)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := s.put(ctx, name+fileExt+how.Ext(), temp); err != nil {
			return "", errors.Join(err, s.remove(context.WithoutCancel(ctx), name+sidecarExt))
		}
		return name, nil
	}
}

// pack makes a packed copy of a file, that is no snapshot yet.
func (s Store) pack(file string, how Packing) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	packed, err := Fill(s.scratch(), func(out *os.File) error { return errors.Join(how.pack(out, in), out.Sync()) })
	if err != nil {
		err = fmt.Errorf("packing of a snapshot: %w", err)
	}
	return packed, err
}

// Open gives the path on this machine of the snapshot as it was before it was
// packed, and done deletes that where it is a copy. identity is a file with age
// secret keys on this machine, empty for none. What cannot be unpacked is a
// *lab.Failure.
func (e Entry) Open(ctx context.Context, identity string) (file string, done func() error, err error) {
	if e.store.Dir != "" && strings.HasSuffix(e.File, fileExt) {
		return e.File, func() error { return nil }, nil
	}
	in, err := e.store.get(ctx, filepath.Base(e.File))
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	r, err := Unpacked("snapshot", filepath.Base(e.File), in, identity)
	if err != nil {
		return "", nil, err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	file, err = Fill(e.store.scratch(), func(out *os.File) error {
		_, err := io.Copy(out, r)
		if err != nil && r != in && ctx.Err() == nil {
			err = notWhole("snapshot", filepath.Base(e.File), err)
		}
		return err
	})
	if err != nil {
		return "", nil, err
	}
	return file, func() error { return remove(file) }, nil
}

// Remove deletes a snapshot, its file first.
func (s Store) Remove(ctx context.Context, e Entry) error {
	return errors.Join(s.remove(ctx, filepath.Base(e.File)), s.remove(ctx, filepath.Base(e.Beside)))
}

// remove deletes a file that may be gone already.
func remove(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

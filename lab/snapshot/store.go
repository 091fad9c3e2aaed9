package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Store is a directory on this machine with snapshots. Each is two files,
// NAME.db, which may be packed, see [Packing], and NAME.json, its [Sidecar]. Names are made of time and revision,
// never of a count, and no file is ever overwritten. A file has its name when
// it is whole and was verified, not before.
type Store struct{ Dir string }

// OpenStore is the store in dir, or the lab's own when that is empty.
func OpenStore(c *lab.Cluster, dir string) Store {
	if dir == "" {
		dir = filepath.Join(c.Dir, "snapshots")
	}
	return Store{dir}
}

// Entry is a snapshot in a store.
type Entry struct {
	Name    string
	File    string   // on this machine
	Beside  string   // file of its sidecar
	Sidecar *Sidecar // nil when there is none that can be used
	Problem error    // why not
}

// The files of a snapshot.
const (
	fileExt    = ".db"
	sidecarExt = ".json"
)

func (s Store) sidecar(name string) string { return filepath.Join(s.Dir, name+sidecarExt) }

// List lists the snapshots of a store, the oldest first. A store that nobody
// has saved to is empty.
func (s Store) List() ([]Entry, error) {
	files, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Entry
	for _, f := range files { // in order of name, which is that of time
		name := strings.TrimSuffix(strings.TrimSuffix(f.Name(), ageExt), zstdExt)
		if name, ok := strings.CutSuffix(name, fileExt); ok && f.Type().IsRegular() && !strings.HasPrefix(name, ".") {
			out = append(out, s.entry(name, f.Name()))
		}
	}
	return out, nil
}

func (s Store) entry(name, file string) Entry {
	e := Entry{Name: name, File: filepath.Join(s.Dir, file), Beside: s.sidecar(name)}
	e.Sidecar, e.Problem = readSidecar(e.Beside)
	if errors.Is(e.Problem, fs.ErrNotExist) {
		e.Problem = &lab.Failure{What: "snapshot " + name, Want: "a sidecar beside it", Got: "none"}
	}
	return e
}

// Latest is the word for the last snapshot of a store.
const Latest = "latest"

// Find finds a snapshot by name, by label, the last one that has it, or by the
// word latest. What is not there is a *lab.Failure.
func (s Store) Find(ref string) (Entry, error) {
	all, err := s.List()
	if err != nil {
		return Entry{}, err
	}
	for _, e := range slices.Backward(all) {
		if ref == Latest || e.Name == ref || e.Sidecar != nil && e.Sidecar.Label == ref || label(e.Name) == ref {
			return e, nil
		}
	}
	got := fmt.Sprintf("%d others", len(all))
	if len(all) == 0 {
		got = "an empty store"
	}
	if part, _ := filepath.Glob(filepath.Join(s.Dir, "*"+fileExt+".part")); slices.ContainsFunc(part, func(f string) bool {
		n := strings.TrimSuffix(filepath.Base(f), fileExt+".part")
		return ref == Latest || n == ref || label(n) == ref
	}) {
		got = "a .part, which is a snapshot whose saving never ended"
	}
	return Entry{}, &lab.Failure{What: "snapshot " + ref, Want: "one of that name or label in " + s.Dir, Got: got}
}

// label is what stands behind time and revision in a name.
func label(name string) string {
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

// Temp makes a file in the directory of a store that is nothing of it yet, for
// its owner alone, and deletes those that processes have left which are gone.
func Temp(dir string) (*os.File, error) {
	if err := tidy(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, newScratch()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return f, nil
}

// TempDir is Temp for a directory.
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
			if err := os.RemoveAll(filepath.Join(dir, o.Name())); err != nil {
				return fmt.Errorf("store: %w", err)
			}
		}
	}
	return nil
}

// add gives a verified file and its sidecar their names, the sidecar first. The
// files are for reading only from then on: some tools write into a snapshot
// they were to look at (FE11).
func (s Store) add(temp string, side *Sidecar, how Packing) (string, error) {
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
	beside, err := Temp(s.Dir)
	if err != nil {
		return "", err
	}
	defer os.Remove(beside.Name())
	_, err = beside.Write(append(data, '\n'))
	if err := errors.Join(err, beside.Sync(), beside.Close(), os.Chmod(beside.Name(), 0o400), os.Chmod(temp, 0o400)); err != nil {
		return "", err
	}
	for at := side.Time.UTC(); ; at = at.Add(time.Millisecond) {
		name := fmt.Sprintf("%s-r%d", at.Format("20060102-150405.000"), side.Revision)
		if side.Label != "" {
			name += "-" + side.Label
		}
		// A link is refused where there is something already; a rename is not.
		err := os.Link(beside.Name(), s.sidecar(name))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if err := os.Link(temp, filepath.Join(s.Dir, name+fileExt+how.Ext())); err != nil {
			return "", errors.Join(err, os.Remove(s.sidecar(name)))
		}
		return name, syncDir(s.Dir)
	}
}

// pack makes a packed copy of a file, that is no snapshot yet.
func (s Store) pack(file string, how Packing) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := Temp(s.Dir)
	if err != nil {
		return "", err
	}
	err = how.pack(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("packing of a snapshot: %w", err), os.Remove(out.Name()))
	}
	return out.Name(), nil
}

// Open gives the path of the snapshot as it was before it was packed, and done
// deletes that where it is a copy. identity is a file with age secret keys on
// this machine, empty for none. What cannot be unpacked is a *lab.Failure.
func (e Entry) Open(identity string) (file string, done func() error, err error) {
	if strings.HasSuffix(e.File, fileExt) {
		return e.File, func() error { return nil }, nil
	}
	in, err := os.Open(e.File)
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
	out, err := Temp(filepath.Dir(e.File))
	if err != nil {
		return "", nil, err
	}
	if _, err := io.Copy(out, r); err != nil {
		return "", nil, errors.Join(notWhole("snapshot", filepath.Base(e.File), err), out.Close(), os.Remove(out.Name()))
	}
	if err := out.Close(); err != nil {
		return "", nil, errors.Join(err, os.Remove(out.Name()))
	}
	return out.Name(), func() error { return remove(out.Name()) }, nil
}

// Remove deletes a snapshot, its file first.
func (s Store) Remove(e Entry) error {
	return errors.Join(os.Remove(e.File), remove(e.Beside), syncDir(s.Dir))
}

// remove deletes a file that may be gone already.
func remove(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package vault

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
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
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Store is a directory on this machine with states: NAME.json, the manifest of
// each, and blobs/SHA256, the parts of all of them. What several states have in
// common is there once. No file is ever changed, all are for their owner alone,
// and a state has its name when all its parts are on disk, not before.
type Store struct{ Dir string }

// OpenStore is the store in dir, or the lab's own when that is empty.
func OpenStore(c *lab.Cluster, dir string) Store {
	if dir == "" {
		dir = filepath.Join(c.Dir, "states")
	}
	return Store{dir}
}

// Entry is a state in a store.
type Entry struct {
	Name    string
	File    string // of its manifest
	State   *State // nil when the manifest cannot be used
	Problem error  // why not
}

const manifestExt = ".json"

func (s Store) manifest(name string) string { return filepath.Join(s.Dir, name+manifestExt) }

// Blob is the file of a part.
func (s Store) Blob(sum string) string { return filepath.Join(s.Dir, "blobs", sum) }

// List lists the states of a store, the oldest first. A store that nobody has
// saved to is empty.
func (s Store) List() ([]Entry, error) {
	files, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []Entry
	for _, f := range files { // in order of name, which is that of time
		name, ok := strings.CutSuffix(f.Name(), manifestExt)
		if !ok || !f.Type().IsRegular() || strings.HasPrefix(name, ".") {
			continue
		}
		e := Entry{Name: name, File: s.manifest(name)}
		e.State, e.Problem = readState(e.File)
		out = append(out, e)
	}
	return out, nil
}

// readState reads a manifest. One that cannot be used is a *lab.Failure.
func readState(file string) (*State, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseState(strings.TrimSuffix(filepath.Base(file), manifestExt), data)
}

func parseState(name string, data []byte) (*State, error) {
	st := &State{}
	if err := json.Unmarshal(data, st); err != nil {
		return nil, &lab.Failure{What: "state " + name + ": manifest", Want: "JSON, as it was saved", Got: err.Error()}
	}
	if st.Version != 1 || st.Epoch.ID == "" || len(st.Seats) == 0 {
		return nil, &lab.Failure{What: "state " + name + ": manifest", Want: "version 1, with epoch and seats", Got: fmt.Sprintf("version %d: another version of etcdrill, or something else, wrote it", st.Version)}
	}
	for sum := range st.blobs() {
		if !sha.MatchString(sum) {
			return nil, &lab.Failure{What: "state " + name + ": manifest", Want: "blobs named by their SHA-256", Got: fmt.Sprintf("%q", sum)}
		}
	}
	return st, nil
}

var sha = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Find finds a state by its whole name, by a label that only it has, or as the
// last one by the word latest. Anything else, also the beginning of a name, is
// a *lab.Failure that lists who might have been meant: going back to the wrong
// state is worse than being asked again.
func (s Store) Find(ref string) (Entry, error) {
	all, err := s.List()
	if err != nil {
		return Entry{}, err
	}
	if ref == snapshot.Latest && len(all) > 0 {
		return all[len(all)-1], nil
	}
	var labelled, similar []Entry
	for _, e := range all {
		switch label := e.label(); {
		case e.Name == ref:
			return e, nil
		case ref != "" && label == ref:
			labelled = append(labelled, e)
		case ref != "" && (strings.HasPrefix(e.Name, ref) || strings.HasPrefix(label, ref)):
			similar = append(similar, e)
		}
	}
	if len(labelled) == 1 {
		return labelled[0], nil
	}
	got := fmt.Sprintf("%d others", len(all))
	switch {
	case len(all) == 0:
		got = "an empty store"
	case len(labelled)+len(similar) > 0:
		var names []string
		for _, e := range append(labelled, similar...) {
			names = append(names, e.Name)
		}
		slices.Sort(names)
		got = "candidates: " + strings.Join(names, ", ")
	}
	return Entry{}, &lab.Failure{What: fmt.Sprintf("state %q", ref), Want: "a whole name, or a label that one state has, in " + s.Dir, Got: got}
}

// label is what a state is called, also when its manifest cannot be read.
func (e Entry) label() string {
	if e.State != nil {
		return e.State.Label
	}
	return snapshot.LabelIn(e.Name)
}

// locked does something to a store while no other process does: what nobody
// needs any more is deleted only then.
func (s Store) locked(do func() error) error {
	if err := os.MkdirAll(filepath.Join(s.Dir, "blobs"), 0o700); err != nil {
		return fmt.Errorf("store of states: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("store of states: %w", err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("store of states: %w", err)
	}
	defer syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	return do()
}

// checksum names content.
func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// put keeps content and returns its name.
func (s Store) put(data []byte) (string, error) {
	file, err := snapshot.Fill(s.Dir, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	sum := checksum(data)
	return sum, s.adopt(file, sum)
}

// adopt makes a file of the store's filesystem, whose SHA-256 is known, a blob.
// A blob of that name that was damaged meanwhile is replaced.
func (s Store) adopt(file, sum string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Chmod(file, 0o400)); err != nil {
		return err
	}
	err = os.Link(file, s.Blob(sum))
	if errors.Is(err, fs.ErrExist) {
		if s.whole(sum, -1) != nil {
			return os.Rename(file, s.Blob(sum))
		}
		err = nil
	}
	return errors.Join(err, os.Remove(file))
}

// whole looks whether a blob has the bytes it is named by; size -1 is any.
func (s Store) whole(sum string, size int64) error {
	f, err := os.Open(s.Blob(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return &lab.Failure{What: "part " + sum, Want: "in the store", Got: "none"}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum || size >= 0 && n != size {
		return &lab.Failure{What: "part " + sum, Want: "the bytes it is named by", Got: fmt.Sprintf("%d bytes with SHA-256 %s: it is damaged", n, got)}
	}
	return nil
}

// get reads a blob, which is whole.
func (s Store) get(sum string) ([]byte, error) {
	if err := s.whole(sum, -1); err != nil {
		return nil, err
	}
	return os.ReadFile(s.Blob(sum))
}

// add gives a state whose parts are in the store its name.
func (s Store) add(st *State) (string, error) {
	for at := st.Time; ; at = at.Add(time.Millisecond) {
		name := snapshot.Name(at, st.Epoch.Revision, st.Label)
		if err := s.addAs(name, st); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

// addAs is add under a name of one's own; one that there is already gives an
// error that matches fs.ErrExist.
func (s Store) addAs(name string, st *State) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	return s.addBytes(name, append(data, '\n'))
}

// addBytes is addAs of a manifest as it is.
func (s Store) addBytes(name string, manifest []byte) error {
	file, err := snapshot.Fill(s.Dir, func(f *os.File) error {
		_, err := f.Write(manifest)
		return errors.Join(err, f.Sync(), f.Chmod(0o400))
	})
	if err != nil {
		return err
	}
	defer os.Remove(file)
	// The parts are there for good before the name is.
	for _, dir := range []string{filepath.Join(s.Dir, "blobs"), s.Dir} {
		if err := snapshot.SyncDir(dir); err != nil {
			return err
		}
	}
	// A link is refused where there is something already; a rename is not.
	if err := os.Link(file, s.manifest(name)); err != nil {
		return err
	}
	return snapshot.SyncDir(s.Dir)
}

// Remove deletes states, and the parts that no other state has.
func (s Store) Remove(entries ...Entry) error {
	return s.locked(func() error {
		for _, e := range entries {
			if err := os.Remove(e.File); err != nil {
				return err
			}
		}
		return s.sweep()
	})
}

// sweep deletes blobs of no state. Where a manifest cannot be read nobody knows
// what it needs, and all stay.
func (s Store) sweep() error {
	all, err := s.List()
	if err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, e := range all {
		if e.State == nil {
			return nil
		}
		for sum := range e.State.blobs() {
			needed[sum] = true
		}
	}
	blobs, err := os.ReadDir(filepath.Join(s.Dir, "blobs"))
	if err != nil {
		return err
	}
	for _, b := range blobs {
		if sha.MatchString(b.Name()) && !needed[b.Name()] {
			if err := os.Remove(s.Blob(b.Name())); err != nil {
				return err
			}
		}
	}
	return snapshot.SyncDir(filepath.Join(s.Dir, "blobs"))
}

// Sound looks whether a state can be trusted: all parts are there, whole, and of
// one epoch. What is inside of them must agree too: names and tokens of the
// configurations, the members that the data lists, whose the archived
// directories are. What does not is a *lab.Failure, and then no part of the
// state is to be used.
func (s Store) Sound(e Entry) error {
	if e.Problem != nil {
		return e.Problem
	}
	st := e.State
	refused := func(what, want, got string) error {
		return &lab.Failure{What: "state " + e.Name + ": " + what, Want: want, Got: got}
	}
	for i, name := range st.Seats {
		if i >= len(st.Hosts) || st.Hosts[i].Name != name {
			return refused("part of host "+name, "there", "none")
		}
	}
	if len(st.Hosts) != len(st.Seats) {
		return refused("parts", fmt.Sprintf("%d, one for each host", len(st.Seats)), fmt.Sprint(len(st.Hosts)))
	}
	for _, h := range st.Hosts {
		if h.Epoch != st.Epoch {
			return refused("part of host "+h.Name, "of "+st.Epoch.String(), "of "+h.Epoch.String()+": it is of another state, and parts do not mix")
		}
	}
	for sum, size := range st.blobs() {
		if err := s.whole(sum, size); err != nil {
			return fmt.Errorf("state %s: %w", e.Name, err)
		}
	}
	for i := range st.Hosts {
		if err := s.agrees(e.Name, st, &st.Hosts[i]); err != nil {
			return err
		}
	}
	if st.Data == nil {
		return nil
	}
	now, err := snapshot.Inspect("of state "+e.Name, s.Blob(st.Data.SHA256))
	if err != nil {
		return err
	}
	if err := st.Data.Same("of state "+e.Name, now); err != nil {
		return err
	}
	if st.Data.Cluster != st.Epoch.Cluster || st.Data.Revision != st.Epoch.Revision {
		return refused("data", "of "+st.Epoch.String(), fmt.Sprintf("of cluster %s, revision %d", st.Data.Cluster, st.Data.Revision))
	}
	if st.Salvaged {
		return nil // it lists the survivor alone
	}
	for _, m := range now.Members {
		if !slices.ContainsFunc(st.Hosts, func(h Host) bool { return h.Member == m.ID }) {
			return refused("part of member "+m.Name+", "+m.ID, "there, since the data lists it", "none")
		}
	}
	return nil
}

// agrees compares what is inside of a host's part with the epoch.
func (s Store) agrees(name string, st *State, h *Host) error {
	if h.Role != "" && h.Member != "" && h.Holds != "" && h.Holds != "member "+h.Member+" of cluster "+st.Epoch.Cluster {
		return &lab.Failure{What: "state " + name + ": data of host " + h.Name, Want: "member " + h.Member + " of cluster " + st.Epoch.Cluster, Got: h.Holds}
	}
	if h.Role != "" && h.Member != "" && st.Data != nil && !st.Salvaged &&
		!slices.ContainsFunc(st.Data.Members, func(m snapshot.Member) bool { return m.ID == h.Member }) {
		return &lab.Failure{What: "state " + name + ": part of host " + h.Name, Want: "a member that the data lists", Got: h.Member + ": it is of another state, and parts do not mix"}
	}
	for _, f := range h.Files {
		if f.Kind != PKI && f.Blob != f.SHA256 {
			return &lab.Failure{What: "state " + name + ": " + f.Path + " of host " + h.Name, Want: "kept as it was, with SHA-256 " + f.SHA256, Got: cmp.Or(f.Blob, "nothing")}
		}
		if f.Kind != Config {
			continue
		}
		data, err := s.get(f.Blob)
		if err != nil {
			return err
		}
		c, err := etcd.ParseSettings(&lab.Member{Name: h.Name, Config: f.Path}, data)
		if err != nil {
			return err
		}
		if got := fmt.Sprint(c.Get("name")); got != h.Name {
			return &lab.Failure{What: "state " + name + ": configuration of host " + h.Name, Want: "the name " + h.Name, Got: got}
		}
		if got, want := fmt.Sprint(c.Get("initial-cluster-token")), cmp.Or(h.Token, st.Epoch.Token); h.Role != "" && got != want {
			return &lab.Failure{What: "state " + name + ": token in the configuration of host " + h.Name, Want: want, Got: got + ": it is of another state, and parts do not mix"}
		}
	}
	return nil
}

package fault

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// State damages a state that was saved, or an archive of one, on this machine.
// The cluster is not touched.
//
// What it does:
//
//	flip      one bit in the middle is another one: of the data, of the archive
//	truncate  the last quarter is gone: of the data, of the archive
//	mixed     a host's part is that of another state
//	missing   a host's part is gone from the state; the last file from the archive
//	outside   the last file of the archive has a name that leads out of it
//	link      the last file of the archive is a link
//
// Healing puts the file back.
type State struct {
	State string `default:"latest" doc:"name of a state, a label that one state has, or latest"`
	Store string `doc:"directory on this machine where states are kept; absent: the lab's own"`
	File  string `doc:"instead of a state an archive, below the lab's directory on this machine, neither compressed nor encrypted"`
	What  string `need:"yes" doc:"flip, truncate, mixed, missing, outside or link"`
	Host  string `doc:"mixed, missing: whose part; the first host's when absent"`
	From  string `doc:"mixed: the state that the part is of"`
}

// The damages of a state in the store, to the file of its data or to its
// manifest, and those of an archive.
var (
	spoilData     = map[string]func([]byte) ([]byte, error){"flip": flipMiddle, "truncate": cutQuarter}
	spoilManifest = map[string]func(f *State, st *vault.State, s vault.Store) error{"mixed": (*State).mix, "missing": (*State).drop}
	spoilArchive  = map[string]func([]byte) ([]byte, error){
		"flip": flipMiddle, "truncate": cutQuarter,
		"missing": func(data []byte) ([]byte, error) { return lastFile(data, nil) },
		"outside": func(data []byte) ([]byte, error) {
			return lastFile(data, func(h *tar.Header) { h.Name = "../../../outside" })
		},
		"link": func(data []byte) ([]byte, error) {
			return lastFile(data, func(h *tar.Header) { h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "/etc/passwd", 0 })
		},
	}
)

// Doc says what the fault does.
func (*State) Doc() string {
	return "damage a saved state or an archive of one; healing puts it back"
}

// Needs lists the abilities it must have.
func (*State) Needs() []lab.Cap { return nil }

// Valid refuses arguments that do not go together.
func (f *State) Valid() error {
	_, data := spoilData[f.What]
	_, manifest := spoilManifest[f.What]
	_, archive := spoilArchive[f.What]
	switch {
	case !data && !manifest && !archive:
		return oneOf("what", f.What, "flip", "truncate", "mixed", "missing", "outside", "link")
	case f.File != "" && !archive:
		return fmt.Errorf("what: %s: expected without file: it is of a state in the store", f.What)
	case f.File == "" && !data && !manifest:
		return fmt.Errorf("what: %s: expected with file: it is of an archive", f.What)
	case f.File != "" && !filepath.IsLocal(f.File):
		return fmt.Errorf("file: %q: expected a path below the lab's directory on this machine", f.File)
	case (f.What == "mixed") != (f.From != ""):
		return errors.New("what: mixed, and from: expected both or none")
	case f.Host != "" && !manifest:
		return fmt.Errorf("what: %s: `host` is for mixed and missing", f.What)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *State) Shell() (do, undo []string) {
	file := "STORE/" + f.State
	if f.File != "" {
		file = f.File
	}
	return []string{"cp " + file + " KEPT", "# " + f.What + " of " + file}, []string{"mv KEPT " + file}
}

func flipMiddle(data []byte) ([]byte, error) {
	data[len(data)/2] ^= 1
	return data, nil
}

func cutQuarter(data []byte) ([]byte, error) { return data[:len(data)/4*3], nil }

// lastFile is an archive whose last file has another header, or is not there.
func lastFile(data []byte, change func(*tar.Header)) ([]byte, error) {
	type file struct {
		head *tar.Header
		body []byte
	}
	var files []file
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(in)
		if err != nil {
			return nil, err
		}
		files = append(files, file{h, body})
	}
	if len(files) == 0 {
		return nil, errors.New("an archive without files")
	}
	last := &files[len(files)-1]
	if change == nil {
		files = files[:len(files)-1]
	} else if change(last.head); last.head.Size == 0 {
		last.body = nil
	}
	var b bytes.Buffer
	out := tar.NewWriter(&b)
	for _, x := range files {
		if err := out.WriteHeader(x.head); err != nil {
			return nil, err
		}
		if _, err := out.Write(x.body); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), out.Close()
}

func (f *State) part(st *vault.State) (int, error) {
	if f.Host == "" {
		return 0, nil
	}
	at := slices.Index(st.Seats, f.Host)
	if at < 0 {
		return 0, fmt.Errorf("host: %s: the state has %q", f.Host, st.Seats)
	}
	return at, nil
}

func (f *State) mix(st *vault.State, store vault.Store) error {
	other, err := store.Find(f.From)
	if err == nil {
		err = other.Problem
	}
	if err != nil {
		return err
	}
	at, err := f.part(st)
	if err != nil {
		return err
	}
	h := other.State.Host(st.Seats[at])
	if h == nil {
		return fmt.Errorf("host: %s: state %s has %q", st.Seats[at], other.Name, other.State.Seats)
	}
	st.Hosts[at] = *h
	return nil
}

func (f *State) drop(st *vault.State, _ vault.Store) error {
	at, err := f.part(st)
	if err == nil {
		st.Hosts = slices.Delete(st.Hosts, at, at+1)
	}
	return err
}

// The names of what is kept: where it belongs, and what it was.
const (
	keptPath = "path"
	keptData = "data"
)

func (f *State) kept(e *lab.Env) string {
	return filepath.Join(e.Dir, ".kept-state-"+url.PathEscape(e.Owner))
}

// target finds the file that is to be damaged, and what becomes of it.
func (f *State) target(e *lab.Env) (file string, spoil func([]byte) ([]byte, error), err error) {
	if f.File != "" {
		return filepath.Join(e.Dir, f.File), spoilArchive[f.What], nil
	}
	store := vault.OpenStore(e.Cluster, f.Store)
	found, err := store.Find(f.State)
	if err == nil {
		err = store.Sound(found)
	}
	if err != nil {
		return "", nil, err
	}
	if spoil := spoilData[f.What]; spoil != nil {
		if found.State.Data == nil {
			return "", nil, fmt.Errorf("state %s has no data", found.Name)
		}
		return store.Blob(found.State.Data.SHA256), spoil, nil
	}
	return found.File, func(data []byte) ([]byte, error) {
		var st vault.State
		if err := json.Unmarshal(data, &st); err != nil {
			return nil, err
		}
		if err := spoilManifest[f.What](f, &st, store); err != nil {
			return nil, err
		}
		return json.MarshalIndent(st, "", "  ")
	}, nil
}

// Inject keeps a copy and damages the file.
func (f *State) Inject(_ context.Context, e *lab.Env) error {
	file, spoil, err := f.target(e)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	half := f.kept(e) + ".half"
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o700), os.WriteFile(filepath.Join(half, keptPath), []byte(file), 0o600),
		os.WriteFile(filepath.Join(half, keptData), data, 0o600)); err != nil {
		return err
	}
	if err := os.Rename(half, f.kept(e)); err != nil { // refused where one is kept already
		return err
	}
	bad, err := spoil(slices.Clone(data))
	if err != nil {
		return err
	}
	e.Note("", "%s: %s: %d bytes, %d before", filepath.Base(file), f.What, len(bad), len(data))
	return putInPlace(file, bad)
}

// putInPlace puts another file in the place of one.
func putInPlace(file string, data []byte) error {
	if err := os.WriteFile(file+".new", data, 0o400); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// read is the file, what it was, and what it is; the kept copy is not there once
// it was put back.
func (f *State) read(e *lab.Env) (file string, was []byte, err error) {
	path, err := os.ReadFile(filepath.Join(f.kept(e), keptPath))
	if err != nil {
		return "", nil, err
	}
	was, err = os.ReadFile(filepath.Join(f.kept(e), keptData))
	return string(path), was, err
}

// Prove compares the file with the copy.
func (f *State) Prove(_ context.Context, e *lab.Env) (lab.Proof, error) {
	file, was, err := f.read(e)
	if errors.Is(err, fs.ErrNotExist) {
		return lab.Proof{State: lab.Gone, Evidence: "the file is as it was"}, nil // Heal has compared
	}
	if err != nil {
		return lab.Proof{}, err
	}
	now, err := os.ReadFile(file)
	if err != nil {
		return lab.Proof{}, err
	}
	if bytes.Equal(was, now) {
		return lab.Proof{Evidence: filepath.Base(file) + " is as it was"}, nil
	}
	return lab.Proof{State: lab.Bites, Evidence: fmt.Sprintf("%s: %d bytes, %d before, others", filepath.Base(file), len(now), len(was))}, nil
}

// Heal puts the file back.
func (f *State) Heal(_ context.Context, e *lab.Env) error {
	if err := os.RemoveAll(f.kept(e) + ".half"); err != nil {
		return err
	}
	file, was, err := f.read(e)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := putInPlace(file, was); err != nil {
		return err
	}
	now, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, was) {
		return fmt.Errorf("%s was put back, and is not what was put", file)
	}
	return os.RemoveAll(f.kept(e))
}

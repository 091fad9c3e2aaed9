package vault

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// The files of an archive, in this order: the index, the manifest, the blobs.
const (
	indexName    = "index.json"
	manifestName = "state.json"
	blobsDir     = "blobs/"
)

// archiveExt is how the name of an archive ends, before what snapshot.Packing
// puts behind it.
const archiveExt = ".tar"

// index is the first file of an archive: what follows, byte by byte.
type index struct {
	Version int       `json:"version"` // of this format, 1
	Name    string    `json:"name"`    // of the state
	Files   []indexed `json:"files"`
}

type indexed struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// most is how many bytes an index, and a manifest, may have.
const most = 16 << 20

// Export writes a state, which must be sound, into one archive, a new file. Its
// name must end as the packing says: .tar, then .zst, then .age.
func Export(store Store, e Entry, to string, how snapshot.Packing) (err error) {
	if want := archiveExt + how.Ext(); !strings.HasSuffix(to, want) {
		return fmt.Errorf("export to %s: expected a name that ends with %s", to, want)
	}
	if err := store.Sound(e); err != nil {
		return err
	}
	manifest, err := os.ReadFile(e.File)
	if err != nil {
		return err
	}
	x := index{Version: 1, Name: e.Name, Files: []indexed{{manifestName, int64(len(manifest)), checksum(manifest)}}}
	for _, sum := range slices.Sorted(maps.Keys(e.State.blobs())) {
		info, err := os.Stat(store.Blob(sum))
		if err != nil {
			return err
		}
		x.Files = append(x.Files, indexed{blobsDir + sum, info.Size(), sum})
	}
	head, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	w, seal, err := how.Writer(f)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	add := func(name string, size int64, r io.Reader) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: e.State.Time, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := io.Copy(out, r)
		return err
	}
	if err := errors.Join(add(indexName, int64(len(head)), bytes.NewReader(head)), add(manifestName, int64(len(manifest)), bytes.NewReader(manifest))); err != nil {
		return err
	}
	for _, b := range x.Files[1:] {
		in, err := os.Open(store.Blob(b.SHA256))
		if err != nil {
			return err
		}
		if err := errors.Join(add(b.Name, b.Size, in), in.Close()); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), seal(), f.Sync())
}

// Import reads an archive.
type Import struct {
	Store    string    `doc:"directory on this machine to keep the state in; absent: the lab's own"`
	Identity string    `doc:"file with age secret keys on this machine, for an archive that is encrypted"`
	MaxSize  lab.Bytes `yaml:"max-size" default:"16GiB" doc:"refuse an archive that says it has more than this, unpacked"`
}

// Do takes the state of an archive into the store, under the name it had, and
// returns that. It is taken whole or not at all: everything is unpacked aside,
// read byte by byte against the index, and the state must be sound before any
// of it has a name. An archive that is damaged, cut off, packed for somebody
// else, lacks a part or has one too many, or has anything in it that is no
// plain file of a state, is a *lab.Failure.
func (i *Import) Do(c *lab.Cluster, file string) (name string, err error) {
	store := OpenStore(c, i.Store)
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	base := filepath.Base(file)
	r, err := snapshot.Unpacked("archive", base, in, i.Identity)
	if err != nil {
		return "", err
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	aside, err := snapshot.TempDir(store.Dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(aside)) }()
	name, manifest, err := unpack(base, r, aside, int64(i.MaxSize))
	if err != nil {
		return "", err
	}
	st, err := parseState(name, manifest)
	if err != nil {
		return "", err
	}
	e := Entry{Name: name, File: filepath.Join(aside, manifestName), State: st}
	if err := (Store{aside}).Sound(e); err != nil {
		return "", fmt.Errorf("archive %s: %w", base, err)
	}
	err = store.locked(func() error {
		if old, err := os.ReadFile(store.manifest(name)); err == nil && !bytes.Equal(old, manifest) {
			return &lab.Failure{What: "state " + name, Want: "not in the store yet, or the same", Got: "another one of that name"}
		}
		for sum := range st.blobs() {
			if err := store.adopt((Store{aside}).Blob(sum), sum); err != nil {
				return err
			}
		}
		err := store.addBytes(name, manifest)
		if errors.Is(err, fs.ErrExist) {
			err = nil // it is there already, and what was damaged of it is whole again
		}
		return err
	})
	return name, err
}

// unpack reads an archive into a directory of its own: only the files that the
// index tells of, in its order, none larger than it says, and nothing behind.
func unpack(base string, r io.Reader, dir string, max int64) (name string, manifest []byte, err error) {
	refused := func(want, got string) (string, []byte, error) {
		return "", nil, &lab.Failure{What: "archive " + base, Want: want, Got: got}
	}
	if max <= 0 {
		max = 16 << 30
	}
	in := tar.NewReader(r)
	next := func(name string, size int64) error {
		h, err := in.Next()
		if err == io.EOF {
			return &lab.Failure{What: "archive " + base, Want: name, Got: "its end"}
		}
		if err != nil {
			return &lab.Failure{What: "archive " + base, Want: "a tar archive that is whole", Got: err.Error()}
		}
		if h.Typeflag != tar.TypeReg || h.Name != name {
			return &lab.Failure{What: "archive " + base, Want: "the plain file " + name, Got: fmt.Sprintf("%q, type %q, to %q", h.Name, h.Typeflag, h.Linkname)}
		}
		if h.Size < 0 || size >= 0 && h.Size != size || size < 0 && h.Size > most {
			return &lab.Failure{What: "archive " + base + ": " + name, Want: "the size that the index says, and an index of at most 16 MiB", Got: fmt.Sprintf("%d bytes", h.Size)}
		}
		return nil
	}
	if err := next(indexName, -1); err != nil {
		return "", nil, err
	}
	head, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return refused("a tar archive that is whole", err.Error())
	}
	var x index
	if err := json.Unmarshal(head, &x); err != nil {
		return refused("an index in JSON", err.Error())
	}
	if err := x.valid(base, max); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "blobs"), 0o700); err != nil {
		return "", nil, err
	}
	for _, f := range x.Files {
		if err := next(f.Name, f.Size); err != nil {
			return "", nil, err
		}
		// Names were compared with what a state can have: nothing leads elsewhere.
		out, err := os.OpenFile(filepath.Join(dir, filepath.FromSlash(f.Name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return "", nil, err
		}
		sum := sha256.New()
		n, err := io.Copy(io.MultiWriter(out, sum), in)
		if cerr := out.Close(); cerr != nil {
			return "", nil, cerr
		}
		if err != nil {
			return refused("a tar archive that is whole", err.Error())
		}
		if got := hex.EncodeToString(sum.Sum(nil)); n != f.Size || got != f.SHA256 {
			return refused(f.Name+" with SHA-256 "+f.SHA256, fmt.Sprintf("%d bytes with %s: it is damaged", n, got))
		}
	}
	switch h, err := in.Next(); {
	case err == nil:
		return refused("its end, after all that the index tells of", fmt.Sprintf("%q", h.Name))
	case err != io.EOF:
		return refused("a tar archive that is whole", err.Error())
	}
	// Only now has what it was packed with said that nothing is missing.
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != nil && err != io.EOF {
		return refused("its end", fmt.Sprintf("%d bytes more, %v", n, err))
	}
	manifest, err = os.ReadFile(filepath.Join(dir, manifestName))
	return x.Name, manifest, err
}

// valid refuses an index that no state has.
func (x index) valid(base string, max int64) error {
	refused := func(want, got string) error {
		return &lab.Failure{What: "archive " + base + ": index", Want: want, Got: got}
	}
	if x.Version != 1 {
		return refused("version 1", fmt.Sprint(x.Version))
	}
	if len(x.Name) > 200 || strings.HasPrefix(x.Name, ".") || x.Name == "" || strings.ContainsFunc(x.Name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	}) {
		return refused("the name of a state", fmt.Sprintf("%q", x.Name))
	}
	if len(x.Files) == 0 || x.Files[0].Name != manifestName || x.Files[0].Size > most {
		return refused(manifestName+" first, of at most 16 MiB", fmt.Sprintf("%d files", len(x.Files)))
	}
	left, seen := max, map[string]bool{}
	for i, f := range x.Files {
		if i > 0 && (f.Name != blobsDir+f.SHA256 || !sha.MatchString(f.SHA256)) || seen[f.Name] {
			return refused("blobs named by their SHA-256, each once", fmt.Sprintf("%q", f.Name))
		}
		seen[f.Name] = true
		if f.Size < 0 || f.Size > left {
			return refused(fmt.Sprintf("at most %d bytes in all", max), fmt.Sprintf("more, with %s of %d bytes", f.Name, f.Size))
		}
		left -= f.Size
	}
	return nil
}

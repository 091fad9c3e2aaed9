package fault

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Snapshot damages a snapshot that was saved: one of the store on this machine,
// or a file on a member's host. The cluster is not touched.
//
// What it does:
//
//	flip        one value has another last byte
//	truncate    the last quarter is gone
//	empty       it has no bytes
//	no-trailer  the SHA-256 at its end is gone
//	gzip        it is packed, under the same name
//	partial     it is named .part, as etcdctl names what it has not finished
//	foreign     it is of another cluster: the ids of its members are others,
//	            and the cluster id in its sidecar
//	newer       its storage version is that of an etcd to come
//
// The last two are sound files with a right trailer, and their sidecar tells of
// them. Healing puts the file back, and its sidecar.
type Snapshot struct {
	Snapshot string     `default:"latest" doc:"name or label of a snapshot of the store, latest, or with member a file"`
	Member   lab.Target `doc:"a file on the host of this member, relative to the lab's directory there"`
	Store    string     `doc:"directory on this machine where snapshots are kept; absent: the lab's own"`
	What     string     `need:"yes" doc:"flip, truncate, empty, no-trailer, gzip, partial, foreign or newer"`
	Key      string     `doc:"flip: whose value; the first key that has one when absent"`
}

// spoil is what a damage makes of a snapshot's bytes. partial keeps them.
var spoil = map[string]func(f *Snapshot, data []byte) ([]byte, error){
	"flip":       (*Snapshot).flip,
	"truncate":   func(_ *Snapshot, data []byte) ([]byte, error) { return data[:len(data)/4*3], nil },
	"empty":      func(*Snapshot, []byte) ([]byte, error) { return nil, nil },
	"no-trailer": func(_ *Snapshot, data []byte) ([]byte, error) { return data[:len(data)-sha256.Size], nil },
	"gzip":       func(_ *Snapshot, data []byte) ([]byte, error) { return packed(data) },
	"partial":    func(_ *Snapshot, data []byte) ([]byte, error) { return data, nil },
	"foreign":    func(_ *Snapshot, data []byte) ([]byte, error) { return forged(data, otherMembers) },
	"newer":      func(_ *Snapshot, data []byte) ([]byte, error) { return forged(data, newerStorage) },
}

// Doc says what the fault does.
func (*Snapshot) Doc() string {
	return "damage a snapshot that was saved, in the store or on a host; healing puts it back"
}

// Needs lists the abilities it must have.
func (*Snapshot) Needs() []lab.Cap { return nil }

// Valid refuses arguments that do not go together.
func (f *Snapshot) Valid() error {
	switch {
	case spoil[f.What] == nil:
		return oneOf("what", f.What, "flip", "truncate", "empty", "no-trailer", "gzip", "partial", "foreign", "newer")
	case f.Key != "" && f.What != "flip":
		return fmt.Errorf("what: %s: `key` is for flip only", f.What)
	case f.Member.Role != "" && f.Store != "":
		return fmt.Errorf("member, store: expected one of them")
	case f.Member.Role != "" && (path.IsAbs(f.Snapshot) || path.Clean(f.Snapshot) != f.Snapshot || strings.HasPrefix(f.Snapshot, "..")):
		return fmt.Errorf("snapshot: %q: expected a relative path inside the lab's directory", f.Snapshot)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *Snapshot) Shell() (do, undo []string) {
	file := "STORE/" + f.Snapshot + ".db"
	if f.Member.Role != "" {
		file = f.Snapshot
	}
	damage := map[string]string{
		"flip":       "dd of=" + file + " bs=1 seek=OFFSET count=1 conv=notrunc",
		"truncate":   "truncate -s 75% " + file,
		"empty":      "truncate -s 0 " + file,
		"no-trailer": "truncate -s -32 " + file,
		"gzip":       "gzip < " + file + ".kept > " + file,
		"partial":    "mv " + file + " " + file + ".part",
		"foreign":    "cp ANOTHER-CLUSTERS.db " + file,
		"newer":      "cp OF-A-NEWER-ETCD.db " + file,
	}[f.What]
	do, undo = []string{"cp " + file + " " + file + ".kept", damage}, []string{"mv " + file + ".kept " + file}
	if f.Member.Role != "" {
		return operator(f.Member, do...), operator(f.Member, undo...)
	}
	return do, undo
}

// place is where the files of a snapshot are, and how they are moved: on this
// machine, or on a host.
type place struct {
	kept   string   // directory with what was there before
	half   string   // the same, before it is whole
	files  []string // names, the snapshot first
	dir    string
	exists func(path string) (bool, error)
	read   func(path string) ([]byte, error)
	write  func(path string, data []byte) error // whole, as a new file
	remove func(path string) error              // with all below it; nil when it is not there
	rename func(from, to string) error
}

// find finds the files. Once they were kept their names are those of the copy,
// whatever is the latest snapshot by then.
func (f *Snapshot) find(ctx context.Context, e *lab.Env) (*place, error) {
	owner := url.PathEscape(e.Owner)
	var p *place
	var store snapshot.Store
	if f.Member.Role != "" {
		ms, err := seats(e, f.Member)
		if err != nil {
			return nil, err
		}
		if len(ms) != 1 {
			return nil, fmt.Errorf("member: %s: expected one", f.Member)
		}
		p = onHost(ctx, e, ms[0], f.Snapshot)
	} else {
		var err error
		if store, err = snapshot.OpenStore(e, f.Store); err != nil {
			return nil, err
		}
		if store.Dir == "" {
			return nil, fmt.Errorf("store: %s: expected one on this machine: what is elsewhere is not damaged", f.Store)
		}
		p = onDisk(store.Dir)
	}
	p.kept, p.half = path.Join(p.dir, ".kept-"+owner), path.Join(p.dir, ".keeping-"+owner)
	if f.Member.Role != "" {
		return p, nil
	}
	kept, err := os.ReadDir(p.kept)
	if err == nil {
		for _, k := range kept {
			p.files = append(p.files, k.Name())
		}
		slices.Sort(p.files) // .db before .json
		return p, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	entry, err := store.Find(ctx, f.Snapshot)
	if err != nil {
		return nil, err
	}
	p.files = []string{filepath.Base(entry.File), filepath.Base(entry.Beside)}
	return p, nil
}

func onDisk(dir string) *place {
	return &place{
		dir: dir,
		exists: func(path string) (bool, error) {
			_, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return err == nil, err
		},
		read: os.ReadFile,
		write: func(path string, data []byte) error {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			new := path + ".new"
			if err := os.WriteFile(new, data, 0o400); err != nil {
				return err
			}
			return os.Rename(new, path)
		},
		remove: os.RemoveAll,
		rename: os.Rename,
	}
}

func onHost(ctx context.Context, e *lab.Env, m *lab.Member, file string) *place {
	return &place{
		dir:    path.Join(m.Host.Dir(), path.Dir(file)),
		files:  []string{path.Base(file)},
		exists: func(p string) (bool, error) { return exists(ctx, m.Host, p) },
		read:   func(p string) ([]byte, error) { return m.Host.Get(ctx, p) },
		write:  func(p string, data []byte) error { return m.Host.Put(ctx, p, 0o600, data) },
		remove: func(p string) error { return remove(ctx, e, m, p) },
		rename: func(from, to string) error {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"mv", "--", from, to}})
			return err
		},
	}
}

// partOf is what a partial snapshot is named.
func partOf(file string) string { return file + ".part" }

// Inject keeps a copy and damages the file.
func (f *Snapshot) Inject(ctx context.Context, e *lab.Env) error {
	if err := f.Valid(); err != nil {
		return err
	}
	p, err := f.find(ctx, e)
	if err != nil {
		return err
	}
	if there, err := p.exists(p.kept); err != nil || there {
		return errors.Join(err, fmt.Errorf("%s: a copy is kept already", p.kept))
	}
	for _, name := range p.files {
		data, err := p.read(path.Join(p.dir, name))
		if err != nil {
			return err
		}
		if err := p.write(path.Join(p.half, name), data); err != nil {
			return err
		}
	}
	if err := p.rename(p.half, p.kept); err != nil {
		return err
	}
	// Nothing is damaged before there is something to put back.
	if there, err := p.exists(p.kept); err != nil || !there {
		return errors.Join(err, fmt.Errorf("%s: the copy is not there", p.kept))
	}
	file := path.Join(p.dir, p.files[0])
	data, err := p.read(file)
	if err != nil {
		return err
	}
	if f.What == "partial" {
		return p.rename(file, partOf(file))
	}
	if len(data) < 1<<12 {
		return fmt.Errorf("%s: %d bytes: expected a snapshot", file, len(data))
	}
	bad, err := spoil[f.What](f, slices.Clone(data))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := p.write(file, bad); err != nil {
		return err
	}
	e.Note("", "%s: %s: %d bytes, %d before", p.files[0], f.What, len(bad), len(data))
	if len(p.files) > 1 && (f.What == "foreign" || f.What == "newer") {
		return retell(p, bad, f.What)
	}
	return nil
}

// retell makes a sidecar tell of another file.
func retell(p *place, data []byte, what string) error {
	beside := path.Join(p.dir, p.files[1])
	text, err := p.read(beside)
	if err != nil {
		return err
	}
	var s snapshot.Sidecar
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	s.SHA256, s.Size = hex.EncodeToString(sum[:]), int64(len(data))
	if what == "foreign" {
		id, err := strconv.ParseUint(s.Cluster, 16, 64)
		if err != nil {
			return err
		}
		s.Cluster = etcd.HexID(^id)
	} else {
		s.Storage = toCome
	}
	if text, err = json.MarshalIndent(s, "", "  "); err != nil {
		return err
	}
	return p.write(beside, text)
}

// flip changes the last byte of a value, everywhere it stands: status does not
// notice (FE9).
func (f *Snapshot) flip(data []byte) ([]byte, error) {
	var places []int64
	err := asFile(data, func(file string) error {
		name, at, err := etcd.ValueAt(file, f.Key, data)
		if err == nil && len(at) == 0 {
			err = fmt.Errorf("the value of %q was not found", name)
		}
		places = at
		return err
	})
	for _, at := range places {
		data[at] ^= 1
	}
	return data, err
}

// asFile calls do with a file of these bytes for the while: a database is
// mapped into memory from a file.
func asFile(data []byte, do func(file string) error) error {
	file, err := snapshot.Fill(os.TempDir(), func(f *os.File) error { _, err := f.Write(data); return err })
	if err != nil {
		return err
	}
	return errors.Join(do(file), os.Remove(file))
}

func packed(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	return b.Bytes(), errors.Join(err, w.Close())
}

// toCome is the storage version of an etcd that there is not.
const toCome = "99.0"

func newerStorage(tx *bbolt.Tx) error {
	meta := tx.Bucket([]byte("meta"))
	if meta == nil {
		return errors.New("it has no bucket named meta")
	}
	return meta.Put([]byte("storageVersion"), []byte(toCome+".0"))
}

func otherMembers(tx *bbolt.Tx) error {
	members := tx.Bucket([]byte("members"))
	if members == nil {
		return errors.New("it lists no members")
	}
	listed := map[string]map[string]any{}
	err := members.ForEach(func(k, v []byte) error {
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(v))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			return err
		}
		listed[string(k)] = m
		return nil
	})
	if err != nil {
		return err
	}
	for k, m := range listed {
		id, err := strconv.ParseUint(fmt.Sprint(m["id"]), 10, 64)
		if err != nil {
			return err
		}
		m["id"] = ^id
		v, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := errors.Join(members.Delete([]byte(k)), members.Put([]byte(etcd.HexID(^id)), v)); err != nil {
			return err
		}
	}
	return nil
}

// forged is a snapshot in which something else stands, and whose trailer is
// right.
func forged(data []byte, change func(*bbolt.Tx) error) ([]byte, error) {
	var out []byte
	err := asFile(data[:len(data)-sha256.Size], func(file string) error {
		db, err := bbolt.Open(file, 0o600, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(db.Update(change), db.Close()); err != nil {
			return err
		}
		out, err = os.ReadFile(file)
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// Prove compares the file with the copy.
func (f *Snapshot) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	p, err := f.find(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	file := path.Join(p.dir, p.files[0])
	copied, err := p.exists(p.kept)
	if err != nil {
		return lab.Proof{}, err
	}
	if !copied {
		data, err := p.read(file)
		if err != nil {
			return lab.Proof{}, err
		}
		if _, _, err := etcd.VerifySnapshot(p.files[0], bytes.NewReader(data)); err != nil {
			return lab.Proof{Evidence: err.Error()}, nil
		}
		return lab.Proof{State: lab.Gone, Evidence: fmt.Sprintf("%s: %d bytes, its trailer is right", p.files[0], len(data))}, nil
	}
	was, err := p.read(path.Join(p.kept, p.files[0]))
	if err != nil {
		return lab.Proof{}, err
	}
	now, err := p.read(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lab.Proof{State: lab.Bites, Evidence: p.files[0] + " is not there any more"}, nil
	case err != nil:
		return lab.Proof{}, err
	case bytes.Equal(was, now):
		return lab.Proof{Evidence: p.files[0] + " is as it was"}, nil
	}
	return lab.Proof{State: lab.Bites, Evidence: fmt.Sprintf("%s: %d bytes, %d before, others", p.files[0], len(now), len(was))}, nil
}

// Heal puts the files back.
func (f *Snapshot) Heal(ctx context.Context, e *lab.Env) error {
	p, err := f.find(ctx, e)
	if err != nil {
		return err
	}
	if err := p.remove(p.half); err != nil {
		return err
	}
	copied, err := p.exists(p.kept)
	if err != nil || !copied {
		return err
	}
	for _, name := range p.files {
		data, err := p.read(path.Join(p.kept, name))
		if err != nil {
			return err
		}
		if err := p.write(path.Join(p.dir, name), data); err != nil {
			return err
		}
	}
	return errors.Join(p.remove(partOf(path.Join(p.dir, p.files[0]))), p.remove(p.kept))
}

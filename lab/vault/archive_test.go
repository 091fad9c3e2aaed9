package vault_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// part is a file of an archive under test.
type part struct {
	head tar.Header
	data []byte
}

// archived is a small state, as an archive has it, without a lab.
func archived(t testing.TB) []part {
	t.Helper()
	config := []byte("name: m1\ninitial-cluster-token: lucky\n")
	epoch := vault.Epoch{ID: "0011223344556677", Cluster: "c1", Token: "lucky"}
	st := vault.State{Version: 1, Time: time.Unix(1e9, 0).UTC(), Lab: "t", Epoch: epoch, Seats: []string{"m1"}, Hosts: []vault.Host{{Name: "m1", Epoch: epoch, Role: vault.Voter,
		Files: []vault.File{{Path: "/etc/etcd/etcd.yaml", Kind: vault.Config, Size: int64(len(config)), SHA256: sum(config), Blob: sum(config)}}}}}
	manifest, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return indexed(t, part{tar.Header{Name: "state.json"}, manifest}, part{tar.Header{Name: "blobs/" + sum(config)}, config})
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// indexed puts the index before what it tells of.
func indexed(t testing.TB, parts ...part) []part {
	t.Helper()
	var files []map[string]any
	for _, p := range parts {
		files = append(files, map[string]any{"name": p.head.Name, "size": len(p.data), "sha256": sum(p.data)})
	}
	head, err := json.Marshal(map[string]any{"version": 1, "name": "20010909-014640.000-r0", "files": files})
	if err != nil {
		t.Fatal(err)
	}
	return append([]part{{tar.Header{Name: "index.json"}, head}}, parts...)
}

func packed(t testing.TB, parts []part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		h := p.head
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Mode = 0o600
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(p.data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(p.data); err != nil && h.Typeflag == tar.TypeReg {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// imported reads an archive into a new store, and lists what there is then.
func imported(t testing.TB, name string, archive []byte, identity string) (left []string, err error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "in", "states")
	_, err = (&vault.Import{Store: store, Identity: identity, MaxSize: 1 << 20}).Do(&lab.Cluster{}, file)
	walked := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && p != file && d.Name() != "lock" || err == nil && d.Type()&os.ModeType&^os.ModeDir != 0 {
			left = append(left, strings.TrimPrefix(p, store+"/"))
		}
		return err
	})
	if walked != nil {
		t.Fatal(walked)
	}
	return left, err
}

// An archive is taken whole or not at all.
func TestDamagedArchives(t *testing.T) {
	t.Parallel()
	sound := archived(t)
	if left, err := imported(t, "a.tar", packed(t, sound), ""); err != nil || len(left) != 2 {
		t.Fatalf("a sound one: %q, %v", left, err)
	}
	change := func(at int, do func(p *part)) []byte {
		parts := slices.Clone(sound)
		do(&parts[at])
		return packed(t, parts)
	}
	with := func(h tar.Header, data string) []byte {
		return packed(t, append(slices.Clone(sound), part{h, []byte(data)}))
	}
	whole := packed(t, sound)
	bomb := func(size int64, name string) []byte {
		head := fmt.Sprintf(`{"version":1,"name":"x","files":[{"name":"state.json","size":1,"sha256":""},{"name":"blobs/%[1]s","size":%[2]d,"sha256":"%[1]s"}]}`, name, size)
		return packed(t, []part{{tar.Header{Name: "index.json"}, []byte(head)}})
	}
	flipped := func(at int) []byte {
		out := slices.Clone(whole)
		out[at] ^= 1
		return out
	}
	evil := sound[2].data
	for name, archive := range map[string][]byte{
		"empty":                   nil,
		"no archive":              []byte("Bona nit"),
		"a flipped blob":          flipped(bytes.Index(whole, evil) + 7),
		"a flipped manifest":      flipped(bytes.Index(whole, sound[1].data) + 80),
		"a flipped index":         flipped(600),
		"truncated in a blob":     whole[:bytes.Index(whole, evil)+10],
		"truncated in a header":   whole[:1400],
		"with more behind":        append(slices.Clone(whole), "x"...),
		"a part missing":          packed(t, sound[:2]),
		"a part of another size":  change(2, func(p *part) { p.data = append(slices.Clone(p.data), 'x') }),
		"a host part missing":     packed(t, indexed(t, sound[1])),
		"a part too many":         with(tar.Header{Name: "blobs/" + sum([]byte("x"))}, "x"),
		"a name that leads out":   change(2, func(p *part) { p.head.Name = "../../evil" }),
		"indexed, leads out":      packed(t, indexed(t, sound[1], part{tar.Header{Name: "blobs/../../evil"}, evil})),
		"an absolute name":        packed(t, indexed(t, sound[1], part{tar.Header{Name: "/tmp/evil"}, evil})),
		"a link":                  change(2, func(p *part) { p.head.Typeflag, p.head.Linkname = tar.TypeSymlink, "/etc/passwd" }),
		"a hard link":             change(2, func(p *part) { p.head.Typeflag, p.head.Linkname = tar.TypeLink, "state.json" }),
		"a device":                change(2, func(p *part) { p.head.Typeflag = tar.TypeChar }),
		"a directory":             with(tar.Header{Name: "more/", Typeflag: tar.TypeDir}, ""),
		"a bomb":                  bomb(1<<40, strings.Repeat("a", 64)),
		"a negative size":         bomb(-1, strings.Repeat("a", 64)),
		"a blob of another name":  bomb(1, "evil"),
		"another format":          change(0, func(p *part) { p.data = []byte(`{"version":2}`) }),
		"a manifest of elsewhere": packed(t, indexed(t, part{tar.Header{Name: "state.json"}, []byte(`{"version":1}`)})),
	} {
		left, err := imported(t, "a.tar", archive, "")
		if lab.VerdictOf(err) != lab.Fail || len(left) > 0 {
			t.Errorf("%s: %v, and there is %q", name, err, left)
		}
	}
}

// Packed and encrypted, for somebody else, and cut off.
func TestPackedArchives(t *testing.T) {
	t.Parallel()
	mine, public := keys(t)
	other, _ := keys(t)
	how := snapshot.Packing{Compress: true, Recipients: []string{public}}
	var b bytes.Buffer
	w, seal, err := how.Writer(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(packed(t, archived(t)))); err != nil {
		t.Fatal(err)
	}
	if err := seal(); err != nil {
		t.Fatal(err)
	}
	name, data := "a.tar.zst.age", b.Bytes()
	if left, err := imported(t, name, data, mine); err != nil || len(left) != 2 {
		t.Errorf("mine: %q, %v", left, err)
	}
	for what, c := range map[string]struct {
		data     []byte
		identity string
	}{
		"without a key":  {data, ""},
		"another's key":  {data, other},
		"cut off":        {data[:len(data)-20], mine},
		"a flipped byte": {append(slices.Clone(data[:len(data)-9]), data[len(data)-9]^1), mine},
	} {
		left, err := imported(t, name, c.data, c.identity)
		if lab.VerdictOf(err) != lab.Fail || len(left) > 0 {
			t.Errorf("%s: %v, and there is %q", what, err, left)
		}
	}
}

// Whatever an archive is, reading it ends, with all of a state or with nothing.
func FuzzImport(f *testing.F) {
	sound := archived(f)
	f.Add(packed(f, sound))
	f.Add(packed(f, sound[:2]))
	f.Add([]byte("index.json"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		left, err := imported(t, "a.tar", archive, "")
		if (err == nil) != (len(left) >= 1) {
			t.Errorf("%v, and there is %q", err, left)
		}
		for _, l := range left {
			if l != "20010909-014640.000-r0.json" && !strings.HasPrefix(l, "blobs/") && filepath.Dir(l) != "." {
				t.Errorf("there is %q", l)
			}
		}
	})
}

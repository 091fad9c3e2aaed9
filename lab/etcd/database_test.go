package etcd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/etcdrill/etcdrill/lab/etcd"
)

// write is one change in a database of these tests; an empty value deletes, and
// without a key it is what a revision bump leaves.
type write struct{ key, value string }

// database makes a file as etcd writes it, of changes from revision 2 on.
func database(t testing.TB, writes []write, meta map[string]string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		keys, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		keys.FillPercent = 0.9
		for i, w := range writes {
			rev := append(binary.BigEndian.AppendUint64(nil, uint64(i+2)), '_')
			rev = binary.BigEndian.AppendUint64(rev, 0)
			record := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), []byte(w.key))
			switch {
			case w.key == "":
				record = nil
			case w.value == "":
				rev = append(rev, 't')
			default:
				record = protowire.AppendVarint(protowire.AppendTag(record, 3, protowire.VarintType), uint64(i+2))
				record = protowire.AppendBytes(protowire.AppendTag(record, 5, protowire.BytesType), []byte(w.value))
				record = protowire.AppendVarint(protowire.AppendTag(record, 6, protowire.VarintType), 77)
			}
			if err := keys.Put(rev, record); err != nil {
				return err
			}
		}
		b, err := tx.CreateBucket([]byte("lease"))
		if err != nil {
			return err
		}
		granted := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 77)
		granted = protowire.AppendVarint(protowire.AppendTag(granted, 2, protowire.VarintType), 30)
		if err := b.Put(binary.BigEndian.AppendUint64(nil, 77), granted); err != nil {
			return err
		}
		b, err = tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		for k, v := range meta {
			if err := b.Put([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		b, err = tx.CreateBucket([]byte("members"))
		if err != nil {
			return err
		}
		return b.Put([]byte("2a"), []byte(`{"id":42,"peerURLs":["http://10.0.0.21:2380"],"name":"m1"}`))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadDatabase(t *testing.T) {
	compacted := string(binary.BigEndian.AppendUint64(nil, 3)) + "_\x00\x00\x00\x00\x00\x00\x00\x00"
	file := database(t, []write{{"a", "1"}, {"b", "1"}, {"a", "2"}, {"b", ""}, {"c", "1"}, {"c", ""}, {"c", "9"}, {}},
		map[string]string{"finishedCompactRev": compacted, "storageVersion": "3.7.0"})
	if err := etcd.CheckPages(file); err != nil {
		t.Error(err)
	}
	d, err := etcd.ReadDatabase(file)
	if err != nil {
		t.Fatal(err)
	}
	want := etcd.Keys{"a": {Revision: 4, Sum: etcd.Sum([]byte("2"))}, "c": {Revision: 8, Sum: etcd.Sum([]byte("9"))}}
	if !maps.Equal(d.Keys, want) || d.Revision != 9 || d.Compacted != 3 || d.Storage != "3.7" {
		t.Errorf("%+v", d)
	}
	if len(d.Members) != 1 || d.Members[0].HexID() != "2a" || d.Members[0].Name != "m1" {
		t.Errorf("members %+v", d.Members)
	}
	if len(d.Leases) != 1 || d.Leases[0].ID != 77 || d.Leases[0].TTL != 30*time.Second || !slices.Equal(d.Leases[0].Keys, []string{"a", "c"}) {
		t.Errorf("leases %+v", d.Leases)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	recs, err := etcd.ReadRecords(file, "c")
	if err != nil || len(recs) != 1 || string(recs["c"].Value) != "9" || recs["c"].Lease != 77 {
		t.Errorf("%+v, %v", recs, err)
	}
	// Pages that make no sense are told of, and end nobody's process.
	torn := filepath.Join(t.TempDir(), "torn")
	hit := 0
	for _, page := range []int{2, 3, 4, 5, 6} {
		if (page+1)*4096 > len(data) {
			break
		}
		if err := os.WriteFile(torn, append(append(append([]byte(nil), data[:page*4096]...), bytes.Repeat([]byte{0xff}, 4096)...), data[(page+1)*4096:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := etcd.ReadDatabase(torn); err == nil {
			continue // nothing is on that page any more
		}
		hit++
		if err := etcd.CheckPages(torn); err == nil || !strings.Contains(err.Error(), "make no sense") {
			t.Errorf("page %d: %v", page, err)
		}
	}
	if hit == 0 {
		t.Error("no page was hit")
	}
	name, places, err := etcd.ValueAt(file, "c", data)
	if err != nil || name != "c" || len(places) == 0 {
		t.Fatalf("%q, %v, %v", name, places, err)
	}
	for _, at := range places {
		if data[at] != '9' {
			t.Errorf("at %d there is %q", at, data[at])
		}
	}
	if _, _, err := etcd.ValueAt(file, "b", data[:0]); err != nil {
		t.Error(err) // it had one, long ago
	}
	if _, _, err := etcd.ValueAt(file, "never", data); err == nil {
		t.Error("a value of a key that never was")
	}

	bad := filepath.Join(t.TempDir(), "bad")
	for _, damage := range []func([]byte) []byte{
		func(d []byte) []byte { return nil },
		func(d []byte) []byte { return []byte(strings.Repeat("no database", 9000)) },
		func(d []byte) []byte { copy(d[4*4096:], strings.Repeat("x", 4096)); return d },
	} {
		if err := os.WriteFile(bad, damage(append([]byte(nil), data...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := etcd.ReadDatabase(bad); err == nil {
			if err := etcd.CheckPages(bad); err == nil {
				t.Error("anything goes for a database")
			}
		}
	}
}

func TestPrefixes(t *testing.T) {
	keys := func(names ...string) etcd.Keys {
		k := etcd.Keys{}
		for _, n := range names {
			k[n] = etcd.Value{}
		}
		return k
	}
	got := keys("/registry/pods/default/a", "/registry/pods/default/b", "/registry/leases/x", "seed/1", "a/b/c", "a/b/d/e", "Gabon", "/top").Prefixes()
	want := map[string]int64{"/registry/pods/": 2, "/registry/leases/": 1, "seed/": 1, "a/b/": 2, "": 2}
	if !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	users, all := etcd.Keys{}, etcd.Keys{}
	for i := range 1500 {
		users[fmt.Sprintf("users/%d/name", i)] = etcd.Value{}
		all[fmt.Sprintf("%d/name", i)] = etcd.Value{}
	}
	if got := users.Prefixes(); !maps.Equal(got, map[string]int64{"users/": 1500}) {
		t.Errorf("many second elements: %d groups", len(got))
	}
	if got := all.Prefixes(); !maps.Equal(got, map[string]int64{"": 1500}) {
		t.Errorf("many first elements: %d groups", len(got))
	}
}

// BenchmarkReadDatabase reads 100,000 keys of 1 KiB: a tenth of what one
// million take.
func BenchmarkReadDatabase(b *testing.B) {
	writes := make([]write, 100_000)
	value := strings.Repeat("v", 1<<10)
	for i := range writes {
		writes[i] = write{fmt.Sprintf("/registry/pods/default/pod-%08d", i), value}
	}
	file := database(b, writes, nil)
	b.ReportAllocs()
	for b.Loop() {
		d, err := etcd.ReadDatabase(file)
		if err != nil || len(d.Keys) != len(writes) {
			b.Fatal(len(d.Keys), err)
		}
	}
}

package fault_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/fault"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func TestSnapshot(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(1, 0))
	if err := b.put("Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	name, _, err := (&snapshot.Save{Label: "ours", NoTrial: true}).Do(t.Context(), b.env("save"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := snapshot.OpenStore(&lab.Env{Cluster: b.Cluster}, "")
	if err != nil {
		t.Fatal(err)
	}
	file, beside := filepath.Join(store.Dir, name+".db"), filepath.Join(store.Dir, name+".json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tells, err := os.ReadFile(beside)
	if err != nil {
		t.Fatal(err)
	}
	host := b.Seats[0].Host
	if err := host.Put(t.Context(), "saved/one.db", 0o600, good); err != nil {
		t.Fatal(err)
	}
	says := map[string]string{"flip": "the file is damaged", "truncate": "it is cut off", "empty": "an empty file", "no-trailer": "trailer is cut off",
		"gzip": "a gzip file", "partial": "", "foreign": "of another cluster", "newer": "storage version"}
	for what, text := range says {
		refuse := func(v snapshot.Verify) func(*testing.T, *lab.Env) {
			return func(t *testing.T, e *lab.Env) {
				if _, err := v.Do(t.Context(), e); lab.VerdictOf(err) != lab.Fail || !bytes.Contains([]byte(err.Error()), []byte(text)) {
					t.Errorf("%+v: %v, want a finding that says %q", v, err, text)
				}
			}
		}
		t.Run("stored "+what, func(t *testing.T) {
			in := *b
			in.t = t
			in.cycle(&fault.Snapshot{Snapshot: "ours", What: what}, 1, refuse(snapshot.Verify{Snapshot: "ours"}))
			for f, want := range map[string][]byte{file: good, beside: tells} {
				if got, err := os.ReadFile(f); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s is not as it was: %v", f, err)
				}
			}
			if files, err := os.ReadDir(store.Dir); err != nil || len(files) != 2 {
				t.Errorf("left in the store: %v, %v", files, err)
			}
		})
		if what == "foreign" || what == "flip" || what == "partial" {
			t.Run("on a host, "+what, func(t *testing.T) {
				in := *b
				in.t = t
				in.cycle(&fault.Snapshot{Snapshot: "saved/one.db", Member: on("m1"), What: what}, 1, refuse(snapshot.Verify{Snapshot: "saved/one.db", Member: "m1"}))
				if got, err := host.Get(t.Context(), "saved/one.db"); err != nil || !bytes.Equal(got, good) {
					t.Errorf("it is not as it was: %v", err)
				}
				if files, err := os.ReadDir(filepath.Join(host.Dir(), "saved")); err != nil || len(files) != 1 {
					t.Errorf("left on the host: %v, %v", files, err)
				}
			})
		}
	}
}

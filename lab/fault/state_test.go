package fault_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/fault"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

func TestState(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(1, 0))
	if err := b.put("Gabon", "Bona nit"); err != nil {
		t.Fatal(err)
	}
	store := vault.OpenStore(b.Cluster, "")
	for _, label := range []string{"one", "two"} {
		if _, _, err := (&vault.Save{Label: label, NoTrial: true}).Do(t.Context(), b.env("save")); err != nil {
			t.Fatal(err)
		}
	}
	one, err := store.Find("one")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(b.Dir, "one.tar")
	if err := vault.Export(store, one, archive, snapshot.Packing{}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(look func() error, text string) func(*testing.T, *lab.Env) {
		return func(t *testing.T, _ *lab.Env) {
			if err := look(); lab.VerdictOf(err) != lab.Fail || !strings.Contains(err.Error(), text) {
				t.Errorf("%v, want a finding that says %q", err, text)
			}
		}
	}
	for what, text := range map[string]string{"flip": "it is damaged", "truncate": "it is damaged", "mixed": "parts do not mix", "missing": "part of host m1"} {
		t.Run(what, func(t *testing.T) {
			in := *b
			in.t = t
			f := &fault.State{State: "one", What: what}
			if what == "mixed" {
				f.From = "two"
			}
			in.cycle(f, 1, damaged(func() error {
				e, err := store.Find(one.Name)
				if err != nil {
					return err
				}
				return store.Sound(e)
			}, text))
			e, err := store.Find("one")
			if err == nil {
				err = store.Sound(e)
			}
			if err != nil {
				t.Errorf("it is not as it was: %v", err)
			}
		})
	}
	for what, text := range map[string]string{"flip": "archive one.tar", "truncate": "archive one.tar", "missing": "its end", "outside": "outside", "link": "/etc/passwd"} {
		t.Run("archive, "+what, func(t *testing.T) {
			in := *b
			in.t = t
			in.cycle(&fault.State{File: "one.tar", What: what}, 1, damaged(func() error {
				_, err := (&vault.Import{Store: t.TempDir()}).Do(b.Cluster, archive)
				return err
			}, text))
			if got, err := os.ReadFile(archive); err != nil || !bytes.Equal(got, good) {
				t.Errorf("it is not as it was: %v", err)
			}
		})
	}
	if left, err := filepath.Glob(filepath.Join(b.Dir, ".kept*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	for _, f := range []fault.State{{What: "burn"}, {What: "mixed"}, {What: "flip", From: "two"}, {What: "outside"}, {What: "mixed", From: "two", File: "one.tar"},
		{What: "flip", File: "../one.tar"}, {What: "flip", Host: "m1"}} {
		if f.Valid() == nil {
			t.Errorf("%+v is taken", f)
		}
	}
}

package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// up makes a lab for one test.
func up(t *testing.T, members int) *lab.Env { return labtest.Up(t, members, 0, nil).Env }

func store(t *testing.T, e *lab.Env, ref string) snapshot.Store {
	t.Helper()
	s, err := snapshot.OpenStore(e, ref)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, e *lab.Env, kv ...string) {
	t.Helper()
	(&labtest.Lab{Env: e}).Put(t, kv...)
}

// refused wants a finding that says text.
func refused(t *testing.T, err error, text string) {
	t.Helper()
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want a refusal that says %q", err, text)
	}
}

// clean wants nothing left of what was tried, on hosts or in the store.
func clean(t *testing.T, e *lab.Env) {
	t.Helper()
	for _, m := range e.Seats {
		if left, _ := filepath.Glob(filepath.Join(m.Host.Dir(), ".*")); len(left) > 0 {
			t.Errorf("left on %s: %q", m.Name, left)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(store(t, e, "").Dir, ".*")); len(left) > 0 {
		t.Errorf("left in the store: %q", left)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	e := up(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	put(t, e, "Gabon", "Bona nit", "/registry/pods/default/a", "1", "/registry/pods/default/b", "2")
	kept := store(t, e, "")

	name, side, err := (&snapshot.Save{Label: "first"}).Do(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	clean(t, e)
	if side.Keys != 3 || side.Prefixes["/registry/pods/"] != 2 || side.Prefixes[""] != 1 || side.Led || side.Revision < side.Floor || side.Floor < 4 ||
		side.Highest < side.Revision || len(side.Members) != 3 || side.Storage == "" || len(side.CAs) != 1 {
		t.Errorf("sidecar %+v", side)
	}
	if side.Trial == nil || side.Trial.Hash != side.Hash || side.Trial.Compared != "equal to the source's" || side.Trial.Keys != 3 {
		t.Errorf("trial %+v", side.Trial)
	}
	found, err := kept.Find(ctx, "first")
	if err != nil || found.Name != name || found.Sound(ctx, "") != nil {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, f := range []string{found.File, found.Beside} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o277 != 0 {
			t.Errorf("%s: others may read it, or somebody write to it: %v", f, info.Mode())
		}
	}
	good, err := os.ReadFile(found.File)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("another one", func(t *testing.T) {
		put(t, e, "Gabon", "Ambolo", "new", "1")
		second, side, err := (&snapshot.Save{Label: "second", Member: "m2", NoTrial: true}).Do(ctx, e)
		if err != nil || second == name || side.Trial != nil || side.Source != "m2" {
			t.Fatalf("%s, %v", second, err)
		}
		a, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: "first"})
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Latest})
		if err != nil {
			t.Fatal(err)
		}
		live, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(snapshot.Diff(a, b)); got != "[~ Gabon + new]" {
			t.Error(got)
		}
		if got := snapshot.Diff(b, live); len(got) > 0 {
			t.Errorf("the cluster has not changed: %v", got)
		}
	})
	t.Run("verify", func(t *testing.T) {
		for _, v := range []snapshot.Verify{{Snapshot: "first", Trial: true}, {Snapshot: found.File}} {
			if got, err := v.Do(ctx, e); err != nil || got.Keys != 3 || v.Trial && got.Trial.Hash != side.Hash {
				t.Errorf("%+v: %+v, %v", v, got, err)
			}
		}
		file := filepath.Join(t.TempDir(), "one.db")
		for _, c := range []struct {
			data []byte
			says string
		}{
			{good[:len(good)-32], "trailer is cut off"},
			{nil, "an empty file"},
		} {
			if err := os.WriteFile(file, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := (&snapshot.Verify{Snapshot: file}).Do(ctx, e)
			refused(t, err, c.says)
		}
		for ref, says := range map[string]string{"third": "2 others", filepath.Dir(file): "want a file", file + ".part": "never ended", file + "x": "none"} {
			_, err := (&snapshot.Verify{Snapshot: ref}).Do(ctx, e)
			refused(t, err, says)
		}
		clean(t, e)
	})
	t.Run("export", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "out.db")
		if err := found.Export(ctx, to, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := (&snapshot.Verify{Snapshot: to}).Do(ctx, e); err != nil {
			t.Error(err)
		}
		if err := found.Export(ctx, to, ""); !errors.Is(err, os.ErrExist) {
			t.Errorf("exported over another: %v", err)
		}
		if err := found.Export(ctx, to+".gz", ""); err == nil {
			t.Error("exported under a name that says something else")
		}
		other := strings.Replace(string(read(t, strings.TrimSuffix(to, ".db")+".json")), side.SHA256, strings.Repeat("0", 64), 1)
		if err := os.WriteFile(strings.TrimSuffix(to, ".db")+".json", []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (&snapshot.Verify{Snapshot: to}).Do(ctx, e)
		refused(t, err, "not the one its sidecar tells of")
	})
	t.Run("packed", func(t *testing.T) { packed(t, ctx, e) })
	t.Run("interrupted", func(t *testing.T) {
		short, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { // as soon as there is something that could be left
			defer cancel()
			for short.Err() == nil {
				if begun, _ := filepath.Glob(filepath.Join(kept.Dir, ".*")); len(begun) > 0 {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		if _, _, err := (&snapshot.Save{}).Do(short, e); err == nil {
			t.Error("it went on")
		}
		clean(t, e)
		if all, err := kept.List(ctx); err != nil || len(all) != 2 {
			t.Errorf("%d snapshots, %v", len(all), err)
		}
	})
	t.Run("prune", func(t *testing.T) {
		second, err := kept.Find(ctx, "second")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(second.File), os.WriteFile(second.File, good[:5000], 0o400)); err != nil {
			t.Fatal(err)
		}
		stay, gone, err := (&snapshot.Prune{Retention: snapshot.Retention{Keep: 1}}).Do(ctx, e, true)
		if err != nil || len(stay) != 2 || len(gone) != 0 {
			t.Errorf("the last good one would go: %v, %v, %v", stay, gone, err)
		}
		if err := errors.Join(os.Remove(found.File), os.WriteFile(found.File, good[:6000], 0o400)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := (&snapshot.Prune{Retention: snapshot.Retention{Keep: 1}}).Do(ctx, e, false); err == nil || !strings.Contains(err.Error(), "no snapshot is sound") {
			t.Errorf("pruned without a good one: %v", err)
		}
		if all, err := kept.List(ctx); err != nil || len(all) != 2 {
			t.Errorf("%d snapshots, %v", len(all), err)
		}
	})
}

// packed keeps snapshots compressed and encrypted, in a store of their own.
func packed(t *testing.T, ctx context.Context, e *lab.Env) {
	dir := t.TempDir()
	key := func(name string, mode os.FileMode) (file, recipient string) {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		file = filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(id.String()+"\n"), mode); err != nil {
			t.Fatal(err)
		}
		return file, id.Recipient().String()
	}
	mine, to := key("mine", 0o600)
	other, _ := key("other", 0o600)
	open, _ := key("open", 0o644)
	dir = filepath.Join(dir, "store")
	kept := store(t, e, dir)
	save := func(s snapshot.Save) snapshot.Entry {
		s.Store, s.NoTrial = dir, true
		if err := s.Valid(); err != nil {
			t.Fatal(err)
		}
		name, side, err := s.Do(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		found, err := kept.Find(ctx, name)
		if err != nil || found.Sidecar.SHA256 != side.SHA256 {
			t.Fatal(found, err)
		}
		if found.Sidecar.Size == int64(len(read(t, found.File))) {
			t.Errorf("%s is not packed", found.File)
		}
		return found
	}
	small := save(snapshot.Save{Compress: true})
	if err := small.Sound(ctx, ""); err != nil || !strings.HasSuffix(small.File, ".db.zst") {
		t.Errorf("%s: %v", small.File, err)
	}
	secret := save(snapshot.Save{Label: "secret", Compress: true, Recipients: []string{to}})
	if !strings.HasSuffix(secret.File, ".db.zst.age") || strings.Contains(string(read(t, secret.File)), "Ambolo") {
		t.Errorf("%s is not encrypted", secret.File)
	}
	if _, err := (&snapshot.Verify{Snapshot: "secret", Store: dir, Identity: mine, Trial: true}).Do(ctx, e); err != nil {
		t.Error(err)
	}
	refused(t, secret.Sound(ctx, ""), "an encrypted file and no key")
	refused(t, secret.Sound(ctx, other), "encrypted for somebody else")
	if err := secret.Sound(ctx, open); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("a key that others may read: %v", err)
	}
	if err := secret.Sound(ctx, secret.Beside); err == nil || strings.Contains(err.Error(), "sha256") {
		t.Errorf("a key that is none: %v", err)
	}
	to = filepath.Join(t.TempDir(), "plain.db")
	if err := secret.Export(ctx, to, mine); err != nil {
		t.Fatal(err)
	}
	if _, err := (&snapshot.Verify{Snapshot: to}).Do(ctx, e); err != nil {
		t.Error(err)
	}
	for _, entry := range []snapshot.Entry{small, secret} {
		data := read(t, entry.File)
		for _, bad := range [][]byte{data[:len(data)/2], append(append([]byte(nil), data[:len(data)-9]...), "damaged.."...)} {
			if err := errors.Join(os.Remove(entry.File), os.WriteFile(entry.File, bad, 0o400)); err != nil {
				t.Fatal(err)
			}
			refused(t, entry.Sound(ctx, mine), "unpacked")
		}
	}
	if _, _, err := (&snapshot.Prune{Store: dir, Retention: snapshot.Retention{Keep: 1}, Identity: mine}).Do(ctx, e, false); err == nil {
		t.Error("pruned without a good one")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 4 {
		t.Errorf("in the store: %v, %v", files, err)
	}
	for _, r := range []string{"age1", "ssh-rsa x", mine} {
		if (&snapshot.Save{Recipients: []string{r}}).Valid() == nil {
			t.Errorf("%q is a recipient", r)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestChoose(t *testing.T) {
	day := time.Date(2026, 11, 21, 0, 30, 0, 0, time.UTC)
	var all []snapshot.Entry
	for i := range 96 { // four days, one an hour
		at := day.Add(time.Duration(i) * time.Hour)
		all = append(all, snapshot.Entry{Name: at.Format("20060102-150405.000") + "-r7", Sidecar: &snapshot.Sidecar{Time: at}})
	}
	all = append([]snapshot.Entry{{Name: "by-hand"}}, all...)
	names := func(list []snapshot.Entry) string {
		var out []string
		for _, e := range list {
			out = append(out, strings.TrimSuffix(e.Name, "00.000-r7"))
		}
		return strings.Join(out, " ")
	}
	sound := func(snapshot.Entry) error { return nil }
	stay, gone, err := (&snapshot.Prune{Retention: snapshot.Retention{Keep: 2, Hourly: 3, Daily: 2, Weekly: 1}}).Choose(all, sound)
	if got := names(stay); err != nil || got != "by-hand 20261123-2330 20261124-2130 20261124-2230 20261124-2330" || len(gone) != 92 {
		t.Errorf("%s stay, %d go, %v", got, len(gone), err)
	}
	// Only an old one is sound.
	stay, _, err = (&snapshot.Prune{Retention: snapshot.Retention{Keep: 1}}).Choose(all, func(e snapshot.Entry) error {
		if strings.HasPrefix(e.Name, "20261121-05") {
			return nil
		}
		return errors.New("rotten")
	})
	if got := names(stay); err != nil || got != "by-hand 20261121-0530 20261124-2330" {
		t.Errorf("%s stay, %v", got, err)
	}
	_, _, err = (&snapshot.Prune{Retention: snapshot.Retention{Keep: 1}}).Choose(all, func(e snapshot.Entry) error { return errors.New("rotten") })
	if err == nil {
		t.Error("something may go though nothing is sound")
	}
	for _, p := range []snapshot.Retention{{}, {Keep: -1}, {Keep: 1, Daily: -1}} {
		if p.Valid() == nil {
			t.Errorf("%+v is valid", p)
		}
	}
}

func TestObject(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/pods/default/nginx":                              "pods/default/nginx",
		"/registry/namespaces/default":                              "namespaces/default",
		"/registry/services/specs/default/kubernetes":               "services/default/kubernetes",
		"/registry/services/endpoints/default/kubernetes":           "endpoints/default/kubernetes",
		"/registry/apiregistration.k8s.io/apiservices/v1.":          "apiservices.apiregistration.k8s.io/v1.",
		"/registry/cilium.io/ciliumnodes/m1":                        "ciliumnodes.cilium.io/m1",
		"/registry/leases/kube-node-lease/m1":                       "leases/kube-node-lease/m1",
		"/registry/health":                                          "",
		"Gabon":                                                     "",
		"compact_rev_key":                                           "",
		"/other/pods/default/nginx":                                 "",
		"/registry/clusterroles/system:controller:route-controller": "clusterroles/system:controller:route-controller",
	} {
		if got := snapshot.Object(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func TestLabels(t *testing.T) {
	for label, ok := range map[string]bool{"before-upgrade": true, "a1": true, "latest": false, "-a": false, "a/b": false, "..": false, "A": false, strings.Repeat("a", 65): false} {
		if err := (&snapshot.Save{Label: label}).Valid(); (err == nil) != ok {
			t.Errorf("%q: %v", label, err)
		}
	}
	if (&snapshot.Save{Survivor: true}).Valid() == nil {
		t.Error("a survivor without a name")
	}
}

func TestSeen(t *testing.T) {
	c := &lab.Cluster{Dir: t.TempDir()}
	if n, err := snapshot.Highest(c); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, r := range []struct {
		cluster   string
		rev, more int64
		want      int64
	}{{"a", 5, 0, 5}, {"b", 3, 0, 5}, {"a", 3, 9, 9}, {"a", 1, 1, 9}} {
		look := []lab.Status{{Up: true, Cluster: r.cluster, Revision: r.rev}, {Cluster: "not up"}}
		if n, err := snapshot.Record(c, look, r.more); n != r.want || err != nil {
			t.Errorf("%+v: %d, %v", r, n, err)
		}
	}
	ids, err := snapshot.Clusters(c)
	if err != nil || strings.Join(ids, " ") != "a b" {
		t.Errorf("%q, %v", ids, err)
	}
	if n, err := snapshot.Highest(c); n != 9 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

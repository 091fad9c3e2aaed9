package vault_test

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// bench is a lab under test.
type bench struct {
	*labtest.Lab
	t *testing.T
}

func up(t *testing.T, members, spares int) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	return &bench{Lab: labtest.Up(t, members, spares, func(s *lab.Spec) {
		s.Flags = map[string]string{"strict-reconfig-check": "false"}
	}), t: t}
}

func (b *bench) put(key, value string) {
	b.t.Helper()
	b.Put(b.t, key, value)
}

func (b *bench) has(key, want string) {
	b.t.Helper()
	b.Has(b.t, key, want)
}

// cluster is the id of the one cluster that serves, and who its members are.
func (b *bench) cluster() (id string, members string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	l, err := etcd.Members(ctx, b.Cluster, false)
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, m := range b.Seats {
		if x, ok := l.Of(m); ok {
			names = append(names, map[bool]string{true: "(", false: ""}[x.Learner]+m.Name)
		}
	}
	return etcd.HexID(l.Cluster), strings.Join(names, " ")
}

func (b *bench) save(label string) (string, *vault.State) {
	b.t.Helper()
	name, st, err := (&vault.Save{Label: label, NoTrial: true}).Do(b.t.Context(), b.Env)
	if err != nil {
		b.t.Fatal(err)
	}
	return name, st
}

func (b *bench) restore(op *vault.Restore, o operation.Options) error {
	return operation.Run(b.t.Context(), b.Env, recovery.StateRestore, op, o)
}

// refused wants a finding that says text.
func (b *bench) refused(err error, text string) {
	b.t.Helper()
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), text) {
		b.t.Errorf("want a refusal that says %q, got %v", text, err)
	}
}

func (b *bench) write(seat int, file, text string) {
	b.t.Helper()
	if err := b.Seats[seat].Host.Put(b.t.Context(), file, 0o600, []byte(text)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) there(seat int, file string) bool {
	b.t.Helper()
	there, err := etcd.Exists(b.t.Context(), b.Seats[seat], file)
	if err != nil {
		b.t.Fatal(err)
	}
	return there
}

func (b *bench) beside(seat int, name string) string {
	return path.Join(path.Dir(b.Seats[seat].Config), name)
}

// A state is saved, all is changed, and it is gone back to; then forth and back
// again.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 1)
	ctx := t.Context()
	store := vault.OpenStore(b.Cluster, "")
	b.put("kept", "1")
	b.write(0, b.beside(0, "limits.env"), "GOGC=50\n")
	first, st := b.save("first")
	if !st.Served || len(st.Missing) > 0 || len(st.Hosts) != 4 || strings.Join(st.Members(vault.Voter), " ") != "m1 m2 m3" {
		t.Errorf("state:\n%s", st)
	}
	for _, h := range st.Hosts[:3] {
		if h.Hash == 0 || h.Hash != st.Hosts[0].Hash || h.Member == "" || h.Version == "" || h.Holds == "" {
			t.Errorf("host %+v", h)
		}
	}
	if d, err := vault.Diff(ctx, b.Env, store, first, "live"); err != nil || !d.None() {
		t.Errorf("right after it was saved: %v, %v", d, err)
	}

	// Data, configuration and members change.
	old, _ := b.cluster()
	b.put("kept", "2")
	b.put("later", "x")
	b.write(0, b.beside(0, "limits.env"), "GOGC=800\n")
	b.write(1, b.beside(1, "extra.conf"), "of today\n")
	if err := etcd.Reconfigure(ctx, b.Seats[1], func(s *etcd.Settings) { s.Set("quota-backend-bytes", 99<<20) }); err != nil {
		t.Fatal(err)
	}
	if err := operation.Run(ctx, b.Env, "replace", &recovery.Replace{Member: lab.Target{Role: "m3"}, With: lab.Target{Role: "m4"}}, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	d, err := vault.Diff(ctx, b.Env, store, "first", "live")
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(d.Lines(), "\n")
	for _, want := range []string{"- m3 is no voter any more", "+ m4 is a voter", "~ m1: " + b.beside(0, "limits.env"), "+ m2: " + b.beside(1, "extra.conf"),
		"+ m2: etcd.yaml: quota-backend-bytes: 103809024", "- m3: " + b.Seats[2].Config, "~ kept", "+ later"} {
		if !strings.Contains(said, want) {
			t.Errorf("diff lacks %q:\n%s", want, said)
		}
	}
	second, _ := b.save("second")

	// The plan tells of the difference, and touches nothing.
	dry := &vault.Restore{State: "first"}
	if err := dry.Decide(ctx, b.Env); err != nil {
		t.Fatal(err)
	}
	steps, err := dry.Steps(b.Env)
	if err != nil {
		t.Fatal(err)
	}
	var plan strings.Builder
	operation.Plan(&plan, "state-restore", steps)
	for _, want := range []string{"# + m3 is a voter", "# - m4 is no voter any more", "ssh m2 rm " + b.beside(1, "extra.conf"), "m1:" + b.beside(0, "limits.env"), "ssh m4 rm " + b.Seats[3].Config} {
		if !strings.Contains(plan.String(), want) {
			t.Errorf("the plan lacks %q:\n%s", want, plan.String())
		}
	}
	b.has("kept", "2")

	// Back, with the state that is replaced saved by itself.
	op := &vault.Restore{State: "first"}
	if err := b.restore(op, operation.Options{Ahead: vault.Ahead("state-restore")}); err != nil {
		t.Fatal(err)
	}
	now, members := b.cluster()
	if now == old || now != op.Decided.Cluster || members != "m1 m2 m3" {
		t.Errorf("cluster %s of %s, was %s, want %s", now, members, old, op.Decided.Cluster)
	}
	b.has("kept", "1")
	b.has("later", "")
	if b.there(1, b.beside(1, "extra.conf")) || b.there(3, b.Seats[3].Config) {
		t.Error("what was not there then is there")
	}
	if data, err := b.Seats[0].Host.Get(ctx, b.beside(0, "limits.env")); err != nil || string(data) != "GOGC=50\n" {
		t.Errorf("limits.env: %q, %v", data, err)
	}
	all, err := store.List()
	if err != nil || len(all) != 3 || all[2].State.Before != "state-restore" || all[2].State.Label != "before-state-restore" {
		t.Fatalf("states: %+v, %v", all, err)
	}
	if d, err := vault.Diff(ctx, b.Env, store, second, all[2].Name); err != nil || !d.None() {
		t.Errorf("what was saved by itself differs: %v %v", d.Lines(), err)
	}
	if st, err := b.Seats[3].Proc.State(ctx); err != nil || st.Running {
		t.Errorf("m4 runs: %v %v", st, err)
	}

	// There and back again: each time another cluster, further on.
	forth := &vault.Restore{State: second, Drop: true}
	if err := b.restore(forth, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if id, members := b.cluster(); id == now || members != "m1 m2 m4" {
		t.Errorf("cluster %s of %s", id, members)
	}
	b.has("kept", "2")
	b.has("later", "x")
	if !b.there(1, b.beside(1, "extra.conf")) || b.there(2, b.Seats[2].Config) {
		t.Error("the second state is not there")
	}
	if forth.Decided.Bump+forth.Decided.Revision <= op.Decided.Bump+op.Decided.Revision {
		t.Errorf("revisions went back: %+v after %+v", forth.Decided, op.Decided)
	}

	// Gone back on in the middle: nothing has happened.
	before, _ := b.cluster()
	if err := b.restore(&vault.Restore{State: first}, operation.Options{Written: operation.Cut(11)}); !operation.WasCut(err) {
		t.Fatal(err)
	}
	if _, _, err := (&vault.Save{}).Do(ctx, b.Env); err == nil {
		t.Error("a state was saved in the middle of an operation")
	} else {
		b.refused(err, "no unfinished operation")
	}
	if err := operation.Rollback(ctx, b.Env, vault.Kinds, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if id, members := b.cluster(); id != before || members != "m1 m2 m4" {
		t.Errorf("after the way back: cluster %s of %s, want %s", id, members, before)
	}
	if d, err := vault.Diff(ctx, b.Env, store, second, "live"); err != nil || len(d.Keys) > 0 || !b.there(1, b.beside(1, "extra.conf")) {
		t.Errorf("after the way back: %v %v", d.Lines(), err)
	}
	// And gone on with.
	if err := b.restore(&vault.Restore{State: first}, operation.Options{Written: operation.Cut(11)}); !operation.WasCut(err) {
		t.Fatal(err)
	}
	if err := operation.Resume(ctx, b.Env, vault.Kinds, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, members := b.cluster(); members != "m1 m2 m3" {
		t.Errorf("members %s", members)
	}
	b.has("kept", "1")
	if err := recovery.Discard(ctx, b.Env); err != nil {
		t.Error(err)
	}
}

// keys makes an age identity file, and its public key.
func keys(t *testing.T) (file, public string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(file, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, id.Recipient().String()
}

// What is kept of a lab, and who can read it.
func TestStore(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 1)
	ctx := t.Context()
	store := vault.OpenStore(b.Cluster, "")
	mine, public := keys(t)
	b.put("kept", "1")

	for _, s := range []*vault.Save{{Label: "Up"}, {Label: "latest"}, {Label: "before-all"}, {Recipients: []string{"me"}}} {
		if s.Valid() == nil {
			t.Errorf("taken: %+v", s)
		}
	}
	plain, st := b.save("twin")
	for _, h := range st.Hosts {
		for _, f := range h.Files {
			if f.Kind == vault.PKI && f.Blob != "" {
				t.Errorf("%s is kept, and nobody was named who can read it", f.Path)
			}
		}
	}
	b.put("kept", "2")
	sealed, st, err := (&vault.Save{Label: "twin", NoTrial: true, Recipients: []string{public}}).Do(ctx, b.Env)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range st.Hosts {
		for _, f := range h.Files {
			if (f.Kind == vault.PKI) != f.Sealed() || f.Blob == "" {
				t.Errorf("%s: %+v", h.Name, f)
			}
		}
	}
	err = filepath.WalkDir(store.Dir, func(file string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %s, %v", file, info.Mode(), err)
		}
		if d.Type().IsRegular() {
			data, err := os.ReadFile(file)
			if err != nil || strings.Contains(string(data), "PRIVATE KEY") {
				t.Errorf("%s holds a private key, %v", file, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	// Names: whole ones only.
	for ref, want := range map[string]string{"twin": "candidates: " + plain + ", " + sealed, plain[:10]: "candidates: ", plain + "-": "2 others", "": "2 others"} {
		_, err := store.Find(ref)
		b.refused(err, want)
	}
	if e, err := store.Find("latest"); err != nil || e.Name != sealed {
		t.Errorf("latest is %s, %v", e.Name, err)
	}
	_, err = vault.OpenStore(b.Cluster, t.TempDir()).Find("latest")
	b.refused(err, "an empty store")

	// Parts that are not those of the state.
	spoil := func(name string, change func(st *vault.State)) error {
		t.Helper()
		e, err := store.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		change(e.State)
		return store.Sound(e)
	}
	other, err := store.Find(plain)
	if err != nil {
		t.Fatal(err)
	}
	b.refused(spoil(sealed, func(st *vault.State) { st.Hosts[0] = other.State.Hosts[0] }), "parts do not mix")
	b.refused(spoil(sealed, func(st *vault.State) { st.Hosts[1] = other.State.Hosts[1] }), "parts do not mix")
	b.refused(spoil(sealed, func(st *vault.State) { st.Data = other.State.Data }), "want of epoch")
	b.refused(spoil(sealed, func(st *vault.State) { st.Hosts = st.Hosts[:1] }), "part of host m2: want there")
	b.refused(spoil(sealed, func(st *vault.State) { st.Hosts[0].Member = "42" }), "state "+sealed)
	b.refused(spoil(sealed, func(st *vault.State) { st.Hosts[0].Files[0].Blob = st.Hosts[0].Files[1].Blob }), "state "+sealed)
	if err := spoil(sealed, func(*vault.State) {}); err != nil {
		t.Error(err)
	}

	// A lost directory, lost certificates: by the vault alone.
	if err := b.restore(&vault.Restore{State: plain, Identity: mine}, operation.Options{}); err == nil {
		t.Error("certificates of which only checksums were kept were put back")
	} else {
		b.refused(err, "by its checksum alone")
	}
	m1 := b.Seats[0]
	if err := m1.Proc.Signal(ctx, "KILL"); err != nil {
		t.Fatal(err)
	}
	if _, err := m1.Host.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", m1.DataDir, m1.Config, m1.PKI}}); err != nil {
		t.Fatal(err)
	}
	b.refused(b.restore(&vault.Restore{State: sealed}, operation.Options{}), "the state has its checksum alone")
	if err := b.restore(&vault.Restore{State: sealed, Identity: mine}, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	b.has("kept", "2")

	// What goes and what stays.
	var auto *lab.Failure
	if err := vault.Ahead("restore")(ctx, b.Env); err != nil || errors.As(err, &auto) {
		t.Fatal(err)
	}
	b.put("kept", "3")
	newest, _ := b.save("newest")
	blobs := func() int {
		all, err := os.ReadDir(filepath.Join(store.Dir, "blobs"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	had := blobs()
	_, gone, err := (&vault.Prune{Retention: snapshot.Retention{Keep: 1}}).Do(b.Cluster, true)
	if err != nil || len(gone) != 2 || blobs() != had {
		t.Fatalf("%v %v", gone, err)
	}
	if _, _, err := (&vault.Prune{Retention: snapshot.Retention{Keep: 1}}).Do(b.Cluster, false); err != nil {
		t.Fatal(err)
	}
	all, err := store.List()
	if err != nil || len(all) != 2 || all[0].State.Before != "restore" || all[1].Name != newest || blobs() >= had {
		t.Errorf("after pruning: %v %v, %d of %d blobs", all, err, blobs(), had)
	}
	for _, e := range all {
		if err := store.Sound(e); err != nil {
			t.Error(err)
		}
	}
	// The newest is rotten: the last one that is sound stays too.
	if err := damage(store.Blob(all[1].State.Data.SHA256)); err != nil {
		t.Fatal(err)
	}
	b.refused(store.Sound(all[1]), "it is damaged")
	_, gone, err = (&vault.Prune{Retention: snapshot.Retention{Keep: 1}, Automatic: true}).Do(b.Cluster, false)
	if err != nil || len(gone) > 0 {
		t.Errorf("gone: %v %v", gone, err)
	}
}

// A learner of the state is one again.
func TestLearner(t *testing.T) {
	t.Parallel()
	b := up(t, 1, 1)
	ctx := t.Context()
	m2 := b.Seats[1]
	if err := etcd.AddMember(ctx, b.Env, m2, m2.PeerURL, true); err != nil {
		t.Fatal(err)
	}
	if err := etcd.JoinMember(ctx, b.Env, m2); err != nil {
		t.Fatal(err)
	}
	b.put("kept", "1")
	name, st := b.save("")
	if strings.Join(st.Members(vault.Learner), " ") != "m2" {
		t.Errorf("state:\n%s", st)
	}
	b.put("kept", "2")
	if err := b.restore(&vault.Restore{State: name}, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, members := b.cluster(); members != "m1 (m2" {
		t.Errorf("members %s", members)
	}
	b.has("kept", "1")
	if err := b.restore(&vault.Restore{State: name, On: []string{"m9"}}, operation.Options{}); err == nil {
		t.Error("restored on a host that is not there")
	} else {
		b.refused(err, "host m9 of state "+name)
	}
}

// damage flips a bit in the middle of a file.
func damage(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	if err := os.Chmod(file, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o600)
}

// A cluster without quorum is saved as it is, and gone back to.
func TestBroken(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0)
	ctx := t.Context()
	b.put("kept", "1")
	for _, m := range b.Seats {
		if err := m.Proc.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Seats[1].Host.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", b.Seats[1].DataDir}}); err != nil {
		t.Fatal(err)
	}
	name, st := b.save("")
	if st.Served || !st.Salvaged || st.Hosts[0].Dir == nil || st.Hosts[1].Dir != nil || st.Hosts[2].Dir == nil || len(st.Members(vault.Voter)) != 3 ||
		!strings.Contains(strings.Join(st.Missing, "\n"), "data of m2: there is none") {
		t.Errorf("state:\n%s", st)
	}
	entry, err := vault.OpenStore(b.Cluster, "").Find(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.OpenStore(b.Cluster, "").Sound(entry); err != nil {
		t.Error(err)
	}
	for _, m := range b.Seats {
		out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", `ls -d "$1"/*salvage* "$1"/.snap* 2>/dev/null || :`, "sh", m.Host.Dir()}})
		if err != nil || len(out.Stdout) > 0 {
			t.Errorf("left on %s: %s, %v", m.Name, out.Stdout, err)
		}
	}
	if err := b.restore(&vault.Restore{State: name}, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, members := b.cluster(); members != "m1 m2 m3" {
		t.Errorf("members %s", members)
	}
	b.has("kept", "1")
}

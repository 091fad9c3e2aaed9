package recovery_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// otherBuild makes a directory with another build of the tools that a lab's
// hosts have: what lies behind an executable is of no concern to it.
func otherBuild(t *testing.T, b *bench) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.Seats[0].Bin, "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etcd"), append(data, "another build"...), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcdctl", "etcdutl"} {
		if err := os.Link(filepath.Join(dir, "etcd"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// builds tells which hosts have another build.
func (b *bench) builds() string {
	b.t.Helper()
	var out []string
	for _, m := range b.Seats {
		r, err := m.Host.Run(b.t.Context(), lab.Cmd{Argv: []string{"tail", "-c", "13", filepath.Join(m.Bin, "etcd")}})
		if err != nil {
			b.t.Fatal(err)
		}
		if string(r.Stdout) == "another build" {
			out = append(out, m.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestUpgrade(t *testing.T) {
	b := up(t, 3, 0)
	b.put("kept", "1")
	id, _ := b.cluster()
	upgrade := func(dir string, o operation.Options) error {
		return operation.Run(t.Context(), b.Env, "upgrade", &recovery.Upgrade{Dir: dir}, o)
	}
	if err := upgrade(t.TempDir(), operation.Options{}); err == nil || !strings.Contains(err.Error(), "expected an etcd that runs on this machine") {
		t.Errorf("from an empty directory: %v", err)
	}
	same := filepath.Dir(filepath.Join(b.Seats[0].Bin, "etcd"))
	if err := upgrade(same, operation.Options{}); err != nil || !strings.Contains(b.Notes(), "nothing to do") {
		t.Errorf("to what runs already: %v", err)
	}

	// Cut when the first one runs the other build, and taken back.
	dir := otherBuild(t, b)
	if err := upgrade(dir, operation.Options{Written: operation.Cut(9)}); !operation.WasCut(err) {
		t.Fatal(err)
	}
	if got := b.builds(); len(strings.Fields(got)) != 1 {
		t.Errorf("cut behind the first member: another build on %q", got)
	}
	if err := operation.Rollback(t.Context(), b.Env, recovery.Kinds, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := b.builds(); got != "" {
		t.Errorf("taken back: another build on %q", got)
	}

	if err := upgrade(dir, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := b.builds(); got != "m1 m2 m3" {
		t.Errorf("another build on %q, want all", got)
	}
	if now, voters := b.cluster(); now != id || voters != 3 {
		t.Errorf("cluster %x with %d voters, want %x with 3", now, voters, id)
	}
	b.has("kept", "1")
	if left := b.left("coming-*", "before-*"); left != "" {
		t.Errorf("left: %s", left)
	}
}

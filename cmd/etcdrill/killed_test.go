package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

// Operations that change the membership are killed with SIGKILL after each
// record of their journal, by ETCDRILL_DIE_AFTER, and then gone on with, and in
// a second pass gone back on, by another process. Each time the members are
// those of the end, or of the beginning, with all the data, as one cluster, and
// what left does not run. It takes minutes, so it runs with the shipped drills
// only.
func TestKilledOperations(t *testing.T) {
	if os.Getenv("ETCDRILL_DRILLS") != "all" {
		t.Skip("set ETCDRILL_DRILLS=all to kill operations at every record")
	}
	for name, c := range map[string]struct {
		here, there []string
		args        func(here, there []string) []string
		anew        bool // it becomes another cluster
	}{
		"replace": {[]string{"m1", "m2", "m3"}, []string{"m4", "m2", "m3"}, func(here, there []string) []string {
			return []string{"member", "replace", "--member", here[0], "--with", there[0]}
		}, false},
		"switch": {[]string{"m1", "m2", "m3"}, []string{"m4", "m5", "m6"}, func(_, there []string) []string {
			return []string{"switch", "--to", strings.Join(there, ",")}
		}, false},
		"switch by snapshot": {[]string{"m1", "m2"}, []string{"m3", "m4"}, func(_, there []string) []string {
			return []string{"switch", "--method", "snapshot", "--to", strings.Join(there, ",")}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there := c.here, c.there
			b := raise(t, len(here), len(here))
			for n := 1; ; n++ {
				args := c.args(here, there)
				for _, way := range []string{"rollback", "resume"} {
					b.killed(t, n, args...)
					out, code := b.command(t, nil, way)
					if c.anew && way == "rollback" && strings.Contains(out, "cannot go back behind step") {
						way = "resume" // the new cluster serves: there is only the way forward
						out, code = b.command(t, nil, way)
					}
					over := code == exitFail && strings.Contains(out, "an unfinished operation, got none") // the last record was its end
					if code != exitPass && !over {
						t.Fatalf("killed after %d records: %s: exit %d\n%s", n, way, code, out)
					}
					if over || way == "resume" {
						here, there = there, here
						if args = c.args(here, there); c.anew {
							b.becomes(t, here)
						}
					}
					b.stands(t, fmt.Sprintf("killed after %d records, %s (exit %d: %s)", n, way, code, out), here)
					t.Logf("killed after %d records, %s: %q are the members, with all the data", n, way, here)
					if over {
						t.Logf("%d records", n)
						return
					}
				}
			}
		})
	}
}

// An upgrade is killed after each record of its journal, too. There are two
// builds of one release, told apart by their last bytes.
func TestKilledUpgrades(t *testing.T) {
	if os.Getenv("ETCDRILL_DRILLS") != "all" {
		t.Skip("set ETCDRILL_DRILLS=all to kill operations at every record")
	}
	b := raise(t, 3, 0)
	members := []string{"m1", "m2", "m3"}
	data, err := os.ReadFile(filepath.Join(b.cluster.Seats[0].Bin, "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	here, there := filepath.Join(b.dir, "here"), filepath.Join(b.dir, "there")
	for dir, build := range map[string][]byte{here: data, there: append(slices.Clone(data), "another build"...)} {
		for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, tool), build, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := 1; ; n++ {
		for _, way := range []string{"rollback", "resume"} {
			b.killed(t, n, "upgrade", "--to-dir", there)
			out, code := b.command(t, nil, way)
			over := code == exitFail && strings.Contains(out, "an unfinished operation, got none")
			if code != exitPass && !over {
				t.Fatalf("killed after %d records: %s: exit %d\n%s", n, way, code, out)
			}
			if over || way == "resume" {
				here, there = there, here
			}
			when := fmt.Sprintf("killed after %d records, %s", n, way)
			b.stands(t, when, members)
			want, err := os.Stat(filepath.Join(here, "etcd"))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range b.cluster.Seats {
				files, err := os.ReadDir(m.Bin)
				if err != nil {
					t.Fatal(err)
				}
				is, err := os.Stat(filepath.Join(m.Bin, "etcd"))
				if err != nil || is.Size() != want.Size() || len(files) != 3 {
					t.Errorf("%s: %s has %d files, etcd %v, %v; want 3, and etcd of %d bytes", when, m.Name, len(files), is, err, want.Size())
				}
			}
			if over {
				t.Logf("%d records", n)
				return
			}
		}
	}
}

// raised is a lab that stays, for tests that call commands on it.
type raised struct {
	dir     string
	cluster *lab.Cluster
	kit     lab.Kit
	id      string // of the cluster
	keys    string // what it holds
}

// raise brings up a lab with some data, without five seconds between changes.
func raise(t *testing.T, members, spares int) *raised {
	t.Helper()
	b := &raised{dir: t.TempDir(), kit: verbs.Kit()}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, filepath.Join(b.dir, "etcdrill")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.command(t, nil, "down", "--all") })
	for _, args := range [][]string{
		{"up", "killed", "--members", fmt.Sprint(members), "--spares", fmt.Sprint(spares), "--heartbeat", "50ms", "--election", "500ms", "--flags", "strict-reconfig-check=false"},
		{"do", "seed", "--count", "500", "--size", "1KiB"},
	} {
		if out, code := b.command(t, nil, args...); code != exitPass {
			t.Fatalf("%q: exit %d\n%s", args, code, out)
		}
	}
	drv, err := drivers.New("local", drivers.Options{Binary: exe, Root: filepath.Join(b.dir, "home")})
	if err != nil {
		t.Fatal(err)
	}
	if b.cluster, err = drv.Open(t.Context(), "killed"); err != nil {
		t.Fatal(err)
	}
	b.id, b.keys = b.look(t, b.cluster.Seats[:members])
	return b
}

// command runs etcdrill and returns what it said and its exit code, -1 when it
// was killed.
func (b *raised) command(t *testing.T, env []string, args ...string) (said string, code int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(b.dir, "etcdrill"), args...)
	cmd.Dir, cmd.Env = b.dir, append(append(os.Environ(), "ETCDRILL_HOME="+filepath.Join(b.dir, "home")), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// killed runs an operation that kills itself after n records.
func (b *raised) killed(t *testing.T, n int, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(b.dir, "etcdrill"), args...)
	cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "ETCDRILL_HOME="+filepath.Join(b.dir, "home"), fmt.Sprint("ETCDRILL_DIE_AFTER=", n))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%q was to die after %d records: %v\n%s", args, n, err, out)
	}
	if open, err := operation.Unfinished(b.cluster); err != nil || open != nil && open.Back {
		t.Fatalf("%q was to die going forward: %v, %v: %s\n%s", args, err, open, open.Reason, out)
	}
}

// look reads the cluster's id, and what it holds, through all given members.
func (b *raised) look(t *testing.T, seats []*lab.Member) (id, keys string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.kit.Final(ctx, b.cluster, lab.End{Voters: len(seats)}); err != nil {
		t.Fatal(err)
	}
	l, err := etcd.Members(ctx, b.cluster, false, seats...)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := etcd.Hashes(ctx, b.cluster, seats...)
	if err != nil {
		t.Fatal(err)
	}
	if !etcd.Equal(hashes) {
		t.Fatal(etcd.Describe(hashes))
	}
	return etcd.HexID(l.Cluster), etcd.Describe(hashes[:1])[len(seats[0].Name):]
}

// becomes wants another cluster on these members than there was; what it holds
// is for stands.
func (b *raised) becomes(t *testing.T, members []string) {
	t.Helper()
	var in []*lab.Member
	for _, name := range members {
		m, err := b.cluster.Member(name)
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, m)
	}
	id, _ := b.look(t, in)
	if id == b.id {
		t.Errorf("it is still cluster %s", id)
	}
	b.id = id
}

// stands wants these members and no other, the cluster and the data of the
// beginning, and no process elsewhere.
func (b *raised) stands(t *testing.T, when string, want []string) {
	t.Helper()
	var in []*lab.Member
	for _, m := range b.cluster.Seats {
		st, err := m.Proc.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(want, m.Name) {
			in = append(in, m)
		} else if st.Running {
			t.Errorf("%s: %s runs, and is no member", when, m.Name)
		}
	}
	if id, keys := b.look(t, in); id != b.id || keys != b.keys {
		t.Errorf("%s: cluster %s with %s, want %s with %s", when, id, keys, b.id, b.keys)
	}
}

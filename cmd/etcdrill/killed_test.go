package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

// killable is an operation that is killed.
type killable struct {
	members, spares int
	lanes           int                       // how many labs share its records; 0 is one
	to              []string                  // who the members are afterwards; absent: who they were
	prepare         func(b *raised)           // before the first time
	args            func(b *raised) []string  // the command
	anew            bool                      // it makes another cluster
	loses           bool                      // with the data of the time of prepare
	also            func(b *raised, w string) // what has to hold each time
}

// The operations that write down what they do.
var killables = map[string]killable{
	"replace": {members: 3, spares: 1, to: []string{"m4", "m2", "m3"}, args: func(b *raised) []string {
		return []string{"member", "replace", "--member", b.here[0], "--with", b.there[0]}
	}},
	"switch": {members: 3, spares: 3, lanes: 4, to: []string{"m4", "m5", "m6"}, args: func(b *raised) []string {
		return []string{"switch", "--no-state", "--to", strings.Join(b.there, ",")}
	}},
	"switch by snapshot": {members: 2, spares: 2, to: []string{"m3", "m4"}, anew: true, args: func(b *raised) []string {
		return []string{"switch", "--no-state", "--method", "snapshot", "--to", strings.Join(b.there, ",")}
	}},
	"restore": {members: 3, anew: true, loses: true,
		prepare: func(b *raised) { b.must("do", "snapshot", "--member", "m1", "--file", "saved/first.db") },
		args: func(*raised) []string {
			return []string{"restore", "--from", "m1", "--file", "saved/first.db", "--anyway", "--no-state"}
		}},
	"state restore": {members: 3, anew: true, loses: true,
		prepare: func(b *raised) { b.must("state", "save", "--label", "first", "--no-trial") },
		args:    func(*raised) []string { return []string{"state", "restore", "first", "--no-state"} }},
	"upgrade": {members: 3, prepare: twoBuilds, also: oneBuild, args: func(b *raised) []string {
		return []string{"upgrade", "--to-dir", b.builds[1]}
	}},
}

// An operation is killed with SIGKILL after each record of its journal, by
// ETCDRILL_DIE_AFTER, and then gone on with, and in a second pass gone back on,
// by another process, which is killed as well every third time. Each time the
// members are those of the end, or of the beginning, with all the data that was
// promised, as one cluster, and nothing is left of what was begun.
func TestKilledOperations(t *testing.T) {
	kills(t, 1, func(t *testing.T, b *raised) {
		b.each(func(n int) {
			b.kill(n, "rollback")
			b.kill(n, "resume")
		})
	})
}

// A host dies together with who works on it, after each record, or each fourth
// with ETCDRILL_KILLED_HOSTS=4; so it is missing when the operation is gone on
// with, and comes back later.
func TestKilledHosts(t *testing.T) {
	every, _ := strconv.Atoi(os.Getenv("ETCDRILL_KILLED_HOSTS"))
	kills(t, max(1, every), func(t *testing.T, b *raised) {
		b.each(b.killWithHost)
	})
}

func kills(t *testing.T, every int, test func(t *testing.T, b *raised)) {
	if os.Getenv("ETCDRILL_DRILLS") != "all" {
		t.Skip("make test-kills runs it; it takes minutes")
	}
	for name, op := range killables {
		for lane := range max(1, op.lanes) {
			t.Run(fmt.Sprintf("%s %d", name, lane+1), func(t *testing.T) {
				t.Parallel()
				b := raise(t, op)
				b.first, b.step = every*(lane+1), every*max(1, op.lanes)
				test(t, b)
				b.leaves()
			})
		}
	}
}

// each calls do with the numbers of records that are this lab's.
func (b *raised) each(do func(n int)) {
	for n := b.first; !b.over; n += b.step {
		do(n)
	}
}

// raised is a lab that stays, for tests that call commands on it.
type raised struct {
	killable
	*backend
	t       *testing.T
	home    string
	cluster *lab.Cluster
	kit     lab.Kit

	here, there []string  // who the members are, and are to be
	builds      [2]string // directories: of what runs, and of what is to run
	id          string    // of the cluster
	saved, now  string    // what it held at the time of prepare, and holds now
	first, step int       // which records are its own
	over        bool      // there are no more records to survive
}

// raise brings up a lab with some data, without five seconds between changes.
func raise(t *testing.T, op killable) *raised {
	t.Helper()
	b := &raised{killable: op, backend: here(t), t: t, kit: verbs.Kit()}
	b.home = filepath.Join(b.dir, "home")
	t.Cleanup(func() { b.command(nil, "down", "--all") })
	b.must("up", "killed", "--members", fmt.Sprint(op.members), "--spares", fmt.Sprint(op.spares),
		"--heartbeat", "50ms", "--election", "500ms", "--flags", "strict-reconfig-check=false")
	b.must("do", "seed", "--count", "300", "--size", "1KiB")
	drv, err := drivers.New("local", drivers.Options{Binary: b.binary, Root: b.home})
	if err != nil {
		t.Fatal(err)
	}
	if b.cluster, err = drv.Open(t.Context(), "killed"); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.cluster.Seats[:op.members] {
		b.here = append(b.here, m.Name)
	}
	if b.there = op.to; op.to == nil {
		b.there = b.here
	}
	if op.prepare != nil {
		op.prepare(b)
	}
	b.id, b.saved = b.look()
	b.now = b.saved
	return b
}

// command runs etcdrill and returns what it said and its exit code, -1 when it
// was killed.
func (b *raised) command(env []string, args ...string) (said string, code int) {
	b.t.Helper()
	cmd := b.backend.command(args...)
	cmd.Env = append(cmd.Env, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// must is command for what has to succeed.
func (b *raised) must(args ...string) {
	b.t.Helper()
	if out, code := b.command(nil, args...); code != exitPass {
		b.t.Fatalf("%q: exit %d\n%s", args, code, out)
	}
}

// dying has a command kill itself when its operation's journal has n records.
func dying(n int) []string { return []string{fmt.Sprint("ETCDRILL_DIE_AFTER=", n)} }

// begin runs the operation until it has written n records.
func (b *raised) begin(n int) {
	b.t.Helper()
	if b.loses {
		b.must("do", "put", "--key", "later", "--value", fmt.Sprint("written before the one killed after ", n))
		_, b.now = b.look()
	}
	args := b.args(b)
	out, code := b.command(dying(n), args...)
	beyond := b.step > 1 && n > b.step && code == exitPass // another lab has the last record, or none
	if code != -1 && !beyond {
		b.t.Fatalf("%q was to die after %d records: exit %d\n%s", args, n, code, out)
	}
	if open, err := operation.Unfinished(b.cluster); err != nil || open != nil && open.Back {
		b.t.Fatalf("%q was to die going forward: %v, %v: %s\n%s", args, err, open, open.Reason, out)
	}
}

// last is the operation as its journal tells.
func (b *raised) last() operation.State {
	b.t.Helper()
	all, err := operation.List(b.cluster)
	if err != nil || len(all) == 0 {
		b.t.Fatalf("operations: %d, %v", len(all), err)
	}
	return all[len(all)-1]
}

// kill kills the operation after n records, and ends it one way or the other.
func (b *raised) kill(n int, way string) {
	b.t.Helper()
	if b.over {
		return
	}
	b.begin(n)
	if b.over = b.last().Over; !b.over {
		if n%3 == 0 { // whoever takes it up is killed, too
			b.command(dying(n+2), way)
		}
		out, code := b.command(nil, way)
		if code != exitPass && strings.Contains(out, "cannot go back behind step") {
			out, code = b.command(nil, "resume") // the new cluster serves: there is only the way forward
		}
		if code != exitPass && !b.last().Over {
			b.t.Fatalf("killed after %d records: %s: exit %d\n%s", n, way, code, out)
		}
	}
	b.stands(fmt.Sprintf("killed after %d records, then %s", n, way))
}

// killWithHost kills the operation after n records, and all that runs on a host,
// each time another one. Who goes on with it has to say what is wrong, or to go
// on without; when the host is back it ends.
func (b *raised) killWithHost(n int) {
	b.t.Helper()
	b.begin(n)
	if b.over = b.last().Over; b.over {
		b.stands(fmt.Sprintf("killed after %d records", n))
		return
	}
	var running []*lab.Member
	for _, m := range b.cluster.Seats {
		if b.runs(m) {
			running = append(running, m)
		}
	}
	when := fmt.Sprintf("killed after %d records, when no host ran anything", n)
	var dead *lab.Member
	if len(running) > 0 {
		dead = running[n%len(running)]
		if err := dead.Proc.Signal(b.t.Context(), "KILL"); err != nil {
			b.t.Fatal(err)
		}
		when = fmt.Sprintf("killed after %d records, with %s", n, dead.Name)
	}
	said, code := b.command(nil, "resume")
	when += fmt.Sprintf(", then resume: exit %d", code)
	if code != exitPass && code != exitFail && code != exitError { // an error is that a host could not be worked on
		b.t.Fatalf("%s\n%s", when, said)
	}
	back := func() {
		// What starts with the host is what has a configuration.
		if dead != nil && !b.runs(dead) {
			if _, err := etcd.ReadSettings(b.t.Context(), dead); err == nil {
				b.must("do", "start", "--member", dead.Name)
			}
		}
	}
	if state := b.last(); !state.Over || !state.Back {
		if !state.Over {
			back()
		}
		for try := 0; !b.last().Over; try++ {
			if said, code = b.command(nil, "resume"); try > 2 {
				b.t.Fatalf("%s; the host is back, and resume: exit %d\n%s", when, code, said)
			}
		}
	}
	if dead != nil && slices.Contains(b.members(b.last()), dead.Name) {
		back()
	}
	b.stands(when)
}

// members are who they are after the operation.
func (b *raised) members(s operation.State) []string {
	if s.Back {
		return b.here
	}
	return b.there
}

func (b *raised) runs(m *lab.Member) bool {
	b.t.Helper()
	st, err := m.Proc.State(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return st.Running
}

// look waits until the members are one whole cluster with equal data, and reads
// its id, and what it holds.
func (b *raised) look() (id, keys string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	var seats []*lab.Member
	for _, name := range b.here {
		m, err := b.cluster.Member(name)
		if err != nil {
			b.t.Fatal(err)
		}
		seats = append(seats, m)
	}
	if err := b.kit.Final(ctx, b.cluster, lab.End{Voters: len(seats)}); err != nil {
		b.t.Fatal(err)
	}
	l, err := etcd.Members(ctx, b.cluster, false, seats...)
	if err != nil {
		b.t.Fatal(err)
	}
	hashes, err := etcd.Hashes(ctx, b.cluster, seats...)
	if err != nil {
		b.t.Fatal(err)
	}
	if !etcd.Equal(hashes) {
		b.t.Fatal(etcd.Describe(hashes))
	}
	cli, err := etcd.Client(b.cluster, seats...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer cli.Close()
	r, err := cli.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		b.t.Fatal(err)
	}
	sum := sha256.New()
	for _, kv := range r.Kvs {
		fmt.Fprintf(sum, "%q %q %d %d %d %d\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	return etcd.HexID(l.Cluster), fmt.Sprintf("%d keys, %s", len(r.Kvs), hex.EncodeToString(sum.Sum(nil)))
}

// stands wants what the operation promises for the way it took: these members
// and no other, their data, one cluster, and no process elsewhere.
func (b *raised) stands(when string) {
	b.t.Helper()
	state := b.last()
	if !state.Over {
		b.t.Fatalf("%s: %s", when, state)
	}
	when += ": " + state.Where()
	if !state.Back {
		b.here, b.there = b.there, b.here
		b.builds[0], b.builds[1] = b.builds[1], b.builds[0]
		b.now = b.saved
	}
	for _, m := range b.cluster.Seats {
		if !slices.Contains(b.here, m.Name) && b.runs(m) {
			b.t.Errorf("%s: %s runs, and is no member", when, m.Name)
		}
	}
	id, keys := b.look()
	if anew := b.anew && !state.Back; (id != b.id) != anew {
		b.t.Errorf("%s: cluster %s became %s, another one: want %v", when, b.id, id, anew)
	}
	if keys != b.now {
		b.t.Errorf("%s: %s, want %s", when, keys, b.now)
	}
	b.id, b.now = id, keys
	if b.also != nil {
		b.also(b, when)
	}
	if left := b.find("restore-*"); slices.ContainsFunc(left, func(f string) bool { return filepath.Ext(f) != ".ndjson" }) {
		b.t.Errorf("%s: left %q", when, left)
	}
	b.t.Logf("%s: %q are the members, with all the data", when, b.here)
}

// leaves wants nothing left on the hosts after the end.
func (b *raised) leaves() {
	b.must("operations", "--discard")
	if left := b.find("before-*"); len(left) > 0 {
		b.t.Errorf("left after all was discarded: %q", left)
	}
	b.must("gc")
	b.must("down", "killed")
	if left := labelled(b.t, b.home); len(left) > 0 {
		b.t.Errorf("processes left: %q", left)
	}
}

// find lists the files and directories of a name on all hosts.
func (b *raised) find(name string) []string {
	var out []string
	filepath.WalkDir(b.home, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			if ok, _ := filepath.Match(name, d.Name()); ok {
				out = append(out, path)
			}
		}
		return nil
	})
	return out
}

// twoBuilds makes two builds of one release, told apart by their last bytes.
func twoBuilds(b *raised) {
	data, err := os.ReadFile(filepath.Join(b.cluster.Seats[0].Bin, "etcd"))
	if err != nil {
		b.t.Fatal(err)
	}
	for i, build := range [][]byte{data, append(slices.Clone(data), "another build"...)} {
		b.builds[i] = filepath.Join(b.dir, fmt.Sprint("build-", i))
		for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
			if err := errors.Join(os.MkdirAll(b.builds[i], 0o700), os.WriteFile(filepath.Join(b.builds[i], tool), build, 0o700)); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// oneBuild wants the same build on all hosts, and no file of the other.
func oneBuild(b *raised, when string) {
	want, err := os.Stat(filepath.Join(b.builds[0], "etcd"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range b.cluster.Seats {
		files, err := os.ReadDir(m.Bin)
		if err != nil {
			b.t.Fatal(err)
		}
		is, err := os.Stat(filepath.Join(m.Bin, "etcd"))
		if err != nil || is.Size() != want.Size() || len(files) != 3 {
			b.t.Errorf("%s: %s has %d files, etcd %v, %v; want 3, and etcd of %d bytes", when, m.Name, len(files), is, err, want.Size())
		}
	}
}

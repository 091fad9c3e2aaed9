package action_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// read asks the cluster, past all actions.
func (b *bench) read(t *testing.T, key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	cli, err := etcd.Client(b.Cluster, b.Seats[:b.Spec.Members]...)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := cli.Get(ctx, key, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bench) value(t *testing.T, key string) string {
	t.Helper()
	r := b.read(t, key)
	if len(r.Kvs) == 0 {
		return "(absent)"
	}
	return string(r.Kvs[0].Value)
}

func TestData(t *testing.T) {
	t.Parallel()
	b := up(t, 3, 0, nil)

	t.Run("put through every member", func(t *testing.T) {
		b.must(t, &action.Put{}, "key=Gabon", "value=Bona nit", "through=all")
		if got := b.value(t, "Gabon"); got != "Bona nit" {
			t.Errorf("Gabon is %q", got)
		}
		commands := b.Commands()
		if len(commands) != 3 {
			t.Fatalf("%d commands journaled, want one per member", len(commands))
		}
		if line := lab.Quote(commands[1].Argv); !strings.Contains(line, "etcdctl --endpoints="+b.Seats[1].LocalURL) || !strings.HasSuffix(line, "put -- Gabon 'Bona nit'") {
			t.Errorf("the journal does not show what an operator would type: %s", line)
		}
		b.must(t, &action.Put{}, "key=-dash", "value=--prefix", "through=m2")
		if got := b.value(t, "-dash"); got != "--prefix" {
			t.Errorf("-dash is %q", got)
		}
		b.Notes()
	})
	t.Run("get", func(t *testing.T) {
		b.must(t, &action.Get{}, "key=Gabon", "through=m3", "serializable=true")
		if n := b.Notes(); !strings.Contains(n, `"Bona nit"`) {
			t.Errorf("journal: %s", n)
		}
		b.must(t, &action.Get{}, "key=nowhere")
		if n := b.Notes(); !strings.Contains(n, "nowhere is not there") {
			t.Errorf("journal: %s", n)
		}
	})
	t.Run("txn", func(t *testing.T) {
		key := `k "quoted" ü`
		b.must(t, &action.Txn{}, "key="+key, "then=one \\ two")
		if got := b.value(t, key); got != `one \ two` {
			t.Errorf("created as %q", got)
		}
		b.must(t, &action.Txn{}, "key="+key, "then=not this", "else=three")
		if got := b.value(t, key); got != "three" {
			t.Errorf("it was there, and is %q", got)
		}
		b.must(t, &action.Txn{}, "key="+key, "is=three", "then=four")
		if got := b.value(t, key); got != "four" {
			t.Errorf("compared and is %q", got)
		}
		b.must(t, &action.Txn{}, "key="+key, "is=three", "then=five")
		if got := b.value(t, key); got != "four" {
			t.Errorf("did not compare, and is %q", got)
		}
	})
	t.Run("delete", func(t *testing.T) {
		for i := range 3 {
			b.must(t, &action.Put{}, fmt.Sprintf("key=d/%d", i), "value=x")
		}
		b.must(t, &action.Delete{}, "key=d/1")
		if n := b.read(t, "d/", clientv3.WithPrefix()).Count; n != 2 {
			t.Errorf("%d keys left, want 2", n)
		}
		b.must(t, &action.Delete{}, "key=d/", "prefix=true", "through=m1, m2")
		if n := b.read(t, "d/", clientv3.WithPrefix()).Count; n != 0 {
			t.Errorf("%d keys left, want none", n)
		}
	})
	t.Run("seed", func(t *testing.T) {
		b.must(t, &action.Seed{}, "count=300", "size=4KiB", "prefix=s/")
		r := b.read(t, "s/", clientv3.WithPrefix())
		if r.Count != 300 || string(r.Kvs[299].Key) != "s/00000299" {
			t.Fatalf("%d keys, the last %q", r.Count, r.Kvs[len(r.Kvs)-1].Key)
		}
		seen := map[string]bool{}
		for _, kv := range r.Kvs {
			if len(kv.Value) != 4096 || seen[string(kv.Value)] {
				t.Fatalf("%s: %d bytes, or a value seen before", kv.Key, len(kv.Value))
			}
			seen[string(kv.Value)] = true
		}
	})
	t.Run("lease", func(t *testing.T) {
		b.must(t, &action.Lease{}, "name=a", "ttl=60s", "key=leased", "value=v")
		if r := b.read(t, "leased"); r.Kvs[0].Lease == 0 || string(r.Kvs[0].Value) != "v" {
			t.Errorf("%v", r.Kvs[0])
		}
		b.must(t, &action.Keepalive{}, "name=a")
		b.must(t, &action.Revoke{}, "name=a")
		if got := b.value(t, "leased"); got != "(absent)" {
			t.Errorf("leased is %q after its lease was revoked", got)
		}
		if err := b.do(t, &action.Keepalive{}, "name=a"); err == nil || !strings.Contains(err.Error(), "has ended") {
			t.Errorf("renewal of what has ended: %v", err)
		}
	})
	t.Run("compact and defrag", func(t *testing.T) {
		b.must(t, &action.Delete{}, "key=s/", "prefix=true")
		rev := b.read(t, "x").Header.Revision
		b.must(t, &action.Compact{}, fmt.Sprintf("revision=%d", rev-1))
		b.refused(t, "required revision has been compacted", &action.Compact{}, "revision=3")
		b.refused(t, "future revision", &action.Compact{}, "revision=1000000")
		b.must(t, &action.Compact{}, "physical=true")
		b.must(t, &action.Compact{}) // nothing new: done already
		b.Notes()
		before := b.status(t, "m1").DBSize
		b.must(t, &action.Defrag{})
		if after := b.status(t, "m1").DBSize; after >= before {
			t.Errorf("database of m1: %d bytes, %d after the defragmentation", before, after)
		}
		var order []string
		for _, c := range b.Commands() {
			order = append(order, c.Host)
		}
		if want := b.leader(t); len(order) != 3 || order[2] != want {
			t.Errorf("defragmented in the order %v, want the leader %s last", order, want)
		}
		b.must(t, &action.Disarm{})
	})
	t.Run("snapshot", func(t *testing.T) {
		b.must(t, &action.Snapshot{}, "member=m2", "file=backup/one.db")
		file, err := snapshot.Fetch(t.Context(), b.Seats[1].Host, "backup/one.db", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := etcd.VerifyFile("one.db", file); err != nil {
			t.Error(err)
		}
		rev, err := etcd.FileRevision(file)
		if now := b.read(t, "x").Header.Revision; err != nil || rev < now {
			t.Errorf("revision %d, %v, want %d", rev, err, now)
		}
		if err := b.do(t, &action.Snapshot{}, "member=m2", "file=backup/one.db"); err == nil || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("overwritten without being told: %v", err)
		}
		b.must(t, &action.Snapshot{}, "member=m2", "file=backup/one.db", "replace=true")
	})
	t.Run("snapshot store", func(t *testing.T) {
		b.must(t, &action.Put{}, "key=below/one", "value=1")
		b.must(t, &action.SnapshotSave{}, "label=kept", "no-trial=true")
		if n := b.Notes(); !strings.Contains(n, "-kept: ") {
			t.Errorf("journal: %s", n)
		}
		b.must(t, &action.SnapshotVerify{}, "snapshot=kept", "trial=true")
		b.must(t, &action.SnapshotVerify{}, "snapshot=backup/one.db", "member=m2")
		b.must(t, &action.RestorePrefix{}, "snapshot=kept", "prefix=below/")
		b.refused(t, "at least one", &action.RestorePrefix{}, "snapshot=kept", "prefix=nobody/")
		b.must(t, &action.SnapshotPrune{}, "keep=1")
		if said := b.Notes(); !strings.Contains(said, "stay") {
			t.Errorf("pruned, and said: %s", said)
		}
		for _, bad := range []interface{ Valid() error }{&action.SnapshotPrune{}, &action.RestorePrefix{}} {
			if bad.Valid() == nil {
				t.Errorf("%T without an argument is taken", bad)
			}
		}
		b.refused(t, "want one of that name", &action.SnapshotVerify{}, "snapshot=lost")
		b.refused(t, "want a file, got none", &action.SnapshotVerify{}, "snapshot=backup/two.db", "member=m2")
		b.must(t, &action.Etcdutl{}, "member=m2", "args=hashkv,backup/one.db")
		b.refused(t, "the file is damaged", &action.SnapshotVerify{}, "snapshot=backup/one.db", "member=m2")
		b.refused(t, "sha256", &action.Etcdutl{}, "member=m2", "args=snapshot,restore,backup/one.db,--data-dir,nowhere")
		b.refused(t, `want an answer with "nothing"`, &action.Etcdutl{}, "member=m2", "args=version", "says=nothing")
	})
	t.Run("a tool that exits 0 is not believed", func(t *testing.T) { believe(t, b) })
}

// believe gives the members an etcdctl that says yes to everything and does
// nothing: no action may take that for done.
func believe(t *testing.T, b *bench) {
	bin := t.TempDir()
	rev := b.read(t, "x").Header.Revision
	script := fmt.Sprintf("#!/bin/sh\necho '{\"header\":{\"revision\":%d},\"succeeded\":true,\"ID\":77}'\n", rev)
	if err := os.WriteFile(filepath.Join(bin, "etcdctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	liar := *b.Cluster
	liar.Seats = nil
	for _, m := range b.Seats {
		lying := *m
		lying.Bin = bin
		liar.Seats = append(liar.Seats, &lying)
	}
	env := *b.Env
	env.Cluster = &liar
	fake := &bench{Lab: &labtest.Lab{Env: &env}}
	follower := b.other(b.leader(t)).Name
	for _, c := range []struct {
		name string
		verb lab.Action
		args []string
		says string
	}{
		{"put", &action.Put{}, []string{"key=never", "value=x"}, `want "x", got nothing`},
		{"delete", &action.Delete{}, []string{"key=Gabon"}, "want nothing"},
		{"delete prefix", &action.Delete{}, []string{"key=Ga", "prefix=true"}, "want none, got 1"},
		{"txn", &action.Txn{}, []string{"key=never", "then=x"}, `want "x", got nothing`},
		{"lease", &action.Lease{}, []string{"name=z", "ttl=60s", "value=v"}, `want "v", got nothing`},
		{"member-remove", &action.MemberRemove{}, []string{"member=" + follower}, "member list"},
		{"member-update", &action.MemberUpdate{}, []string{"member=" + follower, "url=wrong"}, "member list"},
		{"move-leader", &action.MoveLeader{}, []string{"to=" + follower}, "want " + follower},
		{"compact", &action.Compact{}, nil, "want compacted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.must(t, &action.Put{}, "key=Gabon", "value=Bona nit") // something below to compact
			fake.refused(t, c.says, c.verb, c.args...)
		})
	}
	t.Run("snapshot", func(t *testing.T) {
		if err := fake.do(t, &action.Snapshot{}, "member=m1", "file=never.db"); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("a snapshot that is not there: %v", err)
		}
	})
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		verb lab.Action
		args []string
		says string
	}{
		{&action.Seed{}, []string{"count=0"}, "count"},
		{&action.Seed{}, []string{"size=2MiB"}, "size"},
		{&action.Lease{}, []string{"name=a", "ttl=1500ms"}, "whole seconds"},
		{&action.MemberAdd{}, []string{"url=there"}, "own or wrong"},
		{&action.MemberUpdate{}, []string{"member=m1", "url=there"}, "own, lab or wrong"},
		{&action.Start{}, []string{"member=m1", "state=old"}, "new or existing"},
		{&action.Reconfigure{}, []string{"member=m1"}, "at least one setting"},
		{&action.Reconfigure{Set: map[string]string{"--name": "x"}}, []string{"member=m1"}, "configuration file"},
		{&action.Reconfigure{Set: map[string]string{"name": "x"}}, []string{"rolling=true", "restart=false"}, "rolling"},
		{&action.Compact{}, []string{"revision=-1"}, "revision"},
		{&action.Snapshot{}, []string{"file=/etc/passwd"}, "relative"},
		{&action.Snapshot{}, []string{"file=../x"}, "relative"},
		{&action.Snapshot{}, []string{"file=a/../../x"}, "relative"},
		{&action.SnapshotSave{}, []string{"label=a/b"}, "lower case"},
		{&action.SnapshotSave{}, []string{"survivor=true"}, "with member"},
		{&action.SnapshotVerify{}, []string{"member=m1", "snapshot=/etc/passwd"}, "relative"},
		{&action.SnapshotVerify{}, []string{"member=m1", "store=/s"}, "expected one of them"},
		{&action.Etcdutl{}, []string{"member=m1"}, "a command"},
		{&action.Watch{}, []string{"name=a", "key=k", "from-revision=-1"}, "from-revision"},
		{&action.Renew{}, []string{"pair=root"}, "server, peer, client or ca"},
		{&action.Renew{}, []string{"by=both"}, "old or new"},
		{&action.Renew{}, []string{"lasts=10ms"}, "at least 1s"},
		{&action.Trust{}, []string{"whom=all"}, "old, new or both"},
	} {
		err := labtest.Fill(c.verb, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%T %v: got %v, want it refused with %q", c.verb, c.args, err, c.says)
		}
	}
}

package snapshot_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func TestRestorePrefix(t *testing.T) {
	t.Parallel()
	e := up(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	do := func(op clientv3.Op) {
		t.Helper()
		if _, err := cli.Do(ctx, op); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := cli.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		do(clientv3.OpPut(fmt.Sprintf("app/%03d", i), fmt.Sprint(i)))
	}
	do(clientv3.OpPut("app/binary", "a\x00\xffb"))
	do(clientv3.OpPut("app/lock", "held", clientv3.WithLease(lease.ID)))
	do(clientv3.OpPut("app0", "not below it"))
	do(clientv3.OpPut("other/kept", "1"))
	if _, _, err := (&snapshot.Save{Label: "good", NoTrial: true}).Do(ctx, e); err != nil {
		t.Fatal(err)
	}
	do(clientv3.OpDelete("app/", clientv3.WithPrefix()))
	do(clientv3.OpPut("app/000", "wrong"))
	do(clientv3.OpPut("app/new", "not of then"))
	do(clientv3.OpPut("other/kept", "2"))
	do(clientv3.OpDelete("app0"))
	before, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
	if err != nil {
		t.Fatal(err)
	}

	r := &snapshot.RestorePrefix{Snapshot: "good", Prefix: "app/"}
	if (&snapshot.RestorePrefix{Snapshot: "good"}).Valid() == nil || r.Valid() != nil {
		t.Error("a prefix must be given")
	}
	_, err = (&snapshot.RestorePrefix{Snapshot: "good", Prefix: "nobody/"}).Do(ctx, e, false)
	refused(t, err, "at least one")
	if changes, err := r.Do(ctx, e, true); err != nil || len(changes) != 252 {
		t.Errorf("it would change %d keys, %v", len(changes), err)
	}
	if now, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live}); err != nil || len(snapshot.Diff(before, now)) != 0 {
		t.Errorf("it only said so, and changed: %v", err)
	}
	changes, err := r.Do(ctx, e, false)
	if err != nil || len(changes) != 252 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	now, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
	if err != nil {
		t.Fatal(err)
	}
	if len(now) != 252 { // 250, binary, other/kept
		t.Errorf("%d keys", len(now))
	}
	// Others were not even touched, nor what was right already.
	if now["other/kept"] != before["other/kept"] {
		t.Errorf("other/kept was touched: %+v, %+v before", now["other/kept"], before["other/kept"])
	}
	if got, err := cli.Get(ctx, "app/binary"); err != nil || string(got.Kvs[0].Value) != "a\x00\xffb" {
		t.Errorf("%v, %v", got, err)
	}
	if again, err := r.Do(ctx, e, false); err != nil || len(again) != 0 {
		t.Errorf("done again it changes %v, %v", again, err)
	}
	// The way back.
	if _, err := (&snapshot.RestorePrefix{Snapshot: snapshot.Before, Prefix: "app/"}).Do(ctx, e, false); err != nil {
		t.Fatal(err)
	}
	now, _, err = snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Live})
	if err != nil || len(snapshot.Diff(before, now)) != 0 {
		t.Errorf("back: %v, %v", snapshot.Diff(before, now), err)
	}
}

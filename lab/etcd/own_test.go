package etcd_test

import (
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Members that come back while it is asked for do not keep it from being done.
func TestRemoveOwnWaitsForAQuorum(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	c := up(t, nil)
	put(t, c, lab.OwnKeys+"left", "x")
	for _, m := range c.Seats[1:] {
		if err := m.Proc.Signal(t.Context(), "STOP"); err != nil {
			t.Fatal(err)
		}
	}
	removed := make(chan error, 1)
	ctx := within(t, 40*time.Second)
	go func() { removed <- etcd.RemoveOwn(ctx, c) }()
	select {
	case err := <-removed:
		t.Fatalf("without a quorum: %v", err)
	case <-time.After(8 * time.Second): // longer than etcd waits before it gives up on a request
	}
	for _, m := range c.Seats[1:] {
		if err := m.Proc.Signal(t.Context(), "CONT"); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	if n, err := etcd.CountOwn(ctx, c); err != nil || n != 0 {
		t.Errorf("%d left, %v", n, err)
	}
}

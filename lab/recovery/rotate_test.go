package recovery_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// shown is which authority has issued what all hosts show, "both" when it is
// not one.
func (b *bench) shown() string {
	b.t.Helper()
	by := ""
	for _, m := range b.Seats {
		p, err := etcd.GetPair(b.t.Context(), m, "server")
		if err != nil {
			b.t.Fatal(err)
		}
		cert, err := etcd.ParseCert(p.Cert)
		if err != nil {
			b.t.Fatal(err)
		}
		old, err := etcd.Authority(b.Cluster, etcd.OldCA)
		if err != nil {
			b.t.Fatal(err)
		}
		is := etcd.NewCA
		if old.Issued(cert) {
			is = etcd.OldCA
		}
		if by != "" && by != is {
			return "both"
		}
		by = is
	}
	return by
}

func TestRotate(t *testing.T) {
	b := up(t, 1, 1)
	b.put("kept", "1")
	rotate := func(ca bool, o operation.Options) error {
		return operation.Run(t.Context(), b.Env, "rotate", &recovery.Rotate{CA: ca}, o)
	}
	first, err := etcd.GetPair(t.Context(), b.Seats[0], "server")
	if err != nil {
		t.Fatal(err)
	}
	if err := rotate(false, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	second, err := etcd.GetPair(t.Context(), b.Seats[0], "server")
	if err != nil || string(first.Cert) == string(second.Cert) || b.shown() != etcd.OldCA {
		t.Errorf("the same certificate as before, or by another authority (%s), %v", b.shown(), err)
	}

	// A single member cannot be restarted without an outage: that has to be allowed.
	if err := rotate(true, operation.Options{}); err == nil || !strings.Contains(err.Error(), "would lose the quorum") {
		t.Errorf("a single member is restarted unasked: %v", err)
	}
	// Cut when the member is down in the last round, and taken back.
	if err := rotate(true, operation.Options{BreakQuorum: true, Written: operation.Cut(23)}); !operation.WasCut(err) {
		t.Fatal(err)
	}
	if got := b.shown(); got != etcd.NewCA {
		t.Errorf("cut in the last round: certificates by %s", got)
	}
	if err := operation.Rollback(t.Context(), b.Env, recovery.Kinds, operation.Options{}); err != nil {
		t.Fatal(err)
	}
	third, err := etcd.GetPair(t.Context(), b.Seats[0], "server")
	if err != nil || string(third.Cert) != string(second.Cert) || string(third.Key) != string(second.Key) {
		t.Errorf("taken back: not the certificate of before, %v", err)
	}
	b.has("kept", "1")

	if err := rotate(true, operation.Options{BreakQuorum: true}); err != nil {
		t.Fatal(err)
	}
	if got := b.shown(); got != etcd.NewCA {
		t.Errorf("at the end: certificates by %s", got)
	}
	b.has("kept", "1")
	b.refused(rotate(true, operation.Options{BreakQuorum: true}), "this was done before")
	if left := b.left("before-*"); left != "" {
		t.Errorf("left: %s", left)
	}
	if here, err := filepath.Glob(filepath.Join(etcd.PKIDir(b.Cluster), "before-*")); err != nil || len(here) > 0 {
		t.Errorf("left on this machine: %q, %v", here, err)
	}
}

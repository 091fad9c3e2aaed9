package fault_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
)

func TestCertificates(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(3, 0))
	spoil := func(pair, how string) lab.Fault {
		return &fault.Certificate{Member: on("m2"), Pair: pair, How: how}
	}
	// What is connected lives on: nothing but new connections is hit.
	unnoticed := func(t *testing.T, b *bed, e *lab.Env) {
		if code, body, err := etcd.Health(t.Context(), b.member("m2"), "/readyz"); err != nil || code != 200 {
			t.Errorf("/readyz of m2: %d %s, %v", code, body, err)
		}
	}
	b.lives(3,
		life{"server-expired", spoil("server", "expired"), func(t *testing.T, b *bed, e *lab.Env) {
			unnoticed(t, b, e)
			if err := b.put("Gabon", "Bona nit", b.member("m2")); err == nil {
				t.Error("a new client believes a certificate that has ended")
			}
			if err := b.put("Gabon", "Bona nit", b.member("m1")); err != nil {
				t.Error(err)
			}
		}},
		life{"peer-wrong-names", spoil("peer", "wrong-names"), unnoticed},
		life{"peer-expired-and-restarted", spoil("peer", "expired"), func(t *testing.T, b *bed, e *lab.Env) {
			if err := b.member("m2").Proc.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.start(t, "m2") // alone now; healing must help it without another start
		}},
		life{"client-foreign", spoil("client", "foreign"), func(t *testing.T, b *bed, e *lab.Env) {
			unnoticed(t, b, e)
			if err := b.put("Gabon", "Bona nit", b.member("m2")); err != nil {
				t.Errorf("another client is hit too: %v", err)
			}
		}},
		life{"client-half-rotated", spoil("client", "half-rotated"), unnoticed},
		life{"server-half-rotated-and-restarted", spoil("server", "half-rotated"), func(t *testing.T, b *bed, e *lab.Env) {
			if err := b.member("m2").Proc.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.start(t, "m2")
			b.ends(t, "m2", "private key does not match public key")
		}},
		life{"all-peers", &fault.Certificate{Member: on("all"), Pair: "peer", How: "expired"}, unnoticed},
	)
	for _, m := range b.Seats {
		for _, pair := range etcd.Pairs {
			if err := etcd.Examine(t.Context(), m, pair, 24*time.Hour); err != nil {
				t.Error(err)
			}
		}
	}
}

// What was renewed while the fault was in place is the cure, and stays.
func TestRenewedCertificateStays(t *testing.T) {
	t.Parallel()
	b := newBed(t, spec(1, 0))
	f := &fault.Certificate{Member: on("m1"), Pair: "server", How: "foreign"}
	e, book := b.inject(t, f)
	if err := f.Inject(t.Context(), e); err == nil {
		t.Error("what is spoiled already was spoiled again")
	}
	m := b.member("m1")
	ca, err := etcd.Authority(b.Cluster, etcd.OldCA)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := ca.Sign(etcd.For(m, "server"))
	if err != nil {
		t.Fatal(err)
	}
	if err := etcd.PutPair(t.Context(), m, "server", renewed); err != nil {
		t.Fatal(err)
	}
	never(t, f, e, "it was renewed")
	b.heal(t, f, e, book)
	if now, err := etcd.GetPair(t.Context(), m, "server"); err != nil || !bytes.Equal(now.Cert, renewed.Cert) || !bytes.Equal(now.Key, renewed.Key) {
		t.Errorf("healing took the renewed certificate away: %v", err)
	}
	b.ready(1)
}

func TestNoCertificates(t *testing.T) {
	t.Parallel()
	s := spec(1, 0)
	s.TLS = "off"
	b := newBed(t, s)
	f := &fault.Certificate{Member: on("m1"), Pair: "server", How: "expired"}
	e := b.env("none")
	b.aim(f, e)
	if err := f.Inject(t.Context(), e); err == nil {
		t.Error("a certificate was spoiled where there is none")
	}
}

package action_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// shown is how a new connection of the lab's clients to a member goes.
func (b *bench) shown(t *testing.T, m *lab.Member, port string) etcd.Reception {
	t.Helper()
	who, err := etcd.Clients(b.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	r, err := etcd.Call(t.Context(), m, port, who)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bench) authority(t *testing.T, name string) *etcd.PKI {
	t.Helper()
	p, err := etcd.Authority(b.Cluster, name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCertificates(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	t.Parallel()
	b := up(t, 3, 0, nil)
	old, next := b.authority(t, etcd.OldCA), b.authority(t, etcd.NewCA)
	if again := b.authority(t, etcd.NewCA); !bytes.Equal(again.CA(), next.CA()) {
		t.Fatal("the new authority is another one each time")
	}
	// One client that stays connected, and must see the whole rotation through.
	cli, err := etcd.Client(b.Cluster, b.Seats...)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()

	t.Run("renew", func(t *testing.T) {
		before, err := etcd.GetPair(t.Context(), b.Seats[0], "peer")
		if err != nil {
			t.Fatal(err)
		}
		b.must(t, &action.Renew{}, "member=m1", "pair=server", "lasts=48h")
		leaf := b.shown(t, b.Seats[0], etcd.ClientPort).Leaf
		if left := time.Until(leaf.NotAfter); left > 48*time.Hour || left < 47*time.Hour {
			t.Errorf("good until %s, asked for 48 h", leaf.NotAfter)
		}
		if after, err := etcd.GetPair(t.Context(), b.Seats[0], "peer"); err != nil || !bytes.Equal(before.Key, after.Key) {
			t.Errorf("another pair was renewed too: %v", err)
		}
		b.must(t, &action.Renew{}, "member=m1")
		if after, err := etcd.GetPair(t.Context(), b.Seats[0], "peer"); err != nil || bytes.Equal(before.Key, after.Key) {
			t.Errorf("the key was not renewed: %v", err)
		}
	})
	t.Run("rotation", func(t *testing.T) {
		b.must(t, &action.Trust{}, "member=all", "whom=both", "clients=true")
		b.must(t, &action.Restart{}, "member=all", "rolling=true")
		b.must(t, &action.Renew{}, "member=all", "by=new", "clients=true")
		for _, m := range b.Seats {
			for _, port := range []string{etcd.ClientPort, etcd.PeerPort} {
				if r := b.shown(t, m, port); !r.Accepted || !next.Issued(r.Leaf) || old.Issued(r.Leaf) {
					t.Errorf("%s port of %s: %s", port, m.Name, r)
				}
			}
		}
		b.must(t, &action.Trust{}, "member=all", "whom=new", "clients=true")
		b.must(t, &action.Restart{}, "member=all", "rolling=true")
		b.must(t, &action.Put{}, "key=Gabon", "value=Bona nit")
		if r, err := cli.Get(t.Context(), "Gabon"); err != nil || len(r.Kvs) != 1 {
			t.Errorf("the client that was there from the beginning: %v, %v", r, err)
		}
		pair, err := old.IssueClient("root")
		if err != nil {
			t.Fatal(err)
		}
		who, err := etcd.Stranger(pair)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := etcd.Call(t.Context(), b.Seats[0], etcd.ClientPort, who); err != nil || r.Accepted {
			t.Errorf("a client of the old authority: %s, %v", r, err)
		}
	})
	t.Run("an authority that ends", func(t *testing.T) {
		b.must(t, &action.Renew{}, "member=m1", "pair=ca", "by=new", "lasts=24h")
		pair, err := b.authority(t, etcd.NewCA).IssueClient("root")
		if err != nil {
			t.Fatal(err)
		}
		c, err := etcd.ParseCert(pair.Cert)
		if err != nil || time.Until(c.NotAfter) > 24*time.Hour {
			t.Errorf("it outlives who has signed it: %v, %v", c.NotAfter, err)
		}
		if r := b.shown(t, b.Seats[0], etcd.ClientPort); !r.Accepted {
			t.Errorf("what it has issued before is not good any more: %s", r)
		}
	})
	t.Run("passwords stand nowhere", func(t *testing.T) {
		b.Notes()
		b.must(t, &action.Etcdctl{}, "args=user,add,ann,--interactive=false", "password=one", "says=User ann created")
		secret, err := etcd.Password(b.Cluster, "one")
		if err != nil {
			t.Fatal(err)
		}
		if other, _ := etcd.Password(b.Cluster, "two"); other == secret {
			t.Error("all passwords are the same")
		}
		for _, c := range b.Commands() {
			if text := strings.Join(append(append(c.Argv, c.Env...), c.Output), " "); strings.Contains(text, secret) {
				t.Errorf("in the journal: %s", text)
			}
		}
	})
}

func TestCertificatesNeedTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	t.Parallel()
	b := up(t, 1, 0, func(s *lab.Spec) { s.TLS = "off" })
	for _, v := range []lab.Action{&action.Renew{}, &action.Trust{Whom: "old"}} {
		if err := b.do(t, v, "member=m1"); err == nil || !strings.Contains(err.Error(), "no certificates") {
			t.Errorf("%T: %v", v, err)
		}
	}
}

package check_test

import (
	"path"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func TestCertificates(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	t.Parallel()
	b := up(t, 2, 0, nil)
	m1 := b.Seats[0]
	sign := func(t *testing.T, r etcd.Request) etcd.Pair {
		t.Helper()
		ca, err := etcd.Authority(b.Cluster, etcd.OldCA)
		if err != nil {
			t.Fatal(err)
		}
		p, err := ca.Sign(r)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	put := func(t *testing.T, pair string, p etcd.Pair) {
		t.Helper()
		if err := etcd.PutPair(t.Context(), m1, pair, p); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("handshake", func(t *testing.T) {
		for _, port := range []string{"port=client", "port=peer"} {
			for _, who := range []string{"lab", "old", "host"} {
				b.holds(t, &check.Handshake{}, "member=all", port, "with="+who, "accepted=true", "shows=old")
				b.fails(t, "want refused", &check.Handshake{}, "member=m1", port, "with="+who, "refused=true")
			}
			for who, says := range map[string]string{"plain": "hangs up", "none": "certificate required", "foreign": "unknown certificate authority",
				"new": "unknown certificate authority", "expired": "expired certificate", "server": "bad certificate"} {
				b.holds(t, &check.Handshake{}, "member=all", port, "with="+who, "refused=true", "says="+says)
				b.fails(t, "want accepted", &check.Handshake{}, "member=m1", port, "with="+who, "accepted=true")
			}
		}
		b.fails(t, "want new", &check.Handshake{}, "member=m1", "shows=new")
		b.fails(t, "nonsense", &check.Handshake{}, "member=m1", "accepted=true", "says=nonsense")
	})
	t.Run("wiretap", func(t *testing.T) {
		for _, who := range []string{"plain", "none", "foreign", "expired"} {
			b.holds(t, &check.Wiretap{}, "with="+who, "refused=true")
			b.fails(t, "want heard", &check.Wiretap{}, "with="+who, "heard=true")
		}
		b.holds(t, &check.Wiretap{}, "with=lab", "heard=true")
		b.holds(t, &check.Members{}, "healthy=2", "equal=hash")
	})
	t.Run("certificate", func(t *testing.T) {
		b.holds(t, &check.Certificate{}, "member=all", "left=24h")
		b.fails(t, "within", &check.Certificate{}, "member=m1", "left=87600h")
		b.fails(t, "nothing", &check.Certificate{}, "member=m1", "finds=expired")
		foreign, err := etcd.NewPKI(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		unknown, err := foreign.Sign(etcd.For(m1, "peer"))
		if err != nil {
			t.Fatal(err)
		}
		ended, named, usage := etcd.For(m1, "peer"), etcd.For(m1, "peer"), etcd.For(m1, "peer")
		ended.Until = time.Now().Add(-time.Minute)
		named.Names = []string{"elsewhere"}
		usage.Server = false
		half := sign(t, etcd.For(m1, "peer"))
		half.Cert = nil
		for says, p := range map[string]etcd.Pair{"unknown authority": unknown, "has expired": sign(t, ended), "cannot validate certificate for": sign(t, named),
			"incompatible key usage": sign(t, usage), "private key does not match": half} {
			put(t, "peer", p)
			b.holds(t, &check.Certificate{}, "member=m1", "finds="+says)
			b.fails(t, says, &check.Certificate{}, "member=m1", "pair=peer")
			b.holds(t, &check.Certificate{}, "member=m1", "pair=server")
		}
		put(t, "peer", sign(t, etcd.For(m1, "peer")))
		b.holds(t, &check.Certificate{}, "member=m1")
	})
	t.Run("secrets", func(t *testing.T) {
		b.holds(t, &check.Secrets{}, "passwords=one")
		key, err := m1.Host.Get(t.Context(), path.Join(m1.PKI, "server.key"))
		if err != nil {
			t.Fatal(err)
		}
		secret, err := etcd.Password(b.Cluster, "one")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			on   *lab.Member
			file string
			mode uint32
			data []byte
			says string
		}{
			{m1, "notes.txt", 0o600, key, "in key files alone"},
			{m1, "open.key", 0o644, key, "others may read"},
			{b.Seats[1], "same.key", 0o600, key, "is the same as on m1"},
			{b.Seats[1], "data/notes", 0o600, append([]byte{0, 1}, secret...), "passwords one on m2"},
		} {
			if err := c.on.Host.Put(t.Context(), c.file, 0o600, c.data); err != nil {
				t.Fatal(err)
			}
			if _, err := c.on.Host.Run(t.Context(), lab.Cmd{Argv: []string{"chmod", map[uint32]string{0o600: "600", 0o644: "644"}[c.mode], c.file}}); err != nil {
				t.Fatal(err)
			}
			b.fails(t, c.says, &check.Secrets{}, "passwords=one")
			if _, err := c.on.Host.Run(t.Context(), lab.Cmd{Argv: []string{"rm", c.file}}); err != nil {
				t.Fatal(err)
			}
		}
		b.holds(t, &check.Secrets{}, "passwords=one")
	})
	t.Run("user", func(t *testing.T) {
		b.holds(t, &check.User{}, "name=anybody", "may=both")
		for _, args := range []string{"user,add,root,--no-password", "user,grant-role,root,root", "role,add,r", "role,grant-permission,r,read,Gabon",
			"user,grant-role,ann,r", "auth,enable"} {
			if args == "user,grant-role,ann,r" {
				b.do(t, &action.Etcdctl{}, "args=user,add,ann,--interactive=false", "password=one")
			}
			b.do(t, &action.Etcdctl{}, "args="+args)
		}
		b.holds(t, &check.User{}, "name=root", "may=both")
		b.holds(t, &check.User{}, "name=ann", "password=one", "key=Gabon", "may=read", "says=permission denied")
		b.holds(t, &check.User{}, "name=ann", "key=Gabon", "may=read") // by a certificate with the name
		b.holds(t, &check.User{}, "name=ann", "password=one", "key=Ngwe", "may=nothing")
		b.holds(t, &check.User{}, "name=ann", "password=two", "key=Gabon", "may=nothing", "says=authentication failed")
		b.holds(t, &check.User{}, "name=stranger", "key=Gabon", "may=nothing")
		b.fails(t, "want both, got read", &check.User{}, "name=ann", "key=Gabon", "may=both")
		b.fails(t, "no such words", &check.User{}, "name=ann", "key=Gabon", "may=read", "says=no such words")
		b.holds(t, &check.Secrets{}, "passwords=one,two")
		b.holds(t, &check.Writes{}, "accepted=true")
	})
	t.Run("could not look", func(t *testing.T) {
		b.signal(t, m1, "KILL")
		b.unsure(t, "could not look", &check.Handshake{}, "member=m1", "accepted=true")
		b.unsure(t, "could not look", &check.Handshake{}, "member=m1", "with=plain", "refused=true")
	})
}

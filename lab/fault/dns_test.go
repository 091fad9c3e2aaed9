package fault_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
)

func TestDNS(t *testing.T) {
	t.Parallel()
	s := spec(1, 1)
	s.Discovery = "dns"
	b := newBed(t, s)
	m1 := b.member("m1")
	// discovers lets a client on m1's host find the cluster.
	discovers := func(t *testing.T) (string, error) {
		cmd := etcd.ToolCmd(b.Cluster, m1, "etcdctl", "--discovery-srv="+etcd.Domain, "--discovery-srv-name=c1", "--insecure-discovery=false",
			"--dial-timeout=1s", "--command-timeout=2s", "member", "list")
		cmd.Argv = append(cmd.Argv[:1], cmd.Argv[2:]...) // without its endpoint
		out, err := m1.Host.Run(t.Context(), cmd)
		return string(out.Stdout) + string(out.Stderr), err
	}
	if out, err := discovers(t); err != nil || !strings.Contains(out, "m1.client.lab.test") {
		t.Fatalf("%v: %s", err, out)
	}
	fails := func(says string) func(t *testing.T, b *bed, e *lab.Env) {
		return func(t *testing.T, b *bed, e *lab.Env) {
			var exit *lab.ExitError
			if out, err := discovers(t); !errors.As(err, &exit) || !strings.Contains(out, says) {
				t.Errorf("a client finds the cluster, or fails for another reason than %q: %v: %s", says, err, out)
			}
			if err := b.put("Gabon", "Bona nit"); err != nil { // who has an address needs no DNS
				t.Error(err)
			}
		}
	}
	spoil := func(record, change string) *fault.DNS {
		return &fault.DNS{Record: record, Change: change, Member: on("m1")}
	}
	b.lives(1,
		life{"client-srv-missing", spoil("client-srv", "missing"), fails("no such host")},
		life{"client-srv-wrong", spoil("client-srv", "wrong"), fails("typo-m1.client.lab.test")},
		life{"client-srv-stale", spoil("client-srv", "stale"), fails("m1.client.lab.test.:1")},
		life{"client-srv-other-name", spoil("client-srv", "other-name"), nil},
		life{"client-srv-other-family", spoil("client-srv", "other-family"), fails("ignoring discovered insecure endpoint")},
		life{"server-srv-both-families", &fault.DNS{Record: "server-srv", Change: "both-families"}, nil},
		life{"address-missing", spoil("address", "missing"), nil},
		life{"address-wrong", spoil("address", "wrong"), nil},
		life{"address-stale", spoil("address", "stale"), nil},
		life{"server-down", &fault.DNS{Server: "down"}, fails("timeout")},
	)
	if out, err := discovers(t); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	e := b.env("spare")
	if err := (&fault.DNS{Record: "server-srv", Change: "missing", Member: lab.Target{Role: "m2", Names: []string{"m2"}}}).Inject(t.Context(), e); err == nil || !strings.Contains(err.Error(), "no member at the start") {
		t.Errorf("the service record of a spare: %v", err)
	}

	// One fault sees its own effect beside another one, and heals only that.
	outer, inner := spoil("client-srv", "missing"), spoil("server-srv", "missing")
	oe, book := b.inject(t, outer)
	ie := b.env("inner")
	b.aim(inner, ie)
	never(t, inner, ie, "only the other fault is there")
	if err := inner.Inject(t.Context(), ie); err != nil {
		t.Fatal(err)
	}
	until(t, inner, ie, lab.Bites)
	b.heal(t, inner, ie, ledger(t, inner))
	until(t, outer, oe, lab.Bites)
	b.heal(t, outer, oe, book)

	for _, m := range b.Seats {
		for _, pair := range etcd.Pairs {
			if err := etcd.Examine(t.Context(), m, pair, 24*time.Hour); err != nil {
				t.Error(err)
			}
		}
	}
	none := *e
	none.Cluster = &lab.Cluster{Seats: b.Seats, Hosts: b.Hosts}
	f := spoil("address", "missing")
	if err := f.Inject(t.Context(), &none); err == nil || !strings.Contains(err.Error(), "discovery: dns") {
		t.Errorf("a lab without DNS: %v", err)
	}
	if err := f.Heal(t.Context(), &none); err != nil {
		t.Error(err)
	}
}

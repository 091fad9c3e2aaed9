package drivertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// names: a cluster that finds itself by DNS, and the contract of lab.DNS.
func (s *suite) names(t *testing.T) {
	s.needs(t, lab.CapDNS)
	sp := spec(2)
	sp.Discovery = "dns"
	c := s.up(t, sp)
	put(t, client(t, c), "key", "value")
	if c.DNS == nil {
		t.Fatal("the driver has a DNS and the cluster has none")
	}
	ctx := limit(t)
	list, err := etcd.Members(ctx, c, false)
	must(t, err)
	for _, m := range c.Seats {
		l, ok := list.Of(m)
		if !ok || !slices.Equal(l.PeerURLs, []string{m.PeerURL}) || !strings.Contains(m.PeerURL, etcd.HostName(m.Name)) ||
			!slices.Equal(l.ClientURLs, []string{m.Advertise}) {
			t.Errorf("%s is listed as %+v", m.Name, l)
		}
		conn, err := c.Hosts[0].Dial(ctx, strings.TrimPrefix(m.PeerURL, "https://"))
		must(t, err)
		conn.Close()
	}
	// A client that knows nothing but the domain.
	cmd := etcd.ToolCmd(c, c.Seats[0], "etcdctl", "--discovery-srv="+etcd.Domain, "--discovery-srv-name=c1", "--insecure-discovery=false", "endpoint", "health", "--cluster")
	cmd.Argv = slices.DeleteFunc(cmd.Argv, func(a string) bool { return strings.HasPrefix(a, "--endpoints=") })
	out, err := c.Hosts[0].Run(ctx, cmd)
	must(t, err)
	for _, m := range c.Seats {
		if name := etcd.FrontName(m.Name); !strings.Contains(string(out.Stdout)+string(out.Stderr), name) {
			t.Errorf("discovered without %s: %s%s", name, out.Stdout, out.Stderr)
		}
	}

	again, err := s.driver().Open(ctx, c.ID)
	must(t, err)
	service := etcd.SRVName(etcd.ServerSRV, true)
	// found is what the host's server tells, once asked by the one who made the
	// lab and once by another process.
	found := func(host, kind, name string) []string {
		t.Helper()
		out, err := c.DNS.Lookup(ctx, host, kind, name)
		must(t, err)
		other, err := again.DNS.Lookup(ctx, host, kind, name)
		must(t, err)
		if !slices.Equal(out, other) {
			t.Errorf("%s: %q and %q", name, out, other)
		}
		return out
	}
	z, err := c.DNS.Zone(ctx, "m1")
	must(t, err)
	if !slices.Equal(z.Made, etcd.Records(sp, c.Seats)) || !slices.Equal(z.Now, z.Made) {
		t.Errorf("zone: %+v", z)
	}
	gone := slices.IndexFunc(z.Made, func(r lab.Record) bool { return r.Name == service && strings.Contains(r.Data, "m2") })
	for range 2 {
		must(t, c.DNS.Set(ctx, "fault", lab.ZoneChange{Without: z.Made[gone : gone+1], With: []lab.Record{{Name: "more.lab.test", Type: "A", Data: "192.0.2.9"}}}))
	}
	for _, h := range c.Hosts {
		if got := found(h.Name(), "SRV", service); len(got) != 1 || !strings.HasSuffix(got[0], " m1.lab.test") {
			t.Errorf("%s is told %q", h.Name(), got)
		}
		if got := found(h.Name(), "A", "m2.lab.test"); !slices.Equal(got, []string{c.Hosts[1].Addr()}) {
			t.Errorf("%s is told %q", h.Name(), got)
		}
		if got := found(h.Name(), "A", "more.lab.test"); !slices.Equal(got, []string{"192.0.2.9"}) {
			t.Errorf("%s is told %q", h.Name(), got)
		}
		if got := found(h.Name(), "A", "no.lab.test"); got != nil {
			t.Errorf("%s is told %q", h.Name(), got)
		}
	}
	must(t, c.DNS.Set(ctx, "other", lab.ZoneChange{Silent: true}))
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if got, err := c.DNS.Lookup(short, "m2", "A", "m1.lab.test"); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a silent server says %q, %v", got, err)
	}
	until(t, "the question to be counted", func(ctx context.Context) error {
		z, err := c.DNS.Zone(ctx, "m2")
		if err == nil && (z.Unanswered == 0 || !z.Silent) {
			err = errors.New("nobody asked")
		}
		return err
	})
	for _, owner := range []string{"fault", "other", "other", "nobody"} {
		must(t, again.DNS.Clear(ctx, owner))
	}
	for _, h := range c.Hosts {
		if got := found(h.Name(), "SRV", service); len(got) != 2 {
			t.Errorf("%s is told %q after all is cleared", h.Name(), got)
		}
		if got := found(h.Name(), "A", "more.lab.test"); got != nil {
			t.Errorf("%s is told %q after all is cleared", h.Name(), got)
		}
	}
	if _, err := c.DNS.Lookup(ctx, "m9", "A", "m1.lab.test"); err == nil {
		t.Error("a host that is not there was asked")
	}
	put(t, client(t, c), "key", "unharmed")
}

package names

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// zone of two hosts.
var zone = []lab.Record{
	{Name: "m1.lab.test", Type: "A", Data: "192.0.2.1"},
	{Name: "m2.lab.test", Type: "A", Data: "192.0.2.2"},
	{Name: "_etcd-server-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2380 m1.lab.test"},
	{Name: "_etcd-server-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2380 m2.lab.test"},
}

const service = "_etcd-server-ssl-c1._tcp.lab.test"

// serve begins a server and returns what asks it.
func serve(t *testing.T, records []lab.Record) (*Server, *net.Resolver) {
	t.Helper()
	s, err := New(records)
	if err != nil {
		t.Fatal(err)
	}
	var r *net.Resolver
	for range 10 { // what is free for UDP may be taken for TCP
		if r, err = s.Serve("127.0.0.1:0", func(err error) { t.Log(err) }); err == nil {
			return s, r
		}
	}
	t.Fatal(err)
	return nil, nil
}

// asks looks something up and compares.
func asks(t *testing.T, r *net.Resolver, kind, name string, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got, err := Lookup(ctx, r, kind, name)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s %s: %q, %v; want %q", name, kind, got, err, want)
	}
}

func TestAnswers(t *testing.T) {
	_, r := serve(t, zone)
	asks(t, r, "A", "m1.lab.test", "192.0.2.1")
	asks(t, r, "A", "M2.Lab.test", "192.0.2.2")
	asks(t, r, "SRV", service, "0 0 2380 m1.lab.test", "0 0 2380 m2.lab.test")
	asks(t, r, "SRV", "m1.lab.test")
	asks(t, r, "A", service)
	asks(t, r, "A", "m3.lab.test")
	asks(t, r, "A", "lab.test")
	asks(t, r, "A", "example.org")
	if got, err := Lookup(t.Context(), r, "TXT", "m1.lab.test"); err == nil {
		t.Errorf("a type that nobody serves: %q", got)
	}
	// As etcd asks: the name of the service in parts, and no such name is an error.
	if _, _, err := r.LookupSRV(t.Context(), "etcd-server-ssl-c1", "tcp", "lab.test"); err != nil {
		t.Error(err)
	}
	if _, _, err := r.LookupSRV(t.Context(), "etcd-server-c1", "tcp", "lab.test"); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("a service that nobody has: %v", err)
	}
}

// What is too long for a datagram is asked for again over TCP.
func TestLongAnswer(t *testing.T) {
	var many []lab.Record
	var want []string
	for i := range 60 {
		r := lab.Record{Name: service, Type: "SRV", Data: fmt.Sprintf("0 0 2380 a-host-with-a-long-name-%02d.lab.test", i)}
		many, want = append(many, r), append(want, r.Data)
	}
	_, r := serve(t, many)
	asks(t, r, "SRV", service, want...)
}

func TestChanges(t *testing.T) {
	s, r := serve(t, zone)
	set := func(owner string, c lab.ZoneChange) {
		t.Helper()
		if err := s.Set(owner, c); err != nil {
			t.Fatal(err)
		}
	}
	gone := lab.ZoneChange{Without: zone[3:]}
	set("a", lab.ZoneChange{Without: zone[:1]})
	set("a", gone) // in place of the first
	set("b", lab.ZoneChange{Without: zone[1:2], With: []lab.Record{{Name: "m2.lab.test", Type: "A", Data: "192.0.2.77"}, zone[0]}})
	asks(t, r, "A", "m1.lab.test", "192.0.2.1")
	asks(t, r, "A", "m2.lab.test", "192.0.2.77")
	asks(t, r, "SRV", service, "0 0 2380 m1.lab.test")
	if z := s.Zone(); !slices.Equal(z.Owners, []string{"a", "b"}) || !slices.Equal(z.Made, zone) || z.Silent || len(z.Now) != 3 {
		t.Errorf("zone: %+v", z)
	}
	for _, bad := range []lab.ZoneChange{
		{With: []lab.Record{{Name: "m1.lab.test", Type: "TXT", Data: "hello"}}},
		{With: []lab.Record{{Name: "m1.lab.test", Type: "A", Data: "here"}}},
		{With: []lab.Record{{Name: "m1.lab.test", Type: "SRV", Data: "0 0 2380"}}},
		{With: []lab.Record{{Name: "m1.lab.test", Type: "A", Data: "192.0.2.1\nm9.lab.test. 0 IN A 192.0.2.9"}}},
		{With: []lab.Record{{Name: "m1.lab.test", Type: "A", Data: ""}}},
	} {
		if err := s.Set("a", bad); err == nil {
			t.Errorf("served: %+v", bad)
		}
	}
	if err := s.Set("", gone); err == nil {
		t.Error("a change without an owner")
	}
	asks(t, r, "SRV", service, "0 0 2380 m1.lab.test") // what was refused changed nothing
	for range 2 {
		if err := s.Clear("a"); err != nil {
			t.Fatal(err)
		}
	}
	asks(t, r, "SRV", service, "0 0 2380 m1.lab.test", "0 0 2380 m2.lab.test")
	asks(t, r, "A", "m2.lab.test", "192.0.2.77")
	if err := s.Clear("b"); err != nil {
		t.Fatal(err)
	}
	if z := s.Zone(); !slices.Equal(z.Now, zone) || len(z.Owners) > 0 {
		t.Errorf("zone: %+v", z)
	}
	if _, err := New([]lab.Record{{Name: "m1.lab.test", Type: "A"}}); err == nil {
		t.Error("a server of a bad record")
	}
}

func TestSilence(t *testing.T) {
	s, r := serve(t, zone)
	if err := s.Set("a", lab.ZoneChange{Silent: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := Lookup(ctx, r, "A", "m1.lab.test"); err == nil {
		t.Errorf("answered: %q", got)
	}
	if z := s.Zone(); z.Unanswered == 0 || !z.Silent {
		t.Errorf("nobody asked: %+v", z)
	}
	if err := s.Clear("a"); err != nil {
		t.Fatal(err)
	}
	asks(t, r, "A", "m1.lab.test", "192.0.2.1")
}

// Whoever is asked for, it is the server, and in datagrams.
func TestResolver(t *testing.T) {
	c, err := Resolver("127.0.0.1:9").Dial(t.Context(), "udp", "192.0.2.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(net.PacketConn); !ok || c.RemoteAddr().String() != "127.0.0.1:9" {
		t.Errorf("asks %s, in datagrams: %v", c.RemoteAddr(), ok)
	}
}

func TestUse(t *testing.T) {
	was := net.DefaultResolver
	defer func() { net.DefaultResolver = was }()
	t.Setenv(Env, "")
	if Use(); net.DefaultResolver != was {
		t.Error("a process that was not told asks another server")
	}
	_, r := serve(t, zone)
	c, err := r.Dial(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	t.Setenv(Env, c.RemoteAddr().String())
	Use()
	if got, err := net.LookupHost("m1.lab.test"); err != nil || !slices.Equal(got, []string{"192.0.2.1"}) {
		t.Errorf("%q, %v", got, err)
	}
}

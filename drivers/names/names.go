// Package names is the DNS of a lab: a server on loopback that knows one zone
// and nothing else, and the resolver that asks it and nobody else. Records are
// plain data, see lab.Record, and owners change what is served while it is;
// nothing has a time to live, so that a change is seen at once.
//
// A server is told to be silent rather than closed: to those who ask, a machine
// that is gone and one that does not answer are the same.
package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/lab"
)

// Env is the environment variable that tells a tool which server to ask.
const Env = "ETCDRILL_DNS"

// Server answers for one zone. It is safe for concurrent use.
type Server struct {
	made []lab.Record

	mu         sync.Mutex
	changes    []owned
	zone       lab.Zone            // what follows from both, but the count
	answers    map[string][]dns.RR // of zone.Now by canonical name
	unanswered int
}

type owned struct {
	owner  string
	change lab.ZoneChange
}

// New makes a server of records.
func New(records []lab.Record) (*Server, error) {
	s := &Server{made: records}
	return s, s.settle(nil)
}

// Serve begins to answer on addr, over UDP and TCP, and returns a resolver that
// asks there. failed is told when one of both ends.
func (s *Server) Serve(addr string, failed func(error)) (*net.Resolver, error) {
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	addr = udp.LocalAddr().String()
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		udp.Close()
		return nil, err
	}
	for _, d := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		go func() { failed(d.ActivateAndServe()) }()
	}
	return Resolver(addr), nil
}

// Words is the table of what can be asked of the server; resolvers are those
// that ask it, by host.
func (s *Server) Words(resolvers map[string]*net.Resolver) control.Words {
	return control.Words{
		control.WordZoneSet:   func(_ context.Context, a control.Ask) (any, error) { return nil, s.Set(a.Owner, a.Zone) },
		control.WordZoneClear: func(_ context.Context, a control.Ask) (any, error) { return nil, s.Clear(a.Owner) },
		control.WordZone:      func(context.Context, control.Ask) (any, error) { return s.Zone(), nil },
		control.WordLookup: func(ctx context.Context, a control.Ask) (any, error) {
			r := resolvers[a.Host]
			if r == nil {
				return nil, fmt.Errorf("no host %q in this lab", a.Host)
			}
			return Lookup(ctx, r, a.Kind, a.Name)
		},
	}
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	if s.zone.Silent {
		s.unanswered++
		s.mu.Unlock()
		return
	}
	records, known := s.answers[dns.CanonicalName(q.Question[0].Name)]
	s.mu.Unlock()

	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, r := range records {
		if r.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, r)
		}
	}
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
			m.SetEdns0(o.UDPSize(), false)
		}
	}
	m.Truncate(size) // the rest is asked for again, over TCP
	w.WriteMsg(m)    // who does not hear it asks again
}

// Set puts owner's change in place of an earlier one; see lab.DNS.
func (s *Server) Set(owner string, c lab.ZoneChange) error {
	if owner == "" {
		return errors.New("a change of the zone needs an owner")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changes := slices.Clone(s.changes)
	if at := s.at(owner); at >= 0 {
		changes[at].change = c
	} else {
		changes = append(changes, owned{owner, c})
	}
	return s.settle(changes)
}

// Clear takes owner's change away.
func (s *Server) Clear(owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.at(owner); at >= 0 {
		return s.settle(slices.Delete(slices.Clone(s.changes), at, at+1))
	}
	return nil
}

func (s *Server) at(owner string) int {
	return slices.IndexFunc(s.changes, func(o owned) bool { return o.owner == owner })
}

// settle serves what follows from changes, or nothing new when it is no zone.
// s.mu is held, but by New.
func (s *Server) settle(changes []owned) error {
	z := lab.Zone{Made: s.made, Now: slices.Clone(s.made)}
	for _, o := range changes {
		z.Owners = append(z.Owners, o.owner)
		z.Silent = z.Silent || o.change.Silent
		z.Now = slices.DeleteFunc(z.Now, func(r lab.Record) bool { return slices.Contains(o.change.Without, r) })
		for _, r := range o.change.With {
			if !slices.Contains(z.Now, r) {
				z.Now = append(z.Now, r)
			}
		}
	}
	answers := map[string][]dns.RR{}
	for _, r := range z.Now {
		rr, err := parse(r)
		if err != nil {
			return err
		}
		name := dns.CanonicalName(r.Name)
		answers[name] = append(answers[name], rr)
	}
	s.changes, s.zone, s.answers = changes, z, answers
	return nil
}

// parse reads a record. What it must not be is more than one line.
func parse(r lab.Record) (dns.RR, error) {
	data := r.Data
	switch r.Type {
	case "A":
	case "SRV":
		data = dns.Fqdn(data)
	default:
		return nil, fmt.Errorf("record %s of type %q: expected A or SRV", r.Name, r.Type)
	}
	line := fmt.Sprintf("%s 0 IN %s %s", dns.Fqdn(r.Name), r.Type, data)
	rr, err := dns.NewRR(line)
	if err == nil && (rr == nil || strings.ContainsAny(line, "\n;()")) {
		err = errors.New("expected one line of a zone file")
	}
	if err != nil {
		return nil, fmt.Errorf("record %q: %w", line, err)
	}
	return rr, nil
}

// Zone is what the server knows.
func (s *Server) Zone() lab.Zone {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.zone
	z.Unanswered = s.unanswered
	return z
}

// patience is how long an answer is waited for, once; Go's resolver asks twice
// and as often again as the machine's own configuration has servers.
const patience = time.Second

// Resolver asks the server at addr and nobody else, the way a host's own
// resolver would ask it.
func Resolver(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if udp, ok := c.(*net.UDPConn); ok {
			return impatient{udp}, err
		}
		return c, err
	}}
}

// impatient is a connection to a server that may be silent.
type impatient struct{ *net.UDPConn }

// SetDeadline shortens what the resolver would wait.
func (c impatient) SetDeadline(t time.Time) error {
	if soon := time.Now().Add(patience); t.After(soon) {
		t = soon
	}
	return c.UDPConn.SetDeadline(t)
}

// Lookup asks a resolver for the data of records, sorted; see lab.DNS.
func Lookup(ctx context.Context, r *net.Resolver, kind, name string) ([]string, error) {
	var out []string
	var err error
	whole := dns.Fqdn(name) // else the machine's search list is tried, too
	switch kind {
	case "A":
		out, err = r.LookupHost(ctx, whole)
	case "SRV":
		var found []*net.SRV
		_, found, err = r.LookupSRV(ctx, "", "", whole)
		for _, f := range found {
			out = append(out, fmt.Sprintf("%d %d %d %s", f.Priority, f.Weight, f.Port, strings.TrimSuffix(f.Target, ".")))
		}
	default:
		return nil, fmt.Errorf("lookup of type %q: expected A or SRV", kind)
	}
	var no *net.DNSError
	if errors.As(err, &no) && no.IsNotFound {
		return nil, nil
	}
	slices.Sort(out)
	return out, err
}

// Use makes this process ask the server that its environment names for all
// names; without one it changes nothing. A process is all one tool, so that
// what is global in Go's library is no more global than that.
func Use() {
	if addr := os.Getenv(Env); addr != "" {
		net.DefaultResolver = Resolver(addr)
	}
}

package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// DNS spoils records of members, or takes the whole server away. What runs does
// not notice at once: service records are for who begins with nothing (FE47),
// and addresses for who connects anew.
//
// What becomes of a record:
//
//	missing         it is not there
//	wrong           service: it names a host that does not exist, as a typo does
//	                address: it is that of another member
//	stale           service: it names a port where nobody listens any more
//	                address: it is one that nobody has
//	other-name      service: it names the host by another name, which its certificate does not know
//	other-family    service: it stands in the family without -ssl, or in that one if there is no TLS
//	both-families   service: it stands in both
type DNS struct {
	Record string     `doc:"server-srv (by which members find each other), client-srv (by which clients find members) or address (of the host, for members)"`
	Change string     `doc:"missing, wrong, stale, other-name, other-family or both-families"`
	Member lab.Target `doc:"whose record; all when absent"`
	Server string     `doc:"down: nobody is answered; instead of all other arguments"`
}

const (
	serverSRV = "server-srv"
	clientSRV = "client-srv"
	address   = "address"
	missing   = "missing"
	stale     = "stale"
	wrong     = "wrong"
	otherName = "other-name"
	otherKin  = "other-family"
	bothKin   = "both-families"
)

// Doc says what the fault does.
func (*DNS) Doc() string {
	return "spoil what the lab's DNS says of members, or silence it"
}

// Needs lists the abilities it must have.
func (*DNS) Needs() []lab.Cap { return []lab.Cap{lab.CapDNS} }

// Valid refuses arguments that do not go together.
func (f *DNS) Valid() error {
	if f.Server != "" {
		if f.Record != "" || f.Change != "" || f.Member.Role != "" {
			return errors.New("server: expected alone")
		}
		return oneOf("server", f.Server, "down")
	}
	if f.Record == "" || f.Change == "" {
		return errors.New("expected `record` and `change`, or `server`")
	}
	if err := oneOf("record", f.Record, serverSRV, clientSRV, address); err != nil {
		return err
	}
	if f.Record == address {
		return oneOf("change", f.Change, missing, wrong, stale)
	}
	return oneOf("change", f.Change, missing, wrong, stale, otherName, otherKin, bothKin)
}

// Shell shows the commands it amounts to.
func (f *DNS) Shell() (do, undo []string) {
	if f.Server != "" {
		return []string{"ssh dns systemctl stop named"}, []string{"ssh dns systemctl start named"}
	}
	who := f.Member.Role
	if who == "" {
		who = "all"
	}
	edit := fmt.Sprintf("ssh dns vi /var/named/%s.zone  # %s of %s: %s", etcd.Domain, f.Record, who, f.Change)
	load := "ssh dns rndc reload " + etcd.Domain
	return []string{"ssh dns cp -a /var/named/" + etcd.Domain + ".zone /var/named/kept", edit, load},
		[]string{"ssh dns mv /var/named/kept /var/named/" + etcd.Domain + ".zone", load}
}

// nobody is the port that nobody but root may open, and nobody does.
const nobody = 1

// change is what the fault makes of the zone.
func (f *DNS) change(e *lab.Env, z lab.Zone) (lab.ZoneChange, error) {
	if f.Server != "" {
		return lab.ZoneChange{Silent: true}, nil
	}
	ms := e.Seats
	if f.Member.Role != "" {
		var err error
		if ms, err = seats(e, f.Member); err != nil {
			return lab.ZoneChange{}, err
		}
	}
	var c lab.ZoneChange
	for _, m := range ms {
		was, ok := f.record(z, m)
		if !ok {
			if f.Member.Role == "" {
				continue // a spare
			}
			return c, fmt.Errorf("%s has no %s: it was no member at the start", m.Name, f.Record)
		}
		now, err := f.spoiled(e, z, m, was)
		if err != nil {
			return c, err
		}
		if f.Change != bothKin {
			c.Without = append(c.Without, was)
		}
		c.With = append(c.With, now...)
	}
	return c, nil
}

// record finds what is spoiled in the zone as it was made.
func (f *DNS) record(z lab.Zone, m *lab.Member) (lab.Record, bool) {
	at := slices.IndexFunc(z.Made, func(r lab.Record) bool {
		switch f.Record {
		case serverSRV:
			return service(r, etcd.ServerSRV) && strings.HasSuffix(r.Data, " "+etcd.HostName(m.Name))
		case clientSRV:
			return service(r, etcd.ClientSRV) && strings.HasSuffix(r.Data, " "+etcd.FrontName(m.Name))
		}
		return r.Type == "A" && r.Name == etcd.HostName(m.Name)
	})
	if at < 0 {
		return lab.Record{}, false
	}
	return z.Made[at], true
}

func service(r lab.Record, name string) bool {
	return r.Type == "SRV" && (r.Name == etcd.SRVName(name, true) || r.Name == etcd.SRVName(name, false))
}

// spoiled are the records instead of one.
func (f *DNS) spoiled(e *lab.Env, z lab.Zone, m *lab.Member, was lab.Record) ([]lab.Record, error) {
	now := was
	if f.Record == address {
		switch f.Change {
		case missing:
			return nil, nil
		case stale:
			now.Data = fmt.Sprintf("198.51.100.%d", slices.Index(e.Seats, m)+1) // of a range for documentation
		case wrong:
			if len(e.Seats) < 2 {
				return nil, errors.New("there is no other member whose address it could be")
			}
			other := e.Seats[(slices.Index(e.Seats, m)+1)%len(e.Seats)]
			now.Data = other.Host.Addr()
		}
		return []lab.Record{now}, nil
	}
	var priority, weight, port int
	var target string
	if _, err := fmt.Sscan(was.Data, &priority, &weight, &port, &target); err != nil {
		return nil, fmt.Errorf("record %s %s: %w", was.Name, was.Data, err)
	}
	switch f.Change {
	case missing:
		return nil, nil
	case wrong:
		now.Data = etcd.SRV(port, "typo-"+target)
	case stale:
		now.Data = etcd.SRV(nobody, target)
	case otherName:
		now.Data = etcd.SRV(port, "other-"+target)
		found := slices.IndexFunc(z.Made, func(r lab.Record) bool { return r.Type == "A" && r.Name == target })
		if found < 0 {
			return nil, fmt.Errorf("%s has no address", target)
		}
		return []lab.Record{now, {Name: "other-" + target, Type: "A", Data: z.Made[found].Data}}, nil
	case otherKin, bothKin:
		for _, name := range []string{etcd.ServerSRV, etcd.ClientSRV} {
			if service(was, name) {
				now.Name = etcd.SRVName(name, was.Name == etcd.SRVName(name, false))
			}
		}
	}
	return []lab.Record{now}, nil
}

// server returns the lab's DNS, or why there is none.
func (f *DNS) server(e *lab.Env) (lab.DNS, error) {
	if e.DNS == nil {
		return nil, errors.New("this lab has no DNS: set `discovery: dns` in `cluster`")
	}
	return e.DNS, nil
}

// Inject changes the zone, on all hosts.
func (f *DNS) Inject(ctx context.Context, e *lab.Env) error {
	d, err := f.server(e)
	if err != nil {
		return err
	}
	z, err := d.Zone(ctx, e.Hosts[0].Name())
	if err != nil {
		return fmt.Errorf("the lab's DNS: %w", err)
	}
	c, err := f.change(e, z)
	if err != nil {
		return err
	}
	if c.Silent {
		e.Note("", "the DNS answers nobody any more")
	}
	for _, r := range c.Without {
		e.Note("", "out of the DNS: %s %s %s", r.Name, r.Type, r.Data)
	}
	for _, r := range c.With {
		e.Note("", "into the DNS: %s %s %s", r.Name, r.Type, r.Data)
	}
	if err := d.Set(ctx, e.Owner, c); err != nil {
		return fmt.Errorf("the lab's DNS: %w", err)
	}
	return nil
}

// Prove asks on every host, as its member would, for each record that is
// spoiled. It bites when the answer everywhere is another one than before, and
// is gone when it is what it is without this fault.
func (f *DNS) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	d, err := f.server(e)
	if err != nil {
		return lab.Proof{}, err
	}
	var seen []lab.Proof
	for _, h := range e.Hosts {
		p, err := f.ask(ctx, e, d, h.Name())
		if err != nil {
			return p, err
		}
		seen = append(seen, p)
	}
	if same := slices.Compact(slices.Clone(seen)); len(same) == 1 {
		same[0].Evidence = "on every host: " + same[0].Evidence
		return same[0], nil
	}
	all := seen[0]
	all.Evidence = ""
	for i, p := range seen {
		if p.State != all.State {
			all.State = lab.Unclear
		}
		all.Evidence += "; " + e.Hosts[i].Name() + ": " + p.Evidence
	}
	all.Evidence = all.Evidence[2:]
	return all, nil
}

// ask is the proof on one host.
func (f *DNS) ask(ctx context.Context, e *lab.Env, d lab.DNS, host string) (lab.Proof, error) {
	z, err := d.Zone(ctx, host)
	if err != nil {
		return lab.Proof{}, fmt.Errorf("the lab's DNS: %w", err)
	}
	mine := slices.Contains(z.Owners, e.Owner)
	if f.Server != "" {
		text, answered, err := f.silence(ctx, d, host, z)
		p := lab.Proof{Evidence: text}
		switch {
		case mine && !answered:
			p.State = lab.Bites
		case !mine && (answered || z.Silent): // another one's silence is not ours to end
			p.State = lab.Gone
		}
		return p, err
	}
	c, err := f.change(e, z)
	if err != nil {
		return lab.Proof{}, err
	}
	text, as, err := f.answers(ctx, d, host, z, c)
	p := lab.Proof{Evidence: text}
	switch {
	case err != nil:
		p.Evidence = err.Error() // it may be silent besides
	case mine && as == changed:
		p.State = lab.Bites
	case !mine && as != otherwise:
		p.State = lab.Gone
	}
	return p, nil
}

// How the answers of a server stand to the records it was made with and to
// those it serves.
const (
	otherwise = iota // not what it serves
	unchanged        // what it serves is, for one of the names at least, what it was made with
	changed          // what it serves is another thing for each name
)

// answers asks a host's server for all that a change is about.
func (f *DNS) answers(ctx context.Context, d lab.DNS, host string, z lab.Zone, c lab.ZoneChange) (string, int, error) {
	var asked, text []string
	as := changed
	for _, r := range slices.Concat(c.Without, c.With) {
		if key := r.Type + " " + r.Name; slices.Contains(asked, key) {
			continue
		} else {
			asked = append(asked, key)
		}
		got, err := d.Lookup(ctx, host, r.Type, r.Name)
		if err != nil {
			return "", otherwise, fmt.Errorf("lookup of %s: %w", r.Name, err)
		}
		answer := strings.Join(got, ", ")
		if answer == "" {
			answer = "nothing"
		}
		text = append(text, fmt.Sprintf("%s %s is %s", r.Name, r.Type, answer))
		switch {
		case !slices.Equal(got, data(z.Now, r)):
			as = otherwise
		case slices.Equal(got, data(z.Made, r)):
			as = min(as, unchanged)
		}
	}
	return strings.Join(text, "; "), as, nil
}

// data is what is to be answered for a record's name.
func data(zone []lab.Record, as lab.Record) []string {
	var out []string
	for _, r := range zone {
		if r.Type == as.Type && r.Name == as.Name {
			out = append(out, r.Data)
		}
	}
	slices.Sort(out)
	return out
}

// silence asks a host's server for something that it knows. That it was asked
// and did not answer, and not only that no answer came in time, is what its
// count of questions says.
func (f *DNS) silence(ctx context.Context, d lab.DNS, host string, before lab.Zone) (string, bool, error) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	known := before.Made[0]
	got, err := d.Lookup(asking, host, known.Type, known.Name)
	if err == nil {
		return fmt.Sprintf("%s %s is %s", known.Name, known.Type, strings.Join(got, ", ")), true, nil
	}
	after, zerr := d.Zone(ctx, host)
	if zerr != nil {
		return "", false, zerr
	}
	if after.Unanswered == before.Unanswered {
		return "", false, fmt.Errorf("lookup of %s: %w", known.Name, err)
	}
	return fmt.Sprintf("%s %s is not answered, of %d questions", known.Name, known.Type, after.Unanswered-before.Unanswered), false, nil
}

// Heal takes the change away, on all hosts. A lab without DNS has none.
func (f *DNS) Heal(ctx context.Context, e *lab.Env) error {
	if e.DNS == nil {
		return nil
	}
	if err := e.DNS.Clear(ctx, e.Owner); err != nil {
		return fmt.Errorf("the lab's DNS: %w", err)
	}
	return nil
}

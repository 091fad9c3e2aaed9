package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// host is a host of the driver, in its lab.
type host struct {
	lab.Host
	seat   Seat
	record Record
}

// Bare is a host of a cluster as its driver made it.
func Bare(h lab.Host) lab.Host {
	if h, ok := h.(*host); ok {
		return h.Host
	}
	return h
}

// Run implements lab.Host.
func (h *host) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	c.Env = append(h.record.names(h.seat), c.Env...)
	return h.Host.Run(ctx, c)
}

// Upload implements lab.Uploader.
func (h *host) Upload(ctx context.Context, path string, mode fs.FileMode, file string) error {
	return lab.Upload(ctx, h.Host, path, mode, file)
}

// Download implements lab.Downloader.
func (h *host) Download(ctx context.Context, path string, to io.Writer) error {
	return lab.Download(ctx, h.Host, path, to)
}

// Dial implements lab.Host. Other hosts of the lab are reached as this host's
// etcd reaches them, under the rules of the links.
func (h *host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for _, s := range h.record.Seats {
		if s.Found != nil {
			break // the kernel's rules hold for us too
		}
		named := etcd.HostName(s.Name) == to
		switch {
		case named && s.Name == h.seat.Name:
			addr = net.JoinHostPort(s.Addr, port)
		case (named || s.Addr == to) && s.Name != h.seat.Name:
			return network.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
				return h.Host.Dial(ctx, join("127.0.0.1", h.seat.SOCKS))
			}, addr)
		}
	}
	return h.Host.Dial(ctx, addr)
}

// proc is a member's unit, seen from the lab.
type proc struct {
	agent *control.Client
	host  lab.Host
	seat  Seat
}

func (p *proc) Start(ctx context.Context) error {
	return p.agent.Do(ctx, control.WordStart, control.Ask{Host: p.seat.Name}, nil)
}

func (p *proc) Stop(ctx context.Context) error {
	return p.agent.Do(ctx, control.WordStop, control.Ask{Host: p.seat.Name}, nil)
}

func (p *proc) Signal(ctx context.Context, name string) error {
	return p.agent.Do(ctx, control.WordSignal, control.Ask{Host: p.seat.Name, Signal: name}, nil)
}

func (p *proc) State(ctx context.Context) (s lab.ProcState, err error) {
	err = p.agent.Do(ctx, control.WordState, control.Ask{Host: p.seat.Name}, &s)
	return s, err
}

func (p *proc) Log(ctx context.Context, n int) ([]byte, error) {
	if p.seat.Found != nil {
		return journal(ctx, p.host, p.seat.Found.Unit, n)
	}
	out, err := p.host.Run(ctx, lab.Cmd{Argv: []string{"tail", "-c", strconv.Itoa(n), p.seat.etcdLog()}})
	var exit *lab.ExitError
	if errors.As(err, &exit) {
		if _, gerr := p.host.Run(ctx, lab.Cmd{Argv: []string{"test", "-e", p.seat.etcdLog()}}); errors.As(gerr, &exit) && exit.Code == 1 {
			return nil, nil // never started
		}
	}
	return out.Stdout, err
}

// links are the rules that the agents keep. A rule is kept at both ends: who
// opened a connection carries it, in both directions.
type links struct {
	agents map[string]*control.Client
}

// at are the ends of a link that have an agent.
func (l *links) at(ends ...string) ([]string, error) {
	var out []string
	for _, end := range ends {
		if l.agents[end] != nil {
			out = append(out, end)
		} else if end != network.Client {
			return nil, fmt.Errorf("no host %q in this lab", end)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no link leads from %s to itself", network.Client)
	}
	return out, nil
}

func (l *links) each(hosts []string, do func(*control.Client) error) error {
	errs := make(chan error, len(hosts))
	for _, h := range hosts {
		go func() { errs <- do(l.agents[h]) }()
	}
	var all []error
	for range hosts {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (l *links) everywhere(do func(*control.Client) error) error {
	var all []string
	for h := range l.agents {
		all = append(all, h)
	}
	return l.each(all, do)
}

// Set implements lab.Links.
func (l *links) Set(ctx context.Context, owner, from, to string, r lab.Rule) error {
	hosts, err := l.at(from, to)
	if err != nil {
		return err
	}
	return l.each(hosts, func(a *control.Client) error {
		return a.Do(ctx, control.WordSet, control.Ask{Owner: owner, From: from, To: to, Rule: r}, nil)
	})
}

// Clear implements lab.Links.
func (l *links) Clear(ctx context.Context, owner string) error {
	return l.everywhere(func(a *control.Client) error {
		return a.Do(ctx, control.WordClear, control.Ask{Owner: owner}, nil)
	})
}

// Rules implements lab.Links; the rules come in order of their ends and owner.
func (l *links) Rules(ctx context.Context) ([]lab.LinkRule, error) {
	found := make(chan []lab.LinkRule, len(l.agents))
	err := l.everywhere(func(a *control.Client) error {
		var rules []lab.LinkRule
		err := a.Do(ctx, control.WordRules, control.Ask{}, &rules)
		found <- rules
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []lab.LinkRule
	for range l.agents {
		for _, r := range <-found {
			at := slices.IndexFunc(out, func(o lab.LinkRule) bool { return o.Owner == r.Owner && o.From == r.From && o.To == r.To })
			if at < 0 {
				out = append(out, r)
			} else {
				out[at].Held += r.Held
			}
		}
	}
	slices.SortFunc(out, func(a, b lab.LinkRule) int {
		return strings.Compare(a.From+"\x00"+a.To+"\x00"+a.Owner, b.From+"\x00"+b.To+"\x00"+b.Owner)
	})
	return out, nil
}

// Probe implements lab.Links: the end that is a host does it, over the network
// between the hosts.
func (l *links) Probe(ctx context.Context, from, to string) (time.Duration, error) {
	hosts, err := l.at(from, to)
	if err != nil {
		return 0, err
	}
	return control.Links{Client: l.agents[hosts[0]]}.Probe(ctx, from, to)
}

// tracer is the tracers of all agents.
type tracer struct {
	agents map[string]*control.Client
}

// Inject implements lab.Tracer.
func (t *tracer) Inject(ctx context.Context, owner, host string, in lab.Injection) error {
	a := t.agents[host]
	if a == nil {
		return fmt.Errorf("no host %q in this lab", host)
	}
	return control.Tracer{Client: a}.Inject(ctx, owner, host, in)
}

// Clear implements lab.Tracer.
func (t *tracer) Clear(ctx context.Context, owner string) error {
	return (&links{t.agents}).everywhere(func(a *control.Client) error {
		return control.Tracer{Client: a}.Clear(ctx, owner)
	})
}

// Hits implements lab.Tracer.
func (t *tracer) Hits(ctx context.Context, owner string) (int, error) {
	sum := make(chan int, len(t.agents))
	err := (&links{t.agents}).everywhere(func(a *control.Client) error {
		n, err := control.Tracer{Client: a}.Hits(ctx, owner)
		sum <- n
		return err
	})
	n := 0
	for range t.agents {
		n += <-sum
	}
	return n, err
}

// dns is the servers of names of all agents: each serves what all serve.
type dns struct {
	agents map[string]*control.Client
}

// Set implements lab.DNS.
func (d *dns) Set(ctx context.Context, owner string, c lab.ZoneChange) error {
	return (&links{d.agents}).everywhere(func(a *control.Client) error {
		return control.DNS{Client: a}.Set(ctx, owner, c)
	})
}

// Clear implements lab.DNS.
func (d *dns) Clear(ctx context.Context, owner string) error {
	return (&links{d.agents}).everywhere(func(a *control.Client) error {
		return control.DNS{Client: a}.Clear(ctx, owner)
	})
}

// Zone implements lab.DNS.
func (d *dns) Zone(ctx context.Context, host string) (lab.Zone, error) {
	a := d.agents[host]
	if a == nil {
		return lab.Zone{}, fmt.Errorf("no host %q in this lab", host)
	}
	return control.DNS{Client: a}.Zone(ctx, host)
}

// Lookup implements lab.DNS.
func (d *dns) Lookup(ctx context.Context, host, kind, name string) ([]string, error) {
	a := d.agents[host]
	if a == nil {
		return nil, fmt.Errorf("no host %q in this lab", host)
	}
	return control.DNS{Client: a}.Lookup(ctx, host, kind, name)
}

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Client is the end that stands for everybody who is not a host.
const Client = "client"

// The ports under which a host's members are reached at the host's address.
const (
	PeerPort   = 2380
	ClientPort = 2379
)

// Host is one end of the network.
type Host struct {
	Name   string
	Addr   string // address of the host in the lab, without port
	Peer   string // where its etcd really listens for peers, host:port; empty when at Addr
	Client string // and for clients
	Echo   string // where somebody says back what he hears; empty when this process does
	Source string // address that connections of this host to others come from; empty: the system's choice

	// Names resolves the names that the host asks for, nil where it has to know
	// addresses.
	Names *net.Resolver
}

// Network carries the connections of one lab. It implements lab.Links.
type Network struct {
	hosts    []Host
	patience time.Duration

	mu    sync.Mutex
	links map[pair]*link
	conns map[*conn]struct{}
}

// New makes a network of hosts without any rule. patience is how long a
// host's attempt to connect to another one may hang on a cut link before it is
// told that the host is unreachable: etcd sets a time-out for a dial, but the
// SOCKS exchange is not part of what it measures.
func New(hosts []Host, patience time.Duration) *Network {
	return &Network{hosts: slices.Clone(hosts), patience: patience, links: map[pair]*link{}, conns: map[*conn]struct{}{}}
}

// host finds a host by name.
func (n *Network) host(name string) (Host, error) {
	for _, h := range n.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return Host{}, fmt.Errorf("no host %q in this lab", name)
}

func (n *Network) link(p pair) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(p)
}

func (n *Network) linkLocked(p pair) *link {
	l := n.links[p]
	if l == nil {
		l = &link{pair: p}
		l.now.Store(newRules(nil))
		n.links[p] = l
	}
	return l
}

// change replaces the rules of a link. n.mu is held.
func (n *Network) change(l *link, owned []*ownedRule) {
	old := l.now.Swap(newRules(owned))
	close(old.changed)
}

// Set implements lab.Links.
func (n *Network) Set(_ context.Context, owner, from, to string, r lab.Rule) error {
	if err := n.valid(pair{from, to}); err != nil {
		return err
	}
	if owner == "" {
		return errors.New("a rule needs an owner")
	}
	if err := Check(r); err != nil {
		return err
	}
	n.mu.Lock()
	l := n.linkLocked(pair{from, to})
	owned := without(l.now.Load().owned, owner)
	n.change(l, append(owned, &ownedRule{owner: owner, rule: r}))
	var reset []*conn
	for c := range n.conns {
		if r.Reject && (c.pair == l.pair || c.pair == (pair{to, from})) {
			reset = append(reset, c)
		}
	}
	n.mu.Unlock()
	for _, c := range reset {
		c.close(true)
	}
	return nil
}

func without(owned []*ownedRule, owner string) []*ownedRule {
	return slices.DeleteFunc(slices.Clone(owned), func(o *ownedRule) bool { return o.owner == owner })
}

// Clear implements lab.Links.
func (n *Network) Clear(_ context.Context, owner string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		had := l.now.Load().owned
		if rest := without(had, owner); len(rest) != len(had) {
			n.change(l, rest)
		}
	}
	return nil
}

// Rules implements lab.Links; the rules come in order of their ends and owner.
func (n *Network) Rules(context.Context) ([]lab.LinkRule, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []lab.LinkRule
	for _, l := range n.links {
		for _, o := range l.now.Load().owned {
			out = append(out, lab.LinkRule{Owner: o.owner, From: l.from, To: l.to, Rule: o.rule, Held: o.held.Load()})
		}
	}
	slices.SortFunc(out, func(a, b lab.LinkRule) int {
		return strings.Compare(a.From+"\x00"+a.To+"\x00"+a.Owner, b.From+"\x00"+b.To+"\x00"+b.Owner)
	})
	return out, nil
}

// Probe implements lab.Links: it opens a connection as that end would, to an
// echo at the other end, and measures one message there and back.
func (n *Network) Probe(ctx context.Context, from, to string) (time.Duration, error) {
	if err := n.valid(pair{from, to}); err != nil {
		return 0, err
	}
	here, src := net.Pipe()
	defer here.Close()
	stop := context.AfterFunc(ctx, func() { here.Close() })
	defer stop()
	opened := make(chan error, 1)
	reach := func(context.Context) (net.Conn, error) {
		dst, echo := net.Pipe()
		go func() {
			io.Copy(echo, echo)
			echo.Close()
		}()
		return dst, nil
	}
	end := to
	if to == Client { // where nobody listens: the same words, heard from there
		end = from
	}
	if h, err := n.host(end); err == nil && h.Echo != "" {
		reach = func(context.Context) (net.Conn, error) { return n.dialer(from, h.Echo)(ctx) }
	}
	go n.carry(src, pair{from, to}, 0, reach, func(err error) error { opened <- err; return nil })

	fail := func(err error) error {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer: %w", ctx.Err())
		}
		return fmt.Errorf("%s to %s: %w", from, to, err)
	}
	if err := <-opened; err != nil {
		return 0, fail(err)
	}
	start := time.Now()
	message := []byte("are you there?")
	if _, err := here.Write(message); err != nil {
		return 0, fail(err)
	}
	if _, err := io.ReadFull(here, make([]byte, len(message))); err != nil {
		return 0, fail(errRefused)
	}
	return time.Since(start), nil
}

func (n *Network) valid(p pair) error {
	for _, end := range []string{p.from, p.to} {
		if _, err := n.host(end); end != Client && err != nil {
			return err
		}
	}
	if p.from == p.to {
		return fmt.Errorf("no link leads from %s to itself", p.from)
	}
	return nil
}

// ServeClients carries what clients say to a host, until l is closed.
func (n *Network) ServeClients(l net.Listener, host string) error {
	h, err := n.host(host)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go n.carry(c, pair{Client, host}, 0, n.dialer(Client, h.Client), nil)
	}
}

// dialer opens connections from a host, or from here, to an address.
func (n *Network) dialer(from, addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		if h, err := n.host(from); err == nil && h.Source != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(h.Source)}
		}
		c, err := d.DialContext(ctx, "tcp", addr)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && !errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", err, context.DeadlineExceeded) // the dialer's clock was first
		}
		return c, err
	}
}

// carry is the life of one connection. src comes from the end that opens it,
// dial reaches the other end, opened (may be nil) is told when the connection
// stands or why it does not. patience limits the opening; 0 means no limit.
func (n *Network) carry(src net.Conn, p pair, patience time.Duration, dial func(context.Context) (net.Conn, error), opened func(error) error) {
	there, back := n.link(p), n.link(pair{p.to, p.from})
	ctx, cancel := context.WithCancel(context.Background())
	c := &conn{pair: p, net: n, ctx: ctx, cancel: cancel, src: src}
	n.mu.Lock()
	n.conns[c] = struct{}{}
	n.mu.Unlock()

	forth := newFlow(c, there, back, src)
	go forth.read()
	dst, err := open(ctx, there, back, patience, dial)
	if err == nil {
		err = c.reached(dst)
	}
	if opened != nil {
		err = errors.Join(err, opened(err))
	}
	if err != nil {
		c.close(opened == nil) // who was told needs no reset, which might overtake the answer
		return
	}
	reverse := newFlow(c, back, there, dst)
	go reverse.read()
	go reverse.run(src)
	forth.run(dst)
}

// open is the handshake: one message there, one back.
func open(ctx context.Context, there, back *link, patience time.Duration, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	attempt := func(l *link) error {
		if r := l.now.Load(); !r.quiet {
			r.count(1)
		}
		return l.cross(ctx, time.Now(), 1)
	}
	if err := attempt(there); err != nil {
		return nil, err
	}
	dst, err := dial(ctx)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = errRefused
	}
	if err != nil {
		// The refusal has to come back as well.
		if cerr := attempt(back); cerr != nil {
			err = cerr
		}
		return nil, err
	}
	if err := attempt(back); err != nil {
		dst.Close()
		return nil, err
	}
	return dst, nil
}

func (n *Network) forget(c *conn) {
	n.mu.Lock()
	delete(n.conns, c)
	n.mu.Unlock()
}

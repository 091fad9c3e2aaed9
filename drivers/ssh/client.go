package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Servers allow ten sessions on a connection (MaxSessions) and tell late that
// one has ended.
const sessions = 8

// errLost marks what failed because a connection broke.
var errLost = errors.New("connection lost")

// network holds the connections to jump hosts, which many hosts share, and
// what all connections have in common.
type network struct {
	trust  trust
	hop    time.Duration // for one hop: connect, keys, login
	every  time.Duration // how often a connection is tried
	within time.Duration // how long it may be silent then
	dial   func(ctx context.Context, addr string) (net.Conn, error)

	mu    sync.Mutex
	jumps map[string]*client
}

func newNetwork(acceptNew bool) *network {
	return &network{
		trust:  trust{acceptNew: acceptNew, adding: &sync.Mutex{}},
		hop:    15 * time.Second,
		every:  5 * time.Second,
		within: 15 * time.Second,
		dial: func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		jumps: map[string]*client{},
	}
}

// client is the one connection to a machine. It is made when it is first
// needed, and again when it is needed after it was lost.
type client struct {
	net   *network
	login Login
	sudo  Sudo // empty on a jump host, which may have no shell at all

	// trusted ends, with why, when the machine or one on the way to it shows
	// another key than it had.
	trusted  context.Context
	distrust context.CancelCauseFunc

	mu     sync.Mutex
	cur    *link
	closed bool
}

func (n *network) client(l Login, s Sudo) *client {
	c := &client{net: n, login: l, sudo: s}
	c.trusted, c.distrust = context.WithCancelCause(context.Background())
	return c
}

// jump returns the shared client of a jump host that is reached through those
// before it.
func (n *network) jump(through []Login) *client {
	last := len(through) - 1
	l := through[last]
	l.Jump = through[:last]
	n.mu.Lock()
	defer n.mu.Unlock()
	key := fmt.Sprint(through)
	if n.jumps[key] == nil {
		n.jumps[key] = n.client(l, "")
	}
	return n.jumps[key]
}

// close ends the connections to jump hosts.
func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.jumps {
		c.close()
	}
}

// link is one life of a connection.
type link struct {
	ready chan struct{} // closed when it is up, or err says why not
	err   error
	ssh   *ssh.Client
	sudo  bool          // commands need it
	slots chan struct{} // one token for each session in use

	gaveUp chan error    // why we end it ourselves
	lost   chan struct{} // closed when it is gone
	why    error         // set before lost is closed
}

// link returns the connection, making it when there is none. Who waits for
// one in the making shares its failure; the next caller tries anew.
func (c *client) link(ctx context.Context) (*link, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", c.login, net.ErrClosed)
	}
	l := c.cur
	if l == nil || l.over() {
		l = &link{ready: make(chan struct{}), lost: make(chan struct{}), slots: make(chan struct{}, sessions), gaveUp: make(chan error, 1)}
		c.cur = l
		go c.connect(l)
	}
	c.mu.Unlock()
	select {
	case <-l.ready:
		return l, l.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to %s: %w", c.login, ctx.Err())
	}
}

// over tells whether a link can be of no more use.
func (l *link) over() bool {
	select {
	case <-l.ready:
	default:
		return false // in the making
	}
	select {
	case <-l.lost:
		return true
	default:
		return l.err != nil
	}
}

// close ends the connection for good; commands that run over it fail.
func (c *client) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop(net.ErrClosed)
}

// drop gives the present connection up, which the next use makes again.
func (c *client) drop(why error) {
	c.mu.Lock()
	l := c.cur
	c.mu.Unlock()
	if l == nil {
		return
	}
	<-l.ready
	if l.err == nil {
		l.end(why)
		<-l.lost
	}
}

// end gives a link up, for a reason that is told to everybody on it.
func (l *link) end(why error) {
	select {
	case l.gaveUp <- why:
	default:
	}
	l.ssh.Close()
}

// connect makes a link and watches over it until it is lost.
func (c *client) connect(l *link) {
	ctx, cancel := context.WithTimeout(context.Background(), c.net.hop*time.Duration(1+len(c.login.Jump)))
	defer cancel()
	if l.ssh, l.err = c.handshake(ctx); l.err == nil && c.sudo != "" {
		if l.sudo, l.err = c.needsSudo(ctx, l.ssh); l.err != nil {
			l.err = fmt.Errorf("%s: %w", c.login, l.err)
			l.ssh.Close()
		}
	}
	close(l.ready)
	if l.err != nil {
		if key := (*HostKeyError)(nil); errors.As(l.err, &key) && key.Changed {
			c.distrust(l.err)
		}
		return
	}
	go l.keepAlive(c.net.every, c.net.within)
	err := l.ssh.Wait()
	select {
	case l.why = <-l.gaveUp:
	default:
		if l.why = err; err == nil || errors.Is(err, io.EOF) {
			l.why = errors.New("closed by the other side")
		}
	}
	close(l.lost)
}

// handshake connects, looks at the host key, and logs in.
func (c *client) handshake(ctx context.Context) (*ssh.Client, error) {
	known, err := c.net.trust.open(c.login)
	if err != nil {
		return nil, err
	}
	kinds := known.kinds(c.login.hostPort())
	keys := collect(c.login)
	defer keys.close()
	conn, err := c.reach(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	inner, channels, requests, err := ssh.NewClientConn(conn, c.login.hostPort(), &ssh.ClientConfig{
		User:              c.login.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(keys.signers...)},
		HostKeyCallback:   known.check,
		HostKeyAlgorithms: kinds,
	})
	if err == nil {
		return ssh.NewClient(inner, channels, requests), nil
	}
	conn.Close()
	var key *HostKeyError
	var nothing *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &key):
		return nil, key
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: no login within %v: is that an ssh server?", c.login, c.net.hop)
	case len(kinds) > 0 && errors.As(err, &nothing) && strings.Contains(err.Error(), "host key"):
		return nil, known.otherKind(c.login.hostPort())
	case strings.Contains(err.Error(), "unable to authenticate"), strings.Contains(err.Error(), "Too many authentication failures"):
		return nil, fmt.Errorf("%s: login refused. Tried: %s. Name the right key by `identity`, load it into the agent, or add it to the authorized_keys there",
			c.login, strings.Join(keys.tried, "; "))
	}
	return nil, fmt.Errorf("%s: %w", c.login, err)
}

// reach connects to the machine's ssh port, over the last jump host if there
// are any.
func (c *client) reach(ctx context.Context) (net.Conn, error) {
	if len(c.login.Jump) == 0 {
		ctx, cancel := context.WithTimeout(ctx, c.net.hop)
		defer cancel()
		conn, err := c.net.dial(ctx, c.login.hostPort())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.login, err)
		}
		return conn, nil
	}
	jump := c.net.jump(c.login.Jump)
	l, err := jump.link(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: jump host: %w", c.login, err)
	}
	conn, err := l.ssh.DialContext(ctx, "tcp", c.login.hostPort())
	if err != nil {
		return nil, fmt.Errorf("%s: through jump host %s: %w", c.login, jump.login, forwarding(err))
	}
	return conn, nil
}

// forwarding says what to do about a server that does not forward.
func forwarding(err error) error {
	var open *ssh.OpenChannelError
	if errors.As(err, &open) && open.Reason == ssh.Prohibited {
		return fmt.Errorf("its ssh server does not let us connect on from there (AllowTcpForwarding, PermitOpen): %w", err)
	}
	return err
}

// keepAlive ends a link that does not answer any more.
func (l *link) keepAlive(every, within time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-l.lost:
			return
		case <-tick.C:
		}
		answer := make(chan error, 1)
		go func() {
			_, _, err := l.ssh.SendRequest("keepalive@openssh.com", true, nil)
			answer <- err
		}()
		select {
		case <-answer: // a refusal is an answer; a broken connection ends by itself
		case <-l.lost:
			return
		case <-time.After(within):
			l.end(fmt.Errorf("no answer for %v", within))
			return
		}
	}
}

// needsSudo tells whether commands have to go through sudo, and sees that it
// asks for no password. It also finds out that commands can be run at all, and
// that nothing else talks on their output.
func (c *client) needsSudo(ctx context.Context, conn *ssh.Client) (bool, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	run := func(command string) (string, error) {
		s, err := conn.NewSession()
		if err != nil {
			return "", err
		}
		defer s.Close()
		var stderr bytes.Buffer
		s.Stderr = &stderr
		out, err := s.Output(command)
		if err != nil && stderr.Len() > 0 {
			err = errors.New(strings.TrimSpace(stderr.String()))
		}
		return strings.TrimSpace(string(out)), err
	}
	id, err := run("id -u")
	switch {
	case ctx.Err() != nil:
		return false, fmt.Errorf("no shell answers within %v", c.net.hop)
	case err != nil:
		return false, fmt.Errorf("the login works, but commands do not: %w", err)
	case id == "" || strings.Trim(id, "0123456789") != "":
		return false, fmt.Errorf("`id -u` printed %q, expected a number: does a start-up file of the login shell print something?", id)
	}
	if c.sudo == SudoNo || c.sudo == SudoAuto && id == "0" {
		return false, nil
	}
	if _, err := run("sudo -n true"); err != nil {
		return false, fmt.Errorf("sudo without a password does not work (%w): allow it (NOPASSWD in /etc/sudoers.d), or log in as root", err)
	}
	return true, nil
}

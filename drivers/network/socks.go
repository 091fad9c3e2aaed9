package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

// The part of SOCKS 5 (RFC 1928) that is spoken here: no authentication,
// CONNECT.
const (
	socksVersion     = 5
	socksNoAuth      = 0
	socksConnect     = 1
	socksIPv4        = 1
	socksName        = 3
	socksIPv6        = 4
	socksOK          = 0
	socksFailure     = 1
	socksUnreachable = 4
	socksRefused     = 5
	socksBadCommand  = 7
)

// greeting is how long a host may take to say where it wants to go.
const greeting = 10 * time.Second

// ServeSOCKS carries what a host says to other hosts, until l is closed.
func (n *Network) ServeSOCKS(l net.Listener, host string) error {
	h, err := n.host(host)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go n.serveSOCKS(c, h)
	}
}

func (n *Network) serveSOCKS(c net.Conn, from Host) {
	c.SetDeadline(time.Now().Add(greeting))
	to, port, err := readRequest(c)
	if err != nil {
		c.Close()
		return
	}
	c.SetDeadline(time.Time{})
	to = n.address(from, to)
	for _, h := range n.hosts {
		if h.Addr != to {
			continue
		}
		// A port on which nothing of ours listens is like one of a member that
		// is down.
		real := map[int]string{PeerPort: h.Peer, ClientPort: h.Client}[port]
		if h.Peer == "" { // no port of it is another one than it says
			real = net.JoinHostPort(to, strconv.Itoa(port))
		}
		dial := n.dialer(from.Name, real)
		if real == "" {
			dial = func(context.Context) (net.Conn, error) { return nil, errRefused }
		}
		n.carry(c, pair{from.Name, h.Name}, n.patience, dial, func(err error) error {
			return reply(c, err)
		})
		return
	}
	reply(c, context.DeadlineExceeded)
	c.Close()
}

// address is where a host goes that asks for a name. A name that it cannot
// resolve leads nowhere, which is all that SOCKS can tell it.
func (n *Network) address(from Host, to string) string {
	if _, err := netip.ParseAddr(to); err == nil || from.Names == nil {
		return to
	}
	ctx, cancel := context.WithTimeout(context.Background(), greeting)
	defer cancel()
	found, err := from.Names.LookupHost(ctx, to)
	if err != nil || len(found) == 0 {
		return ""
	}
	return found[0]
}

// readRequest reads greeting and request, and answers the greeting.
func readRequest(c net.Conn) (host string, port int, err error) {
	var b [256]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return "", 0, err
	}
	if b[0] != socksVersion {
		return "", 0, fmt.Errorf("socks version %d", b[0])
	}
	if _, err := io.ReadFull(c, b[:b[1]]); err != nil {
		return "", 0, err
	}
	if _, err := c.Write([]byte{socksVersion, socksNoAuth}); err != nil {
		return "", 0, err
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return "", 0, err
	}
	if b[1] != socksConnect {
		write(c, socksBadCommand)
		return "", 0, fmt.Errorf("socks command %d", b[1])
	}
	switch kind := b[3]; kind {
	case socksIPv4, socksIPv6:
		size := map[byte]int{socksIPv4: 4, socksIPv6: 16}[kind]
		if _, err := io.ReadFull(c, b[:size]); err != nil {
			return "", 0, err
		}
		addr, _ := netip.AddrFromSlice(b[:size])
		host = addr.Unmap().String()
	case socksName:
		if _, err := io.ReadFull(c, b[:1]); err != nil {
			return "", 0, err
		}
		name := b[:b[0]]
		if _, err := io.ReadFull(c, name); err != nil {
			return "", 0, err
		}
		host = string(name)
	default:
		return "", 0, fmt.Errorf("socks address type %d", kind)
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return "", 0, err
	}
	return host, int(binary.BigEndian.Uint16(b[:2])), nil
}

func reply(c net.Conn, err error) error {
	switch {
	case err == nil:
		return write(c, socksOK)
	case errors.Is(err, errRefused):
		return write(c, socksRefused)
	case errors.Is(err, context.DeadlineExceeded):
		return write(c, socksUnreachable)
	}
	return write(c, socksFailure)
}

func write(c net.Conn, code byte) error {
	_, err := c.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err
}

// Dial connects to an address or a name of the lab through a host's SOCKS
// listener, as that host's etcd would; dial reaches the listener. A refused connection gives
// an error that is a syscall.ECONNREFUSED, one that hung too long an
// EHOSTUNREACH.
func Dial(ctx context.Context, dial func(context.Context) (net.Conn, error), addr string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(addr)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || host == "" || len(host) > 255 {
		return nil, fmt.Errorf("dial %s: expected an address such as 192.0.2.1:%s", addr, strconv.Itoa(PeerPort))
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err = connect(c, host, uint16(port))
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: target(addr), Err: err}
	}
	return c, nil
}

// target is an address of the lab that need not be one of the machine.
type target string

func (target) Network() string  { return "tcp" }
func (t target) String() string { return string(t) }

func connect(c net.Conn, host string, port uint16) error {
	ask := []byte{socksVersion, 1, socksNoAuth, socksVersion, socksConnect, 0}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().Is4() {
		ask = append(append(ask, socksIPv4), ip.Unmap().AsSlice()...)
	} else if err == nil {
		ask = append(append(ask, socksIPv6), ip.AsSlice()...)
	} else {
		ask = append(append(ask, socksName, byte(len(host))), host...)
	}
	ask = binary.BigEndian.AppendUint16(ask, port)
	if _, err := c.Write(ask); err != nil {
		return err
	}
	var answer [2 + 10]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	switch answer[3] {
	case socksOK:
		return nil
	case socksRefused:
		return syscall.ECONNREFUSED
	case socksUnreachable:
		return syscall.EHOSTUNREACH
	}
	return fmt.Errorf("socks answer %d", answer[3])
}

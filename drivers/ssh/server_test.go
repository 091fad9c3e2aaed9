package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// server is an ssh server in this process. It runs commands for real, as
// sshd does: with the shell, without a terminal, and without killing them when
// the connection ends.
type server struct {
	t       testing.TB
	listen  net.Listener
	key     ssh.Signer
	allowed ssh.PublicKey
	env     []string
	delay   time.Duration // one way
	noGroup bool          // commands stay in our process group, as with servers that call no setsid
	slots   int           // sessions on one connection, 0 = any number
	noExec  bool
	instant bool // commands succeed without being run, for measuring our side
	noDial  bool

	cutAt  atomic.Int64 // cut connections that have sent us so many bytes
	frozen atomic.Bool  // nothing gets through any more, silently
	logins atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// newServer starts a server that lets in who holds the key.
func newServer(t testing.TB, allowed ssh.PublicKey, change ...func(*server)) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &server{t: t, listen: l, key: newKey(t), allowed: allowed, conns: map[net.Conn]bool{}}
	for _, c := range change {
		c(s)
	}
	go s.serve()
	t.Cleanup(func() {
		l.Close()
		s.cut()
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	s, _ := newKeyFile(t, "", "")
	return s
}

// newKeyFile makes a key, and a file of it where there is a name for one.
func newKeyFile(t testing.TB, file, passphrase string) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	s, err := ssh.NewSignerFromKey(private)
	must(t, err)
	if file != "" {
		block, err := ssh.MarshalPrivateKey(private, "test")
		if passphrase != "" {
			block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
		}
		must(t, err)
		must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return s, private
}

// login is how to log in there with the key in file. The host is known.
func (s *server) login(identity string) Login {
	s.t.Helper()
	known := filepath.Join(s.t.TempDir(), "known_hosts")
	must(s.t, os.WriteFile(known, []byte(knownhosts.Line([]string{s.listen.Addr().String()}, s.key.PublicKey())+"\n"), 0o600))
	return Login{
		Address: "127.0.0.1", Port: s.listen.Addr().(*net.TCPAddr).Port, User: "root",
		Identity: []string{identity}, Agent: "none", KnownHosts: []string{known},
	}
}

// becomes gives the server another host key, for the connections to come.
func (s *server) becomes(key ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// setenv adds to the environment of the commands to come.
func (s *server) setenv(e string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env = append(s.env, e)
}

// cut breaks all connections without a word.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *server) serve() {
	for {
		c, err := s.listen.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		go func() {
			s.handle(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

func (s *server) handle(tcp net.Conn) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) == string(s.allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("who is that")
	}}
	s.mu.Lock()
	config.AddHostKey(s.key)
	s.mu.Unlock()
	conn, channels, requests, err := ssh.NewServerConn(s.wrap(tcp), config)
	if err != nil {
		return
	}
	s.logins.Add(1)
	defer conn.Close()
	go func() {
		for r := range requests { // keepalive
			if r.WantReply {
				r.Reply(false, nil)
			}
		}
	}()
	var open atomic.Int64
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			if n := open.Add(1); s.slots > 0 && n > int64(s.slots) {
				open.Add(-1)
				c.Reject(ssh.ResourceShortage, "too many sessions")
				continue
			}
			go func() {
				defer open.Add(-1)
				s.session(c)
			}()
		case "direct-tcpip":
			go s.forward(c)
		default:
			c.Reject(ssh.UnknownChannelType, "what is that")
		}
	}
}

func (s *server) forward(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if s.noDial {
		c.Reject(ssh.Prohibited, "forwarding is disabled")
		return
	}
	if err := ssh.Unmarshal(c.ExtraData(), &to); err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		c.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	ch, requests, err := c.Accept()
	if err != nil {
		conn.Close()
		return
	}
	go ssh.DiscardRequests(requests)
	go func() {
		io.Copy(conn, ch)
		conn.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(ch, conn)
	ch.Close()
	conn.Close()
}

// session runs one command.
func (s *server) session(c ssh.NewChannel) {
	ch, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range requests {
		var line struct{ Command string }
		if r.Type != "exec" || s.noExec || ssh.Unmarshal(r.Payload, &line) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		gone := make(chan struct{})
		go func() { // the channel ends when the client closes it
			defer close(gone)
			for r := range requests {
				r.Reply(false, nil)
			}
		}()
		if s.instant && line.Command != "id -u" {
			ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{}))
			return
		}
		s.run(ch, line.Command, gone)
		return
	}
}

func (s *server) run(ch ssh.Channel, line string, gone <-chan struct{}) {
	cmd := exec.Command("/bin/sh", "-c", line)
	s.mu.Lock()
	cmd.Env = append(os.Environ(), s.env...)
	s.mu.Unlock()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !s.noGroup}
	var ends [3][2]*os.File
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			s.t.Error(err)
			return
		}
		ends[i] = [2]*os.File{r, w}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends[0][0], ends[1][1], ends[2][1]
	err := cmd.Start()
	ends[0][0].Close()
	ends[1][1].Close()
	ends[2][1].Close()
	if err != nil {
		s.t.Error(err)
		return
	}
	go func() {
		io.Copy(ends[0][1], ch)
		ends[0][1].Close()
	}()
	var output sync.WaitGroup
	output.Go(func() { io.Copy(ch, ends[1][0]) })
	output.Go(func() { io.Copy(ch.Stderr(), ends[2][0]) })
	left := make(chan struct{})
	go func() {
		select {
		case <-gone:
		case <-left:
		}
		for _, f := range []*os.File{ends[0][1], ends[1][0], ends[2][0]} {
			f.Close()
		}
	}()
	cmd.Wait()
	ends[0][1].Close()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal     string
			Core       bool
			Text, Lang string
		}{unix.SignalName(ws.Signal())[3:], false, "", ""}))
	} else {
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(ws.ExitStatus())}))
	}
	output.Wait()
	close(left)
}

// wrap lets the connection be slow, frozen, or cut.
func (s *server) wrap(c net.Conn) net.Conn {
	w := &wire{Conn: c, server: s}
	if s.delay > 0 {
		w.in, w.out = newLine(s.delay), newLine(s.delay)
		go w.in.carry(func() ([]byte, error) {
			buf := make([]byte, 64<<10)
			n, err := c.Read(buf)
			return buf[:n], err
		})
		go func() {
			for {
				b, err := w.out.next()
				if err != nil {
					c.Close()
					return
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
	}
	return w
}

type wire struct {
	net.Conn
	server  *server
	got     int64
	in, out *line
	rest    []byte
}

func (w *wire) Read(p []byte) (n int, err error) {
	if w.in == nil {
		n, err = w.Conn.Read(p)
	} else {
		if len(w.rest) == 0 {
			if w.rest, err = w.in.next(); err != nil {
				return 0, err
			}
		}
		n = copy(p, w.rest)
		w.rest = w.rest[n:]
	}
	w.got += int64(n)
	if at := w.server.cutAt.Load(); at > 0 && w.got > at {
		w.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	for w.server.frozen.Load() && err == nil {
		time.Sleep(5 * time.Millisecond)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.server.frozen.Load() {
		return len(p), nil
	}
	if w.out == nil {
		return w.Conn.Write(p)
	}
	w.out.put(append([]byte(nil), p...), nil)
	return len(p), nil
}

func (w *wire) Close() error {
	if w.out != nil {
		w.out.put(nil, io.EOF)
	}
	return w.Conn.Close()
}

// line delays what is put in, and keeps its order.
type line struct {
	delay time.Duration
	queue chan parcel
}

type parcel struct {
	due  time.Time
	data []byte
	err  error
}

func newLine(d time.Duration) *line { return &line{d, make(chan parcel, 4096)} }

func (l *line) put(data []byte, err error) { l.queue <- parcel{time.Now().Add(l.delay), data, err} }

func (l *line) next() ([]byte, error) {
	p := <-l.queue
	time.Sleep(time.Until(p.due))
	return p.data, p.err
}

func (l *line) carry(read func() ([]byte, error)) {
	for {
		data, err := read()
		if len(data) > 0 {
			l.put(data, nil)
		}
		if err != nil {
			l.put(nil, err)
			return
		}
	}
}

func listener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func listenOn(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

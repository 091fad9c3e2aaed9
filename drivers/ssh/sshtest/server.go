// Package sshtest is ssh servers for tests and measurements of clients: [Server]
// lives in this process and can be slow, silent, full or cut off; [OpenSSH] is
// the usual sshd, on loopback.
package sshtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Server is an ssh server in this process. It runs commands for real, as sshd
// does: with the shell, as the user of this process, without a terminal, and
// without killing them when the connection ends. What is not set by a function
// is set before Start.
type Server struct {
	Allowed  ssh.PublicKey // who holds its private half is let in, under any name
	Key      ssh.Signer    // of the host
	Env      []string      // of commands, beside that of this process
	Delay    time.Duration // one way; a round trip takes two
	Sessions int           // on one connection at a time, 0 = any number
	NoGroup  bool          // commands stay in our process group, as with servers that call no setsid
	NoExec   bool          // it runs no commands
	NoDial   bool          // it forwards no connections
	Instant  bool          // commands succeed without being run, for measuring the client

	CutAt  atomic.Int64 // connections that have sent us so many bytes are cut, 0 = none
	Frozen atomic.Bool  // nothing gets through any more, silently
	Logins atomic.Int64 // so far

	mu     sync.Mutex
	listen net.Listener
	conns  map[net.Conn]bool
}

// Start listens on an address, a free port of loopback when it is empty, and
// serves there. A server that was stopped can be started again.
func (s *Server) Start(addr string) error {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.listen = l
	s.mu.Unlock()
	go s.serve(l)
	return nil
}

// Addr is where the server listens, or listened last.
func (s *Server) Addr() *net.TCPAddr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listen.Addr().(*net.TCPAddr)
}

// Stop lets nobody in any more; who is in stays. It may be called twice.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listen.Close()
}

// Become gives the server another host key, for the connections to come.
func (s *Server) Become(key ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Key = key
}

// Setenv adds to the environment of the commands to come.
func (s *Server) Setenv(e string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Env = append(s.Env, e)
}

// Cut breaks all connections without a word.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Close is Stop and Cut.
func (s *Server) Close() error {
	s.Stop()
	s.Cut()
	return nil
}

func (s *Server) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil {
			s.conns = map[net.Conn]bool{}
		}
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

func (s *Server) handle(tcp net.Conn) {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) == string(s.Allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("who is that")
	}}
	s.mu.Lock()
	config.AddHostKey(s.Key)
	s.mu.Unlock()
	conn, channels, requests, err := ssh.NewServerConn(s.wrap(tcp), config)
	if err != nil {
		return
	}
	s.Logins.Add(1)
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
			if n := open.Add(1); s.Sessions > 0 && n > int64(s.Sessions) {
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

func (s *Server) forward(c ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if s.NoDial {
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
func (s *Server) session(c ssh.NewChannel) {
	ch, requests, err := c.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	for r := range requests {
		var line struct{ Command string }
		if r.Type != "exec" || s.NoExec || ssh.Unmarshal(r.Payload, &line) != nil {
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
		if s.Instant && line.Command != "id -u" {
			ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{}))
			return
		}
		s.run(ch, line.Command, gone)
		return
	}
}

func (s *Server) run(ch ssh.Channel, line string, gone <-chan struct{}) {
	cmd := exec.Command("/bin/sh", "-c", line)
	s.mu.Lock()
	cmd.Env = append(os.Environ(), s.Env...)
	s.mu.Unlock()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !s.NoGroup}
	var ends [3][2]*os.File
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			refuse(ch, err)
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
		refuse(ch, err)
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

// refuse says why a command could not be started, with the exit code that ssh
// has for its own troubles.
func refuse(ch ssh.Channel, err error) {
	fmt.Fprintln(ch.Stderr(), "sshtest:", err)
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{255}))
}

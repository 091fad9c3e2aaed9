package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// leftover is how long output is still read after a command has ended,
	// when something it started holds on to it.
	leftover = time.Second
	// dying is how long a command that is to be killed may take to say so.
	dying = 2 * time.Second
	// crowded is how long a server may be full.
	crowded = 5 * time.Second
	// longest command line: more than this many bytes Linux passes to no
	// process as one argument, and it is one for the login shell.
	longest = 128<<10 - 1
)

// ended says how a command ended and what it printed.
type ended struct {
	stdout, stderr []byte
	code           int
	signal         string // without SIG, empty when it exited
	cut            error  // why stdout is not all there
}

// pipes are a command's ends that are ours.
type pipes struct {
	in     io.Reader
	pieces bool      // in goes as runScript wants it; its end comes when nobody waits for the command any more
	out    io.Writer // gets stdout while it comes; nil keeps it for ended
}

// execute runs one command line over the link. When ctx ends, so does the
// lifeline, and the command by it. An error says that it is not known how the
// command ended.
func (l *link) execute(ctx context.Context, line string, p pipes) (ended, error) {
	if len(line) > longest {
		return ended{}, fmt.Errorf("command line of %d bytes, expected at most %d: put the long part into a file", len(line), longest)
	}
	select {
	case l.slots <- struct{}{}:
	case <-l.lost:
		return ended{}, l.gone("before the command started")
	case <-ctx.Done():
		return ended{}, ctx.Err()
	}
	s := &session{link: l, exited: make(chan struct{}), over: make(chan struct{})}
	s.out[0].to = p.out
	opened := make(chan error, 1)
	go func() { opened <- s.open(ctx, line) }()
	select {
	case err := <-opened:
		if err != nil {
			s.close()
			return ended{}, err
		}
	case <-ctx.Done():
		go func() {
			<-opened
			s.close()
		}()
		return ended{}, ctx.Err()
	}
	sent := make(chan struct{})
	defer func() {
		s.close()
		select { // who gave the input may want to use it again
		case <-sent:
		case <-time.After(leftover):
		}
	}()
	var broken chan error
	if p.in != nil {
		broken = make(chan error, 1)
		go func() {
			defer close(sent)
			broken <- s.send(p.in, p.pieces)
		}()
	} else {
		close(sent)
	}
	for {
		select {
		case <-s.exited:
			whole := s.drain(ctx)
			end := s.result()
			if end.cut == nil && !whole {
				end.cut = errors.New("more came than was waited for")
			}
			return end, nil
		case <-s.over:
			select {
			case <-s.exited:
				return s.result(), nil
			case <-l.lost:
				return s.result(), l.gone("while the command ran; it is being killed")
			case <-time.After(leftover):
				return s.result(), errors.New("the server ended the session and did not say how the command ended")
			}
		case err := <-broken:
			if broken = nil; err != nil {
				s.kill()
				return s.result(), fmt.Errorf("reading its input: %w", err)
			}
		case <-ctx.Done():
			s.kill()
			return s.result(), ctx.Err()
		}
	}
}

// gone says that the link was lost, and what that means.
func (l *link) gone(when string) error {
	return fmt.Errorf("%w %s: %w", errLost, when, l.why)
}

// session is one channel of a connection, with one command.
type session struct {
	link   *link
	ch     ssh.Channel
	out    [2]output
	copied sync.WaitGroup
	input  sync.Mutex // held while input is written, or ended

	code   int
	signal string
	exited chan struct{} // closed when code and signal are known
	over   chan struct{} // closed when the channel is
}

// open starts the command. It returns once the server has a channel for it.
// Servers allow only so many, and may count one whose command was killed until
// that is dead; so one that is refused is asked for again for a while. The
// command itself is sent once.
func (s *session) open(ctx context.Context, line string) error {
	var ch ssh.Channel
	var requests <-chan *ssh.Request
	var err error
	var full *ssh.OpenChannelError
	for deadline := time.Now().Add(crowded); ; {
		ch, requests, err = s.link.ssh.OpenChannel("session", nil)
		if !errors.As(err, &full) {
			break
		}
		if full.Reason == ssh.Prohibited || ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("the server opens no session for the command (MaxSessions?): %w", err)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when one is free
	}
	if err != nil {
		select {
		case <-s.link.lost:
			return s.link.gone("before the command started")
		case <-time.After(leftover):
			return fmt.Errorf("%w before the command started: %w", errLost, err)
		}
	}
	s.ch = ch
	for i, from := range []io.Reader{ch, ch.Stderr()} {
		s.copied.Go(func() { io.Copy(&s.out[i], from) })
	}
	go s.listen(requests)
	// The answer is not waited for: that the server runs commands was seen when
	// the connection was made, and the input must not come before this.
	if _, err := ch.SendRequest("exec", false, ssh.Marshal(struct{ Command string }{line})); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// listen waits for the word on how the command ended.
func (s *session) listen(requests <-chan *ssh.Request) {
	defer close(s.over)
	told := false
	for r := range requests {
		var code struct{ Status uint32 }
		var signal struct {
			Signal     string
			CoreDumped bool
			Error      string
			Lang       string
		}
		switch {
		case told:
		case r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &code) == nil:
			s.code, told = int(code.Status), true
			close(s.exited)
		case r.Type == "exit-signal" && ssh.Unmarshal(r.Payload, &signal) == nil:
			s.code, s.signal, told = -1, signal.Signal, true
			close(s.exited)
		}
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
}

// send gives the command its input. A command that does not want it all is no
// error.
func (s *session) send(input io.Reader, inPieces bool) error {
	write := func(data ...[]byte) (err error) {
		s.input.Lock()
		defer s.input.Unlock()
		for _, d := range data {
			if _, err = s.ch.Write(d); err != nil {
				break
			}
		}
		return err
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := input.Read(buf)
		if n > 0 {
			data := [][]byte{buf[:n]}
			if inPieces {
				data = [][]byte{fmt.Appendf(nil, "%d\n", n), buf[:n]}
			}
			if write(data...) != nil {
				return nil
			}
		}
		switch {
		case err == io.EOF && inPieces:
			write([]byte("0\n"))
			return nil
		case err == io.EOF:
			s.input.Lock()
			defer s.input.Unlock()
			s.ch.CloseWrite()
			return nil
		case err != nil:
			return err
		}
	}
}

// drain waits for the rest of the output, and tells whether that was all.
func (s *session) drain(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		s.copied.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(leftover):
	case <-ctx.Done():
	}
	return false
}

// kill ends the lifeline, and waits a moment for the news that the command is
// dead. That news cannot come when input is on its way just now, for then only
// the end of the whole channel ends the lifeline.
func (s *session) kill() {
	if s.input.TryLock() {
		s.ch.CloseWrite()
		s.input.Unlock()
	} else {
		s.ch.Close()
	}
	select {
	case <-s.exited:
	case <-s.over:
	case <-time.After(dying):
	}
}

// close ends the channel, and gives the slot back when the server has ended it
// too: until then it counts there.
func (s *session) close() {
	if s.ch == nil {
		<-s.link.slots
		return
	}
	s.ch.Close()
	go func() {
		select {
		case <-s.over:
		case <-s.link.lost:
		case <-time.After(10 * leftover):
		}
		<-s.link.slots
	}()
}

func (s *session) result() ended {
	var e ended
	e.stdout, e.cut = s.out[0].take()
	e.stderr, _ = s.out[1].take()
	select {
	case <-s.exited:
		e.code, e.signal = s.code, s.signal
	default:
	}
	return e
}

// output collects what a command prints, or hands it on, until it is taken.
type output struct {
	to    io.Writer // nil: collect
	mu    sync.Mutex
	text  bytes.Buffer
	err   error // of to
	taken bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.taken || o.err != nil: // the command is not to stand still for it
	case o.to != nil:
		_, o.err = o.to.Write(p)
	default:
		o.text.Write(p)
	}
	return len(p), nil
}

func (o *output) take() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taken = true
	return o.text.Bytes(), o.err
}

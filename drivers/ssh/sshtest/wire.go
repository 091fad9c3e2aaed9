package sshtest

import (
	"io"
	"net"
	"time"
)

// wrap lets the connection be slow, frozen, or cut.
func (s *Server) wrap(c net.Conn) net.Conn {
	w := &wire{Conn: c, server: s}
	if s.Delay > 0 {
		w.in, w.out = newLine(s.Delay), newLine(s.Delay)
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
	server  *Server
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
	if at := w.server.CutAt.Load(); at > 0 && w.got > at {
		w.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	for w.server.Frozen.Load() && err == nil {
		time.Sleep(5 * time.Millisecond)
	}
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.server.Frozen.Load() {
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

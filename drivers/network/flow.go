package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// window is how many bytes a flow holds back before it stops reading.
const window = 4 << 20

// conn is one connection between two ends: two flows.
type conn struct {
	pair   // from opened it
	net    *Network
	ctx    context.Context
	cancel context.CancelFunc
	src    net.Conn // towards the end that opened it

	mu    sync.Mutex
	dst   net.Conn // towards the other end, nil until the connection is open
	reset bool     // how it was closed
	ended int      // flows that came to their end in peace
}

// flow is what one end of a connection sends to the other.
type flow struct {
	conn     *conn
	link     *link
	back     *link // the other direction
	src, dst net.Conn

	mu      sync.Mutex
	open    bool // dst is there
	queue   []chunk
	pending int           // bytes in the queue or being written from it
	more    chan struct{} // the queue got longer
	room    chan struct{} // or shorter
}

// chunk is data, or the end of it.
type chunk struct {
	data []byte
	end  error
	came time.Time
}

func newFlow(c *conn, l, back *link, src net.Conn) *flow {
	return &flow{conn: c, link: l, back: back, src: src, more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// run lets the flow go on to dst. Its reader runs already.
func (f *flow) run(dst net.Conn) {
	f.mu.Lock()
	f.dst, f.open = dst, true
	f.mu.Unlock()
	f.write()
}

// read reads until the source ends.
func (f *flow) read() {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.src.Read(buf)
		if n > 0 {
			if f.clear() {
				if _, werr := f.dst.Write(buf[:n]); werr != nil {
					f.lost()
					return
				}
			} else if !f.push(chunk{data: append([]byte(nil), buf[:n]...), came: time.Now()}) {
				return
			}
		}
		if err != nil {
			if f.abandoned() {
				f.conn.close(false)
			}
			f.push(chunk{end: err, came: time.Now()})
			return
		}
	}
}

// abandoned tells whether the end that was opening the connection has lost
// patience: it is gone while the rules still hold the connection back.
func (f *flow) abandoned() bool {
	f.conn.mu.Lock()
	defer f.conn.mu.Unlock()
	return f.conn.dst == nil && !(f.link.quiet() && f.back.quiet())
}

// clear tells whether what was just read may go past the queue. Only the
// reader puts into the queue, so an empty one stays empty meanwhile.
func (f *flow) clear() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open && f.pending == 0 && f.link.quiet()
}

// size of a chunk in the queue; its end counts, so that nothing overtakes it.
func (c chunk) size() int { return max(len(c.data), 1) }

func (f *flow) push(c chunk) bool {
	if r := f.link.now.Load(); !r.quiet && c.end == nil {
		r.count(len(c.data))
	}
	for {
		f.mu.Lock()
		if f.pending < window {
			f.queue = append(f.queue, c)
			f.pending += c.size()
			f.mu.Unlock()
			signal(f.more)
			return true
		}
		f.mu.Unlock()
		select {
		case <-f.room:
		case <-f.conn.ctx.Done():
			return false
		}
	}
}

// signal wakes whoever waits on ch, or is just about to.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// head waits for the first chunk of the queue and takes it out.
func (f *flow) head() (chunk, bool) {
	for {
		f.mu.Lock()
		if len(f.queue) > 0 {
			c := f.queue[0]
			f.queue[0] = chunk{}
			f.queue = f.queue[1:]
			f.mu.Unlock()
			return c, true
		}
		f.mu.Unlock()
		select {
		case <-f.more:
		case <-f.conn.ctx.Done():
			return chunk{}, false
		}
	}
}

// write takes from the queue and writes when the rules allow.
func (f *flow) write() {
	for {
		c, ok := f.head()
		if !ok {
			return
		}
		if c.end != nil {
			f.finish(c)
			return
		}
		for rest := c.data; len(rest) > 0; {
			n := f.link.piece(len(rest))
			if !f.cross(f.link, c.came, n) {
				return
			}
			if _, err := f.dst.Write(rest[:n]); err != nil {
				f.lost()
				return
			}
			rest = rest[n:]
		}
		f.mu.Lock()
		f.pending -= c.size()
		f.mu.Unlock()
		signal(f.room)
	}
}

// cross waits for a link; false means that the connection is over.
func (f *flow) cross(l *link, came time.Time, n int) bool {
	err := l.cross(f.conn.ctx, came, n)
	if errors.Is(err, errRefused) {
		f.conn.close(true)
	}
	return err == nil
}

// finish tells the destination how the source ended.
func (f *flow) finish(c chunk) {
	if !f.cross(f.link, c.came, 1) {
		return
	}
	if c.end != io.EOF {
		f.conn.close(true)
		return
	}
	if half, ok := f.dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		f.conn.endOne()
		return
	}
	f.conn.close(false)
}

// lost is called when the destination is gone. The source learns it as it
// would from a reset that the destination's machine sends: over the link back.
func (f *flow) lost() {
	if f.cross(f.back, time.Now(), 1) {
		f.conn.close(true)
	}
}

func (c *conn) endOne() {
	c.mu.Lock()
	c.ended++
	over := c.ended == 2
	c.mu.Unlock()
	if over {
		c.close(false)
	}
}

// close ends the connection for both ends, with a reset when so told. It may
// be called again.
func (c *conn) close(reset bool) {
	c.net.forget(c)
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset = c.reset || reset
	closeEnd(c.src, c.reset)
	closeEnd(c.dst, c.reset)
}

func closeEnd(end net.Conn, reset bool) {
	if end == nil {
		return
	}
	if tcp, ok := end.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0)
	}
	end.Close()
}

// reached takes the other end over. It is closed at once when the connection
// was closed meanwhile.
func (c *conn) reached(dst net.Conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ctx.Err(); err != nil {
		closeEnd(dst, c.reset)
		return err
	}
	c.dst = dst
	return nil
}

package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/etcdrill/etcdrill/lab"
)

// benchSession is what any command over ssh costs: a session on an open
// connection.
func benchSession(b *testing.B, h *Host) {
	l, err := h.client.link(b.Context())
	must(b, err)
	for b.Loop() {
		s, err := l.ssh.NewSession()
		must(b, err)
		must(b, s.Run("true"))
		s.Close()
	}
}

// benchStreams compares ways to bring a large file to a host.
func benchStreams(b *testing.B, h *Host) {
	data := make([]byte, 64<<20)
	b.Run("stream put", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			must(b, h.Put(b.Context(), "blob", 0o600, data))
		}
	})
	l, err := h.client.link(b.Context())
	must(b, err)
	b.Run("stream cat", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			s, err := l.ssh.NewSession()
			must(b, err)
			s.Stdin = bytes.NewReader(data)
			must(b, s.Run("cat >"+lab.Quote([]string{filepath.Join(h.Dir(), "blob")})))
			s.Close()
		}
	})
	b.Run("stream sftp", func(b *testing.B) {
		c, err := sftp.NewClient(l.ssh, sftp.UseConcurrentWrites(true))
		if err != nil {
			b.Skip(err)
		}
		defer c.Close()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			f, err := c.Create(filepath.Join(h.Dir(), "blob"))
			must(b, err)
			_, err = f.ReadFrom(bytes.NewReader(data))
			must(b, err)
			must(b, f.Close())
		}
	})
	b.Run("stream run with input", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_, err := h.Run(b.Context(), lab.Cmd{Argv: []string{"sh", "-c", "cat >blob"}, Stdin: bytes.NewReader(data)})
			must(b, err)
		}
	})
}

// BenchmarkCommand: a command with all that we do for it, and one without.
func BenchmarkCommand(b *testing.B) {
	for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
		h, _ := newHost(b, func(s *server) { s.Delay = delay })
		must(b, h.Connect(b.Context()))
		b.Run(fmt.Sprintf("ours/rtt=%v", 2*delay), func(b *testing.B) {
			for b.Loop() {
				run(b, h, "true")
			}
		})
		b.Run(fmt.Sprintf("session/rtt=%v", 2*delay), func(b *testing.B) { benchSession(b, h) })
	}
}

// BenchmarkFanOut runs one command on many hosts that are 20 ms away, each
// over its own connection. They all share this machine, so they only say that
// they ran it. The time for 100 should be near that for 10.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			var all []*Host
			for range n {
				h, _ := newHost(b, func(s *server) { s.Delay, s.Instant = 10*time.Millisecond, true })
				all = append(all, h)
			}
			must(b, Each(b.Context(), all, func(ctx context.Context, h *Host) error { return h.Connect(ctx) }))
			for b.Loop() {
				must(b, Each(b.Context(), all, func(ctx context.Context, h *Host) error {
					_, err := h.Run(ctx, lab.Cmd{Argv: []string{"true"}})
					return err
				}))
			}
		})
	}
}

// BenchmarkTunnel is what a connection through a host carries.
func BenchmarkTunnel(b *testing.B) {
	h, _ := newHost(b)
	to := discard(b)
	conn, err := h.Dial(b.Context(), to)
	must(b, err)
	defer conn.Close()
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		_, err := conn.Write(buf)
		must(b, err)
	}
}

func discard(b *testing.B) string {
	l := listener(b)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	return l.Addr().String()
}

package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/etcdrill/etcdrill/drivers/linux"
	"github.com/etcdrill/etcdrill/lab"
)

// Host is a container that plays a machine. It implements lab.Host.
type Host struct {
	name, addr, dir string
	direct          bool // addr can be reached from this machine
	engine          *client.Client
	container       string // name or id
	binary          string // on this machine, what the image has as executable
	http            *http.Transport
}

// newHost makes a host that is asked over the connection that dial makes to a
// process that serves it, see Serve. The connection is made when it is needed,
// and again when that process has ended, as it does with its container.
func newHost(name, addr, dir string, dial func(context.Context) (net.Conn, error)) *Host {
	return &Host{name: name, addr: addr, dir: dir, http: &http.Transport{
		Protocols:          http2Only(),
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}}
}

// executable is where the image has the etcdrill binary.
const executable = "/usr/local/bin/etcdrill"

// enter starts a process in a container that serves it, see Serve, and returns
// a connection to it.
func enter(ctx context.Context, engine *client.Client, container, dir string) (net.Conn, error) {
	exec, err := engine.ExecCreate(ctx, container, client.ExecCreateOptions{
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
		Cmd: []string{executable, HostWord, dir},
	})
	if err != nil {
		return nil, err
	}
	hijacked, err := engine.ExecAttach(ctx, exec.ID, client.ExecAttachOptions{})
	if err != nil {
		return nil, err
	}
	stdout, w := io.Pipe()
	stderr := &tail{}
	go func() {
		_, err := stdcopy.StdCopy(w, stderr, hijacked.Reader)
		if err == nil {
			err = io.EOF
		}
		w.CloseWithError(err)
	}()
	c := &execConn{HijackedResponse: hijacked.HijackedResponse, stdout: stdout}
	if err := greeted(ctx, c); err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s %s did not start (is the executable one that calls tools.Main?): %w %s", executable, HostWord, err, stderr)
	}
	return c, nil
}

// greeted waits until Serve, at the other end of a connection, is ready.
func greeted(ctx context.Context, c net.Conn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	said := make([]byte, len(ready))
	n, err := io.ReadFull(c, said)
	if err == nil && string(said) == ready {
		return ctx.Err()
	}
	if err == nil { // somebody else: it may say more, but not for long
		more, _ := io.ReadAll(io.LimitReader(c, 1<<10))
		said = append(said, more...)
		n = len(said)
	}
	return fmt.Errorf("it says %q", said[:n])
}

// execConn is the connection to the process of an exec.
type execConn struct {
	noDeadlines
	client.HijackedResponse
	stdout *io.PipeReader
}

func (c *execConn) Read(p []byte) (int, error)  { return c.stdout.Read(p) }
func (c *execConn) Write(p []byte) (int, error) { return c.Conn.Write(p) }
func (c *execConn) Close() error {
	c.stdout.Close()
	return c.Conn.Close()
}

// Name implements lab.Host.
func (h *Host) Name() string { return h.name }

// Addr implements lab.Host.
func (h *Host) Addr() string { return h.addr }

// Dir implements lab.Host.
func (h *Host) Dir() string { return h.dir }

// close ends the process that serves the host, and what it runs.
func (h *Host) close() { h.http.CloseIdleConnections() }

// ask sends a request to the host. What comes back must be closed; its status
// is a good one.
func (h *Host) ask(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: h.name, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := h.http.RoundTrip(req)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			resp.Body.Close()
		}
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case resp.StatusCode < 300:
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, err
	}
	no := &refusal{text: strings.TrimSpace(string(text))}
	switch name := resp.Header.Get(headerErrno); {
	case resp.StatusCode == http.StatusNotFound:
		no.why = fs.ErrNotExist
	case name != "":
		no.why = errnos[name]
	}
	return nil, no
}

// refusal is what a host said instead of doing it.
type refusal struct {
	text string
	why  error // what the text means, nil when it is nothing known
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.why }

// errnos are the system's errors that somebody may want to tell apart. Their
// numbers differ between systems, so their names are sent.
var errnos = map[string]error{
	"ECONNREFUSED": syscall.ECONNREFUSED,
	"ECONNRESET":   syscall.ECONNRESET,
	"EHOSTUNREACH": syscall.EHOSTUNREACH,
	"ENETUNREACH":  syscall.ENETUNREACH,
	"ETIMEDOUT":    syscall.ETIMEDOUT,
	"ENOSPC":       syscall.ENOSPC,
	"EACCES":       syscall.EACCES,
}

// Run implements lab.Host. The command is looked for in the directory bin of
// Dir first; it gets a process group of its own, which is killed whole when
// ctx ends and when this process does.
func (h *Host) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	if len(c.Argv) == 0 {
		return lab.Output{}, fmt.Errorf("%s: empty command", h.name)
	}
	fail := func(out lab.Output, err error) (lab.Output, error) {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if said := out.LastLine(); said != "" {
			err = fmt.Errorf("%w; the last it said: %s", err, said)
		}
		return out, fmt.Errorf("%s: %s: %w", h.name, c, err)
	}
	about, err := head(command{Argv: c.Argv, Env: c.Env, Dir: c.Dir})
	if err != nil {
		return fail(lab.Output{}, err)
	}
	var in io.Reader = bytes.NewReader(about)
	if c.Stdin != nil {
		// Through a pipe, which can be closed when nobody reads any more: what
		// c.Stdin is may never end.
		all := io.MultiReader(in, c.Stdin)
		r, w := io.Pipe()
		defer r.Close()
		go func() {
			_, err := io.Copy(w, all)
			w.CloseWithError(err)
		}()
		in = r
	}
	resp, err := h.ask(ctx, http.MethodPost, pathRun, nil, in)
	if err != nil {
		return fail(lab.Output{}, err)
	}
	defer resp.Body.Close()
	var stdout, stderr bytes.Buffer
	end, err := readFrames(resp.Body, &stdout, &stderr)
	out := lab.Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	switch {
	case err != nil:
		return fail(out, fmt.Errorf("its end is not known: %w", err))
	case end.Code != 0 || end.Signal != "":
		return out, &lab.ExitError{Host: h.name, Argv: c.Argv, Code: end.Code, Signal: end.Signal, Output: out}
	}
	return out, nil
}

// Put implements lab.Host.
func (h *Host) Put(ctx context.Context, path string, mode fs.FileMode, data []byte) error {
	return h.put(ctx, path, mode, bytes.NewReader(data))
}

func (h *Host) put(ctx context.Context, path string, mode fs.FileMode, from io.Reader) error {
	query := url.Values{"path": {path}, "mode": {fmt.Sprintf("%o", mode.Perm())}}
	resp, err := h.ask(ctx, http.MethodPut, pathFile, query, from)
	if err != nil {
		return fmt.Errorf("%s: put %s: %w", h.name, path, err)
	}
	return resp.Body.Close()
}

// Upload puts a file of this machine, whole or not at all, see lab.Uploader.
// The etcdrill binary is in the image already.
func (h *Host) Upload(ctx context.Context, path string, mode fs.FileMode, file string) error {
	if file == h.binary {
		const link = `mkdir -p -m 0700 "${2%/*}" && ln -sfn "$1" "$2"`
		_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-euc", link, "sh", executable, path}})
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.put(ctx, path, mode, f)
}

// Get implements lab.Host.
func (h *Host) Get(ctx context.Context, path string) ([]byte, error) {
	return lab.Whole(ctx, h, path)
}

// Download implements lab.Downloader.
func (h *Host) Download(ctx context.Context, path string, to io.Writer) error {
	resp, err := h.ask(ctx, http.MethodGet, pathFile, url.Values{"path": {path}}, nil)
	if err == nil {
		defer resp.Body.Close()
		_, err = io.Copy(to, resp.Body)
	}
	if err != nil {
		return fmt.Errorf("%s: get %s: %w", h.name, path, err)
	}
	return nil
}

// Dial implements lab.Host: straight to the container where this machine has a
// way to it, else through the process that serves the host. So is etcd's port
// for peers, which takes them only from addresses that their certificates name.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%s: dial %s: %w", h.name, addr, err)
	}
	if h.direct && to == h.addr && port != strconv.Itoa(linux.PortsAt(0).Peer) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	conn, err := h.tunnel(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%s: dial %s: %w", h.name, addr, err)
	}
	return conn, nil
}

func (h *Host) tunnel(ctx context.Context, addr string) (net.Conn, error) {
	// The connection outlives ctx, which is about making it.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	body, send := io.Pipe()
	resp, err := h.ask(life, http.MethodPost, pathDial, url.Values{"addr": {addr}}, body)
	if !stop() && err == nil {
		resp.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	near, far := net.Pipe() // it has the deadlines that a stream lacks
	go func() {
		io.Copy(send, far) // until near is closed
		send.Close()
	}()
	go func() {
		defer end()
		io.Copy(far, resp.Body) // until the other side is, or near
		far.Close()
		resp.Body.Close()
	}()
	return &tunnelConn{Conn: near, to: addr}, nil
}

// tunnelConn is a connection that says where it leads to.
type tunnelConn struct {
	net.Conn
	to string
}

func (c *tunnelConn) RemoteAddr() net.Addr { return tunnelAddr(c.to) }

type tunnelAddr string

func (tunnelAddr) Network() string  { return "tcp" }
func (a tunnelAddr) String() string { return string(a) }

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 2000
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-most):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

package docker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HostWord is the hidden first argument with which an executable is to call
// Serve.
const HostWord = "__host"

// ready is what Serve says before it serves.
const ready = "etcdrill host 1\n"

// What a host can be asked. It speaks HTTP/2, which multiplexes, streams both
// ways and tells at once when the asker has gone.
const (
	pathRun  = "/run"  // POST a command and its input; answers with frames
	pathFile = "/file" // PUT and GET a file
	pathDial = "/dial" // POST what to send; answers with what is received
)

// command is the head of a request to run something, as JSON behind its
// length of four bytes. The command's input follows.
type command struct {
	Argv []string
	Env  []string
	Dir  string
}

// ended is how a command ended.
type ended struct {
	Code   int
	Signal string `json:",omitempty"`
}

// Kinds of frames in an answer to pathRun: a byte with the kind, four bytes
// with the length, and the payload. The last frame is how it ended.
const (
	frameOut = 'o'
	frameErr = 'e'
	frameEnd = 'x'
)

// headerErrno names the system's error behind a failed request.
const headerErrno = "Etcdrill-Errno"

// leftover is how long output is still read after a command has ended, when
// something it started holds on to its pipes.
const leftover = time.Second

// Serve plays a host over standard input and output, until they are closed; it
// returns the exit code. Its only argument is the host's directory.
func Serve(args []string) int {
	if len(args) != 1 || !filepath.IsAbs(args[0]) {
		fmt.Fprintf(os.Stderr, "%s: expected the directory of a host\n", HostWord)
		return 2
	}
	if err := serve(args[0], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serve(dir string, in io.ReadCloser, out io.WriteCloser) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// What is run is looked for in the host's own directory first.
	if err := os.Setenv("PATH", filepath.Join(dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
		return err
	}
	if _, err := io.WriteString(out, ready); err != nil {
		return err
	}
	s := &server{dir: dir}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathRun, s.run)
	mux.HandleFunc("PUT "+pathFile, s.put)
	mux.HandleFunc("GET "+pathFile, s.get)
	mux.HandleFunc("POST "+pathDial, s.dial)

	only := newOneConn(&stdio{ReadCloser: in, out: out})
	var busy sync.RWMutex // read: by each request
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !busy.TryRLock() {
				return // nobody is there any more
			}
			defer busy.RUnlock()
			mux.ServeHTTP(w, r)
		}),
		Protocols: http2Only(),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				only.Close()
			}
		},
	}
	if err := h.Serve(only); !errors.Is(err, net.ErrClosed) {
		return err
	}
	busy.Lock() // commands are being killed
	return nil
}

// http2Only is HTTP/2 without TLS: the pipe it goes through is nobody else's.
func http2Only() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// oneConn is a listener that accepts a single connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return pipeAddr{} }

// stdio is a connection made of two pipes.
type stdio struct {
	noDeadlines
	io.ReadCloser
	out io.WriteCloser
}

func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s *stdio) Close() error                { return errors.Join(s.ReadCloser.Close(), s.out.Close()) }

// noDeadlines is the part of a net.Conn that a pipe lacks. HTTP/2 works
// without.
type noDeadlines struct{}

func (noDeadlines) LocalAddr() net.Addr              { return pipeAddr{} }
func (noDeadlines) RemoteAddr() net.Addr             { return pipeAddr{} }
func (noDeadlines) SetDeadline(time.Time) error      { return nil }
func (noDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (noDeadlines) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

type server struct{ dir string }

// path is where a path of a request lies: below the host's directory when it
// is relative.
func (s *server) path(r *http.Request) string {
	p := r.URL.Query().Get("path")
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(s.dir, p)
}

// refuse answers that something could not be done.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusUnprocessableEntity
	if errors.Is(err, fs.ErrNotExist) {
		status = http.StatusNotFound
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		w.Header().Set(headerErrno, unix.ErrnoName(no))
	}
	http.Error(w, err.Error(), status)
}

func (s *server) run(w http.ResponseWriter, r *http.Request) {
	var c command
	if err := readHead(r.Body, &c); err != nil {
		refuse(w, err)
		return
	}
	if len(c.Argv) == 0 {
		refuse(w, errors.New("empty command"))
		return
	}
	cmd := exec.CommandContext(r.Context(), c.Argv[0], c.Argv[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	if cmd.Dir = c.Dir; cmd.Dir == "" {
		cmd.Dir = s.dir
	}
	// A group of its own, so that what it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = leftover
	frames := &frames{w: w, flush: http.NewResponseController(w).Flush}
	defer frames.close() // a pipe that is held on to may still be copied from
	cmd.Stdout, cmd.Stderr = frames.of(frameOut), frames.of(frameErr)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		refuse(w, err)
		return
	}
	if err := cmd.Start(); err != nil {
		refuse(w, err)
		return
	}
	go func() {
		io.Copy(stdin, r.Body)
		stdin.Close()
	}()
	err = cmd.Wait()
	if r.Context().Err() != nil {
		return // nobody listens
	}
	end := ended{Code: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		end.Signal = unix.SignalName(ws.Signal())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		panic(http.ErrAbortHandler) // output was lost: no end is told
	}
	data, err := json.Marshal(end)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	frames.of(frameEnd).Write(data)
}

// head is a message before a stream: its length in four bytes, then JSON.
func head(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...), nil
}

// readHead reads what head wrote.
func readHead(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(binary.BigEndian.Uint32(size[:]))))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// frames writes several streams into one.
type frames struct {
	mu    sync.Mutex
	w     io.Writer // nil when it is over
	flush func() error
}

func (f *frames) of(kind byte) io.Writer { return frameWriter{f, kind} }

func (f *frames) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w = nil
}

type frameWriter struct {
	*frames
	kind byte
}

func (f frameWriter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.w == nil {
		return 0, io.ErrClosedPipe
	}
	if _, err := f.w.Write(binary.BigEndian.AppendUint32([]byte{f.kind}, uint32(len(p)))); err != nil {
		return 0, err
	}
	if _, err := f.w.Write(p); err != nil {
		return 0, err
	}
	return len(p), f.flush()
}

// readFrames reads what frames wrote into out and err, up to the frame that
// says how the command ended.
func readFrames(r io.Reader, out, err *bytes.Buffer) (ended, error) {
	for {
		var h [5]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return ended{}, err
		}
		payload := io.LimitReader(r, int64(binary.BigEndian.Uint32(h[1:])))
		to := out
		switch h[0] {
		case frameOut:
		case frameErr:
			to = err
		default:
			var end ended
			data, err := io.ReadAll(payload)
			if err != nil {
				return ended{}, err
			}
			return end, json.Unmarshal(data, &end)
		}
		if _, err := to.ReadFrom(payload); err != nil {
			return ended{}, err
		}
	}
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 9)
	if err != nil {
		refuse(w, fmt.Errorf("mode: %w", err))
		return
	}
	if err := putFile(s.path(r), fs.FileMode(mode), r.Body); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// putFile writes a file whole or not at all. It is not synced to disk: what a
// container has written outlives its being killed.
func putFile(path string, mode fs.FileMode, from io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if cerr := f.Chmod(mode); err == nil {
		err = cerr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(s.path(r))
	if err != nil {
		refuse(w, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s: %w", f.Name(), syscall.EISDIR)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, f); err != nil {
		panic(http.ErrAbortHandler) // half a file must not pass for a whole one
	}
}

func (s *server) dial(w http.ResponseWriter, r *http.Request) {
	var d net.Dialer
	conn, err := d.DialContext(r.Context(), "tcp", r.URL.Query().Get("addr"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer conn.Close()
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return
	}
	go func() {
		io.Copy(conn, r.Body) // ends when the other side has closed, or is gone
		conn.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil || flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

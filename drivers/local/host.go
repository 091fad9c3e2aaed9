package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// host is a directory that plays a machine.
type host struct {
	lab  dir
	id   string // of the lab
	seat seat
	env  []string // of its commands, beside the machine's own
}

func (h *host) Name() string { return h.seat.Name }
func (h *host) Addr() string { return h.seat.Addr }
func (h *host) Dir() string  { return h.lab.host(h.seat.Name) }

// leftover is how long output is still read after a command has ended, when
// something it started holds on to its pipes.
const leftover = time.Second

// Run implements lab.Host. The command gets a process group of its own, which
// is killed whole when ctx ends; the host's bin directory is first in PATH.
func (h *host) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	if len(c.Argv) == 0 {
		return lab.Output{}, fmt.Errorf("%s: empty command", h.Name())
	}
	fail := func(out lab.Output, err error) (lab.Output, error) {
		return out, fmt.Errorf("%s: %s: %w", h.Name(), c, err)
	}
	if err := ctx.Err(); err != nil {
		return fail(lab.Output{}, err)
	}
	bin := filepath.Join(h.Dir(), "bin")
	cmd := exec.CommandContext(ctx, h.find(c.Argv[0]), c.Argv[1:]...)
	cmd.Args[0] = c.Argv[0]
	cmd.Env = append(environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Env = append(append(cmd.Env, h.env...), c.Env...)
	cmd.Env = append(cmd.Env, labels(h.lab, h.id, h.Name())...)
	if cmd.Dir = c.Dir; cmd.Dir == "" {
		cmd.Dir = h.Dir()
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = leftover
	err := cmd.Run()
	out := lab.Output{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return out, nil
	case ctx.Err() != nil:
		return fail(out, ctx.Err())
	case errors.As(err, &exit):
		e := &lab.ExitError{Host: h.Name(), Argv: c.Argv, Code: exit.ExitCode(), Output: out}
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			e.Signal = unix.SignalName(ws.Signal())
		}
		return out, e
	}
	return fail(out, err)
}

// find looks for a command in the host's bin directory first.
func (h *host) find(name string) string {
	if own := filepath.Join(h.Dir(), "bin", name); !strings.ContainsRune(name, filepath.Separator) {
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return name
}

// path is where a path of the host lies on this machine.
func (h *host) path(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(h.Dir(), path)
}

// Put implements lab.Host. It refuses paths outside of the host's directory:
// there, they would be files of the user.
func (h *host) Put(ctx context.Context, path string, mode fs.FileMode, data []byte) error {
	return h.put(ctx, path, mode, bytes.NewReader(data))
}

// Upload implements lab.Uploader.
func (h *host) Upload(ctx context.Context, path string, mode fs.FileMode, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return h.put(ctx, path, mode, f)
}

func (h *host) put(ctx context.Context, path string, mode fs.FileMode, data io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	full := h.path(path)
	if rel, err := filepath.Rel(h.Dir(), full); err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("%s: put %s: expected a path below %s", h.Name(), path, h.Dir())
	}
	if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
		return fmt.Errorf("%s: put %s: %w", h.Name(), path, err)
	}
	if err := writeFile(full, mode, data); err != nil {
		return fmt.Errorf("%s: %w", h.Name(), err)
	}
	return nil
}

// Get implements lab.Host.
func (h *host) Get(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(h.path(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name(), err)
	}
	return data, nil
}

// Download implements lab.Downloader.
func (h *host) Download(ctx context.Context, path string, to io.Writer) error {
	f, err := os.Open(h.path(path))
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name(), err)
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	if _, err := io.Copy(to, f); err != nil {
		return fmt.Errorf("%s: get %s: %w", h.Name(), path, errors.Join(ctx.Err(), err))
	}
	return nil
}

// Dial implements lab.Host. Addresses and names of the lab are reached as the
// host's etcd reaches them, under the rules of the links; all others directly.
func (h *host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	if to, _, _ := net.SplitHostPort(addr); strings.HasPrefix(to, addrPrefix) || strings.HasSuffix(to, "."+etcd.Domain) {
		socks := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", loopback(h.seat.SOCKS)) }
		return network.Dial(ctx, socks, addr)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// Hosts have addresses of a range that is reserved for documentation
// (RFC 5737) and routed nowhere: only the lab's own network knows them.
const addrPrefix = "192.0.2."

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

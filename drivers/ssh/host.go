package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Host is a machine of an inventory, as lab.Host. It connects when it is first
// used. It is safe for concurrent use; more than eight commands at once wait
// for each other.
type Host struct {
	machine   Machine
	inventory string // file, for messages
	name      string
	addr      string
	dir       string
	client    *client
}

func newNetHost(n *network, m Machine, inventory, name, addr, dir string) *Host {
	return &Host{machine: m, inventory: inventory, name: name, addr: addr, dir: dir, client: n.client(m.Login, m.Sudo)}
}

// Name implements lab.Host.
func (h *Host) Name() string { return h.name }

// Addr implements lab.Host.
func (h *Host) Addr() string { return h.addr }

// Dir implements lab.Host.
func (h *Host) Dir() string { return h.dir }

// Machine is what the inventory says of the host.
func (h *Host) Machine() Machine { return h.machine }

// String names the host as in the lab and as in the inventory.
func (h *Host) String() string {
	if h.name == h.machine.Name {
		return h.name
	}
	return h.name + " (" + h.machine.Name + ")"
}

// fail says on which host something went wrong.
func (h *Host) fail(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", h, what, err)
}

// Connect makes sure that the host can be reached and logged in to.
func (h *Host) Connect(ctx context.Context) error {
	if _, err := h.client.link(ctx); err != nil {
		return fmt.Errorf("%s: %w", h, err)
	}
	return nil
}

// execute runs a script of ours with arguments, as root where that can be.
func (h *Host) execute(ctx context.Context, p pipes, argv ...string) (ended, error) {
	if err := ctx.Err(); err != nil {
		return ended{}, err
	}
	l, err := h.client.link(ctx)
	if err != nil {
		return ended{}, err
	}
	if l.sudo {
		argv = append([]string{"sudo", "-n", "-H", "--"}, argv...)
	}
	return l.execute(ctx, "exec "+lab.Quote(argv), p)
}

// Run implements lab.Host. The command gets a process group of its own. That
// is killed whole when ctx ends, and also when the connection is lost: then
// Run returns an error at once. The lab's bin directory is first in PATH. Where
// the lab has no directory on the host, a command that names none runs in
// /proc.
func (h *Host) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	if len(c.Argv) == 0 {
		return lab.Output{}, fmt.Errorf("%s: empty command", h)
	}
	dir := c.Dir
	if dir != "" {
		dir = h.path(dir)
	}
	pipe := ""
	if c.Stdin != nil {
		pipe = "/tmp/.etcdrill-" + rand.Text()
	}
	argv := []string{"sh", "-c", `eval "$1"`, "etcdrill", runScript, pipe, h.dir, dir}
	if len(c.Env) > 0 {
		argv = append(append(argv, "env", "--"), c.Env...)
	}
	argv = append(argv, c.Argv...)
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return lab.Output{}, h.fail(c.String(), errors.New("an argument holds a NUL byte, which no command can get"))
		}
	}
	end, err := h.execute(ctx, pipes{in: c.Stdin, pieces: true}, argv...)
	out := lab.Output{Stdout: end.stdout, Stderr: end.stderr}
	switch {
	case err != nil:
		if said := out.LastLine(); said != "" {
			err = fmt.Errorf("%w; the last it said: %s", err, said)
		}
		return out, h.fail(c.String(), err)
	case end.code == refused && bytes.HasPrefix(end.stderr, []byte("etcdrill: ")):
		return lab.Output{}, h.fail(c.String(), end.refusal())
	case end.signal != "":
		return out, &lab.ExitError{Host: h.name, Argv: c.Argv, Code: -1, Signal: "SIG" + end.signal, Output: out}
	case end.code != 0:
		return out, &lab.ExitError{Host: h.name, Argv: c.Argv, Code: end.code, Output: out}
	}
	return out, nil
}

// Exit codes of our scripts.
const (
	refused = 125 // with the reason on stderr
	absent  = 44  // no such file
)

// refusal is what a script of ours, or the shell before it, said.
func (e ended) refusal() error {
	text := strings.TrimPrefix(strings.TrimSpace(string(e.stderr)), "etcdrill: ")
	if text == "" {
		text = fmt.Sprintf("exit %d", e.code)
	}
	if e.signal != "" {
		text += ", killed by SIG" + e.signal
	}
	return errors.New(text)
}

// path is where a path lies on the host.
func (h *Host) path(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(h.dir, p)
}

// Put implements lab.Host. The file is on disk when it returns. When the
// connection breaks the old file stays, and what came of the new one goes.
func (h *Host) Put(ctx context.Context, path string, mode fs.FileMode, data []byte) error {
	sum := sha256.Sum256(data)
	return h.put(ctx, path, mode, bytes.NewReader(data), sum[:])
}

func (h *Host) put(ctx context.Context, path string, mode fs.FileMode, data io.Reader, sum []byte) error {
	path = h.path(path)
	end, err := h.execute(ctx, pipes{in: data}, "sh", "-c", putScript, "etcdrill", path, fmt.Sprintf("%o", mode.Perm()), hex.EncodeToString(sum))
	if err == nil && end.code != 0 {
		err = end.refusal()
	}
	if err != nil {
		return h.fail("put "+path, err)
	}
	return nil
}

// Upload is Put of a file of this machine, in one stream. Nothing is sent when
// the same file is there already.
func (h *Host) Upload(ctx context.Context, path string, mode fs.FileMode, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return h.fail("upload", err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return h.fail("upload", err)
	}
	sum := hash.Sum(nil)
	end, err := h.execute(ctx, pipes{}, "sh", "-c", sumScript, "etcdrill", h.path(path))
	if err == nil && end.code != 0 {
		err = end.refusal()
	}
	if err != nil {
		return h.fail("look at "+h.path(path), err)
	}
	has := strings.Fields(string(end.stdout))
	if len(has) == 3 && has[0] == hex.EncodeToString(sum) && has[2] == strconv.FormatUint(uint64(mode.Perm()), 8) {
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return h.fail("upload", err)
	}
	return h.put(ctx, path, mode, f, sum)
}

// Get implements lab.Host.
func (h *Host) Get(ctx context.Context, path string) ([]byte, error) {
	return lab.Whole(ctx, h, path)
}

// Download implements lab.Downloader.
func (h *Host) Download(ctx context.Context, path string, to io.Writer) error {
	path = h.path(path)
	end, err := h.execute(ctx, pipes{out: to}, "sh", "-c", getScript, "etcdrill", path)
	switch {
	case err == nil && end.code == absent:
		err = fs.ErrNotExist
	case err == nil && end.code != 0:
		err = end.refusal()
	case err == nil:
		err = end.cut
	}
	if err != nil {
		return h.fail("get "+path, err)
	}
	return nil
}

// Dial implements lab.Host: the host's ssh server connects for us.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	l, err := h.client.link(ctx)
	if err != nil {
		return nil, h.fail("dial "+addr, err)
	}
	far, err := l.ssh.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, h.fail("dial "+addr, forwarding(err))
	}
	return tunnel(far, addr), nil
}

// tunnel gives a forwarded connection the deadlines that it lacks.
func tunnel(far net.Conn, addr string) net.Conn {
	near, inner := net.Pipe()
	go func() {
		io.Copy(inner, far)
		inner.Close()
	}()
	go func() {
		io.Copy(far, inner)
		far.Close()
		inner.Close()
	}()
	return tunnelled{near, address(addr)}
}

type tunnelled struct {
	net.Conn
	to address
}

func (t tunnelled) RemoteAddr() net.Addr { return t.to }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// PowerOff takes the machine's power away, with the inventory's command, run on
// this machine. Nil when the machine is off already: the command fails and
// nobody answers.
func (h *Host) PowerOff(ctx context.Context) error {
	if err := h.canPower(); err != nil {
		return err
	}
	err := h.power(ctx, h.machine.Power.Off, "off")
	h.client.drop(errors.New("its power was switched off"))
	if err == nil || ctx.Err() != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, h.client.net.hop)
	defer cancel()
	if h.Connect(short) == nil || ctx.Err() != nil {
		return err
	}
	return nil
}

// PowerOn gives the power back and returns when the machine can be logged in
// to again. Nil when it is on already.
func (h *Host) PowerOn(ctx context.Context) error {
	if err := h.canPower(); err != nil {
		return err
	}
	err := h.power(ctx, h.machine.Power.On, "on")
	if err != nil {
		short, cancel := context.WithTimeout(ctx, h.client.net.hop)
		defer cancel()
		if h.Connect(short) == nil {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, boot)
	defer cancel()
	return lab.Until(ctx, h.String()+" to be up", func(ctx context.Context) error {
		err := h.Connect(ctx)
		if key := (*HostKeyError)(nil); errors.As(err, &key) {
			cancel() // it is up, and is another one
		}
		return err
	})
}

// boot is how long a machine may take to come up.
const boot = 5 * time.Minute

func (h *Host) canPower() error {
	if len(h.machine.Power.Off) == 0 || len(h.machine.Power.On) == 0 {
		return fmt.Errorf("%s: nobody knows how to switch it off and on: give `power: {off: […], on: […]}` in %s", h, h.inventory)
	}
	return nil
}

func (h *Host) power(ctx context.Context, argv []string, word string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: switch %s: %s: %w: %s", h, word, lab.Quote(argv), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Close ends the connection. Commands that run over it are killed.
func (h *Host) Close() error {
	h.client.close()
	return nil
}

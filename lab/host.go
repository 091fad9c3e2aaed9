package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Host is a machine, or something that plays one: it runs a command and moves
// a file. All knowledge about etcd and Kubernetes is written above this
// interface, once, so that a drill does the same on a laptop and on real VMs.
//
// All methods may be called concurrently. None of them retries.
type Host interface {
	// Name is the host's name in the lab, such as "m1".
	Name() string

	// Addr is the address, without port, under which the other hosts of the
	// lab reach this one.
	Addr() string

	// Dir is the absolute path, on the host, of the directory that belongs to
	// the lab. Everything a lab puts on a host lies below it.
	Dir() string

	// Run runs one command and waits for it. A command that ran and exited
	// non-zero, or was killed, gives *ExitError beside its output; any other
	// error means that the command may not have run, or may still run. When
	// ctx ends the command is killed and ctx's error returned.
	Run(ctx context.Context, c Cmd) (Output, error)

	// Put writes a file whole or not at all: under another name first, then
	// by rename. Missing parent directories are made with mode 0700. A
	// relative path is below Dir.
	Put(ctx context.Context, path string, mode fs.FileMode, data []byte) error

	// Get reads a file. A file that does not exist gives an error that
	// matches fs.ErrNotExist. A relative path is below Dir.
	Get(ctx context.Context, path string) ([]byte, error)

	// Dial connects to addr (host:port) as seen from this host, through a
	// tunnel where that is the only way.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// Uploader is a Host that has a cheaper way to put a large file of this machine
// than Put. The contract is that of Put.
type Uploader interface {
	Upload(ctx context.Context, path string, mode fs.FileMode, file string) error
}

// Upload puts a file of this machine on a host, as Put does, piece by piece
// where the host can.
func Upload(ctx context.Context, h Host, path string, mode fs.FileMode, file string) error {
	if u, ok := h.(Uploader); ok {
		return u.Upload(ctx, path, mode, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return h.Put(ctx, path, mode, data)
}

// Downloader is a Host that has a cheaper way to get a large file than Get. The
// contract is that of Get; when it fails, a part of the file may have come.
type Downloader interface {
	Download(ctx context.Context, path string, to io.Writer) error
}

// Whole is Get by way of Download: all of the file, or nothing of it.
func Whole(ctx context.Context, d Downloader, path string) ([]byte, error) {
	var b bytes.Buffer
	if err := d.Download(ctx, path, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Download writes a file of a host, as Get reads it, piece by piece where the
// host can.
func Download(ctx context.Context, h Host, path string, to io.Writer) error {
	if d, ok := h.(Downloader); ok {
		return d.Download(ctx, path, to)
	}
	data, err := h.Get(ctx, path)
	if err == nil {
		_, err = to.Write(data)
	}
	return err
}

// Cmd is a command for a Host: an argument vector, never a shell line.
type Cmd struct {
	Argv  []string
	Env   []string // additional "NAME=value"; the host's own environment stays
	Dir   string   // working directory; empty means the host's Dir
	Stdin io.Reader
}

// String shows the command as one would type it, quoted where needed.
func (c Cmd) String() string { return Quote(c.Argv) }

// Output is what a command printed.
type Output struct {
	Stdout, Stderr []byte
}

// ExitError says that a command ran and refused.
type ExitError struct {
	Host   string
	Argv   []string
	Code   int    // exit code, -1 when killed by a signal
	Signal string // name of the signal that ended it, else empty
	Output Output
}

// Error names host, command, how it ended, and the last line it printed.
func (e *ExitError) Error() string {
	end := fmt.Sprintf("exit %d", e.Code)
	if e.Signal != "" {
		end = "killed by " + e.Signal
	}
	s := fmt.Sprintf("%s: %s: %s", e.Host, Quote(e.Argv), end)
	if l := e.Output.LastLine(); l != "" {
		s += ": " + l
	}
	return s
}

// Text is all the command printed, standard error first, trimmed.
func (e *ExitError) Text() string {
	return strings.TrimSpace(string(e.Output.Stderr) + "\n" + string(e.Output.Stdout))
}

// Clock tells how far a host's clock is ahead of the one here, and by how much
// that may be wrong at the most: half of the time that the question took.
func Clock(ctx context.Context, h Host) (ahead, give time.Duration, err error) {
	start := time.Now()
	out, err := h.Run(ctx, Cmd{Dir: "/", Argv: []string{"date", "+%s.%N"}})
	if err != nil {
		return 0, 0, err
	}
	give = time.Since(start) / 2
	s, err := strconv.ParseFloat(strings.TrimSpace(string(out.Stdout)), 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: date: %w", h.Name(), err)
	}
	return time.Duration((s - float64(start.Add(give).UnixNano())/1e9) * 1e9), give, nil
}

// LastLine is the last line that was printed, of standard error when there is
// any; empty when nothing was.
func (o Output) LastLine() string {
	for _, b := range [][]byte{o.Stderr, o.Stdout} {
		if s := strings.TrimSpace(string(b)); s != "" {
			return s[strings.LastIndexByte(s, '\n')+1:]
		}
	}
	return ""
}

// Quote joins an argument vector so that a POSIX shell reads it back as it is.
func Quote(argv []string) string {
	var b strings.Builder
	for i, a := range argv {
		if i > 0 {
			b.WriteByte(' ')
		}
		plain := a != "" && strings.IndexFunc(a, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,=@%+", r))
		}) < 0
		if plain {
			b.WriteString(a)
			continue
		}
		b.WriteString("'" + strings.ReplaceAll(a, "'", `'\''`) + "'")
	}
	return b.String()
}

// Proc is one supervised process on a host. A child process, a systemd unit
// and a static pod differ here and nowhere else. A Proc is never restarted
// behind the lab's back: when it dies it stays dead until Start.
//
// Methods may be called concurrently and from another etcdrill process than
// the one that started it.
type Proc interface {
	// Start starts the process; nil when it runs already. It does not wait
	// until the process serves.
	Start(ctx context.Context) error

	// Stop asks the process to end (SIGTERM) and waits until it has; nil when
	// it does not run. A paused process is continued first.
	Stop(ctx context.Context) error

	// Signal sends "KILL", "STOP" or "CONT" to the process itself. It returns
	// when the signal was delivered, for KILL when the process is gone. A
	// process that does not run gives ErrNotRunning.
	Signal(ctx context.Context, name string) error

	// State looks at the process.
	State(ctx context.Context) (ProcState, error)

	// Log returns the last n bytes of what it printed, of this start and of
	// earlier ones.
	Log(ctx context.Context, n int) ([]byte, error)
}

// ProcState is what a look at a Proc found. PID and Started together identify
// one life of the process, since pids are used again.
type ProcState struct {
	Running bool
	Paused  bool // stopped by SIGSTOP
	PID     int
	Started string    // opaque start time of the process, equal for equal lives
	Exit    string    // how the last life ended, such as "exit 1" or "killed"; empty while running or never started
	Ended   time.Time // when it ended, zero while running
}

// ErrNotRunning is returned by Proc.Signal when there is no process.
var ErrNotRunning = fmt.Errorf("process is not running")

package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// patience with anything that has to happen but may take its time.
const patience = 60 * time.Second

func limit(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newHost connects to a server of its own, with a directory of its own.
func newHost(t testing.TB, change ...func(*server)) (*Host, *server) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	s := newServer(t, key.PublicKey(), change...)
	return hostAt(t, s.login(file), newNetwork(false), SudoNo), s
}

func hostAt(t testing.TB, l Login, n *network, sudo Sudo) *Host {
	t.Helper()
	h := newNetHost(n, Machine{Name: "vm-a", Login: l, Sudo: sudo}, "inventory.yaml", "m1", "127.0.0.1", t.TempDir())
	t.Cleanup(func() { h.Close(); n.close() })
	return h
}

func run(t testing.TB, h *Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(limit(t), lab.Cmd{Argv: argv})
	must(t, err)
	return string(out.Stdout)
}

// pidIn waits until a file holds the number of a process.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	pid := 0
	must(t, lab.Until(limit(t), "a pid in "+file, func(context.Context) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	}))
	return pid
}

// dies waits until a process is gone.
func dies(t *testing.T, pid int) {
	t.Helper()
	must(t, lab.Until(limit(t), fmt.Sprintf("process %d to be gone", pid), func(context.Context) error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		if _, after, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(after, "Z") {
			return nil // nobody buries it in a container without an init
		}
		return errors.New("it lives")
	}))
}

// kinds of servers: what is tested with them must hold on all.
var kinds = map[string]func(*server){
	"own session per command": func(*server) {},
	"no session per command":  func(s *server) { s.NoGroup = true },
}

func TestRun(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			h, _ := newHost(t, kind)
			testRun(t, h)
		})
	}
}

// testRun is the contract of lab.Host's Run.
func testRun(t *testing.T, h *Host) {
	pipes, _ := filepath.Glob("/tmp/.etcdrill-*")
	t.Run("arguments", func(t *testing.T) {
		args := []string{
			"plain", "two words", "", "'single'", `"double"`, "line\nbreak\n", "\ttab", "$HOME", "${x}", "$(id)", "`id`", "*", "?", "[a]", `back\slash`, `\n`,
			"smörgås 日本", "!bang", "#hash", "~", "-n", "--", "&", ";", "|", "<", ">", "(", ")", "{a,b}", "'", `'\''`, `"`, "%s", "a=b", "\x01\x7f\xff",
		}
		for i := range 200 {
			b := make([]byte, i%40)
			for j := range b {
				b[j] = byte(1 + rand.IntN(255))
			}
			args = append(args, string(b))
		}
		got := run(t, h, append([]string{"printf", `%s\0`}, args...)...)
		if want := strings.Join(args, "\x00") + "\x00"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("NUL", func(t *testing.T) {
		if _, err := h.Run(limit(t), lab.Cmd{Argv: []string{"echo", "a\x00b"}}); err == nil || !strings.Contains(err.Error(), "NUL") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too long", func(t *testing.T) {
		if _, err := h.Run(limit(t), lab.Cmd{Argv: []string{"echo", strings.Repeat("x", 200_000)}}); err == nil || !strings.Contains(err.Error(), "too long") && !strings.Contains(err.Error(), "expected at most") {
			t.Errorf("got %v", err)
		}
		if got := run(t, h, "printf", "%s", strings.Repeat("x", 120_000)); len(got) != 120_000 {
			t.Errorf("%d bytes came back", len(got))
		}
	})
	t.Run("environment", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{
			Argv: []string{"sh", "-c", `printf '%s|%s|%s|%s' "$DRILL" "$EMPTY" "$(pwd)" "${PATH%%:*}"; printf oops >&2`},
			Env:  []string{"DRILL=a 'b'\n$c", "EMPTY="},
		})
		must(t, err)
		if want := "a 'b'\n$c||" + h.Dir() + "|" + h.Dir() + "/bin"; string(out.Stdout) != want || string(out.Stderr) != "oops" {
			t.Errorf("got %q and %q, want %q", out.Stdout, out.Stderr, want)
		}
	})
	t.Run("directory", func(t *testing.T) {
		odd := filepath.Join(h.Dir(), "-an odd 'name'")
		must(t, os.Mkdir(odd, 0o700))
		for dir, want := range map[string]string{"/": "/", odd: odd, "-an odd 'name'": odd} {
			out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"pwd"}, Dir: dir})
			if err != nil || string(out.Stdout) != want+"\n" {
				t.Errorf("%s: %q, %v", dir, out.Stdout, err)
			}
		}
		_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"true"}, Dir: "/not/there"})
		var exit *lab.ExitError
		if err == nil || errors.As(err, &exit) || !strings.Contains(err.Error(), "/not/there") {
			t.Errorf("a directory that is not there: %v", err)
		}
		gone := *h
		gone.dir = "/not/there"
		if out, err := gone.Run(limit(t), lab.Cmd{Argv: []string{"pwd"}}); err != nil || string(out.Stdout) != "/proc\n" {
			t.Errorf("a lab that is not there: %q, %v", out.Stdout, err)
		}
	})
	t.Run("tools of the lab come first", func(t *testing.T) {
		must(t, h.Put(limit(t), "bin/ls", 0o755, []byte("#!/bin/sh\necho mine\n")))
		if got := run(t, h, "ls"); got != "mine\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("no input", func(t *testing.T) {
		if got := run(t, h, "cat"); got != "" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("input", func(t *testing.T) {
		in := make([]byte, 5<<20+17)
		for i := range in {
			in[i] = byte(rand.Uint32())
		}
		for name, r := range map[string]io.Reader{
			"large": bytes.NewReader(in), "empty": strings.NewReader(""), "odd pieces": iotest.HalfReader(bytes.NewReader(in[:100_000])),
			"bytes": iotest.OneByteReader(strings.NewReader("3\n0\n0\nabc")),
		} {
			want := map[string][]byte{"large": in, "empty": {}, "odd pieces": in[:100_000], "bytes": []byte("3\n0\n0\nabc")}[name]
			out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"cat"}, Stdin: r})
			if err != nil || !bytes.Equal(out.Stdout, want) {
				t.Errorf("%s: %d bytes of %d came back, %v", name, len(out.Stdout), len(want), err)
			}
		}
	})
	t.Run("input that nobody wants", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "exec <&-; echo bye"}, Stdin: bytes.NewReader(make([]byte, 8<<20))})
		if err != nil || string(out.Stdout) != "bye\n" {
			t.Errorf("%q, %v", out.Stdout, err)
		}
		never, w := io.Pipe()
		defer w.Close()
		out, err = h.Run(limit(t), lab.Cmd{Argv: []string{"echo", "bye"}, Stdin: never})
		if err != nil || string(out.Stdout) != "bye\n" {
			t.Errorf("input that never comes: %q, %v", out.Stdout, err)
		}
	})
	t.Run("input that breaks", func(t *testing.T) {
		broken := errors.New("the disk is on fire")
		_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "cat >/dev/null; touch done"}, Stdin: io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))})
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if _, err := h.Get(limit(t), "done"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the command took half of the input for all of it: %v", err)
		}
	})
	t.Run("nothing is left of the input", func(t *testing.T) {
		must(t, lab.Until(limit(t), "all pipes to be gone", func(context.Context) error {
			if left, _ := filepath.Glob("/tmp/.etcdrill-*"); len(left) > len(pipes) {
				return fmt.Errorf("%v", left)
			}
			return nil
		}))
	})
	t.Run("exit", func(t *testing.T) {
		for _, in := range []io.Reader{nil, strings.NewReader("some\n")} {
			for code := range 256 {
				if code%51 != 0 && code != 7 && code != 125 && code != 127 && code != 137 {
					continue
				}
				out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "echo said; echo why >&2; exit " + strconv.Itoa(code)}, Stdin: in})
				var exit *lab.ExitError
				if code == 0 {
					must(t, err)
				} else if !errors.As(err, &exit) || exit.Code != code || exit.Signal != "" || exit.Host != "m1" || exit.Text() != "why\n\nsaid" {
					t.Errorf("exit %d: got %#v", code, err)
				}
				if string(out.Stdout) != "said\n" || string(out.Stderr) != "why\n" {
					t.Errorf("exit %d: printed %q and %q", code, out.Stdout, out.Stderr)
				}
			}
			for _, sig := range []string{"TERM", "KILL", "HUP", "SEGV"} {
				_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "kill -" + sig + " $$"}, Stdin: in})
				var exit *lab.ExitError
				if !errors.As(err, &exit) || exit.Code != -1 || exit.Signal != "SIG"+sig {
					t.Errorf("killed by %s: got %#v", sig, err)
				}
			}
		}
		if _, err := h.Run(limit(t), lab.Cmd{Argv: []string{"no-such-command"}}); err == nil || !strings.Contains(err.Error(), "no-such-command") {
			t.Errorf("a command that does not exist: %v", err)
		}
		if _, err := h.Run(limit(t), lab.Cmd{}); err == nil {
			t.Error("no command ran")
		}
	})
	t.Run("much output on both", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"}})
		if err != nil || len(out.Stdout) != 3000000 || len(out.Stderr) != 3000000 {
			t.Errorf("%d and %d bytes, %v", len(out.Stdout), len(out.Stderr), err)
		}
	})
	t.Run("no child that the command did not start", func(t *testing.T) {
		for _, in := range []io.Reader{nil, strings.NewReader("")} {
			out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "cat /proc/$$/task/$$/children; ls /proc/$$/fd"}, Stdin: in})
			must(t, err)
			children, files, _ := strings.Cut(string(out.Stdout), "0\n")
			if strings.Count(children, " ") > 1 || strings.Contains(files, "3\n") && strings.Count(files, "\n") > 3 {
				t.Errorf("children %q, files 0 %q", children, files)
			}
		}
	})
	t.Run("what it leaves running", func(t *testing.T) {
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", "sleep 600 & echo $!"}})
		must(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(out.Stdout)))
		must(t, err)
		defer syscall.Kill(pid, syscall.SIGKILL)
		run(t, h, "sleep", "0.2") // longer than a watcher would take
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("the end of the command ended what it had started: %v", err)
		}
	})
	t.Run("end of context", func(t *testing.T) {
		for name, in := range map[string]io.Reader{"without input": nil, "with input": strings.NewReader("some"), "within input": neverEnds(t)} {
			t.Run(name, func(t *testing.T) {
				file := filepath.Join(h.Dir(), "child of "+name)
				ctx, cancel := context.WithCancel(limit(t))
				ended := make(chan error, 1)
				go func() {
					_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", `trap "" TERM HUP INT; sleep 600 & echo $! >"$1.new"; mv "$1.new" "$1"; wait`, "sh", file}, Stdin: in})
					ended <- err
				}()
				pid := pidIn(t, file)
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "m1") {
					t.Errorf("got %v, want the context's error", err)
				}
				dies(t, pid)
			})
		}
		ctx, cancel := context.WithCancel(limit(t))
		cancel()
		if _, err := h.Run(ctx, lab.Cmd{Argv: []string{"touch", "never"}}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if _, err := h.Get(limit(t), "never"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a command ran that nobody wanted any more: %v", err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		errs := make(chan error)
		for i := range 40 {
			go func() {
				out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"cat"}, Stdin: strings.NewReader(fmt.Sprint(i))})
				if err == nil && string(out.Stdout) != fmt.Sprint(i) {
					err = fmt.Errorf("%d: got %q", i, out.Stdout)
				}
				errs <- err
			}()
		}
		for range 40 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}

func neverEnds(t *testing.T) io.Reader {
	never, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return never
}

func TestSlotsAreKept(t *testing.T) {
	h, _ := newHost(t, func(s *server) { s.Sessions = 10 })
	t.Run("many at once", func(t *testing.T) {
		err := Each(limit(t), hosts(h, 60), func(ctx context.Context, h *Host) error {
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sleep", "0.02"}})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("a server that allows fewer", func(t *testing.T) {
		h, _ := newHost(t, func(s *server) { s.Sessions = 2 })
		err := Each(limit(t), hosts(h, 20), func(ctx context.Context, h *Host) error {
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sleep", "0.02"}})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("waiting has an end", func(t *testing.T) {
		ctx, cancel := context.WithCancel(limit(t))
		busy := make(chan error, sessions)
		for range sessions {
			go func() {
				_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "echo >>started; sleep 600"}})
				busy <- err
			}()
		}
		must(t, lab.Until(limit(t), "all to run", func(context.Context) error {
			if text, _ := os.ReadFile(filepath.Join(h.Dir(), "started")); len(text) != sessions {
				return fmt.Errorf("%d run", len(text))
			}
			return nil
		}))
		short, stop := context.WithTimeout(limit(t), 50*time.Millisecond)
		defer stop()
		if _, err := h.Run(short, lab.Cmd{Argv: []string{"true"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
		for range sessions {
			if err := <-busy; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		run(t, h, "true")
	})
}

func hosts(h *Host, n int) []*Host {
	out := make([]*Host, n)
	for i := range out {
		out[i] = h
	}
	return out
}

func TestFiles(t *testing.T) {
	h, _ := newHost(t)
	testFiles(t, h)
}

// testFiles is the contract of lab.Host's Put and Get.
func testFiles(t *testing.T, h *Host) {
	ctx := limit(t)
	if _, err := h.Get(ctx, "not/there"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "not/there") {
		t.Errorf("get: %v", err)
	}
	if _, err := h.Get(ctx, "."); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a directory: %v", err)
	}
	odd := "some/-where 'odd'/file name\n"
	must(t, h.Put(ctx, odd, 0o640, []byte("one")))
	must(t, h.Put(ctx, filepath.Join(h.Dir(), odd), 0o400, []byte("two\x00")))
	data, err := h.Get(ctx, odd)
	if err != nil || string(data) != "two\x00" {
		t.Errorf("get: %q, %v", data, err)
	}
	for path, want := range map[string]fs.FileMode{"some": 0o700, "some/-where 'odd'": 0o700, odd: 0o400} {
		info, err := os.Stat(filepath.Join(h.Dir(), path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info, err, want)
		}
	}
	must(t, h.Put(ctx, "empty", 0o600, nil))
	if data, err := h.Get(ctx, "empty"); err != nil || len(data) != 0 {
		t.Errorf("%q, %v", data, err)
	}
	if err := h.Put(ctx, "some", 0o600, []byte("x")); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory was replaced by a file: %v", err)
	}
	if err := h.Put(ctx, "empty/below", 0o600, nil); err == nil {
		t.Error("a file below a file")
	}
	left(t, h, "some", "-where 'odd'")
	left(t, h, ".", "empty", "some")

	// Whoever reads sees one or the other.
	size := 1 << 20
	must(t, h.Put(ctx, "blob", 0o600, bytes.Repeat([]byte{'a'}, size)))
	written := make(chan error, 1)
	go func() {
		for i := range 10 {
			if err := h.Put(ctx, "blob", 0o600, bytes.Repeat([]byte{byte('a' + i)}, size)); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for done := false; !done; {
		select {
		case err := <-written:
			must(t, err)
			done = true
		default:
		}
		data, err := h.Get(ctx, "blob")
		must(t, err)
		if len(data) != size || bytes.Count(data, data[:1]) != size {
			t.Fatalf("read part of a file: %d bytes", len(data))
		}
	}
}

// left compares what a directory of the host holds.
func left(t *testing.T, h *Host, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.Dir(), dir))
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestPutsAtOnce(t *testing.T) {
	h, _ := newHost(t)
	ctx := limit(t)
	all := hosts(h, 20)
	errs := make(chan error, len(all))
	for i := range all {
		go func() { errs <- h.Put(ctx, "same", 0o600, []byte(strings.Repeat(strconv.Itoa(i%10), 1000))) }()
	}
	for range all {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	data, err := h.Get(ctx, "same")
	if err != nil || len(data) != 1000 || bytes.Count(data, data[:1]) != 1000 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	left(t, h, ".", "same")
}

func TestPutCutInTheMiddle(t *testing.T) {
	h, s := newHost(t)
	ctx := limit(t)
	must(t, h.Put(ctx, "file", 0o600, []byte("old")))
	s.CutAt.Store(1 << 20)
	err := h.Put(ctx, "file", 0o600, bytes.Repeat([]byte("new"), 1<<20))
	if !errors.Is(err, errLost) || !strings.Contains(err.Error(), "m1 (vm-a)") || !strings.Contains(err.Error(), "file") {
		t.Errorf("got %v", err)
	}
	s.CutAt.Store(0)
	must(t, lab.Until(ctx, "the half to be gone", func(context.Context) error {
		entries, err := os.ReadDir(h.Dir())
		if len(entries) != 1 {
			return fmt.Errorf("%v", entries)
		}
		return err
	}))
	if data, err := h.Get(ctx, "file"); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}

	// What a host that lost its power left behind goes with the next try; what
	// somebody is writing stays.
	dead, alive := filepath.Join(h.Dir(), ".file.new.999999999"), filepath.Join(h.Dir(), fmt.Sprintf(".file.new.%d", os.Getpid()))
	for _, f := range []string{dead, alive} {
		must(t, os.WriteFile(f, []byte("ha"), 0o600))
	}
	must(t, h.Put(ctx, "file", 0o600, []byte("new")))
	left(t, h, ".", filepath.Base(alive), "file")

	// The end of a context is a cut too.
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	input := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), readFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF }))
	if err := h.put(short, "file", 0o600, input, make([]byte, 32)); err == nil {
		t.Error("no error")
	}
	if data, err := h.Get(ctx, "file"); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestDiskFull: a host without room for a file says so, and keeps the old one.
func TestDiskFull(t *testing.T) {
	h, _ := newHost(t)
	ctx := limit(t)
	if err := syscall.Mount("etcdrill-test", h.Dir(), "tmpfs", 0, "size=1m"); err != nil {
		lacking(t, "root", "cannot mount a small filesystem: "+err.Error())
	}
	defer syscall.Unmount(h.Dir(), syscall.MNT_DETACH)
	must(t, h.Put(ctx, "file", 0o600, []byte("old")))
	binary := filepath.Join(t.TempDir(), "binary")
	must(t, os.WriteFile(binary, make([]byte, 4<<20), 0o600))
	for what, err := range map[string]error{
		"put":    h.Put(ctx, "file", 0o600, make([]byte, 4<<20)),
		"upload": h.Upload(ctx, "file", 0o755, binary),
	} {
		for _, says := range []string{"m1 (vm-a): put " + filepath.Join(h.Dir(), "file"), "No space left on device"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: got %v, want it to say %q", what, err, says)
			}
		}
	}
	left(t, h, ".", "file")
	if data, err := h.Get(ctx, "file"); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestUpload(t *testing.T) {
	h, _ := newHost(t)
	ctx := limit(t)
	file := filepath.Join(t.TempDir(), "binary")
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	must(t, os.WriteFile(file, content, 0o600))
	upload := func() os.FileInfo {
		t.Helper()
		must(t, h.Upload(ctx, "bin/tool", 0o755, file))
		got, err := os.ReadFile(filepath.Join(h.Dir(), "bin/tool"))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		info, err := os.Stat(filepath.Join(h.Dir(), "bin/tool"))
		must(t, err)
		if info.Mode().Perm() != 0o755 {
			t.Errorf("mode %v", info.Mode())
		}
		return info
	}
	first := upload()
	if again := upload(); !os.SameFile(first, again) {
		t.Error("the same file was sent again")
	}
	must(t, os.Chmod(filepath.Join(h.Dir(), "bin/tool"), 0o700))
	upload()
	content[7]++
	must(t, os.WriteFile(file, content, 0o600))
	upload()
	if err := h.Upload(ctx, "x", 0o600, file+".not"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestDial(t *testing.T) {
	h, _ := newHost(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer web.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return h.Dial(ctx, addr) }}}
	body := bytes.Repeat([]byte("0123456789"), 200_000)
	for range 3 {
		r, err := client.Post(web.URL, "text/plain", bytes.NewReader(body))
		must(t, err)
		got, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
	}
	client.CloseIdleConnections()

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	conn, err := h.Dial(limit(t), silent.Addr().String())
	must(t, err)
	if conn.RemoteAddr().String() != silent.Addr().String() {
		t.Errorf("remote address %s", conn.RemoteAddr())
	}
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	far, err := silent.Accept()
	must(t, err)
	_, err = conn.Write([]byte("last words"))
	must(t, err)
	must(t, conn.Close())
	if got, err := io.ReadAll(far); err != nil || string(got) != "last words" {
		t.Errorf("%q, %v", got, err)
	}
	conn, err = h.Dial(limit(t), silent.Addr().String())
	must(t, err)
	if far, err = silent.Accept(); err == nil {
		far.Close()
	}
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("closed by the other side: %v", err)
	}
	conn.Close()

	silent.Close()
	if _, err := h.Dial(limit(t), silent.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "m1 (vm-a)") {
		t.Errorf("nobody there: %v", err)
	}
	shut, _ := newHost(t, func(s *server) { s.NoDial = true })
	if _, err := shut.Dial(limit(t), "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "AllowTcpForwarding") {
		t.Errorf("forwarding is not allowed: %v", err)
	}
}

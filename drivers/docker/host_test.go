package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// served makes a host that is a directory of this machine, served as the
// process in a container serves it. end closes the connection and waits until
// the server is done.
func served(t *testing.T) (h *Host, end func()) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")) // restores it
	dir := t.TempDir()
	var mu sync.Mutex
	var conns []net.Conn
	var all sync.WaitGroup
	h = newHost("m1", "192.0.2.1", dir, func(ctx context.Context) (net.Conn, error) {
		in, toServer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		fromServer, out, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		all.Go(func() {
			if err := serve(dir, in, out); err != nil {
				t.Errorf("serve: %v", err)
			}
			in.Close()
			out.Close()
		})
		c := &stdio{ReadCloser: fromServer, out: toServer}
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
		return c, greeted(ctx, c)
	})
	end = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
		all.Wait()
	}
	t.Cleanup(end)
	return h, end
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestServedRun(t *testing.T) {
	h, _ := served(t)
	ctx := limit(t)
	if err := h.Put(ctx, "bin/own", 0o755, []byte("#!/bin/sh\nprintf '%s,' \"$@\" \"$DRILL\" \"$(pwd)\"; cat; echo why >&2\n")); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789", 100_000)
	out, err := h.Run(ctx, lab.Cmd{Argv: []string{"own", "a b", ""}, Env: []string{"DRILL=x=y"}, Stdin: strings.NewReader(big)})
	if want := "a b,,x=y," + h.Dir() + "," + big; err != nil || string(out.Stdout) != want || string(out.Stderr) != "why\n" {
		t.Errorf("got %.60q… (%d bytes) and %q, %v", out.Stdout, len(out.Stdout), out.Stderr, err)
	}

	for script, want := range map[string]lab.ExitError{
		"exit 7":        {Code: 7},
		"exit 137":      {Code: 137}, // which a shell says of a killed child: not to be taken for a signal
		"kill -TERM $$": {Code: -1, Signal: "SIGTERM"},
	} {
		_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", script}})
		var exit *lab.ExitError
		if !errors.As(err, &exit) || exit.Code != want.Code || exit.Signal != want.Signal || exit.Host != "m1" {
			t.Errorf("%s: %#v", script, err)
		}
	}
	for name, c := range map[string]lab.Cmd{
		"no command":            {},
		"no such command":       {Argv: []string{"no-such-command"}},
		"no such directory":     {Argv: []string{"true"}, Dir: "/no/such/directory"},
		"command is no program": {Argv: []string{h.Dir()}},
	} {
		_, err := h.Run(ctx, c)
		if exit := new(lab.ExitError); err == nil || errors.As(err, &exit) {
			t.Errorf("%s: %v, want an error that is no exit", name, err)
		}
	}

	// A command that ends does not wait for input that never comes.
	never, w := io.Pipe()
	defer w.Close()
	if _, err := h.Run(ctx, lab.Cmd{Argv: []string{"true"}, Stdin: never}); err != nil {
		t.Error(err)
	}
	// Nor for what it left behind, which keeps its output open.
	out, err = h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "sleep 600 & echo $!"}})
	if err != nil {
		t.Error(err)
	}
	h.Run(ctx, lab.Cmd{Argv: []string{"kill", strings.TrimSpace(string(out.Stdout))}})
}

// group starts a command that starts another, and returns when both run, with
// the pid of the other.
func group(t *testing.T, h *Host, ctx context.Context) (pid string, ended <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "sleep 600 & echo $! >child.new; mv child.new child; wait"}})
		done <- err
	}()
	must(t, lab.Until(limit(t), "the child", func(ctx context.Context) error {
		data, err := h.Get(ctx, "child")
		pid = strings.TrimSpace(string(data))
		return err
	}))
	return pid, done
}

// goes waits until a process is no more, or a zombie that nobody waits for.
func goes(t *testing.T, pid string) {
	t.Helper()
	must(t, lab.Until(limit(t), "the child to be killed", func(context.Context) error {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return errors.New("it lives")
		}
		return nil
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needsProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("this system has no /proc")
	}
}

func TestServedCommandIsKilledWithItsContext(t *testing.T) {
	needsProc(t)
	h, _ := served(t)
	ctx, cancel := context.WithCancel(limit(t))
	pid, ended := group(t, h, ctx)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	goes(t, pid)
}

// A killed etcdrill leaves no command behind, and the next one finds a host
// that answers.
func TestServedCommandIsKilledWithItsConnection(t *testing.T) {
	needsProc(t)
	h, end := served(t)
	pid, ended := group(t, h, limit(t))
	end()
	var exit *lab.ExitError
	if err := <-ended; err == nil || errors.As(err, &exit) {
		t.Errorf("got %v, want an error that says that the end is not known", err)
	}
	goes(t, pid)
	if _, err := h.Run(limit(t), lab.Cmd{Argv: []string{"true"}}); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestServedFiles(t *testing.T) {
	h, _ := served(t)
	ctx := limit(t)
	if _, err := h.Get(ctx, "not/there"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get: %v, want fs.ErrNotExist", err)
	}
	if _, err := h.Get(ctx, "."); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a directory: %v", err)
	}
	big := bytes.Repeat([]byte{0, 1, 2, 255}, 1<<20)
	must(t, h.Put(ctx, "some where/fi?le&", 0o640, []byte("small")))
	must(t, h.Put(ctx, filepath.Join(h.Dir(), "some where/fi?le&"), 0o400, big))
	data, err := h.Get(ctx, "some where/fi?le&")
	if err != nil || !bytes.Equal(data, big) {
		t.Errorf("%d bytes of %d came back, %v", len(data), len(big), err)
	}
	for path, want := range map[string]fs.FileMode{"some where": fs.ModeDir | 0o700, "some where/fi?le&": 0o400} {
		if info, err := os.Stat(filepath.Join(h.Dir(), path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %s (%v)", path, info.Mode(), want, err)
		}
	}
	if err := h.Put(ctx, "some where", 0o600, []byte("x")); err == nil {
		t.Error("a directory was replaced by a file")
	}

	// Half a file is none.
	half, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	putting := make(chan error, 1)
	go func() { putting <- h.put(half, "half", 0o600, r) }()
	_, err = w.Write([]byte("the first half"))
	must(t, err)
	cancel()
	if err := <-putting; !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v, want the context's error", err)
	}
	w.Close()
	must(t, lab.Until(ctx, "nothing to be left of it", func(context.Context) error {
		left, err := filepath.Glob(filepath.Join(h.Dir(), "*half*"))
		temp, terr := filepath.Glob(filepath.Join(h.Dir(), ".new-*"))
		if len(left)+len(temp) > 0 {
			err = fmt.Errorf("%v %v", left, temp)
		}
		return errors.Join(err, terr)
	}))

	// Upload knows what every host has.
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, big, 0o644))
	must(t, h.Upload(ctx, "bin/other", 0o755, file))
	if data, err := h.Get(ctx, "bin/other"); err != nil || !bytes.Equal(data, big) {
		t.Errorf("uploaded: %d bytes, %v", len(data), err)
	}
	h.binary = file
	must(t, h.Upload(ctx, filepath.Join(h.Dir(), "new/etcdrill"), 0o755, file))
	if to, err := os.Readlink(filepath.Join(h.Dir(), "new/etcdrill")); err != nil || to != executable {
		t.Errorf("uploaded binary: %q, %v", to, err)
	}
}

func TestServedDial(t *testing.T) {
	h, _ := served(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, "hello")
		all, _ := io.ReadAll(c) // up to the other side's close
		got <- string(all)
		c.Close()
	}()
	dialing, cancel := context.WithCancel(limit(t))
	c, err := h.Dial(dialing, l.Addr().String())
	must(t, err)
	cancel() // it was about dialing
	if c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("it leads to %s", c.RemoteAddr())
	}
	said := make([]byte, 5)
	if _, err := io.ReadFull(c, said); err != nil || string(said) != "hello" {
		t.Errorf("heard %q, %v", said, err)
	}
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := c.Read(said); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	big := strings.Repeat("x", 1<<20)
	_, err = io.WriteString(c, big)
	must(t, err)
	must(t, c.Close())
	if all := <-got; all != big {
		t.Errorf("%d bytes of %d arrived before the close", len(all), len(big))
	}

	l.Close()
	if _, err := h.Dial(limit(t), l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v, want ECONNREFUSED", err)
	}
	if _, err := h.Dial(limit(t), "no port"); err == nil {
		t.Error("no port: it was dialed")
	}
	over, end := context.WithCancel(context.Background())
	end()
	if _, err := h.Dial(over, l.Addr().String()); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is over: %v", err)
	}
}

// A connection whose other side ends says so.
func TestServedDialEndsWithTheOtherSide(t *testing.T) {
	h, _ := served(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			fmt.Fprint(c, "bye")
			c.Close()
		}
	}()
	c, err := h.Dial(limit(t), l.Addr().String())
	must(t, err)
	defer c.Close()
	if all, err := io.ReadAll(c); err != nil || string(all) != "bye" {
		t.Errorf("heard %q, %v", all, err)
	}
}

// Many at once share one connection: what a container costs is entered once.
func TestServedManyAtOnce(t *testing.T) {
	h, _ := served(t)
	ctx := limit(t)
	must(t, h.Put(ctx, "first", 0o600, nil))
	err := each(make([]int, 50), func(i int, _ int) error {
		name := fmt.Sprintf("file-%d", i)
		if err := h.Put(ctx, name, 0o600, []byte(name)); err != nil {
			return err
		}
		out, err := h.Run(ctx, lab.Cmd{Argv: []string{"cat", name}})
		if err == nil && string(out.Stdout) != name {
			err = fmt.Errorf("%s has %q", name, out.Stdout)
		}
		return err
	})
	must(t, err)
}

package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/etcdrill/etcdrill/lab"
)

func TestConnectionLost(t *testing.T) {
	h, s := newHost(t)
	testLost(t, h, s.Cut)
	if n := s.Logins.Load(); n != 4 {
		t.Errorf("%d logins, want one, and one after each cut", n)
	}
}

// testLost cuts the connection under commands: they fail, they end on the
// host, and the next one works.
func testLost(t *testing.T, h *Host, cut func()) {
	for name, in := range map[string]io.Reader{"without input": nil, "after input": strings.NewReader("some"), "within input": neverEnds(t)} {
		file := filepath.Join(h.Dir(), "lost "+name)
		ended := make(chan error, 1)
		go func() {
			_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", `trap "" TERM HUP INT PIPE; sleep 600 & echo $! >"$1.new"; mv "$1.new" "$1"; cat; wait; touch "$1.whole"`, "sh", file}, Stdin: in})
			ended <- err
		}()
		pid := pidIn(t, file)
		cut()
		err := <-ended
		var exit *lab.ExitError
		if !errors.Is(err, errLost) || errors.As(err, &exit) || !strings.Contains(err.Error(), h.String()) || !strings.Contains(err.Error(), "sleep 600") {
			t.Errorf("%s: got %v", name, err)
		}
		dies(t, pid)
		if got := run(t, h, "echo", "again"); got != "again\n" {
			t.Errorf("%s: got %q", name, got)
		}
		left, _ := filepath.Glob(file + ".whole")
		if left != nil {
			t.Errorf("%s: the command went on", name)
		}
	}
}

func TestSilentServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	s := newServer(t, key.PublicKey())
	n := newNetwork(false)
	n.every, n.within = 20*time.Millisecond, time.Second
	h := hostAt(t, s.login(file), n, SudoNo)
	run(t, h, "true")
	s.Frozen.Store(true)
	_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"true"}})
	if !errors.Is(err, errLost) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("got %v", err)
	}
	s.Frozen.Store(false)
	run(t, h, "true")

	// What hangs in the middle says where it was: cut short by the watch over the
	// connection, or by its own deadline. Nothing tells when its words have come
	// through, so it gets more time until they have.
	for name, hang := range map[string]func(after time.Duration) error{
		"no answer": func(after time.Duration) error {
			started := filepath.Join(h.Dir(), rand.Text())
			ended := make(chan error, 1)
			go func() {
				_, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", `echo half way; touch "$1"; exec sleep 600`, "sh", started}})
				ended <- err
			}()
			for _, err := os.Stat(started); err != nil; _, err = os.Stat(started) {
				select {
				case err := <-ended:
					return err
				case <-time.After(time.Millisecond):
				}
			}
			time.Sleep(after)
			s.Frozen.Store(true)
			defer s.Frozen.Store(false)
			return <-ended
		},
		"deadline exceeded": func(after time.Duration) error {
			ctx, cancel := context.WithTimeout(limit(t), after)
			defer cancel()
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", "echo half way; exec sleep 600"}})
			return err
		},
	} {
		after := 100 * time.Millisecond
		must(t, lab.Until(limit(t), name+", with its last words", func(context.Context) error {
			err := hang(after)
			after *= 2
			for _, says := range []string{"m1 (vm-a): sh -c", "sleep 600", name, "the last it said: half way"} {
				if !strings.Contains(fmt.Sprint(err), says) {
					return fmt.Errorf("got %v, want it to say %q", err, says)
				}
			}
			return nil
		}))
	}

	// A command that never says anything is no reason to give up.
	if _, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sleep", "0.5"}}); err != nil {
		t.Error(err)
	}
}

func TestNobodyThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	s := newServer(t, key.PublicKey())
	s.Stop()
	h := hostAt(t, s.login(file), newNetwork(false), SudoNo)
	if err := h.Connect(limit(t)); err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "m1 (vm-a): root@127.0.0.1:") {
		t.Errorf("got %v", err)
	}

	// A server that says nothing is waited for only so long, and a caller who
	// wants to wait less need not.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer mute.Close()
	l := s.login(file)
	l.Port = mute.Addr().(*net.TCPAddr).Port
	n := newNetwork(false)
	n.hop = 200 * time.Millisecond
	h = hostAt(t, l, n, SudoNo)
	short, cancel := context.WithTimeout(limit(t), 20*time.Millisecond)
	defer cancel()
	if err := h.Connect(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := h.Connect(limit(t)); err == nil || !strings.Contains(err.Error(), "no login within") {
		t.Errorf("got %v", err)
	}
	h.Close()
	if err := h.Connect(limit(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestLoginIsSharedAndMadeAgain(t *testing.T) {
	h, s := newHost(t)
	must(t, Each(limit(t), hosts(h, 20), func(ctx context.Context, h *Host) error { return h.Connect(ctx) }))
	if n := s.Logins.Load(); n != 1 {
		t.Errorf("%d logins for one host", n)
	}
}

func TestServerWithoutCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	s := newServer(t, key.PublicKey(), func(s *server) { s.NoExec = true })
	h := hostAt(t, s.login(file), newNetwork(false), SudoAuto)
	if err := h.Connect(limit(t)); err == nil || !strings.Contains(err.Error(), "commands do not") {
		t.Errorf("got %v", err)
	}
}

func TestHostKeys(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "id")
	key, _ := newKeyFile(t, file, "")
	s := newServer(t, key.PublicKey())
	addr, shown := s.Addr().String(), ssh.FingerprintSHA256(s.Key.PublicKey())
	other := newKey(t)
	connect := func(acceptNew bool, known string) error {
		t.Helper()
		l := s.login(file)
		l.KnownHosts = []string{known}
		return hostAt(t, l, newNetwork(acceptNew), SudoNo).Connect(limit(t))
	}
	write := func(name, text string) string {
		t.Helper()
		f := filepath.Join(dir, name)
		must(t, os.WriteFile(f, []byte(text), 0o600))
		return f
	}
	line := func(k ssh.Signer) string { return knownhosts.Line([]string{addr}, k.PublicKey()) }

	t.Run("unknown", func(t *testing.T) {
		for _, f := range []string{filepath.Join(dir, "none"), write("empty", "")} {
			err := connect(false, f)
			var k *HostKeyError
			if !errors.As(err, &k) || k.Changed || !strings.Contains(err.Error(), shown) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "--accept-new-host-keys") {
				t.Errorf("got %v", err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
			t.Error("a file was made")
		}
	})
	t.Run("changed", func(t *testing.T) {
		f := write("changed", "# mine\n\n"+line(other)+"\n")
		before, _ := os.ReadFile(f)
		for _, acceptNew := range []bool{false, true} {
			err := connect(acceptNew, f)
			var k *HostKeyError
			if !errors.As(err, &k) || !k.Changed || !strings.Contains(err.Error(), "CHANGED") || !strings.Contains(err.Error(), f+":3") ||
				!strings.Contains(err.Error(), shown) || !strings.Contains(err.Error(), ssh.FingerprintSHA256(other.PublicKey())) || !strings.Contains(err.Error(), addr) {
				t.Errorf("accept new %v: got %v", acceptNew, err)
			}
		}
		if after, _ := os.ReadFile(f); !bytes.Equal(before, after) {
			t.Errorf("the file was changed: %s", after)
		}
	})
	t.Run("changed to another kind", func(t *testing.T) {
		rsa := "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7vbqajDw4o6gJy8UtmIbkcpnkO3Kwc4qsEnSZp/TR+fQi62F79RHWmwKOtFmwteURgLbj7D/WGuNLGOfa/2vse3G2eHnHl5CB8ruRX9fBl/KgwCVr2JaEuUm66bBQeP5XeBotdR4cvX38uPYivCDdPjJ1QWPdspTBKcxeFbccDw=="
		_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(rsa))
		if err != nil {
			rsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
		}
		f := write("kind", "# mine\n"+knownhosts.Normalize(addr)+" "+rsa+"\n")
		err = connect(true, f)
		var k *HostKeyError
		if !errors.As(err, &k) || !k.Changed || !strings.Contains(err.Error(), "CHANGED") || !strings.Contains(err.Error(), f+":2") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		f := write("revoked", "@revoked * "+strings.SplitN(line(s.Key), " ", 2)[1]+"\n")
		err := connect(true, f)
		var k *HostKeyError
		if !errors.As(err, &k) || !k.Changed || !strings.Contains(err.Error(), f+":1") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("one of several", func(t *testing.T) {
		must(t, connect(false, write("several", line(other)+"\n"+line(s.Key)+"\n")))
	})
	t.Run("accepted", func(t *testing.T) {
		f := filepath.Join(dir, "new", "known_hosts")
		must(t, connect(true, f))
		must(t, connect(false, f))
		must(t, connect(true, f))
		text, err := os.ReadFile(f)
		must(t, err)
		if string(text) != line(s.Key)+"\n" {
			t.Errorf("written: %q", text)
		}
		if info, _ := os.Stat(f); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		f = write("no newline", "# the end")
		must(t, connect(true, f))
		if text, _ := os.ReadFile(f); string(text) != "# the end\n"+line(s.Key)+"\n" {
			t.Errorf("written: %q", text)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		f := write("broken", "\nhost ssh-ed25519 not-base64\n")
		if err := connect(true, f); err == nil || !strings.Contains(err.Error(), f+":2") {
			t.Errorf("got %v", err)
		}
	})
}

// newAgent serves an agent that holds the keys.
func newAgent(t *testing.T, keys ...any) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		must(t, ring.Add(agent.AddedKey{PrivateKey: k}))
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's name has to be short
	must(t, err)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c)
		}
	}()
	return socket
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	file, locked, wrong := filepath.Join(dir, "id"), filepath.Join(dir, "locked"), filepath.Join(dir, "wrong")
	key, private := newKeyFile(t, file, "")
	lockedKey, lockedPrivate := newKeyFile(t, locked, "secret")
	newKeyFile(t, wrong, "")
	public := file + ".pub"
	must(t, os.WriteFile(public, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600))
	_, otherPrivate := newKeyFile(t, "", "")

	forKey, forLocked := newServer(t, key.PublicKey()), newServer(t, lockedKey.PublicKey())
	connect := func(s *server, change func(*Login)) error {
		t.Helper()
		l := s.login(file)
		l.Identity = nil
		change(&l)
		return hostAt(t, l, newNetwork(false), SudoNo).Connect(limit(t))
	}
	held := newAgent(t, otherPrivate, private, lockedPrivate)
	t.Setenv("SSH_AUTH_SOCK", held)

	for name, c := range map[string]struct {
		server *server
		login  func(*Login)
		says   []string // empty: it works
	}{
		"agent":                       {forKey, func(l *Login) { l.Agent = "" }, nil},
		"agent by name":               {forKey, func(l *Login) { l.Agent = held }, nil},
		"file":                        {forKey, func(l *Login) { l.Identity = []string{file} }, nil},
		"second file":                 {forKey, func(l *Login) { l.Identity = []string{wrong, file} }, nil},
		"public half, agent has it":   {forKey, func(l *Login) { l.Identity, l.Agent, l.Only = []string{public}, "", true }, nil},
		"public half, agent lacks it": {forKey, func(l *Login) { l.Identity = []string{public} }, []string{public, "ssh-add"}},
		"encrypted, agent has it":     {forLocked, func(l *Login) { l.Identity, l.Agent, l.Only = []string{locked}, "", true }, nil},
		"encrypted, agent lacks it":   {forLocked, func(l *Login) { l.Identity = []string{locked} }, []string{locked, "encrypted", "ssh-add " + locked}},
		"not all of the agent's":      {forKey, func(l *Login) { l.Identity, l.Agent, l.Only = []string{wrong}, "", true }, []string{"login refused", wrong}},
		"refused":                     {forKey, func(l *Login) { l.Identity = []string{wrong} }, []string{"login refused", wrong, "SHA256:", "authorized_keys", "root@127.0.0.1"}},
		"no such file":                {forKey, func(l *Login) { l.Identity = []string{wrong + "er"} }, []string{wrong + "er", "no such file"}},
		"no key at all":               {forKey, func(l *Login) {}, []string{"login refused", "no agent"}},
		"no agent there":              {forKey, func(l *Login) { l.Agent = filepath.Join(dir, "nobody") }, []string{"nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := connect(c.server, c.login)
			if c.says == nil {
				must(t, err)
				return
			}
			for _, s := range append(c.says, "m1 (vm-a)") {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("got %v, want it to say %q", err, s)
				}
			}
		})
	}

	t.Run("the usual file", func(t *testing.T) {
		must(t, os.Mkdir(filepath.Join(dir, ".ssh"), 0o700))
		must(t, os.Rename(file, filepath.Join(dir, ".ssh", "id_ed25519")))
		must(t, connect(forKey, func(*Login) {}))
	})
}

// TestHostKeyChangesInMidDrill: a host that shows another key when it is
// connected to again gets no command, what to do is said, and whoever drills on
// it is told; a host of the same lab goes on.
func TestHostKeyChangesInMidDrill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	s, jump, good := newServer(t, key.PublicKey()), newServer(t, key.PublicKey()), newServer(t, key.PublicKey())
	n := newNetwork(true)
	direct, other := hostAt(t, s.login(file), n, SudoNo), hostAt(t, good.login(file), n, SudoNo)
	far := good.login(file)
	far.Jump = []Login{jump.login(file)}
	behind := hostAt(t, far, n, SudoNo)
	for _, c := range []struct {
		name   string
		host   *Host
		server *server
		known  string
	}{
		{"host", direct, s, direct.machine.Login.KnownHosts[0]},
		{"jump host", behind, jump, far.Jump[0].KnownHosts[0]},
	} {
		t.Run(c.name, func(t *testing.T) {
			hosts := []*Host{other, c.host}
			for _, h := range hosts {
				run(t, h, "true")
			}
			halted := make(chan error, 1)
			go func() { halted <- distrusted(hosts)(limit(t)) }()
			was := c.server.Key
			c.server.Become(newKey(t)) // somebody else answers in its place
			defer c.server.Become(was)
			c.server.Cut()
			before, _ := os.ReadFile(c.known)
			file := filepath.Join(c.host.Dir(), "touched")
			err := lab.Until(limit(t), "the connection to be lost", func(ctx context.Context) error {
				_, err := c.host.Run(ctx, lab.Cmd{Argv: []string{"touch", file}})
				if key := (*HostKeyError)(nil); errors.As(err, &key) {
					return nil
				}
				os.Remove(file) // over the old connection still
				return fmt.Errorf("got %v", err)
			})
			must(t, err)
			_, err = c.host.Run(limit(t), lab.Cmd{Argv: []string{"touch", file}})
			for _, err := range []error{err, <-halted} {
				for _, says := range []string{"m1 (vm-a): ", "CHANGED", c.known + ":1", "ssh-keygen -f " + c.known + " -R", c.server.Addr().String()} {
					if err == nil || !strings.Contains(err.Error(), says) {
						t.Errorf("got %v, want it to say %q", err, says)
					}
				}
			}
			if _, err := os.Stat(file); err == nil {
				t.Error("a command ran")
			}
			if after, _ := os.ReadFile(c.known); !bytes.Equal(before, after) {
				t.Errorf("known_hosts was changed: %s", after)
			}
			run(t, other, "true")
		})
	}
}

func TestJumps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	first, second, last := newServer(t, key.PublicKey(), func(s *server) { s.NoExec = true }), newServer(t, key.PublicKey()), newServer(t, key.PublicKey())
	n := newNetwork(false)
	// Only the first one can be reached from here.
	n.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		if addr != first.Addr().String() {
			return nil, fmt.Errorf("no way to %s", addr)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	l := last.login(file)
	l.Jump = []Login{first.login(file), second.login(file)}
	h := hostAt(t, l, n, SudoNo)
	if got := run(t, h, "echo", "far"); got != "far\n" {
		t.Errorf("got %q", got)
	}
	// Another host behind the same jump hosts uses the same connections.
	l2 := second.login(file)
	l2.Jump = l.Jump[:1]
	other := hostAt(t, l2, n, SudoNo)
	run(t, other, "true")
	if a, b, c := first.Logins.Load(), second.Logins.Load(), last.Logins.Load(); a != 1 || b != 2 || c != 1 {
		t.Errorf("%d, %d and %d logins, want 1, 2 and 1", a, b, c)
	}
	testLost(t, h, first.Cut)

	second.Stop()
	second.Cut()
	must(t, lab.Until(limit(t), "the way to be gone", func(context.Context) error {
		if !h.client.cur.over() {
			return errors.New("not yet")
		}
		return nil
	}))
	if err := h.Connect(limit(t)); err == nil || !strings.Contains(err.Error(), "m1 (vm-a)") || !strings.Contains(err.Error(), "jump host") || !strings.Contains(err.Error(), second.Addr().String()) {
		t.Errorf("got %v", err)
	}

	shut := newServer(t, key.PublicKey(), func(s *server) { s.NoDial = true })
	l.Jump = []Login{shut.login(file)}
	if err := hostAt(t, l, newNetwork(false), SudoNo).Connect(limit(t)); err == nil || !strings.Contains(err.Error(), "AllowTcpForwarding") {
		t.Errorf("got %v", err)
	}
}

// fakeSudo makes a directory for PATH with a sudo that does what the script
// says.
func fakeSudo(t *testing.T, script string) func(*server) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "sudo"), []byte("#!/bin/sh\n"+script), 0o755))
	return func(s *server) { s.Env = append(s.Env, "PATH="+dir+":"+os.Getenv("PATH")) }
}

func TestSudo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "id")
	key, _ := newKeyFile(t, file, "")
	works := fakeSudo(t, `[ "$1" = -n ] || exit 9
shift
while [ "${1#-}" != "$1" ]; do shift; done
SUDO=1 exec "$@"
`)
	asks := fakeSudo(t, "echo 'sudo: a password is required' >&2\nexit 1\n")
	user := fakeSudo(t, "SUDO=1 exec \"$4\"\n") // not called
	says := func(sudo Sudo, change ...func(*server)) (string, error) {
		s := newServer(t, key.PublicKey(), change...)
		h := hostAt(t, s.login(file), newNetwork(false), sudo)
		out, err := h.Run(limit(t), lab.Cmd{Argv: []string{"sh", "-c", `printf "$SUDO"`}})
		if err == nil {
			err = h.Put(limit(t), "file", 0o600, nil)
		}
		return string(out.Stdout), err
	}
	notRoot := func(s *server) { // with an id that says so
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "id"), []byte("#!/bin/sh\necho 1000\n"), 0o755))
		path := os.Getenv("PATH")
		for _, e := range s.Env {
			if p, ok := strings.CutPrefix(e, "PATH="); ok {
				path = p
			}
		}
		s.Env = append(s.Env, "PATH="+dir+":"+path)
	}
	if got, err := says(SudoYes, works); got != "1" || err != nil {
		t.Errorf("asked for: %q, %v", got, err)
	}
	if got, err := says(SudoAuto, works, notRoot); got != "1" || err != nil {
		t.Errorf("not root: %q, %v", got, err)
	}
	if got, err := says(SudoNo, user, notRoot); got != "" || err != nil {
		t.Errorf("not wanted: %q, %v", got, err)
	}
	if _, err := says(SudoYes, asks); err == nil || !strings.Contains(err.Error(), "a password is required") || !strings.Contains(err.Error(), "NOPASSWD") || !strings.Contains(err.Error(), "m1") {
		t.Errorf("asks for a password: %v", err)
	}
	if os.Getuid() == 0 {
		if got, err := says(SudoAuto, user); got != "" || err != nil {
			t.Errorf("root: %q, %v", got, err)
		}
	}
	noisy := fakeSudo(t, "")
	if _, err := says(SudoAuto, noisy, func(s *server) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "id"), []byte("#!/bin/sh\necho Welcome; echo 0\n"), 0o755))
		s.Env = append(s.Env, "PATH="+dir+":"+os.Getenv("PATH"))
	}); err == nil || !strings.Contains(err.Error(), "Welcome") || !strings.Contains(err.Error(), "start-up file") {
		t.Errorf("a shell that talks: %v", err)
	}
}

func TestMark(t *testing.T) {
	if os.Getuid() != 0 {
		lacking(t, "root", "marks lie in /etc")
	}
	if _, err := os.Stat(MarkFile); err == nil {
		lacking(t, "unmarked", "this machine is marked; the test would take that away")
	}
	h, _ := newHost(t)
	ctx := limit(t)
	_, err := h.Marked(ctx)
	if !errors.Is(err, ErrUnmarked) || !strings.Contains(err.Error(), "etcdrill host mark vm-a --inventory inventory.yaml") || !strings.HasPrefix(err.Error(), "m1 (vm-a)") {
		t.Errorf("got %v", err)
	}
	defer os.Remove(MarkFile)
	must(t, h.Mark(ctx, "somebody@somewhere"))
	if text, err := h.Marked(ctx); err != nil || !strings.Contains(text, "somebody@somewhere") || !strings.Contains(text, "Z.") {
		t.Errorf("%q, %v", text, err)
	}
	must(t, h.Unmark(ctx))
	must(t, h.Unmark(ctx))
	if _, err := h.Marked(ctx); !errors.Is(err, ErrUnmarked) {
		t.Errorf("got %v", err)
	}
}

func TestEach(t *testing.T) {
	h, _ := newHost(t)
	var all []*Host
	for _, name := range []string{"m1", "m2", "m3", "m10"} {
		x := *h
		x.name = name
		all = append(all, &x)
	}
	err := Each(limit(t), all, func(ctx context.Context, h *Host) error {
		switch h.Name() {
		case "m1":
			return errors.New("m10 is not mine")
		case "m3":
			_, err := h.Run(ctx, lab.Cmd{Argv: []string{"false"}})
			return err
		}
		return nil
	})
	if want := "m1: m10 is not mine\nm3: false: exit 1"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestPower(t *testing.T) {
	h, s := newHost(t)
	ctx := limit(t)
	for _, err := range []error{h.PowerOff(ctx), h.PowerOn(ctx)} {
		if err == nil || !strings.Contains(err.Error(), "inventory.yaml") {
			t.Errorf("got %v", err)
		}
	}
	run(t, h, "true")
	dir := t.TempDir()
	// A switch that refuses when the machine is as wanted already.
	h.machine.Power = Power{Off: []string{"rmdir", dir}, On: []string{"mkdir", dir}}
	must(t, h.PowerOn(ctx)) // it is on
	must(t, h.PowerOff(ctx))
	if _, err := os.Stat(dir); err == nil {
		t.Error("not switched off")
	}
	if err := h.PowerOff(ctx); err == nil || !strings.Contains(err.Error(), "m1 (vm-a): switch off: rmdir") {
		t.Errorf("the switch says off, the machine answers: %v", err)
	}
	addr := s.Addr().String()
	s.Stop()
	s.Cut()
	h.client.drop(nil)
	must(t, h.PowerOff(ctx)) // it is off
	booted := make(chan struct{})
	go func() {
		defer close(booted)
		time.Sleep(50 * time.Millisecond)
		if err := s.Start(addr); err != nil {
			t.Error(err)
		}
	}()
	must(t, h.PowerOn(ctx))
	<-booted
	run(t, h, "true")
}

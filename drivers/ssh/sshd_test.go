package ssh

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/etcdrill/etcdrill/lab"
)

// lacking skips a test for a backend that this machine has not; where
// ETCDRILL_MUST names it, that is a failure.
func lacking(t testing.TB, backend, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), backend) {
		t.Fatalf("ETCDRILL_MUST=%s, and yet: %s", os.Getenv("ETCDRILL_MUST"), why)
	}
	t.Skip(why)
}

// newSSHD starts a stock OpenSSH server of its own on loopback, where
// ETCDRILL_MUST asks for ssh: the in-process server of the other tests takes a
// third of the time.
func newSSHD(t testing.TB) Login {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), Name) {
		t.Skip("a real sshd: `make test-ssh`")
	}
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			lacking(t, "sshd", "no sshd on this machine")
		}
	}
	me, err := user.Current()
	must(t, err)
	dir := t.TempDir()
	hostFile, userFile, known := filepath.Join(dir, "host"), filepath.Join(dir, "user"), filepath.Join(dir, "known_hosts")
	hostKey, _ := newKeyFile(t, hostFile, "")
	userKey, _ := newKeyFile(t, userFile, "")
	must(t, os.WriteFile(filepath.Join(dir, "authorized"), ssh.MarshalAuthorizedKey(userKey.PublicKey()), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	must(t, os.WriteFile(known, []byte(knownhosts.Line([]string{l.Addr().String()}, hostKey.PublicKey())+"\n"), 0o600))
	l.Close()
	config := filepath.Join(dir, "config")
	must(t, os.WriteFile(config, []byte(fmt.Sprintf(
		"ListenAddress 127.0.0.1:%d\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nPermitRootLogin yes\nPidFile none\nUsePAM no\nSubsystem sftp internal-sftp\n"+
			"SetEnv SHLVL=1\n", // so that bash leaves its start-up files alone
		port, hostFile, filepath.Join(dir, "authorized"))), 0o600))
	if os.Getuid() == 0 {
		os.MkdirAll("/run/sshd", 0o755) // its package makes it when the service starts
	}
	var log bytes.Buffer
	cmd := exec.Command(sshd, "-D", "-e", "-f", config)
	cmd.Stderr = &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	addr := l.Addr().String()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			lacking(t, "sshd", "sshd does not start: "+log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return Login{Address: "127.0.0.1", Port: port, User: me.Username, Identity: []string{userFile}, Agent: "none", KnownHosts: []string{known}}
}

// TestOpenSSH: what holds with our own server holds with the usual one.
func TestOpenSSH(t *testing.T) {
	l := newSSHD(t)
	all := func(t *testing.T, sudo Sudo) {
		n := newNetwork(false)
		t.Run("run", func(t *testing.T) { testRun(t, hostAt(t, l, n, sudo)) })
		t.Run("files", func(t *testing.T) { testFiles(t, hostAt(t, l, n, sudo)) })
		t.Run("connection lost", func(t *testing.T) {
			h := hostAt(t, l, n, sudo)
			testLost(t, h, func() { h.client.cur.ssh.Close() })
		})
	}
	t.Run("as it is", func(t *testing.T) { all(t, SudoNo) })
	t.Run("sudo", func(t *testing.T) {
		if out, err := exec.Command("sudo", "-n", "id", "-u").Output(); err != nil || string(out) != "0\n" {
			lacking(t, "sudo", "no sudo without a password on this machine")
		}
		h := hostAt(t, l, newNetwork(false), SudoYes)
		if got := run(t, h, "sh", "-c", `printf "$SUDO_COMMAND"`); !strings.Contains(got, "sh -c") {
			t.Errorf("not through sudo: %q", got)
		}
		all(t, SudoYes)
	})
}

// BenchmarkOpenSSH is one command and one upload over a stock server.
func BenchmarkOpenSSH(b *testing.B) {
	h := hostAt(b, newSSHD(b), newNetwork(false), SudoNo)
	b.Run("run", func(b *testing.B) {
		for b.Loop() {
			run(b, h, "true")
		}
	})
	b.Run("run with input", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Run(b.Context(), lab.Cmd{Argv: []string{"cat"}, Stdin: strings.NewReader("x")}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			must(b, h.Put(b.Context(), "file", 0o600, []byte("x")))
		}
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.Get(b.Context(), "file"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("session alone", func(b *testing.B) { benchSession(b, h) })
	benchStreams(b, h)
}

package ssh

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/drivers/ssh/sshtest"
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
	d, err := sshtest.OpenSSH(t.TempDir())
	if err != nil {
		lacking(t, Name, err.Error())
	}
	t.Cleanup(func() { d.Close() })
	return Login{Address: "127.0.0.1", Port: d.Port, User: d.User, Identity: []string{d.Identity}, Agent: "none", KnownHosts: []string{d.KnownHosts}}
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

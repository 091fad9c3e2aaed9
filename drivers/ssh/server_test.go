package ssh

import (
	"crypto/ed25519"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/etcdrill/etcdrill/drivers/ssh/sshtest"
)

// server is an ssh server in this process that ends with its test.
type server struct {
	*sshtest.Server
	t testing.TB
}

// newServer starts a server that lets in who holds the key.
func newServer(t testing.TB, allowed ssh.PublicKey, change ...func(*server)) *server {
	t.Helper()
	s := &server{&sshtest.Server{Key: newKey(t), Allowed: allowed}, t}
	for _, c := range change {
		c(s)
	}
	must(t, s.Start(""))
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	s, _ := newKeyFile(t, "", "")
	return s
}

// newKeyFile makes a key, and a file of it where there is a name for one.
func newKeyFile(t testing.TB, file, passphrase string) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	s, private, err := sshtest.NewKey(file, passphrase)
	must(t, err)
	return s, private
}

// login is how to log in there with the key in file. The host is known.
func (s *server) login(identity string) Login {
	s.t.Helper()
	known := filepath.Join(s.t.TempDir(), "known_hosts")
	must(s.t, os.WriteFile(known, []byte(sshtest.KnownHost(s.Addr().String(), s.Key.PublicKey())), 0o600))
	return Login{
		Address: "127.0.0.1", Port: s.Addr().Port, User: "root",
		Identity: []string{identity}, Agent: "none", KnownHosts: []string{known},
	}
}

func listener(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

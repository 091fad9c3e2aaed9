package sshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/etcdrill/etcdrill/lab"
)

// Daemon is a stock sshd of its own on loopback, for the user of this process.
type Daemon struct {
	Port       int
	User       string
	Identity   string // file with the private key that is let in
	KnownHosts string // file

	cmd  *exec.Cmd
	jail string // when it was made for this one
}

// jail is where OpenSSH on Debian locks up the half that talks to strangers. It
// is empty, and made when the service starts.
const jail = "/run/sshd"

// OpenSSH starts one, whose files are in dir, which exists. The error matches
// exec.ErrNotFound where this machine has no sshd.
func OpenSSH(dir string) (*Daemon, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd, err = exec.LookPath("/usr/sbin/sshd"); err != nil {
			return nil, fmt.Errorf("no sshd on this machine (Debian: openssh-server): %w", exec.ErrNotFound)
		}
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	d := &Daemon{User: me.Username, Identity: filepath.Join(dir, "user"), KnownHosts: filepath.Join(dir, "known_hosts")}
	host, authorized, config := filepath.Join(dir, "host"), filepath.Join(dir, "authorized"), filepath.Join(dir, "config")
	hostKey, _, err := NewKey(host, "")
	if err != nil {
		return nil, err
	}
	userKey, _, err := NewKey(d.Identity, "")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // sshd takes no port of the kernel's choice
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	d.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	for file, content := range map[string]string{
		authorized:   string(ssh.MarshalAuthorizedKey(userKey.PublicKey())),
		d.KnownHosts: KnownHost(addr, hostKey.PublicKey()),
		config: fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nPermitRootLogin yes\nPidFile none\nUsePAM no\nSubsystem sftp internal-sftp\n"+
			"SetEnv SHLVL=1\n", // so that bash leaves its start-up files alone
			addr, host, authorized),
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	// Where no sshd was started yet, root's has no place to lock its other half
	// into.
	if os.Geteuid() == 0 && os.Mkdir(jail, 0o755) == nil {
		d.jail = jail
	}
	said := &text{}
	d.cmd = exec.Command(sshd, "-D", "-e", "-f", config)
	d.cmd.Stderr = said
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, d.unjail())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = lab.Until(ctx, "sshd on "+addr, func(ctx context.Context) error {
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("%w: it says: %s", err, said)
	}
	return d, nil
}

// Close ends the daemon; connections that are open go on.
func (d *Daemon) Close() error {
	err := d.cmd.Process.Kill()
	d.cmd.Wait()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	return errors.Join(err, d.unjail())
}

// unjail removes the jail that was made.
func (d *Daemon) unjail() error {
	if d.jail == "" {
		return nil
	}
	return os.Remove(d.jail)
}

// text is written and read by different goroutines.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

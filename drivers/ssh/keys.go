package ssh

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"

	"github.com/etcdrill/etcdrill/lab"
)

// trust decides whether a host is who it was. Its files are read for every
// connection: the user may mend them while we run.
type trust struct {
	acceptNew bool
	adding    *sync.Mutex // one at a time adds a line
}

// HostKeyError says that a host could not show that it is who it should be.
type HostKeyError struct {
	Host    string // as dialled
	Changed bool   // it is known, and shows another key; never accepted
	Key     string // fingerprint of what it shows, empty when it shows nothing we know of
	what    string
}

// Error names the host, the key, and file and line of what is known of it.
func (e *HostKeyError) Error() string { return e.what }

// files are the known_hosts files of a login, those that exist.
func (t trust) files(l Login) (all []string, add string) {
	all = l.KnownHosts
	if len(all) == 0 {
		if home, err := os.UserHomeDir(); err == nil {
			all = []string{filepath.Join(home, ".ssh", "known_hosts"), filepath.Join(home, ".ssh", "known_hosts2")}
		}
	}
	if len(all) > 0 {
		add = all[0]
	}
	var there []string
	for _, f := range append(all[:len(all):len(all)], "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2") {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		}
	}
	return there, add
}

// known is what known_hosts files say.
type known struct {
	trust
	db    *knownhosts.HostKeyDB
	files []string
	add   string // where a new host is written down
}

// open reads the known_hosts files of a login.
func (t trust) open(l Login) (*known, error) {
	files, add := t.files(l)
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return &known{t, db, files, add}, nil
}

// check looks at the key that a host shows. It is an ssh.HostKeyCallback.
func (k *known) check(host string, remote net.Addr, key ssh.PublicKey) error {
	err := k.db.HostKeyCallback()(host, remote, key)
	shown := key.Type() + " " + ssh.FingerprintSHA256(key)
	var revoked *xknownhosts.RevokedError
	var other *xknownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return &HostKeyError{host, true, shown, fmt.Sprintf("%s shows the host key %s, which %s:%d revokes: ask its owner", host, shown, revoked.Revoked.Filename, revoked.Revoked.Line)}
	case errors.As(err, &other) && len(other.Want) > 0:
		return changed(host, shown, other.Want)
	case !errors.As(err, &other):
		return err
	case !k.acceptNew:
		return &HostKeyError{host, false, shown, fmt.Sprintf("%s is not known: it shows the host key %s, and none of %s has a key of it. "+
			"Compare it with the machine's own, then log in once with ssh, or use --accept-new-host-keys", host, shown, strings.Join(append([]string{k.add}, k.files...), ", "))}
	}
	return k.write(k.add, host, key)
}

// kinds are the kinds of key to ask a host for: those that are known of it,
// since it may have more than one.
func (k *known) kinds(host string) []string { return k.db.HostKeyAlgorithms(host) }

// otherKind is the error for a host that has no key of the kinds that are known
// of it. Which ones those are is said to whoever shows a key nobody has.
func (k *known) otherKind(host string) error {
	var other *xknownhosts.KeyError
	if err := k.db.HostKeyCallback()(host, &net.TCPAddr{IP: net.IPv4zero}, noKey{}); !errors.As(err, &other) {
		return err
	}
	return changed(host, "", other.Want)
}

// noKey is the key of nobody.
type noKey struct{}

func (noKey) Type() string                        { return "" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("there is no such key") }

// changed is the error for a host that shows another key than it had.
func changed(host, shown string, want []xknownhosts.KnownKey) *HostKeyError {
	shows, remove := shown, ""
	if shown == "" {
		shows = "none of the kinds that are known of it"
	}
	if len(want) > 0 {
		remove = fmt.Sprintf(" (%s)", lab.Quote([]string{"ssh-keygen", "-f", want[0].Filename, "-R", knownhosts.Normalize(host)}))
	}
	return &HostKeyError{host, true, shown, fmt.Sprintf("the host key of %s has CHANGED: it shows %s, expected %s. "+
		"Either the machine was made anew or somebody else answers in its place: ask its owner, and only then remove that line%s", host, shows, wanted(want), remove)}
}

func wanted(keys []xknownhosts.KnownKey) string {
	var out []string
	for _, k := range keys {
		out = append(out, fmt.Sprintf("%s %s (%s:%d)", k.Key.Type(), ssh.FingerprintSHA256(k.Key), k.Filename, k.Line))
	}
	return strings.Join(out, " or ")
}

// write writes down the key of a host that nobody knew.
func (t trust) write(file, host string, key ssh.PublicKey) error {
	t.adding.Lock()
	defer t.adding.Unlock()
	say := func(err error) error { return fmt.Errorf("accept the host key of %s: %w", host, err) }
	if file == "" {
		return say(errors.New("there is no known_hosts file to write to: give `known-hosts` in the inventory"))
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return say(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return say(err)
	}
	defer f.Close()
	line := knownhosts.Line([]string{host}, key) + "\n"
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line); err != nil {
		return say(err)
	}
	return nil
}

// credentials are the keys we have, and a word on each for when none is taken.
type credentials struct {
	signers []ssh.Signer
	tried   []string
	agent   net.Conn
}

func (c *credentials) close() {
	if c.agent != nil {
		c.agent.Close()
	}
}

// collect looks for keys: the identity files of the login first, or the usual
// ones when it names none, then the rest of what the agent holds. Servers
// count refused keys, so the likely ones come first.
func collect(l Login) *credentials {
	c := &credentials{}
	held := c.ask(l.Agent)
	files, usual := l.Identity, len(l.Identity) == 0
	if home, err := os.UserHomeDir(); usual && err == nil {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			files = append(files, filepath.Join(home, ".ssh", name))
		}
	}
	used := map[string]bool{}
	add := func(s ssh.Signer, from string) {
		if id := string(s.PublicKey().Marshal()); !used[id] {
			used[id] = true
			c.signers = append(c.signers, s)
			c.tried = append(c.tried, fmt.Sprintf("%s (%s)", from, ssh.FingerprintSHA256(s.PublicKey())))
		}
	}
	for _, f := range files {
		if _, err := os.Stat(f); usual && err != nil {
			continue
		}
		s, err := identity(f, held)
		if err != nil {
			c.tried = append(c.tried, err.Error())
			continue
		}
		add(s, f)
	}
	if !l.Only {
		for _, s := range held {
			add(s, "agent")
		}
	}
	return c
}

// ask gets the keys of the agent.
func (c *credentials) ask(socket string) []ssh.Signer {
	if socket == "" {
		socket = os.Getenv("SSH_AUTH_SOCK")
	}
	if socket == "" || socket == "none" {
		c.tried = append(c.tried, "no agent")
		return nil
	}
	conn, err := net.Dial("unix", socket)
	if err == nil {
		c.agent = conn
		var held []ssh.Signer
		if held, err = agent.NewClient(conn).Signers(); err == nil {
			if len(held) == 0 {
				c.tried = append(c.tried, "the agent, which holds no key")
			}
			return held
		}
	}
	c.tried = append(c.tried, fmt.Sprintf("the agent: %v", err))
	return nil
}

// identity reads a file with a private key. One that is encrypted, or that
// holds the public half only, is used when the agent has the key: etcdrill
// never asks for a passphrase.
func identity(file string, held []ssh.Signer) (ssh.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	locked := false
	if err != nil {
		s, err := ssh.ParsePrivateKey(text)
		if err == nil {
			return s, nil
		}
		var missing *ssh.PassphraseMissingError
		if !errors.As(err, &missing) {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		locked = true
		if public = missing.PublicKey; public == nil {
			if text, err := os.ReadFile(file + ".pub"); err == nil {
				public, _, _, _, _ = ssh.ParseAuthorizedKey(text)
			}
		}
	}
	for _, s := range held {
		if public != nil && string(s.PublicKey().Marshal()) == string(public.Marshal()) {
			return s, nil
		}
	}
	if locked {
		return nil, fmt.Errorf("%s is encrypted and the agent does not hold it: run ssh-add %s", file, file)
	}
	return nil, fmt.Errorf("%s is a public key and the agent does not hold its private half: run ssh-add", file)
}

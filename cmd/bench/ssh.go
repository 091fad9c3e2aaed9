package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/drivers/ssh/sshtest"
	"github.com/etcdrill/etcdrill/lab"
)

// far is how long a message takes to a simulated host: a round trip is 20 ms.
const far = 10 * time.Millisecond

// site is ssh servers that play hosts, all of them this machine.
type site struct {
	dir     string
	driver  *ssh.Driver
	hosts   []*ssh.Host
	user    string
	addr    string // of the first
	id      string // file with the key that the first lets in
	known   string // file with the key of the first
	servers []interface{ Close() error }
}

// entry of an inventory.
func entry(i int, user string, port int, id, known string) string {
	return fmt.Sprintf("  - {name: h%d, address: 127.0.0.1, port: %d, user: %s, identity: %s, known-hosts: %s, sudo: false}\n", i, port, user, id, known)
}

// simulated makes servers of this process, changed as wanted.
func (b *bench) simulated(n int, change func(*sshtest.Server)) (s *site, err error) {
	s = &site{user: "root"}
	defer func(s *site) {
		if err != nil {
			s.Close()
		}
	}(s)
	if s.dir, err = os.MkdirTemp(b.dir, "simulated-"); err != nil {
		return nil, err
	}
	s.id, s.known = filepath.Join(s.dir, "id"), filepath.Join(s.dir, "known_hosts")
	key, _, err := sshtest.NewKey(s.id, "")
	if err != nil {
		return nil, err
	}
	var known, hosts strings.Builder
	for i := range n {
		srv := &sshtest.Server{Allowed: key.PublicKey()}
		if srv.Key, _, err = sshtest.NewKey("", ""); err != nil {
			return nil, err
		}
		change(srv)
		if err := srv.Start(""); err != nil {
			return nil, err
		}
		s.servers = append(s.servers, srv)
		if i == 0 {
			s.addr = srv.Addr().String()
		}
		known.WriteString(sshtest.KnownHost(srv.Addr().String(), srv.Key.PublicKey()))
		hosts.WriteString(entry(i, s.user, srv.Addr().Port, s.id, s.known))
	}
	if err := os.WriteFile(s.known, []byte(known.String()), 0o600); err != nil {
		return nil, err
	}
	return s, s.open(hosts.String())
}

// stock starts n usual sshd. They are missing where this machine has none.
func (b *bench) stock(n int) (s *site, err error) {
	s = &site{}
	defer func(s *site) {
		if err != nil {
			s.Close()
		}
	}(s)
	if s.dir, err = os.MkdirTemp(b.dir, "sshd-"); err != nil {
		return nil, err
	}
	var hosts strings.Builder
	for i := range n {
		dir := filepath.Join(s.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		d, err := sshtest.OpenSSH(dir)
		if errors.Is(err, exec.ErrNotFound) {
			return nil, missing{err}
		}
		if err != nil {
			return nil, err
		}
		s.servers = append(s.servers, d)
		if i == 0 {
			s.user, s.id, s.known = d.User, d.Identity, d.KnownHosts
			s.addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(d.Port))
		}
		hosts.WriteString(entry(i, d.User, d.Port, d.Identity, d.KnownHosts))
	}
	return s, s.open(hosts.String())
}

// open makes a driver for the hosts. Nobody is logged in to yet.
func (s *site) open(hosts string) (err error) {
	inventory := filepath.Join(s.dir, "hosts.yaml")
	if err := os.WriteFile(inventory, []byte("hosts:\n"+hosts), 0o600); err != nil {
		return err
	}
	s.driver = ssh.New(ssh.Options{Root: filepath.Join(s.dir, "home"), Inventory: inventory, Prefix: filepath.Join(s.dir, "labs")})
	s.hosts, err = s.driver.Machines()
	return err
}

// login logs in to all hosts.
func (s *site) login(ctx context.Context) error {
	return ssh.Each(ctx, s.hosts, func(ctx context.Context, h *ssh.Host) error { return h.Connect(ctx) })
}

// Close ends connections and servers, and removes what was uploaded.
func (s *site) Close() {
	if s.driver != nil {
		s.driver.Close()
	}
	for _, srv := range s.servers {
		srv.Close()
	}
	os.RemoveAll(s.dir)
}

// raw is a connection to the first host by the library alone.
func (s *site) raw() (*gossh.Client, error) {
	text, err := os.ReadFile(s.id)
	if err != nil {
		return nil, err
	}
	key, err := gossh.ParsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	check, err := knownhosts.New(s.known)
	if err != nil {
		return nil, err
	}
	return gossh.Dial("tcp", s.addr, &gossh.ClientConfig{User: s.user, Auth: []gossh.AuthMethod{gossh.PublicKeys(key)}, HostKeyCallback: check,
		HostKeyAlgorithms: []string{gossh.KeyAlgoED25519}, Timeout: 10 * time.Second})
}

// command measures one command over our connection, with all that makes it end
// with us, against a bare session on an open connection of the library.
func (b *bench) command(ctx context.Context) error {
	for _, c := range []struct {
		what string
		make func() (*site, error)
	}{
		{"sshd on loopback", func() (*site, error) { return b.stock(1) }},
		{"round trip of 20 ms", func() (*site, error) {
			return b.simulated(1, func(s *sshtest.Server) { s.Delay = far })
		}},
	} {
		s, err := c.make()
		var lacks missing
		if errors.As(err, &lacks) {
			fmt.Printf("%s left out: %s\n", c.what, err)
			continue
		}
		if err != nil {
			return err
		}
		err = s.command(ctx, 10*b.n, "one command, "+c.what+" (session of x/crypto/ssh)")
		s.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *site) command(ctx context.Context, n int, what string) error {
	if err := s.login(ctx); err != nil {
		return err
	}
	raw, err := s.raw()
	if err != nil {
		return err
	}
	defer raw.Close()
	var ours, floor []float64
	for range n {
		start := time.Now()
		if _, err := s.hosts[0].Run(ctx, lab.Cmd{Argv: []string{"/bin/true"}}); err != nil {
			return err
		}
		ours = append(ours, since(start)*1000)
		start = time.Now()
		session, err := raw.NewSession()
		if err != nil {
			return err
		}
		if err := session.Run("/bin/true"); err != nil {
			return err
		}
		floor = append(floor, since(start)*1000)
		session.Close()
	}
	row(what, ours, floor, "ms")
	return nil
}

// fanOut measures commands to a hundred hosts at once against commands to ten.
// The hosts are servers of this process, 20 ms there and back; they say that
// they ran the command and do not run it, since they all are this machine.
// The encryption of both sides is done here, by the same processors.
func (b *bench) fanOut(ctx context.Context) error {
	few, err := b.simulated(10, simulatedHost)
	if err != nil {
		return err
	}
	defer few.Close()
	many, err := b.simulated(100, simulatedHost)
	if err != nil {
		return err
	}
	defer many.Close()
	if err := errors.Join(few.login(ctx), many.login(ctx)); err != nil {
		return err
	}
	for _, c := range []struct {
		what     string
		commands int
	}{
		{"20 commands one after the other on each of 100 hosts (10 hosts)", 20},
		{"one command on each of 100 hosts (10 hosts)", 1},
	} {
		var ours, floor []float64
		for range b.n {
			v, err := few.run(ctx, c.commands)
			if err != nil {
				return err
			}
			floor = append(floor, v)
			if v, err = many.run(ctx, c.commands); err != nil {
				return err
			}
			ours = append(ours, v)
		}
		row(c.what, ours, floor, "ms")
	}
	return nil
}

func simulatedHost(s *sshtest.Server) { s.Delay, s.Instant = far, true }

// run has all hosts run commands, one after the other on each.
func (s *site) run(ctx context.Context, commands int) (milliseconds float64, err error) {
	start := time.Now()
	err = ssh.Each(ctx, s.hosts, func(ctx context.Context, h *ssh.Host) error {
		for range commands {
			if _, err := h.Run(ctx, lab.Cmd{Argv: []string{"mkdir", "-p", "-m", "0700", "/var/lib/etcdrill/lab/bin"}}); err != nil {
				return err
			}
		}
		return nil
	})
	return since(start) * 1000, err
}

// upload measures how fast the binary comes to hosts, against scp. Ours is
// hashed on both sides and synced to disk when it has arrived, and both have to
// log in first.
func (b *bench) upload(ctx context.Context) error {
	scp, err := exec.LookPath("scp")
	if err != nil {
		return missing{fmt.Errorf("no scp on this machine (Debian: openssh-client): %w", err)}
	}
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	megabytes := float64(info.Size()) / 1e6
	for _, n := range []int{1, 10} {
		var ours, floor, again []float64
		for range max(3, b.n/2) {
			v, err := b.scp(ctx, scp, n)
			if err != nil {
				return err
			}
			floor = append(floor, float64(n)*megabytes/v)
			v, skipped, err := b.put(ctx, n)
			if err != nil {
				return err
			}
			ours, again = append(ours, float64(n)*megabytes/v), append(again, skipped*1000)
		}
		what := fmt.Sprintf("binary of %.0f MB to %d hosts at once, all together (%d scp)", megabytes, n, n)
		if n == 1 {
			what = fmt.Sprintf("binary of %.0f MB to a host (scp)", megabytes)
		}
		row(what, ours, floor, "MB/s")
		row("  again, the host has it already", again, nil, "ms")
	}
	return nil
}

// put uploads to n hosts, with login, and then again.
func (b *bench) put(ctx context.Context, n int) (seconds, again float64, err error) {
	s, err := b.stock(n)
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	all := func() (float64, error) {
		start := time.Now()
		err := ssh.Each(ctx, s.hosts, func(ctx context.Context, h *ssh.Host) error {
			return h.Upload(ctx, h.Name()+"/etcdrill", 0o755, b.binary)
		})
		return since(start), err
	}
	if seconds, err = all(); err != nil {
		return 0, 0, err
	}
	again, err = all()
	return seconds, again, err
}

// scp copies the binary n times side by side.
func (b *bench) scp(ctx context.Context, program string, n int) (seconds float64, err error) {
	s, err := b.stock(1)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	failed := make(chan error, n)
	for i := range n {
		go func() {
			cmd := exec.CommandContext(ctx, program, "-q", "-P", port, "-i", s.id, "-o", "UserKnownHostsFile="+s.known, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-F", "none",
				b.binary, fmt.Sprintf("%s@127.0.0.1:%s/copy-%d", s.user, s.dir, i))
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("scp: %w: %s", err, out)
			}
			failed <- err
		}()
	}
	for range n {
		err = errors.Join(err, <-failed)
	}
	return since(start), err
}

// machines returns the inventory to run drills on: the one that was given, or
// of containers made for it.
func (b *bench) machines(ctx context.Context) (string, error) {
	if b.inventory != "" {
		return b.inventory, nil
	}
	const script = "fixtures/node/machines"
	if _, err := os.Stat(script); err != nil {
		return "", missing{fmt.Errorf("no -inventory, and no %s here to make one: run it in the root of the sources", script)}
	}
	if _, err := b.docker(ctx); err != nil {
		return "", err
	}
	b.made = filepath.Join(b.dir, "machines")
	if out, err := exec.CommandContext(ctx, script, "up", b.made, "3").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, out)
	}
	b.inventory = filepath.Join(b.made, "hosts.yaml")
	return b.inventory, nil
}

// dismiss takes down the machines that were made.
func (b *bench) dismiss() {
	if b.made == "" {
		return
	}
	if out, err := exec.Command("fixtures/node/machines", "down", b.made).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: machines down: %s: %s\n", err, out)
	}
}

func (b *bench) sshDrill(ctx context.Context) error {
	inventory, err := b.machines(ctx)
	if err != nil {
		return err
	}
	return b.drill(ctx, ssh.Name, "--inventory", inventory)
}

func (b *bench) sshFault(ctx context.Context) error {
	inventory, err := b.machines(ctx)
	if err != nil {
		return err
	}
	d := ssh.New(ssh.Options{Root: filepath.Join(b.dir, "home"), Binary: b.binary, Inventory: inventory})
	defer d.Close()
	return b.fault(ctx, d)
}

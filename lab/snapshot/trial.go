package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Outcome is what a throwaway member that was booted from a snapshot had.
type Outcome struct {
	Time     time.Time `json:"time"`
	Host     string    `json:"host"`
	Keys     int64     `json:"keys"`
	Hash     uint32    `json:"hash"`     // HashKV at the snapshot's revision
	Compared string    `json:"compared"` // "equal", or why the hash could not be compared with the source's
	Seconds  float64   `json:"seconds"`
}

func (o *Outcome) String() string {
	return fmt.Sprintf("restored and booted on %s in %.1fs: %d keys, hash %08x, %s", o.Host, o.Seconds, o.Keys, o.Hash, o.Compared)
}

// trial brings a snapshot that is a file of this machine to a member's host,
// restores it into a directory of its own there and boots a throwaway member
// from it, alone: without peers, on a free port of loopback, with the member's
// own certificates. Its keys must be those that were counted in the file, and
// its HashKV at the snapshot's revision that of the source, as it is when the
// restore bumps nothing (FE12). Nothing is left of it, however it ends.
//
// What is found wrong is a *lab.Failure.
func trial(ctx context.Context, e *lab.Env, m *lab.Member, file string, side *Sidecar) (out *Outcome, err error) {
	start := time.Now()
	dir, done, err := workspace(ctx, e, m.Host)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	there := path.Join(dir, "snapshot"+fileExt)
	if err := lab.Upload(ctx, m.Host, there, 0o400, file); err != nil {
		return nil, err
	}
	port, err := freePort(ctx, m.Host)
	if err != nil {
		return nil, err
	}
	t := throwaway{e: e, m: m, dir: dir, token: etcd.NewToken()}
	t.seat = &lab.Member{Name: "trial on " + m.Name, Host: m.Host, LocalURL: "http://" + port}
	if m.PKI != "" {
		t.seat.LocalURL = "https://" + port
	}
	t.seat.ClientURL = t.seat.LocalURL
	if _, err := etcd.Tool(ctx, e, m, "etcdutl", t.restore(there)...); err != nil {
		var exit *lab.ExitError
		if errors.As(err, &exit) {
			return nil, &lab.Failure{What: "snapshot " + side.name() + ": trial restore", Want: "etcdutl restores it", Got: exit.Error()}
		}
		return nil, err
	}
	err = t.run(ctx, func(ctx context.Context) error {
		// At the snapshot's revision: a lease may end while we look.
		keys, _, err := etcd.ReadKeys(ctx, e.Cluster, t.seat, side.Revision)
		if err != nil {
			return err
		}
		if n := int64(len(keys)); n != side.Keys {
			return &lab.Failure{What: "keys of a member booted from snapshot " + side.name(), Want: fmt.Sprint(side.Keys), Got: fmt.Sprint(n)}
		}
		if err := sameCounts("a member booted from snapshot "+side.name(), side.Prefixes, keys.Prefixes()); err != nil {
			return err
		}
		h, err := etcd.HashAt(ctx, e.Cluster, t.seat, side.Revision)
		if err != nil {
			return err
		}
		out = &Outcome{Host: m.Name, Keys: side.Keys, Hash: h.Hash, Compared: "equal to the source's"}
		switch {
		case side.Hash == 0:
			out.Compared = "not compared: the source's is not known"
		case side.HashedAt != h.Compact:
			out.Compared = fmt.Sprintf("not compared: the source was compacted at %d, this one at %d", side.HashedAt, h.Compact)
		case side.Hash != h.Hash:
			return &lab.Failure{What: fmt.Sprintf("hash at revision %d of a member booted from snapshot %s", side.Revision, side.name()),
				Want: fmt.Sprintf("%08x, as %s has it", side.Hash, side.Source), Got: fmt.Sprintf("%08x", h.Hash)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.Time, out.Seconds = time.Now().UTC(), time.Since(start).Seconds()
	e.Note(m.Name, "trial: %s", out)
	return out, nil
}

// name is how a snapshot without a name of its own is spoken of.
func (s *Sidecar) name() string {
	if s.Label != "" {
		return s.Label
	}
	return fmt.Sprintf("of revision %d", s.Revision)
}

// throwaway is a member that lives for a trial.
type throwaway struct {
	e     *lab.Env
	m     *lab.Member // whose host, tools and certificates it uses
	seat  *lab.Member // where it is
	dir   string
	token string
}

// Its peer address is a socket in its directory, which only its owner can enter,
// and which is its working directory: nobody talks to it there.
const peer = "unix://peer:0"

func (t throwaway) identity() []string {
	return []string{"--name=trial", "--data-dir=" + path.Join(t.dir, "data"), "--initial-cluster=trial=" + peer,
		"--initial-advertise-peer-urls=" + peer, "--initial-cluster-token=" + t.token}
}

func (t throwaway) restore(file string) []string {
	return append([]string{"snapshot", "restore", file}, t.identity()...)
}

func (t throwaway) command() lab.Cmd {
	argv := append([]string{path.Join(t.m.Bin, "etcd")}, t.identity()...)
	argv = append(argv, "--listen-client-urls="+t.seat.LocalURL, "--advertise-client-urls="+t.seat.LocalURL, "--listen-peer-urls="+peer,
		"--log-level=warn", "--unsafe-no-fsync")
	if pki := t.m.PKI; pki != "" {
		argv = append(argv, "--cert-file="+path.Join(pki, "server.crt"), "--key-file="+path.Join(pki, "server.key"),
			"--trusted-ca-file="+path.Join(pki, "ca.crt"), "--client-cert-auth")
	}
	return lab.Cmd{Argv: append([]string{"sh", "-c", lifeline, "etcdrill"}, argv...), Dir: t.dir}
}

// lifeline runs a command that is killed, with its process group, when its
// input ends: as it does when who holds the other end is gone, however that
// came about.
const lifeline = `exec 3<&0; (cat <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$@" 3<&-`

// run boots the member, calls look when it answers, and ends it.
func (t throwaway) run(ctx context.Context, look func(context.Context) error) error {
	life, kill := context.WithCancel(ctx)
	defer kill()
	looking, over := context.WithCancelCause(ctx)
	defer over(nil)
	ended := make(chan struct{})
	cmd := t.command()
	in, alive := io.Pipe()
	defer alive.Close()
	cmd.Stdin = in
	t.e.Note(t.m.Name, "boot a throwaway member: %s", lab.Quote(cmd.Argv[4:]))
	go func() {
		defer close(ended)
		_, err := t.m.Host.Run(life, cmd)
		if life.Err() == nil {
			if err == nil {
				err = errors.New("it ended by itself")
			}
			over(fmt.Errorf("the throwaway member does not run: %w", err))
		}
	}()
	err := lab.Until(looking, "the throwaway member to answer", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := etcd.RevisionOf(ctx, t.e.Cluster, t.seat, false)
		return err
	})
	if err == nil {
		err = look(looking)
	}
	if cause := context.Cause(looking); err != nil && cause != nil && cause != looking.Err() {
		err = cause
	}
	kill()
	alive.Close()
	<-ended
	return errors.Join(err, t.gone(context.WithoutCancel(ctx)))
}

// gone waits until nobody listens any more: a host that is far away may kill a
// little later than it says.
func (t throwaway) gone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	addr := address(t.seat.LocalURL)
	return lab.Until(ctx, "the throwaway member to be gone", func(ctx context.Context) error {
		if conn, err := t.m.Host.Dial(ctx, addr); err == nil {
			conn.Close()
			return fmt.Errorf("%s: somebody still listens on %s", t.m.Name, addr)
		}
		return ctx.Err()
	})
}

func address(url string) string {
	_, addr, _ := strings.Cut(url, "://")
	return addr
}

// freePort finds an address on loopback of a host where nobody listens, outside
// of the range from which the system takes ports for clients.
func freePort(ctx context.Context, h lab.Host) (string, error) {
	for range 50 {
		addr := fmt.Sprintf("127.0.0.1:%d", 21000+rand.IntN(10000))
		conn, err := dial(ctx, h, addr)
		if err != nil {
			return addr, ctx.Err()
		}
		conn.Close()
	}
	return "", fmt.Errorf("%s: no free port on loopback between 21000 and 31000", h.Name())
}

func dial(ctx context.Context, h lab.Host, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return h.Dial(ctx, addr)
}

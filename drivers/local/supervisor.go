package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/names"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/drivers/trace"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// SuperviseWord is the hidden first argument with which an executable is to
// call Supervise.
const SuperviseWord = "__supervise"

// ready is what a supervisor says on its standard output once it can be asked.
const ready = "ready\n"

// Supervise is the supervisor of one lab, whose directory is the only
// argument; it returns the exit code when the lab is over. Its surroundings
// are made by Driver.Up: files 3 and on are the listeners claimed for the
// lab's hosts, standard input ends when the owner of the lab does.
func Supervise(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "expected the directory of a lab")
		return 2
	}
	if err := supervise(dir(args[0])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func supervise(d dir) error {
	r, err := readRecord(d)
	if err != nil {
		return err
	}
	var zone *names.Server
	if r.Spec.ByDNS() {
		if zone, err = names.New(etcd.Records(r.Spec, members(d, r))); err != nil {
			return err
		}
	}
	resolvers := map[string]*net.Resolver{}
	failed := make(chan error, 4*len(r.Seats)+1)
	var hosts []network.Host
	for _, s := range r.Seats {
		h := network.Host{Name: s.Name, Addr: s.Addr, Peer: loopback(s.Peer), Client: loopback(s.Client)}
		if zone != nil {
			if h.Names, err = zone.Serve(loopback(s.DNS), func(err error) { failed <- err }); err != nil {
				return err
			}
			resolvers[s.Name] = h.Names
		}
		hosts = append(hosts, h)
	}
	// As patient as etcd is when it dials a peer: a second and an election.
	links := network.New(hosts, time.Second+r.Spec.Election)
	for i, h := range hosts {
		front, err := inherited(3 + 2*i)
		if err != nil {
			return err
		}
		socks, err := inherited(4 + 2*i)
		if err != nil {
			return err
		}
		go func() { failed <- links.ServeClients(front, h.Name) }()
		go func() { failed <- links.ServeSOCKS(socks, h.Name) }()
	}

	fork := process.NewForker()
	lives := map[string]*member{}
	for _, s := range r.Seats {
		lives[s.Name] = &member{dir: d, id: r.ID, seat: s, env: r.names(s), forker: fork, revive: r.Spec.Revive}
	}
	defer func() {
		for _, m := range lives {
			m.kill()
		}
	}()
	targets := map[string]trace.Target{}
	for _, m := range lives {
		targets[m.seat.Name] = trace.Target{
			State: func(ctx context.Context) (lab.ProcState, error) {
				s, err := m.look(ctx, control.Ask{})
				if err != nil {
					return lab.ProcState{}, err
				}
				return s.(lab.ProcState), nil
			},
			Data: dataDir(d.host(m.seat.Name)),
			Env:  append(environ(), labels(d, r.ID, m.seat.Name)...),
		}
	}
	traces := trace.New(fork, targets)
	defer traces.Close()

	var keep atomic.Bool
	listener, err := listenControl(d)
	if err != nil {
		return err
	}
	words := serve(lives, links, traces, &keep)
	if zone != nil {
		maps.Copy(words, zone.Words(resolvers))
	}
	go func() { failed <- http.Serve(listener, words) }()

	owner := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(owner)
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if _, err := os.Stdout.WriteString(ready); err != nil {
		return err
	}
	for {
		select {
		case <-owner:
			if !keep.Load() {
				return errors.New("the process that made the lab has ended, and so does the lab")
			}
			owner = nil
		case s := <-stop:
			return fmt.Errorf("ended by %s", s)
		case err := <-failed:
			return err
		}
	}
}

// serve is the table of words.
func serve(members map[string]*member, n *network.Network, t *trace.Traces, keep *atomic.Bool) control.Words {
	on := func(do func(*member, context.Context, control.Ask) (any, error)) func(context.Context, control.Ask) (any, error) {
		return func(ctx context.Context, a control.Ask) (any, error) {
			m := members[a.Host]
			if m == nil {
				return nil, fmt.Errorf("no host %q in this lab", a.Host)
			}
			return do(m, ctx, a)
		}
	}
	return control.Words{
		control.WordStart:  on((*member).start),
		control.WordStop:   on((*member).stop),
		control.WordSignal: on((*member).signal),
		control.WordState:  on((*member).look),
		control.WordSet: func(ctx context.Context, a control.Ask) (any, error) {
			return nil, n.Set(ctx, a.Owner, a.From, a.To, a.Rule)
		},
		control.WordClear: func(ctx context.Context, a control.Ask) (any, error) { return nil, n.Clear(ctx, a.Owner) },
		control.WordRules: func(ctx context.Context, _ control.Ask) (any, error) { return n.Rules(ctx) },
		control.WordProbe: func(ctx context.Context, a control.Ask) (any, error) { return n.Probe(ctx, a.From, a.To) },
		control.WordInject: func(ctx context.Context, a control.Ask) (any, error) {
			return nil, t.Inject(ctx, a.Owner, a.Host, a.Inject)
		},
		control.WordUninject: func(ctx context.Context, a control.Ask) (any, error) { return nil, t.Clear(ctx, a.Owner) },
		control.WordHits:     func(ctx context.Context, a control.Ask) (any, error) { return t.Hits(ctx, a.Owner) },
		control.WordKeep:     func(context.Context, control.Ask) (any, error) { keep.Store(true); return nil, nil },
	}
}

// inherited is the listener that came with a file descriptor.
func inherited(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "claim")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listener %d: %w", fd, err)
	}
	return l, nil
}

// listenControl opens the socket, for its owner alone.
func listenControl(d dir) (net.Listener, error) {
	path := d.socket()
	if parent := filepath.Dir(path); parent != string(d) {
		// Somebody else's directory of that name is not to be used.
		if err := os.Mkdir(parent, 0o700); err != nil {
			return nil, err
		}
	}
	// The directory is closed to others, so the moment before Chmod is harmless.
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

func dataDir(home string) string    { return filepath.Join(home, "data") }
func configFile(home string) string { return filepath.Join(home, "etcd.yaml") }

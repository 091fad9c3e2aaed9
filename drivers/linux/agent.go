package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/names"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/drivers/trace"
	"github.com/etcdrill/etcdrill/lab"
)

// AgentWord is the hidden first argument with which an executable is to call
// Agent.
const AgentWord = "__agent"

// agentConfig is agent.json, in the lab's directory on the host.
type agentConfig struct {
	ID       string        `json:"id"`
	Host     string        `json:"host"`
	Seats    []Seat        `json:"seats"`
	Inner    string        `json:"inner"` // address of the listeners for the lab alone
	Token    string        `json:"token"`
	Patience time.Duration `json:"patience"`       // see network.New
	DeadMan  time.Duration `json:"deadMan"`        // silence of the lab's owner after which it counts as gone
	Keep     bool          `json:"keep"`           // the lab is to stay without its owner
	Links    kernel.Means  `json:"links"`          // what the kernel does for the links
	Zone     []lab.Record  `json:"zone,omitempty"` // of the lab's DNS; none: it has no DNS
}

// Agent is the agent of a host; the only argument is its configuration file. It
// returns the exit code.
func Agent(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "expected the configuration of an agent")
		return 2
	}
	if err := runAgent(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runAgent(file string) error {
	var c agentConfig
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	failed := make(chan error, 6)
	var zone *names.Server
	resolvers := map[string]*net.Resolver{}
	if c.Zone != nil {
		if zone, err = names.New(c.Zone); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	var me Seat
	var hosts []network.Host
	for _, s := range c.Seats {
		h := network.Host{Name: s.Name, Addr: s.Addr, Echo: join(s.Addr, s.Echo)}
		if s.Name == c.Host {
			me = s
			h.Client, h.Source = join(c.Inner, s.Client), s.Addr
			if c.Links.Filter == "" { // else what clients say has to pass the kernel
				h.Echo = ""
			}
			if zone != nil {
				if h.Names, err = zone.Serve(join("127.0.0.1", s.DNS), func(err error) { failed <- err }); err != nil {
					return err
				}
				resolvers[s.Name] = h.Names
			}
		}
		hosts = append(hosts, h)
	}
	if me.Name == "" {
		return fmt.Errorf("%s: host %q is not among its seats", file, c.Host)
	}
	proxy := network.New(hosts, c.Patience)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	links, err := newWires(ctx, c, me, proxy)
	if err != nil {
		return err
	}
	serve := func(addr string, do func(net.Listener) error) error {
		l, err := listen(addr)
		if err != nil {
			return err
		}
		go func() { failed <- do(l) }()
		return nil
	}
	fork := process.NewForker()
	unit := me.unit(c.ID)
	traces := trace.New(fork, map[string]trace.Target{me.Name: {State: unit.state, Data: me.data(), Env: os.Environ()}})
	defer traces.Close()
	armed, err := openUndos(me.undos())
	if err != nil {
		return err
	}
	a := &agent{config: c, file: file, unit: unit, links: links, traces: traces, armed: armed, zone: zone}
	a.keep.Store(c.Keep)
	a.heard()
	words := a.words()
	if zone != nil {
		maps.Copy(words, zone.Words(resolvers))
	}
	if me.Found == nil {
		err = errors.Join(
			serve(join(me.Addr, me.Front), func(l net.Listener) error { return proxy.ServeClients(l, me.Name) }),
			serve(join("127.0.0.1", me.SOCKS), func(l net.Listener) error { return proxy.ServeSOCKS(l, me.Name) }),
		)
	}
	if err := errors.Join(err,
		serve(join(me.Addr, me.Echo), echo),
		serve(join(c.Inner, me.Agent), func(l net.Listener) error { return http.Serve(l, control.Guard(c.Token, words)) }),
	); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.watch()
		case s := <-stop:
			return fmt.Errorf("ended by %s", s)
		case err := <-failed:
			return err
		}
	}
}

// listen waits for an address that is not there yet: after a boot an agent may
// start before the network is up.
func listen(addr string) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var l net.Listener
	err := lab.Until(ctx, "a listener on "+addr, func(context.Context) (err error) {
		l, err = net.Listen("tcp", addr)
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			cancel()
		}
		return err
	})
	return l, err
}

// echo says back what it hears.
func echo(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// agent answers what the lab asks a host.
type agent struct {
	config agentConfig
	file   string
	unit   *unit
	links  lab.Links
	traces *trace.Traces
	zone   *names.Server // nil where the lab has none
	armed  *undos
	keep   atomic.Bool

	mu   sync.Mutex
	last time.Time // when the lab's owner was heard of
	fell bool      // once it was not, for too long
	done bool      // all is undone, and it was not heard of since
}

// heard notes that the lab's owner lives, and tells it whether the switch fell
// before.
func (a *agent) heard() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.done = time.Now(), false
	return a.fell
}

// watch is the dead man's switch. What cannot be undone is tried again.
func (a *agent) watch() {
	a.mu.Lock()
	dead := !a.done && !a.keep.Load() && time.Since(a.last) > a.config.DeadMan
	first := dead && !a.fell
	a.fell = a.fell || dead
	a.mu.Unlock()
	if !dead {
		return
	}
	if first {
		fmt.Fprintf(os.Stderr, "the lab's owner was not heard of for %s: undoing everything\n", a.config.DeadMan)
	}
	if err := a.undo(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = time.Since(a.last) > a.config.DeadMan // else it was heard of meanwhile
}

// undo takes away all that was done to the host, and ends the member; an adopted
// one it makes go on. One part that does not work, or hangs, keeps nothing from
// the others.
func (a *agent) undo() error {
	part := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return do(ctx)
	}
	a.traces.Close()
	end := a.unit.kill
	if a.unit.dropIn != "" {
		end = a.unit.revive
	}
	return errors.Join(
		part(func(ctx context.Context) error {
			rules, err := a.links.Rules(ctx)
			for _, r := range rules {
				err = errors.Join(err, a.links.Clear(ctx, r.Owner))
			}
			return err
		}),
		part(func(context.Context) (err error) {
			if a.zone != nil {
				for _, owner := range a.zone.Zone().Owners {
					err = errors.Join(err, a.zone.Clear(owner))
				}
			}
			return err
		}),
		part(end),
		a.armed.run(context.Background()), // each command has its own limit
	)
}

// setKeep makes the lab stay, also when the host boots again.
func (a *agent) setKeep() error {
	a.keep.Store(true)
	c := a.config
	c.Keep = true
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return replace(a.file, data)
}

// replace writes a file that only root may read whole or not at all, and
// returns when it is on disk.
func replace(file string, data []byte) error {
	f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (a *agent) words() control.Words {
	n, t := a.links, a.traces
	return control.Words{
		control.WordStart:  func(ctx context.Context, _ control.Ask) (any, error) { return nil, a.unit.start(ctx) },
		control.WordStop:   func(ctx context.Context, _ control.Ask) (any, error) { return nil, a.unit.stop(ctx) },
		control.WordSignal: func(ctx context.Context, q control.Ask) (any, error) { return nil, a.unit.signal(ctx, q.Signal) },
		control.WordState:  func(ctx context.Context, _ control.Ask) (any, error) { return a.unit.state(ctx) },
		control.WordSet: func(ctx context.Context, q control.Ask) (any, error) {
			return nil, n.Set(ctx, q.Owner, q.From, q.To, q.Rule)
		},
		control.WordClear: func(ctx context.Context, q control.Ask) (any, error) { return nil, n.Clear(ctx, q.Owner) },
		control.WordRules: func(ctx context.Context, _ control.Ask) (any, error) { return n.Rules(ctx) },
		control.WordProbe: func(ctx context.Context, q control.Ask) (any, error) { return n.Probe(ctx, q.From, q.To) },
		control.WordInject: func(ctx context.Context, q control.Ask) (any, error) {
			return nil, t.Inject(ctx, q.Owner, q.Host, q.Inject)
		},
		control.WordUninject: func(ctx context.Context, q control.Ask) (any, error) { return nil, t.Clear(ctx, q.Owner) },
		control.WordHits:     func(ctx context.Context, q control.Ask) (any, error) { return t.Hits(ctx, q.Owner) },
		control.WordKeep:     func(context.Context, control.Ask) (any, error) { return nil, a.setKeep() },
		control.WordAlive:    func(context.Context, control.Ask) (any, error) { return a.heard(), nil },
		control.WordArm:      func(_ context.Context, q control.Ask) (any, error) { return nil, a.armed.arm(q.Owner, q.Undo) },
		control.WordDisarm:   func(_ context.Context, q control.Ask) (any, error) { return nil, a.armed.disarm(q.Owner) },
		control.WordTrace:    func(ctx context.Context, _ control.Ask) (any, error) { return trace.Probe(ctx), nil },
	}
}

package linux

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Options of one lab on Linux hosts.
type Options struct {
	ID, Driver, Drill string
	// Dir is the directory of the lab on this machine. It exists, with mode
	// 0700, and holds nothing.
	Dir  string
	Spec lab.Spec
	// Binary is a static Linux executable whose main function begins with
	// tools.Main: agent and etcd tools of the hosts.
	Binary string
	// Tunnel says that the hosts' own listeners are reached only through
	// Host.Dial: they listen on loopback there.
	Tunnel bool
	// Caps are those of the driver; whether processes can be traced is found
	// out on the hosts.
	Caps lab.Caps
	// Say is told what makes a lab worth less; may be nil.
	Say func(what string)
}

// deadMan is how long a lab's owner may be silent before its hosts undo
// everything, alive how often it says that it lives.
const (
	deadMan = 15 * time.Second
	alive   = 2 * time.Second
)

// agentPatience is how long an agent may take to answer: it gives the kernel of
// its host a minute, and an emulated host takes it.
const agentPatience = 90 * time.Second

// validity of a lab's certificates: no lab lives that long.
const validity = 365 * 24 * time.Hour

// Up makes a lab on hosts, which are there and hold nothing of it yet, and
// starts its cluster, see lab.Driver. It says that the lab's owner lives until
// release is called or this process ends. On error it leaves the hosts as they
// are: the driver cleans up, with Down or by taking the hosts away.
func Up(ctx context.Context, o Options, hosts []lab.Host) (c *lab.Cluster, release func(), err error) {
	if n := o.Spec.Members + o.Spec.Spares; len(hosts) != n {
		return nil, nil, fmt.Errorf("%d hosts for %d members and spares", len(hosts), n)
	}
	me, err := process.Self()
	if err != nil {
		return nil, nil, err
	}
	r := Record{ID: o.ID, Driver: o.Driver, Created: time.Now().UTC(), Owner: me, Drill: o.Drill, Spec: o.Spec, Tunnel: o.Tunnel, Caps: o.Caps}
	r.Seats = make([]Seat, len(hosts))
	clocks := make([]Reading, len(hosts))
	err = each(ctx, hosts, func(ctx context.Context, i int, h lab.Host) (err error) {
		taken, err := survey(ctx, h)
		if err != nil {
			return err
		}
		if clocks[i], err = Read(ctx, h); err != nil {
			return err
		}
		if o.Spec.TLS == "mutual" {
			if err := clocks[i].Fit(); err != nil {
				return err
			}
		}
		r.Seats[i] = Seat{Name: h.Name(), Addr: h.Addr(), Dir: h.Dir()}
		r.Seats[i].Ports, err = claim(ctx, h, claims, taken)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if r.Links, _, err = Links(ctx, o.ID, hosts); err != nil {
		return nil, nil, err
	}
	if what := Skew(clocks); what != "" && o.Say != nil {
		o.Say("warning: " + what)
	}
	var pki *etcd.PKI
	if o.Spec.TLS == "mutual" {
		if pki, err = etcd.NewPKI(validity); err != nil {
			return nil, nil, err
		}
		if err := pki.Save(filepath.Join(o.Dir, "pki")); err != nil {
			return nil, nil, err
		}
	}
	l, stop, err := man(ctx, o, r, hosts)
	if err != nil {
		return nil, nil, err
	}
	return l.Cluster, stop, etcd.Deploy(ctx, l.Cluster, pki)
}

// man writes the record of a lab down, puts an agent on every host, and says
// from then on that the lab's owner lives.
func man(ctx context.Context, o Options, r Record, hosts []lab.Host) (l *linuxLab, stop func(), err error) {
	r.Token = rand.Text()
	if err := r.write(o.Dir); err != nil {
		return nil, nil, err
	}
	l, err = assemble(o.Dir, r, hosts)
	if err != nil {
		return nil, nil, err
	}
	// From the first agent on: the others may take long.
	l.Halts = append(l.Halts, l.forgotten)
	living, release := context.WithCancel(context.Background())
	go l.live(living)
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := each(ctx, hosts, func(ctx context.Context, i int, h lab.Host) error { return l.lay(ctx, i, o) }); err != nil {
		return nil, nil, err
	}
	traces := ""
	if err := l.agents[r.Seats[0].Name].Do(ctx, control.WordTrace, control.Ask{}, &traces); err != nil {
		return nil, nil, err
	}
	if r.Caps[lab.CapTrace] == "" {
		r.Caps[lab.CapTrace] = traces
	}
	if err := r.write(o.Dir); err != nil {
		return nil, nil, err
	}
	l.setCaps(r.Caps)
	return l, release, nil
}

// Open puts a lab together again from its directory on this machine. host
// reaches its hosts.
func Open(dir string, host func(Seat) (lab.Host, error)) (*lab.Cluster, error) {
	r, err := ReadRecord(dir)
	if err != nil {
		return nil, err
	}
	var hosts []lab.Host
	for _, s := range r.Seats {
		h, err := host(s)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	l, err := assemble(dir, r, hosts)
	if err != nil {
		return nil, err
	}
	l.setCaps(r.Caps)
	return l.Cluster, nil
}

// Keep makes a lab stay without its owner.
func Keep(ctx context.Context, dir string, hosts []lab.Host) error {
	r, err := ReadRecord(dir)
	if err != nil {
		return err
	}
	l, err := assemble(dir, r, hosts)
	if err != nil {
		return err
	}
	if !r.agentless() {
		if err := l.all(ctx, control.WordKeep, control.Ask{}); err != nil {
			return err
		}
	}
	r.Keep = true
	return r.write(dir)
}

// Down removes all of a lab from a host: processes, paused ones too, units,
// files, rules in its kernel. It may be called twice, and where there never was
// a lab.
func Down(ctx context.Context, h lab.Host, id string) error {
	if err := place.CheckID(id); err != nil {
		return err
	}
	if err := GiveBack(ctx, h, id); err != nil {
		return err
	}
	// The directory may be gone, or be that of the command itself.
	_, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", removal, "sh", etcdUnit(id), agentUnit(id), h.Dir()}})
	return errors.Join(err, kernel.Remove(ctx, h, id)) // last: the agent is gone
}

// removal of two units and a directory.
const removal = `
systemctl kill -s KILL "$1" "$2" 2>/dev/null
systemctl disable --no-reload "$2" 2>/dev/null
systemctl stop "$1" "$2" 2>/dev/null
rm -f "` + unitDir + `/$1" "` + unitDir + `/$2"
systemctl daemon-reload
systemctl reset-failed "$1" "$2" 2>/dev/null
umount -l "$3/data" 2>/dev/null
for p in ` + claims + `/*; do
	[ "$(readlink "$p")" = "$3" ] && rm -f "$p"
done
rm -rf "$3"
`

// Left lists the labs on a host, by what is there: units of ours, and rules in
// its kernel.
func Left(ctx context.Context, h lab.Host) ([]string, error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"find", unitDir, "-maxdepth", "1", "-name", "etcdrill-*.service", "-printf", `%f\n`}})
	if err != nil {
		return nil, err
	}
	ids, err := kernel.Left(ctx, h)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out.Stdout)) {
		id, ours := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(line), ".service"), "etcdrill-")
		for _, end := range []string{"-etcd", "-agent"} {
			if name, ok := strings.CutSuffix(id, end); ours && ok && !slices.Contains(ids, name) {
				ids = append(ids, name)
			}
		}
	}
	return ids, nil
}

// one lab on Linux hosts.
type linuxLab struct {
	*lab.Cluster
	record Record
	raw    []lab.Host // as the driver made them
	agents map[string]*control.Client
	fell   chan string // a host whose dead man's switch fell
}

// assemble puts a cluster together from its record.
func assemble(dir string, r Record, hosts []lab.Host) (*linuxLab, error) {
	l := &linuxLab{record: r, raw: hosts, agents: map[string]*control.Client{}, fell: make(chan string, 1)}
	l.Cluster = &lab.Cluster{ID: r.ID, Driver: r.Driver, Spec: r.Spec, Dir: dir}
	scheme := "http"
	if r.Spec.TLS == "mutual" {
		var err error
		if l.TLS, err = etcd.ClientTLS(filepath.Join(dir, "pki")); err != nil {
			return nil, err
		}
		scheme = "https"
	}
	for i, s := range r.Seats {
		h := &host{Host: hosts[i], seat: s, record: r}
		if r.agentless() {
			m := s.Found.member(&lab.Member{Name: s.Name, Host: h, Proc: &looked{h, s.Found.Unit}}, s)
			m.HealthTLS = l.TLS
			l.Hosts, l.Seats, l.Found = append(l.Hosts, h), append(l.Seats, m), append(l.Found, s.String())
			continue
		}
		agent := control.NewClient("the agent on "+s.Name, r.Token, true, func(ctx context.Context) (net.Conn, error) {
			return h.Dial(ctx, join(r.inner(s), s.Agent))
		})
		l.agents[s.Name] = agent
		m := &lab.Member{
			Name:      s.Name,
			Host:      h,
			Proc:      &proc{agent: agent, host: h, seat: s},
			ClientURL: scheme + "://" + join(s.Addr, s.Front),
			LocalURL:  scheme + "://" + join(r.inner(s), s.Client),
			PeerURL:   scheme + "://" + join(s.Addr, s.Peer),
			HealthURL: "http://" + join(r.inner(s), s.Health),
			DataDir:   s.data(),
			Config:    s.config(),
			Bin:       s.bin(),
		}
		if s.Found != nil {
			m = s.Found.member(m, s)
			m.Bin, m.HealthTLS, l.Found = s.bin(), l.TLS, append(l.Found, s.String())
		}
		if scheme == "https" {
			m.PKI = s.pki()
		}
		if r.Spec.ByDNS() {
			etcd.ByName(m)
		}
		l.Hosts, l.Seats = append(l.Hosts, h), append(l.Seats, m)
	}
	if r.agentless() {
		return l, nil
	}
	l.Links, l.LinksBy, l.DeadMan = &links{agents: l.agents}, r.Links.String(), switches{agents: l.agents}
	if r.Spec.Adopt != nil && r.Links.Filter == "" {
		l.Links, l.LinksBy = nil, ""
	}
	if r.Spec.ByDNS() {
		l.DNS = &dns{agents: l.agents}
	}
	return l, nil
}

func (l *linuxLab) setCaps(caps lab.Caps) {
	l.Caps = caps
	if caps[lab.CapTrace] == "" {
		l.Tracer = &tracer{agents: l.agents}
	}
}

// lay puts everything on a host and starts its agent.
func (l *linuxLab) lay(ctx context.Context, i int, o Options) error {
	h, s := l.raw[i], l.record.Seats[i]
	bin := path.Join(s.bin(), "etcdrill")
	if err := lab.Upload(ctx, h, bin, 0o755, o.Binary); err != nil {
		return err
	}
	links := []string{"etcd", "etcdctl", "etcdutl"}
	if from := cmp.Or(o.Spec.EtcdOf[s.Name], o.Spec.Etcd); from != "" {
		links = nil
		for _, tool := range []string{"etcd", "etcdctl", "etcdutl"} {
			file := filepath.Join(from, tool)
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && tool == "etcdutl" {
				continue // etcd 3.4 has none
			} else if err != nil {
				return fmt.Errorf("etcd for %s: directory %s: expected etcd, etcdctl and etcdutl in it: %w", s.Name, from, err)
			}
			if err := lab.Upload(ctx, h, path.Join(s.bin(), tool), 0o755, file); err != nil {
				return err
			}
		}
	}
	var zone []lab.Record
	if o.Spec.ByDNS() {
		zone = etcd.Records(o.Spec, l.Seats)
	}
	config, err := json.Marshal(agentConfig{ID: l.ID, Host: s.Name, Seats: l.record.Seats, Inner: l.record.inner(s), Token: l.record.Token, Links: l.record.Links,
		// As patient as etcd is when it dials a peer: a second and an election.
		Patience: time.Second + o.Spec.Election, DeadMan: deadMan, Zone: zone})
	if err != nil {
		return err
	}
	agent, member := agentUnit(l.ID), s.unit(l.ID).name
	files := map[string]string{
		s.agent():                 string(config),
		path.Join(unitDir, agent): fmt.Sprintf(agentText, l.ID, s.Name, member, bin, AgentWord, s.agent(), path.Join(s.Dir, "agent.log")),
	}
	if s.Found == nil {
		restart := "no"
		if o.Spec.Revive {
			restart = "always"
		}
		files[path.Join(unitDir, member)] = fmt.Sprintf(etcdText, l.ID, s.Name, s.Dir, strings.Join(append(throughSOCKS(s), l.record.names(s)...), " "), path.Join(s.bin(), "etcd"), s.config(), restart, s.etcdLog())
	}
	for file, data := range files {
		mode := fs.FileMode(0o644)
		if file == s.agent() {
			mode = 0o600
		}
		if err := h.Put(ctx, file, mode, []byte(data)); err != nil {
			return err
		}
	}
	if o.Spec.Disk > 0 {
		// In memory: it is as small as it says, and gone with its host.
		if _, err := h.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", `mkdir -p -m 0700 "$1" && mount -t tmpfs -o "size=$2,mode=0700" etcdrill "$1"`, "sh", s.data(), strconv.FormatInt(int64(o.Spec.Disk), 10)}}); err != nil {
			return err
		}
	}
	if f := s.Found; f != nil && l.TLS != nil {
		for _, argv := range append([][]string{{"mkdir", "-p", "-m", "0700", s.pki()}}, etcd.LinkFound(s.pki(), f.CA, f.Cert, f.Key)...) {
			if _, err := h.Run(ctx, lab.Cmd{Argv: argv}); err != nil {
				return err
			}
		}
	}
	script := `cd "$1" && shift && unit=$1 && shift && for t in "$@"; do ln -f etcdrill "$t" || exit; done && systemctl enable -q --no-reload "$unit" && systemctl daemon-reload && systemctl start "$unit"`
	if _, err := h.Run(ctx, lab.Cmd{Argv: append([]string{"sh", "-c", script, "sh", s.bin(), agent}, links...)}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, agentPatience)
	defer cancel()
	err = lab.Until(ctx, "the agent on "+s.Name, func(ctx context.Context) error {
		return l.agents[s.Name].Do(ctx, control.WordAlive, control.Ask{}, nil)
	})
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if log, lerr := h.Get(ctx, "agent.log"); lerr == nil {
			err = fmt.Errorf("%w; it says: %s", err, strings.TrimSpace(string(log[max(0, len(log)-1000):])))
		}
	}
	if err != nil || s.Found == nil {
		return err
	}
	return hold(ctx, h, s, l.ID) // now there is somebody who takes it away again
}

// agentText: that it names the member's unit also makes systemd keep in mind
// how the member ended; it forgets a unit that nothing names once it is stopped.
const agentText = `[Unit]
Description=etcdrill agent of lab %s on %s
After=network.target
Before=%s
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=%s %s %s
Restart=always
RestartSec=200ms
StandardOutput=append:%s
StandardError=inherit

[Install]
WantedBy=multi-user.target
`

// etcdText: never restarted, since what a drill killed has to stay dead, unless
// the spec wants it.
const etcdText = `[Unit]
Description=etcd of etcdrill lab %s on %s
StartLimitIntervalSec=0

[Service]
Type=exec
WorkingDirectory=%s
Environment=%s
ExecStart=%s --config-file %s
Restart=%s
RestartSec=1s
TimeoutStopSec=90
StandardOutput=append:%s
StandardError=inherit
`

// throughSOCKS makes etcd reach all addresses but loopback through the agent.
func throughSOCKS(s Seat) []string {
	proxy := "socks5://" + join("127.0.0.1", s.SOCKS)
	var out []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		out = append(out, name+"="+proxy, strings.ToLower(name)+"="+proxy)
	}
	return append(out, "NO_PROXY=", "no_proxy=")
}

// LinksEnv is the environment variable that says what the links of new labs
// are made by: "proxy", "kernel" (it has to be the kernel) or "iptables"; what
// the hosts can do when empty.
const LinksEnv = "ETCDRILL_LINKS"

// Links finds out what the kernels of hosts can do for the links of a lab, and
// why not more.
func Links(ctx context.Context, id string, hosts []lab.Host) (kernel.Means, string, error) {
	way := os.Getenv(LinksEnv)
	m, why, err := kernel.Choose(ctx, way, hosts, func(ctx context.Context, h lab.Host) (bool, error) {
		ids, err := Left(ctx, h)
		return !slices.ContainsFunc(ids, func(other string) bool { return other != id }), err
	})
	if err != nil && way != "" {
		err = fmt.Errorf("%s=%s: %w", LinksEnv, way, err)
	}
	return m, why, err
}

// live tells the hosts that the lab's owner lives. A host that does not answer
// is not waited for.
func (l *linuxLab) live(ctx context.Context) {
	tick := time.NewTicker(alive)
	defer tick.Stop()
	for ctx.Err() == nil {
		for host, agent := range l.agents {
			go func() {
				ctx, cancel := context.WithTimeout(ctx, deadMan/2)
				defer cancel()
				fell := false
				if agent.Do(ctx, control.WordAlive, control.Ask{}, &fell); fell {
					select {
					case l.fell <- host:
					default: // one is enough
					}
				}
			}()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// forgotten waits for a host whose dead man's switch fell though we live; see
// Cluster.Halts.
func (l *linuxLab) forgotten(ctx context.Context) error {
	select {
	case host := <-l.fell:
		return fmt.Errorf("%s had not heard of etcdrill for %s: it undid all that was done to it and %s its member. Look at the load of this machine and at the network between them", host, deadMan, map[bool]string{true: "started", false: "stopped"}[l.record.Spec.Adopt != nil])
	case <-ctx.Done():
		return nil
	}
}

// all asks every host.
func (l *linuxLab) all(ctx context.Context, word string, a control.Ask) error {
	return each(ctx, l.Hosts, func(ctx context.Context, _ int, h lab.Host) error {
		return l.agents[h.Name()].Do(ctx, word, a, nil)
	})
}

// each does something on all hosts at once; the errors of all are returned.
func each(ctx context.Context, hosts []lab.Host, do func(context.Context, int, lab.Host) error) error {
	errs := make([]error, len(hosts))
	var g errgroup.Group
	for i, h := range hosts {
		g.Go(func() error {
			errs[i] = do(ctx, i, h)
			return nil
		})
	}
	g.Wait()
	return errors.Join(errs...)
}

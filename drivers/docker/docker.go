package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/etcdrill/etcdrill/drivers/linux"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/lab"
)

// Name is the driver's word for --driver.
const Name = "docker"

// Options are what a Driver needs to know; all have defaults.
type Options struct {
	// Root is the directory under which the local side of labs lies, as in
	// package local; labs are in its directory docker.
	Root string
	// Binary is a static Linux executable whose main function begins with
	// tools.Main. It becomes part of the hosts' image. The running executable
	// when empty.
	Binary string
	// Drill names what labs are made for, for Left.
	Drill string
	// Tunnel says that hosts are reached through the engine alone, also where
	// this machine has a way of its own to them.
	Tunnel bool
	// Say is told about what takes long; may be nil.
	Say func(what string)
}

// Driver makes labs of containers. It implements lab.Driver.
type Driver struct {
	options Options
	root    string
	engine  *client.Client
	err     error // why there is no root or no engine

	mu    sync.Mutex
	owned map[string]func() // how to end saying that we live, by lab
	hosts map[string]*Host  // by container
}

// New makes a driver for the engine that DOCKER_HOST names, with
// DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, else the one of this machine. It
// touches nothing.
func New(o Options) *Driver {
	d := &Driver{options: o, owned: map[string]func(){}, hosts: map[string]*Host{}}
	if d.root, d.err = place.Root(o.Root); d.err == nil {
		d.engine, d.err = client.New(client.FromEnv)
	}
	return d
}

// Name implements lab.Driver.
func (d *Driver) Name() string { return Name }

// Caps implements lab.Driver. It looks for an engine, and whether it has or can
// get the hosts' image.
func (d *Driver) Caps(ctx context.Context) lab.Caps {
	caps := d.abilities()
	err := d.present(ctx)
	if err == nil {
		err = d.imaginable(ctx)
	}
	if err != nil {
		for c := range caps {
			caps[c] = err.Error()
		}
	}
	return caps
}

// abilities of labs in containers.
func (d *Driver) abilities() lab.Caps {
	return lab.Caps{
		lab.CapSignal: "",
		lab.CapLinks:  "",
		lab.CapBinary: "",
		lab.CapTrace:  "",
		lab.CapUnits:  "",
		lab.CapDNS:    "",
		lab.CapPower:  "",
		lab.CapSmall:  "",
		lab.CapClock:  "containers share the clock of their machine",
	}
}

// Prepare makes the image of hosts, unless it is there. Up does so too; but the
// first time it takes a minute or more.
func (d *Driver) Prepare(ctx context.Context) error {
	if err := d.present(ctx); err != nil {
		return err
	}
	_, err := d.image(ctx)
	return err
}

func (d *Driver) say(format string, args ...any) {
	if d.options.Say != nil {
		d.options.Say(fmt.Sprintf(format, args...))
	}
}

// present tells why there is no engine that runs hosts, nil when there is.
func (d *Driver) present(ctx context.Context) error {
	if d.err != nil {
		return d.err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ping, err := d.engine.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	if err != nil {
		return fmt.Errorf("no container engine answers at %s: start it, or name another one in DOCKER_HOST (%w)", d.engine.DaemonHost(), err)
	}
	if ping.OSType != "linux" {
		return fmt.Errorf("the container engine at %s runs %s containers: hosts are Linux ones", d.engine.DaemonHost(), ping.OSType)
	}
	return nil
}

// away waits for the engine to go away, which takes its containers with it or
// leaves them to nobody; see lab.Cluster.Halts. One that was restarted did too:
// its stream of events ends with it.
func (d *Driver) away(ctx context.Context, id string) error {
	stream := d.engine.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("label", labelLab+"="+id)})
	for {
		select {
		case <-stream.Messages:
		case err := <-stream.Err:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the container engine at %s went away or was restarted (%w): look at its log, and let etcdrill gc remove what is left", d.engine.DaemonHost(), err)
		}
	}
}

// dir is a lab's directory on this machine.
func (d *Driver) dir(id string) (string, error) {
	if d.err != nil {
		return "", d.err
	}
	return filepath.Join(d.root, Name, id), place.CheckID(id)
}

// record is docker.json in a lab's directory, there before anything else of a
// lab is, and also what the labels of all of it say.
type record struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Owner   owner     `json:"owner"`
	Drill   string    `json:"drill,omitempty"`
}

func recordPath(dir string) string { return filepath.Join(dir, "docker.json") }

func (r record) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(recordPath(dir), append(data, '\n'), 0o600)
}

func readRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(recordPath(dir))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", recordPath(dir), err)
	}
	return r, nil
}

// host is the host of a container, the same each time, so that it is entered
// once.
func (d *Driver) host(id, name, addr string, direct bool) *Host {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := containerName(id, name)
	h := d.hosts[c]
	if h == nil {
		h = newHost(name, addr, hostDir(id), func(ctx context.Context) (net.Conn, error) {
			return enter(ctx, d.engine, c, hostDir(id))
		})
		h.direct, h.engine, h.container = direct, d.engine, c
		h.binary, _ = d.binary()
		d.hosts[c] = h
	}
	return h
}

// letGo gives up a lab: it is not ours, and its hosts are not asked any more.
func (d *Driver) letGo(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if release := d.owned[id]; release != nil {
		release()
	}
	delete(d.owned, id)
	for c, h := range d.hosts {
		if h.dir == hostDir(id) {
			delete(d.hosts, c)
			h.close()
		}
	}
}

// cleanUp is how long a lab may take to go away.
const cleanUp = 60 * time.Second

// Up implements lab.Driver.
func (d *Driver) Up(ctx context.Context, id string, spec lab.Spec) (*lab.Cluster, error) {
	dir, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*lab.Cluster, error) { return nil, fmt.Errorf("lab %s: %w", id, err) }
	if err := spec.Valid(); err != nil {
		return fail(err)
	}
	if err := d.present(ctx); err != nil {
		return fail(err)
	}
	r, err := d.claim(ctx, id, dir)
	if err != nil {
		return fail(err)
	}
	c, err := d.up(ctx, r, dir, spec)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		if derr := d.Down(ctx, id); derr != nil {
			err = fmt.Errorf("%w; and it is not all gone: %w", err, derr)
		}
		return fail(err)
	}
	return c, nil
}

// claim makes a lab's directory and says in it whose it is.
func (d *Driver) claim(ctx context.Context, id, dir string) (record, error) {
	me, err := self()
	if err != nil {
		return record{}, err
	}
	r := record{ID: id, Created: time.Now().UTC(), Owner: me, Drill: d.options.Drill}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return r, err
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return r, fmt.Errorf("it exists already: choose another name, or take it down (etcdrill down %s)", id)
	} else if err != nil {
		return r, err
	}
	err = r.write(dir)
	if err == nil {
		var all map[string]*remains
		if all, err = d.find(ctx, id); all[id] != nil {
			err = fmt.Errorf("the engine has one already, made by %s: choose another name, or take it down (etcdrill down %s)", all[id].record.Owner, id)
		}
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return r, err
}

func (d *Driver) up(ctx context.Context, r record, dir string, spec lab.Spec) (*lab.Cluster, error) {
	names := []string{}
	for i := range spec.Members + spec.Spares {
		names = append(names, fmt.Sprintf("m%d", i+1))
	}
	for name := range spec.EtcdOf {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("etcd-of: no member %q in this lab: it has %s", name, strings.Join(names, ", "))
		}
	}
	hosts, direct, err := d.machines(ctx, r, names)
	if err != nil {
		return nil, err
	}
	binary, err := d.binary()
	if err != nil {
		return nil, err
	}
	c, release, err := linux.Up(ctx, linux.Options{
		ID: r.ID, Driver: Name, Drill: r.Drill, Dir: dir, Spec: spec,
		Binary: binary, Tunnel: !direct, Caps: d.abilities(), Say: d.options.Say,
	}, hosts)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.owned[r.ID] = release
	c.Halts = append(c.Halts, func(ctx context.Context) error { return d.away(ctx, r.ID) })
	return withPower(c), nil
}

// machines makes the network and the hosts of a lab and waits until their
// systemd is up. It tells whether the hosts can be reached without a tunnel.
func (d *Driver) machines(ctx context.Context, r record, names []string) (hosts []lab.Host, direct bool, err error) {
	labels, err := r.labels()
	if err != nil {
		return nil, false, err
	}
	image, err := d.image(ctx)
	if err != nil {
		return nil, false, err
	}
	containers, err := d.containers(networkName(r.ID))
	if err != nil {
		return nil, false, err
	}
	// What an engine was asked to make it makes, also when nobody waits for
	// the answer any more: it has to be waited for, or it would appear after
	// everything was removed.
	sure, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	subnet, err := d.addNetwork(sure, r.ID, labels)
	if err != nil {
		return nil, false, fmt.Errorf("network: %w", err)
	}
	made := make([]*Host, len(names))
	err = each(names, func(i int, name string) error {
		addr, err := subnet.host(i)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := d.addHost(sure, containers, image, r.ID, name, addr, labels); err != nil {
			return err
		}
		if i == 0 {
			direct = !d.options.Tunnel && reaches(ctx, subnet, addr.String())
		}
		made[i] = d.host(r.ID, name, addr.String(), false)
		return made[i].booted(ctx)
	})
	if err != nil {
		return nil, false, err
	}
	for _, h := range made {
		h.direct = direct
		hosts = append(hosts, h)
	}
	return hosts, direct, nil
}

// Open implements lab.Driver.
func (d *Driver) Open(ctx context.Context, id string) (*lab.Cluster, error) {
	dir, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	r, err := linux.ReadRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab %s in %s: %w", id, filepath.Dir(dir), fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	c, err := linux.Open(dir, func(s linux.Seat) (lab.Host, error) {
		return d.host(id, s.Name, s.Addr, !r.Tunnel), nil
	})
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	return withPower(c), nil
}

// withPower gives a cluster its power switch.
func withPower(c *lab.Cluster) *lab.Cluster {
	p := power{}
	for _, h := range c.Hosts {
		p[h.Name()] = linux.Bare(h).(*Host)
	}
	c.Power = p
	return c
}

// Keep implements lab.Driver. That a lab is to stay is said by a volume, since
// labels cannot be changed.
func (d *Driver) Keep(ctx context.Context, id string) error {
	c, err := d.Open(ctx, id)
	if err != nil {
		return err
	}
	r, err := readRecord(c.Dir)
	if err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	labels, err := r.labels()
	if err != nil {
		return err
	}
	if err := linux.Keep(ctx, c.Dir, c.Hosts); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	if _, err := d.engine.VolumeCreate(ctx, client.VolumeCreateOptions{
		Name: volumeName(id, "keep"), Labels: with(labels, labelKeep, "true"),
	}); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	return nil
}

// Down implements lab.Driver. What must go is found by its label.
func (d *Driver) Down(ctx context.Context, id string) error {
	dir, err := d.dir(id)
	if err != nil {
		return err
	}
	d.letGo(id)
	if err := d.present(ctx); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	if err := d.remove(ctx, id); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	return nil
}

// Left implements lab.Driver. It finds labs of other users and machines too,
// when they are in the same engine; of those made on another machine it is not
// known whether their maker lives, so they are said to be owned.
func (d *Driver) Left(ctx context.Context) ([]lab.Left, error) {
	if d.err != nil {
		return nil, d.err
	}
	labs := filepath.Join(d.root, Name)
	entries, err := os.ReadDir(labs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found := map[string]lab.Left{}
	for _, e := range entries {
		if place.CheckID(e.Name()) != nil || !e.IsDir() {
			continue
		}
		dir := filepath.Join(labs, e.Name())
		l := lab.Left{ID: e.Name(), What: []string{"directory " + dir}}
		if r, err := readRecord(dir); err == nil {
			l.Created, l.Drill, l.Owned = r.Created, r.Drill, r.Owner.lives()
		} else if info, err := e.Info(); err == nil {
			l.Created = info.ModTime().UTC() // half gone
		}
		found[l.ID] = l
	}
	if err := d.present(ctx); err != nil {
		if len(found) == 0 {
			return nil, nil // no engine, no labs
		}
		return nil, err
	}
	all, err := d.find(ctx, "")
	if err != nil {
		return nil, err
	}
	for id, r := range all {
		l := found[id]
		l.ID, l.Created, l.Drill = id, r.record.Created, r.record.Drill
		l.Keep, l.Owned = r.keep, r.record.Owner.lives()
		l.What = append(l.What, r.what...)
		found[id] = l
	}
	return slices.SortedFunc(maps.Values(found), func(a, b lab.Left) int {
		return strings.Compare(a.ID, b.ID)
	}), nil
}

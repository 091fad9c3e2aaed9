package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/drivers/linux"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// Name is the driver's word for --driver.
const Name = "ssh"

// Options are what a Driver needs to know.
type Options struct {
	// Root is the directory under which the local side of labs lies, as in
	// package local; labs are in its directory ssh.
	Root string
	// Binary is a static Linux executable whose main function begins with
	// tools.Main. It is put on the hosts. The running executable when empty.
	Binary string
	// Drill names what labs are made for, for Left.
	Drill string
	// Inventory is the file with the machines. Labs that exist can be used and
	// taken down without it.
	Inventory string
	// AcceptNew lets hosts in that known_hosts does not know, and adds them to
	// it. A host whose key changed is never let in.
	AcceptNew bool
	// Prefix is the directory for labs on the hosts; /var/lib/etcdrill when
	// empty.
	Prefix string
	// Say is told what makes a lab worth less; may be nil.
	Say func(what string)
}

// Driver makes labs on the machines of an inventory. It implements lab.Driver.
// Its connections live as long as the process, or until Close.
type Driver struct {
	options Options
	root    string
	err     error // why there is no root
	net     *network

	mu    sync.Mutex
	owned map[string]func() // how to end saying that we live, by lab
	hosts map[string]*Host  // by machine, name and directory
}

// New makes a driver. It touches nothing.
func New(o Options) *Driver {
	if o.Prefix == "" {
		o.Prefix = "/var/lib/etcdrill"
	}
	d := &Driver{options: o, net: newNetwork(o.AcceptNew), owned: map[string]func(){}, hosts: map[string]*Host{}}
	d.root, d.err = place.Root(o.Root)
	return d
}

// Name implements lab.Driver.
func (d *Driver) Name() string { return Name }

// Close ends all connections. Labs go the way of labs whose owner has ended.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, release := range d.owned {
		release()
	}
	for _, h := range d.hosts {
		h.Close()
	}
	d.net.close()
	return nil
}

// host returns the host that a machine is under a name and with a directory,
// the same each time, so that it is logged in to once.
func (d *Driver) host(m Machine, name, addr, dir string) *Host {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := fmt.Sprint(m.Login, m.Sudo, " ", name, " ", addr, " ", dir)
	if d.hosts[key] == nil {
		d.hosts[key] = newNetHost(d.net, m, d.options.Inventory, name, addr, dir)
	}
	return d.hosts[key]
}

// Host returns a machine of the inventory outside of any lab, under its own
// name, for marking it. Commands run in /proc unless they name a directory.
func (d *Driver) Host(name string) (*Host, error) {
	inv, err := d.inventory()
	if err != nil {
		return nil, err
	}
	m, err := inv.Machine(name)
	if err != nil {
		return nil, err
	}
	return d.bare(m), nil
}

// Machines returns all machines of the inventory like Host does.
func (d *Driver) Machines() ([]*Host, error) {
	inv, err := d.inventory()
	if err != nil {
		return nil, err
	}
	var out []*Host
	for _, m := range inv.Machines {
		out = append(out, d.bare(m))
	}
	return out, nil
}

func (d *Driver) bare(m Machine) *Host { return d.host(m, m.Name, m.Login.Address, d.options.Prefix) }

func (d *Driver) inventory() (*Inventory, error) {
	if d.options.Inventory == "" {
		return nil, errors.New("no inventory: name the file with the machines by --inventory FILE")
	}
	return ReadInventory(d.options.Inventory)
}

// Caps implements lab.Driver. Whether the machines own their clocks is asked
// of them; those that do not answer are no reason to do without.
func (d *Driver) Caps(ctx context.Context) lab.Caps {
	caps := abilities()
	inv, err := d.inventory()
	if err == nil {
		err = d.err
	}
	if err != nil {
		for c := range caps {
			caps[c] = err.Error()
		}
		return caps
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var hosts []*Host
	for _, m := range inv.Machines {
		hosts = append(hosts, d.bare(m))
	}
	looks := make([]look, len(hosts))
	d.each(ctx, hosts, func(ctx context.Context, i int, h *Host) (err error) {
		looks[i], err = h.look(ctx, d.options.Prefix)
		return err
	})
	own(caps, hosts, looks)
	return caps
}

// LinksBy tells what would make the links of a lab on all machines, and why it
// is not more of their kernels.
func (d *Driver) LinksBy(ctx context.Context) string {
	machines, err := d.Machines()
	if err != nil {
		return "not known: " + err.Error()
	}
	var hosts []lab.Host
	for _, h := range machines {
		addr, err := h.machine.addr(ctx, len(machines) > 1)
		if err != nil {
			return "not known: " + err.Error()
		}
		hosts = append(hosts, d.host(h.machine, h.name, addr, h.dir))
	}
	by, why, err := linux.Links(ctx, "", hosts)
	if err != nil {
		return "not known: " + err.Error()
	}
	if why != "" {
		return fmt.Sprintf("%s (%s)", by, why)
	}
	return by.String()
}

// abilities of labs on machines.
func abilities() lab.Caps {
	return lab.Caps{
		lab.CapSignal: "",
		lab.CapLinks:  "",
		lab.CapBinary: "",
		lab.CapTrace:  "",
		lab.CapUnits:  "",
		lab.CapDNS:    "",
		lab.CapPower:  "",
		lab.CapClock:  "",
		lab.CapSmall:  "",
		lab.CapAdopt:  "",
	}
}

// own sets the abilities that not all machines have.
func own(caps lab.Caps, hosts []*Host, looks []look) {
	for i, h := range hosts {
		if len(h.machine.Power.Off) == 0 {
			caps[lab.CapPower] = fmt.Sprintf("the inventory does not say how to switch %s off and on (power)", h.machine.Name)
		}
		if looks[i].container {
			caps[lab.CapClock] = fmt.Sprintf("%s is a container and shares the clock of its machine", h.machine.Name)
		}
	}
}

// each is Each with the number of the host.
func (d *Driver) each(ctx context.Context, hosts []*Host, f func(ctx context.Context, i int, h *Host) error) error {
	return Each(ctx, hosts, func(ctx context.Context, h *Host) error { return f(ctx, slices.Index(hosts, h), h) })
}

// dir is a lab's directory on this machine.
func (d *Driver) dir(id string) (string, error) {
	if d.err != nil {
		return "", d.err
	}
	return filepath.Join(d.root, Name, id), place.CheckID(id)
}

// record is ssh.json in a lab's directory on this machine, there before
// anything of the lab is on a host, and owner.json in its directory on each
// host, without the machines.
type record struct {
	ID      string          `json:"id"`
	Created time.Time       `json:"created"`
	Owner   owner           `json:"owner"`
	Drill   string          `json:"drill,omitempty"`
	Keep    bool            `json:"keep"`
	Dir     string          `json:"dir"`             // on the hosts
	Looks   bool            `json:"looks,omitempty"` // nothing of the lab is on the hosts
	Seats   map[string]seat `json:"seats,omitempty"`
}

type seat struct {
	Machine Machine `json:"machine"`
	Addr    string  `json:"addr"`
}

// owner is the process that made a lab.
type owner struct {
	process.Life
	Machine string `json:"machine"` // that it is on
}

func (o owner) String() string { return fmt.Sprintf("process %d on %s", o.PID, o.Machine) }

// lives tells whether the owner does. Of another machine that is not known; it
// is said to live, since what nobody owns is removed.
func (o owner) lives() bool {
	here, err := os.Hostname()
	return err != nil || o.Machine != here || o.Alive()
}

const ownerFile = "owner.json"

func recordFile(dir string) string { return filepath.Join(dir, "ssh.json") }

func (r record) text() []byte {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // plain data
	}
	return append(text, '\n')
}

// onHost is the part of the record that hosts get.
func (r record) onHost() []byte {
	r.Seats = nil
	return r.text()
}

func (r record) write(dir string) error {
	file := recordFile(dir)
	if err := os.WriteFile(file+".new", r.text(), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func readRecord(dir string) (record, error) {
	var r record
	text, err := os.ReadFile(recordFile(dir))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", recordFile(dir), err)
	}
	return r, nil
}

// same tells whether two records are of one lab, and not of two with one name.
func (r record) same(o record) bool {
	return r.ID == o.ID && r.Created.Equal(o.Created) && r.Owner == o.Owner
}

// hostsOf are the hosts of a lab, in order of name.
func (d *Driver) hostsOf(r record) []*Host {
	var out []*Host
	for i := range len(r.Seats) {
		name := fmt.Sprintf("m%d", i+1)
		if s, ok := r.Seats[name]; ok {
			out = append(out, d.host(s.Machine, name, s.Addr, r.Dir))
		}
	}
	return out
}

// cleanUp is how long a lab that could not be made may take to go away.
const cleanUp = 60 * time.Second

// Up implements lab.Driver. It takes the first machines of the inventory, all
// of which must be marked, run systemd, and run no etcd but that of other labs.
// A cluster that is to be adopted runs on the machines that its spec names;
// they must be marked unless it is only looked at.
func (d *Driver) Up(ctx context.Context, id string, spec lab.Spec) (*lab.Cluster, error) {
	dir, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*lab.Cluster, error) { return nil, fmt.Errorf("lab %s: %w", id, err) }
	if err := spec.Valid(); err != nil {
		return fail(err)
	}
	r, err := d.plan(ctx, id, spec)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fail(err)
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return fail(fmt.Errorf("it exists already: choose another name, or take it down (etcdrill down %s)", id))
	} else if err != nil {
		return fail(err)
	}
	c, err := d.up(ctx, r, dir, spec)
	if err == nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	// Without a record nothing was touched, and what is there is not ours.
	derr := os.Remove(dir)
	if derr != nil {
		derr = d.Down(ctx, id)
	}
	if derr != nil {
		err = fmt.Errorf("%w; and it is not all gone: %w", err, derr)
	}
	return fail(err)
}

// plan chooses the machines of a lab.
func (d *Driver) plan(ctx context.Context, id string, spec lab.Spec) (record, error) {
	inv, err := d.inventory()
	if err != nil {
		return record{}, err
	}
	if spec.Adopt != nil {
		return d.planAdoption(ctx, id, inv, spec.Adopt)
	}
	n := spec.Members + spec.Spares
	if have := len(inv.Machines); have < n {
		return record{}, fmt.Errorf("%s has %d hosts, and %d are needed (%d members, %d spares): add hosts, or choose a smaller cluster", inv.File, have, n, spec.Members, spec.Spares)
	}
	r, err := d.begin(id)
	if err != nil {
		return record{}, err
	}
	by := map[string]string{}
	for i, m := range inv.Machines[:n] {
		addr, err := m.addr(ctx, n > 1)
		if err != nil {
			return record{}, fmt.Errorf("%s: %w", inv.File, err)
		}
		if by[addr] != "" {
			return record{}, fmt.Errorf("%s: %s and %s both have the address %s: give them different ones by `internal`", inv.File, by[addr], m.Name, addr)
		}
		by[addr] = m.Name
		r.Seats[fmt.Sprintf("m%d", i+1)] = seat{m, addr}
	}
	for name := range spec.EtcdOf {
		if _, ok := r.Seats[name]; !ok {
			return record{}, fmt.Errorf("etcd-of: no member %q in this lab: it has m1 to m%d", name, n)
		}
	}
	return r, nil
}

// begin is the record of a lab without hosts yet.
func (d *Driver) begin(id string) (record, error) {
	life, err := process.Self()
	if err != nil {
		return record{}, err
	}
	here, err := os.Hostname()
	if err != nil {
		return record{}, err
	}
	return record{ID: id, Created: time.Now().UTC(), Owner: owner{life, here}, Drill: d.options.Drill, Dir: path.Join(d.options.Prefix, id), Seats: map[string]seat{}}, nil
}

// addr is the IP under which the other hosts reach a machine.
func (m Machine) addr(ctx context.Context, others bool) (string, error) {
	name, from := m.Internal, "internal"
	if name == "" {
		name, from = m.Login.Address, "address"
	}
	ip := net.ParseIP(name)
	if ip == nil {
		found, err := net.DefaultResolver.LookupIP(ctx, "ip", name)
		if err != nil {
			return "", fmt.Errorf("host %s: %s %s: %w: give the IP under which the other hosts reach it by `internal`", m.Name, from, name, err)
		}
		ip = found[0]
		if i := slices.IndexFunc(found, func(ip net.IP) bool { return ip.To4() != nil }); i >= 0 {
			ip = found[i]
		}
	}
	if ip.IsLoopback() && others {
		return "", fmt.Errorf("host %s: its address is %s, which is each host itself: give the IP under which the other hosts reach it by `internal`", m.Name, ip)
	}
	return ip.String(), nil
}

func (d *Driver) up(ctx context.Context, r record, dir string, spec lab.Spec) (*lab.Cluster, error) {
	hosts, caps := d.hostsOf(r), abilities()
	if !r.Looks {
		if err := d.mayBreak(ctx, r, caps, spec.Adopt != nil); err != nil {
			return nil, err
		}
	}
	binary := d.options.Binary
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	up := linux.Up
	if spec.Adopt != nil {
		up = linux.Adopt
	}
	if err := d.take(ctx, r, dir); err != nil {
		return nil, err
	}
	var all []lab.Host
	for _, h := range hosts {
		all = append(all, h)
	}
	c, release, err := up(ctx, linux.Options{ID: r.ID, Driver: Name, Drill: r.Drill, Dir: dir, Spec: spec, Binary: binary, Tunnel: true, Caps: caps, Say: d.options.Say}, all)
	if release != nil {
		d.mu.Lock()
		d.owned[r.ID] = release
		d.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	d.finish(c, hosts)
	return c, nil
}

// mayBreak refuses machines that carry no mark, or hold what a lab would touch,
// and finds out what not all of them can do.
func (d *Driver) mayBreak(ctx context.Context, r record, caps lab.Caps, adopts bool) error {
	hosts := d.hostsOf(r)
	looks := make([]look, len(hosts))
	err := d.each(ctx, hosts, func(ctx context.Context, i int, h *Host) (err error) {
		if _, err := h.Marked(ctx); err != nil {
			return err
		}
		if looks[i], err = h.look(ctx, d.options.Prefix); err != nil {
			return err
		}
		if adopts {
			looks[i].etcd = nil // that is what we come for
		}
		return looks[i].fit(h, r.ID)
	})
	own(caps, hosts, looks)
	return err
}

// finish adds what only this driver knows.
func (d *Driver) finish(c *lab.Cluster, hosts []*Host) {
	if c.Caps[lab.CapPower] == "" {
		c.Power = power(hosts)
	}
	c.Forbids = func(member, fault string) bool {
		h, err := power(hosts).host(member)
		return err != nil || !h.machine.Allows(fault)
	}
	c.Halts = append(c.Halts, distrusted(hosts))
}

// distrusted waits for a host that is not who it was. A connection that is lost
// is made again sooner or later, so it is seen who answers.
func distrusted(hosts []*Host) func(context.Context) error {
	return func(ctx context.Context) error {
		found := make(chan error, len(hosts))
		for _, h := range hosts {
			stop := context.AfterFunc(h.client.trusted, func() { found <- fmt.Errorf("%s: %w", h, context.Cause(h.client.trusted)) })
			defer stop()
		}
		select {
		case err := <-found:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// power is the power switch of a lab. It implements lab.Power.
type power []*Host

func (p power) host(name string) (*Host, error) {
	if i := slices.IndexFunc(p, func(h *Host) bool { return h.name == name }); i >= 0 {
		return p[i], nil
	}
	return nil, fmt.Errorf("no host %q in this lab", name)
}

// Off implements lab.Power.
func (p power) Off(ctx context.Context, host string) error {
	h, err := p.host(host)
	if err != nil {
		return err
	}
	return h.PowerOff(ctx)
}

// On implements lab.Power.
func (p power) On(ctx context.Context, host string) error {
	h, err := p.host(host)
	if err != nil {
		return err
	}
	return h.PowerOn(ctx)
}

// Open implements lab.Driver. It does not connect yet.
func (d *Driver) Open(ctx context.Context, id string) (*lab.Cluster, error) {
	dir, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab %s in %s: %w", id, filepath.Dir(dir), fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	hosts := d.hostsOf(r)
	c, err := linux.Open(dir, func(s linux.Seat) (lab.Host, error) {
		h, err := power(hosts).host(s.Name)
		if err != nil {
			return nil, err
		}
		return h, nil
	})
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	d.finish(c, hosts)
	return c, nil
}

// Keep implements lab.Driver.
func (d *Driver) Keep(ctx context.Context, id string) error {
	c, err := d.Open(ctx, id)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("lab %s: %w", id, err) }
	r, err := readRecord(c.Dir)
	if err != nil {
		return fail(err)
	}
	if err := linux.Keep(ctx, c.Dir, c.Hosts); err != nil {
		return fail(err)
	}
	r.Keep = true
	hosts := c.Hosts
	if r.Looks {
		hosts = nil
	}
	if err := Each(ctx, hosts, func(ctx context.Context, h lab.Host) error { return h.Put(ctx, ownerFile, 0o600, r.onHost()) }); err != nil {
		return fail(err)
	}
	if err := r.write(c.Dir); err != nil {
		return fail(err)
	}
	return nil
}

// Down implements lab.Driver. It goes by the record of the lab on this machine.
// Where there is none, by what the hosts of the inventory have of that name. A
// host that cannot be reached is an error, and the record stays, so that it can
// be tried again.
func (d *Driver) Down(ctx context.Context, id string) error {
	dir, err := d.dir(id)
	if err != nil {
		return err
	}
	fail := func(err error) error { return fmt.Errorf("lab %s: %w", id, err) }
	d.mu.Lock()
	release := d.owned[id]
	delete(d.owned, id)
	d.mu.Unlock()
	if release != nil {
		release()
	}
	r, err := readRecord(dir)
	var hosts []*Host
	switch {
	case err == nil && r.Looks:
	case err == nil:
		hosts = d.hostsOf(r)
	case !errors.Is(err, fs.ErrNotExist):
		return fail(err)
	case d.options.Inventory != "":
		all, err := d.Machines()
		if err != nil {
			return fail(err)
		}
		for _, h := range all {
			hosts = append(hosts, d.host(h.machine, h.machine.Name, h.machine.Login.Address, path.Join(d.options.Prefix, id)))
		}
	}
	err = Each(ctx, hosts, func(ctx context.Context, h *Host) error {
		if r.ID != "" {
			if there, err := h.owner(ctx); err == nil && !there.same(r) {
				return fmt.Errorf("the lab there is another one of that name, made by %s: it was not touched", there.Owner)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return linux.GiveBack(ctx, h, id)
	})
	if err == nil && len(hosts) > 0 {
		err = d.removeKeys(ctx, id)
	}
	if err == nil {
		err = Each(ctx, hosts, func(ctx context.Context, h *Host) error { return linux.Down(ctx, h, id) })
	}
	if err != nil {
		return fail(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fail(err)
	}
	return nil
}

// take writes the record of a lab and makes its directory on each of its hosts.
// From here on there is something to remove; on a host where somebody was
// quicker there is nothing of ours, and the record says so.
func (d *Driver) take(ctx context.Context, r record, dir string) error {
	hosts := d.hostsOf(r)
	if err := r.write(dir); err != nil {
		return err
	}
	if r.Looks {
		return nil
	}
	var mu sync.Mutex
	err := Each(ctx, hosts, func(ctx context.Context, h *Host) error {
		err := h.take(ctx, r)
		if exit := (*lab.ExitError)(nil); errors.As(err, &exit) {
			mu.Lock()
			defer mu.Unlock()
			delete(r.Seats, h.name)
			err = fmt.Errorf("%s: could not make %s, perhaps since somebody makes a lab of that name just now: %s", h, h.dir, exit.Text())
		}
		return err
	})
	if err != nil {
		return errors.Join(err, r.write(dir))
	}
	return nil
}

// takeScript makes a directory with a file in it at once, and fails when there
// is one of that name with anything in it.
//
//	$1 directory  $2 name of the file  $3 its content
const takeScript = `
umask 077
new=${1%/*}/.${1##*/}.new.$$
mkdir -p -- "${1%/*}" && mkdir -- "$new" && printf %s "$3" >"$new/$2" && mv -T -- "$new" "$1" || { rm -rf "$new"; exit 1; }
`

// take makes a lab's directory on the host, and says in it whose it is.
func (h *Host) take(ctx context.Context, r record) error {
	_, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", takeScript, "sh", h.dir, ownerFile, string(r.onHost())}})
	return err
}

// Warnings says what makes labs on the machines worth less, nothing when there
// is nothing. Machines that do not answer, and those that no lab with TLS can be
// made on, are an error beside it.
func (d *Driver) Warnings(ctx context.Context) ([]string, error) {
	hosts, err := d.Machines()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var clocks []linux.Reading
	err = Each(ctx, hosts, func(ctx context.Context, h *Host) error {
		r, err := linux.Read(ctx, h)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		clocks = append(clocks, r)
		return r.Fit()
	})
	slices.SortFunc(clocks, func(a, b linux.Reading) int { return strings.Compare(a.Host, b.Host) })
	if what := linux.Skew(clocks); what != "" {
		return []string{what}, err
	}
	return nil, err
}

// owner reads whose a lab on the host is.
func (h *Host) owner(ctx context.Context) (record, error) {
	var r record
	text, err := h.Get(ctx, ownerFile)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %s: %w", h, path.Join(h.dir, ownerFile), err)
	}
	return r, nil
}

// Left implements lab.Driver: labs that this machine has a record of, and all
// that are found on the hosts of the inventory, those of other people too. Of
// the latter it is not known whether their maker lives, so they are said to be
// owned. Hosts that do not answer are an error beside what was found.
func (d *Driver) Left(ctx context.Context) ([]lab.Left, error) {
	if d.err != nil {
		return nil, d.err
	}
	found := map[string]lab.Left{}
	labs := filepath.Join(d.root, Name)
	entries, err := os.ReadDir(labs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if place.CheckID(e.Name()) != nil || !e.IsDir() {
			continue
		}
		dir := filepath.Join(labs, e.Name())
		l := lab.Left{ID: e.Name(), What: []string{"directory " + dir}}
		if r, err := readRecord(dir); err == nil {
			l.Created, l.Drill, l.Keep, l.Owned = r.Created, r.Drill, r.Keep, r.Owner.lives()
		} else if info, err := e.Info(); err == nil {
			l.Created = info.ModTime().UTC() // half made or half gone
		}
		found[l.ID] = l
	}
	if d.options.Inventory == "" {
		return sorted(found), nil
	}
	hosts, err := d.Machines()
	if err != nil {
		return sorted(found), err
	}
	var mu sync.Mutex
	err = Each(ctx, hosts, func(ctx context.Context, h *Host) error {
		here, err := h.labs(ctx, d.options.Prefix)
		mu.Lock()
		defer mu.Unlock()
		for id, r := range here {
			l, known := found[id]
			if l.ID = id; !known {
				l.Created, l.Drill, l.Keep, l.Owned = r.Created, r.Drill, r.Keep, r.ID != "" && r.Owner.lives()
			}
			l.What = append(l.What, fmt.Sprintf("%s on %s", path.Join(d.options.Prefix, id), h.machine.Name))
			found[id] = l
		}
		return err
	})
	return sorted(found), err
}

func sorted(found map[string]lab.Left) []lab.Left {
	return slices.SortedFunc(maps.Values(found), func(a, b lab.Left) int { return strings.Compare(a.ID, b.ID) })
}

// labs are the labs on a machine, by directories and units. The record of one
// that nobody says to be his is empty.
func (h *Host) labs(ctx context.Context, prefix string) (map[string]record, error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"find", prefix, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-printf", `%f\n`}})
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) { // no such directory: no labs
		return nil, err
	}
	ids, err := linux.Left(ctx, h)
	if err != nil {
		return nil, err
	}
	found := map[string]record{}
	for _, id := range append(strings.Fields(string(out.Stdout)), ids...) {
		if place.CheckID(id) != nil {
			continue
		}
		at := *h
		at.dir = path.Join(prefix, id)
		if found[id], err = at.owner(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return found, nil
}

// look is what a machine says of itself.
type look struct {
	container bool
	labs      map[string]record
	etcd      []string // pids of etcd that is in no lab of ours
}

// lookScript prints facts, one on a line.
const lookScript = `
systemd-detect-virt -cq 2>/dev/null && echo container
for p in /proc/[0-9]*; do
	read -r name <$p/comm || continue
	[ "$name" = etcd ] || continue
	case $(cat $p/cgroup) in *etcdrill-*) ;; *) echo "etcd ${p#/proc/}" ;; esac
done 2>/dev/null
:
`

func (h *Host) look(ctx context.Context, prefix string) (look, error) {
	var l look
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", lookScript}})
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(out.Stdout)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "container":
			l.container = true
		case "etcd":
			l.etcd = append(l.etcd, rest)
		}
	}
	l.labs, err = h.labs(ctx, prefix)
	return l, err
}

// fit refuses a machine that a lab must not be made on.
func (l look) fit(h *Host, id string) error {
	if r, ok := l.labs[id]; ok {
		return fmt.Errorf("%s: there is a lab %s already, made by %s: choose another name, or take it down (etcdrill down %s)", h, id, r.Owner, id)
	}
	if len(l.etcd) > 0 {
		return fmt.Errorf("%s: an etcd runs there that etcdrill did not start (process %s): etcdrill breaks hosts, so it stays away from this one", h, strings.Join(l.etcd, ", "))
	}
	return nil
}

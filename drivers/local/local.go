package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/drivers/trace"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Name is the driver's word for --driver.
const Name = "local"

// Options are what a Driver needs to know; all have defaults.
type Options struct {
	// Root is the directory under which labs live: $ETCDRILL_HOME when empty,
	// else $XDG_STATE_HOME/etcdrill, else ~/.local/state/etcdrill.
	Root string
	// Binary is an executable whose main function begins with tools.Main. It
	// becomes the supervisor of labs and the etcd tools of their hosts. The
	// running executable when empty.
	Binary string
	// Drill names what labs are made for, for Left.
	Drill string
}

// Driver makes labs on this machine. It implements lab.Driver.
type Driver struct {
	options Options
	root    string
	err     error // why there is no root

	mu     sync.Mutex
	owned  map[string]int // write ends of the pipes that say that we live, by lab
	traces sync.Once
	trace  string // why not
}

// New makes a driver. It touches nothing.
func New(o Options) *Driver {
	d := &Driver{options: o, owned: map[string]int{}}
	d.root, d.err = place.Root(o.Root)
	return d
}

// LinksBy tells what makes the links of labs.
func (d *Driver) LinksBy(context.Context) string { return linksBy }

// linksBy is lab.Cluster.LinksBy.
const linksBy = "proxy"

// Name implements lab.Driver.
func (d *Driver) Name() string { return Name }

// Caps implements lab.Driver. Tracing is tried on a child, once per Driver.
func (d *Driver) Caps(ctx context.Context) lab.Caps {
	d.traces.Do(func() { d.trace = trace.Probe(context.WithoutCancel(ctx)) })
	return lab.Caps{
		lab.CapSignal: "",
		lab.CapLinks:  "",
		lab.CapBinary: "",
		lab.CapTrace:  d.trace,
		lab.CapDNS:    "",
		lab.CapSmall:  "local labs share the filesystem of this machine",
		lab.CapClock:  "local labs share the clock of this machine",
		lab.CapPower:  "local hosts are processes, not machines",
		lab.CapUnits:  "local hosts are processes, not machines with systemd",
	}
}

func (d *Driver) dir(id string) (dir, error) {
	if d.err != nil {
		return "", d.err
	}
	return dir(filepath.Join(d.root, "labs", id)), place.CheckID(id)
}

// cleanUp is how long a lab that could not be made may take to go away.
const cleanUp = 15 * time.Second

// Up implements lab.Driver.
func (d *Driver) Up(ctx context.Context, id string, spec lab.Spec) (*lab.Cluster, error) {
	where, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	if err := spec.Valid(); err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	if err := os.MkdirAll(filepath.Dir(string(where)), 0o700); err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	if err := os.Mkdir(string(where), 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("lab %s exists already: choose another name, or take it down (etcdrill down %s)", id, id)
	} else if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	caps := make(chan lab.Caps, 1)
	go func() { caps <- d.Caps(ctx) }()
	c, err := d.up(ctx, where, id, spec)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
		defer cancel()
		if derr := d.Down(ctx, id); derr != nil {
			err = fmt.Errorf("%w; and it is not all gone: %w", err, derr)
		}
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	c.setCaps(<-caps)
	return c.Cluster, nil
}

func (d *Driver) up(ctx context.Context, where dir, id string, spec lab.Spec) (*cluster, error) {
	me, err := process.Self()
	if err != nil {
		return nil, err
	}
	r := record{ID: id, Created: time.Now().UTC(), Owner: me, Drill: d.options.Drill, Spec: spec}
	ports, claims, err := claimPorts(string(where), spec.Members+spec.Spares)
	if err != nil {
		return nil, err
	}
	defer closeAll(claims)
	for i, p := range ports {
		r.Seats = append(r.Seats, seat{Name: fmt.Sprintf("m%d", i+1), Addr: fmt.Sprintf("%s%d", addrPrefix, i+1), Ports: p})
	}
	if err := d.lay(where, r); err != nil {
		return nil, err
	}
	if err := d.supervise(ctx, where, r, claims); err != nil {
		return nil, err
	}
	closeAll(claims) // the supervisor has them now
	var pki *etcd.PKI
	if spec.TLS == "mutual" {
		if pki, err = etcd.NewPKI(validity); err != nil {
			return nil, err
		}
		if err := pki.Save(where.join("pki")); err != nil {
			return nil, err
		}
	}
	c, err := newCluster(where, r)
	if err != nil {
		return nil, err
	}
	return c, etcd.Deploy(ctx, c.Cluster, pki)
}

// validity of a lab's certificates: no lab lives that long.
const validity = 365 * 24 * time.Hour

// lay makes the directories and files of a lab.
func (d *Driver) lay(where dir, r record) error {
	names := map[string]bool{}
	for _, s := range r.Seats {
		names[s.Name] = true
	}
	for name := range r.Spec.EtcdOf {
		if !names[name] {
			return fmt.Errorf("etcd-of: no member %q in this lab: it has %s", name, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
		}
	}
	binary := d.options.Binary
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return err
		}
	}
	if err := layBinary(where, binary); err != nil {
		return err
	}
	for _, s := range r.Seats {
		from := r.Spec.EtcdOf[s.Name]
		if from == "" {
			from = r.Spec.Etcd
		}
		if err := layTools(where, s.Name, from); err != nil {
			return err
		}
	}
	return r.write(where)
}

// supervise starts the supervisor and waits until it can be asked.
func (d *Driver) supervise(ctx context.Context, where dir, r record, claims []*net.TCPListener) error {
	log, err := os.OpenFile(where.join("supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	said, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	defer stdout.Close()
	alive, write, err := lifeline()
	if err != nil {
		return err
	}
	defer alive.Close()
	d.mu.Lock()
	d.owned[r.ID] = write
	d.mu.Unlock()

	cmd := exec.Command(where.binary(), SuperviseWord, string(where))
	cmd.Dir = string(where)
	cmd.Env = append(environ(), labels(where, r.ID, "")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = alive, stdout, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for us: faults are healed first
	for _, l := range claims {
		f, err := l.File()
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	fork := process.NewForker()
	defer close(fork)
	if err := fork.Start(cmd); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	go cmd.Wait()
	stdout.Close()
	stop := context.AfterFunc(ctx, func() { said.SetReadDeadline(time.Now()) })
	defer stop()
	answer := make([]byte, len(ready))
	if n, err := said.Read(answer); err != nil || string(answer[:n]) != ready {
		if ctx.Err() != nil {
			return fmt.Errorf("start the supervisor: %w", ctx.Err())
		}
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the supervisor did not start (is its executable one that calls tools.Main?): %s", strings.TrimSpace(string(text[max(0, len(text)-2000):])))
	}
	return nil
}

// lifeline is a pipe whose read end ends when this process does. The write end
// is a bare descriptor, so that no garbage collection closes it.
func lifeline() (read *os.File, write int, err error) {
	var p [2]int
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := syscall.Pipe(p[:]); err != nil {
		return nil, 0, os.NewSyscallError("pipe", err)
	}
	syscall.CloseOnExec(p[0])
	syscall.CloseOnExec(p[1])
	return os.NewFile(uintptr(p[0]), "lifeline"), p[1], nil
}

// letGo closes the lifeline of a lab.
func (d *Driver) letGo(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fd, ok := d.owned[id]; ok {
		delete(d.owned, id)
		syscall.Close(fd)
	}
}

// Open implements lab.Driver.
func (d *Driver) Open(ctx context.Context, id string) (*lab.Cluster, error) {
	where, err := d.dir(id)
	if err != nil {
		return nil, err
	}
	r, err := readRecord(where)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab %s in %s: %w", id, d.root, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	c, err := newCluster(where, r)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", id, err)
	}
	c.setCaps(d.Caps(ctx))
	return c.Cluster, nil
}

// Down implements lab.Driver. What must go is found by its label, the
// supervisor too, whose end is that of its members.
func (d *Driver) Down(ctx context.Context, id string) error {
	where, err := d.dir(id)
	if err != nil {
		return err
	}
	d.letGo(id)
	if err := killLabelled(ctx, where); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	if err := errors.Join(os.RemoveAll(where.socketDir()), os.RemoveAll(string(where))); err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	return nil
}

// Keep implements lab.Driver.
func (d *Driver) Keep(ctx context.Context, id string) error {
	where, err := d.dir(id)
	if err != nil {
		return err
	}
	r, err := readRecord(where)
	if err != nil {
		return fmt.Errorf("lab %s: %w", id, err)
	}
	if err := supervisorOf(where).Do(ctx, control.WordKeep, control.Ask{}, nil); err != nil {
		return err
	}
	r.Keep = true
	return r.write(where)
}

// Left implements lab.Driver.
func (d *Driver) Left(ctx context.Context) ([]lab.Left, error) {
	if d.err != nil {
		return nil, d.err
	}
	labs := filepath.Join(d.root, "labs")
	found := map[string]lab.Left{}
	entries, err := os.ReadDir(labs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		where, l := dir(filepath.Join(labs, e.Name())), lab.Left{ID: e.Name()}
		if r, err := readRecord(where); err == nil {
			l.Created, l.Keep, l.Drill, l.Owned = r.Created, r.Keep, r.Drill, r.Owner.Alive()
		} else if info, err := e.Info(); err == nil {
			l.Created = info.ModTime().UTC() // half made or half gone
		}
		l.What = append(l.What, "directory "+string(where))
		found[l.ID] = l
	}
	processes, err := listLabelled()
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if filepath.Dir(p.dir) != labs {
			continue
		}
		id := filepath.Base(p.dir)
		l := found[id]
		l.ID = id
		l.What = append(l.What, p.String())
		found[id] = l
	}
	return slices.SortedFunc(maps.Values(found), func(a, b lab.Left) int {
		return strings.Compare(a.ID, b.ID)
	}), nil
}

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"

	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// The labels of all that a lab has in an engine.
const (
	labelLab     = "io.etcdrill.lab"     // the lab's id
	labelHost    = "io.etcdrill.host"    // the host's name
	labelOwner   = "io.etcdrill.owner"   // who made it, an owner as JSON
	labelCreated = "io.etcdrill.created" // RFC 3339
	labelDrill   = "io.etcdrill.drill"   // what it was made for
	labelKeep    = "io.etcdrill.keep"    // on a volume that is there for this label alone
)

// home is the directory of labs on a host. It is a volume: the container's own
// filesystem may be slow, or not know what etcd's database needs.
const home = "/var/lib/etcdrill"

func networkName(id string) string         { return "etcdrill-" + id }
func containerName(id, host string) string { return "etcdrill-" + id + "-" + host }
func volumeName(id, host string) string    { return containerName(id, host) }
func hostDir(id string) string             { return home + "/" + id }

// owner is the process that made a lab.
type owner struct {
	process.Life
	Machine string `json:"machine"` // that it is on
}

func self() (owner, error) {
	life, err := process.Self()
	if err != nil {
		return owner{}, err
	}
	machine, err := os.Hostname()
	return owner{life, machine}, err
}

func (o owner) String() string { return fmt.Sprintf("process %d on %s", o.PID, o.Machine) }

// lives tells whether the owner does. Of another machine that is not known;
// it is said to live, since what nobody owns is removed.
func (o owner) lives() bool {
	if o == (owner{}) {
		return false // made by nobody, or half gone
	}
	here, err := os.Hostname()
	return err != nil || o.Machine != here || o.Alive()
}

// labels of a new lab.
func (r record) labels() (map[string]string, error) {
	who, err := json.Marshal(r.Owner)
	return map[string]string{
		labelLab:     r.ID,
		labelOwner:   string(who),
		labelCreated: r.Created.Format(time.RFC3339Nano),
		labelDrill:   r.Drill,
	}, err
}

// recordOf reads labels back, as far as they are there.
func recordOf(labels map[string]string) record {
	r := record{ID: labels[labelLab], Drill: labels[labelDrill]}
	r.Created, _ = time.Parse(time.RFC3339Nano, labels[labelCreated])
	if json.Unmarshal([]byte(labels[labelOwner]), &r.Owner) != nil {
		r.Owner = owner{}
	}
	return r
}

// with adds a label.
func with(labels map[string]string, name, value string) map[string]string {
	out := map[string]string{name: value}
	for k, v := range labels {
		out[k] = v
	}
	return out
}

// subnet is where a lab's hosts are.
type subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr // the engine's machine
}

// host is the address of the i-th host, counted from 0.
func (s subnet) host(i int) (netip.Addr, error) {
	a := s.gateway
	for range i + 1 {
		a = a.Next()
	}
	if !s.prefix.Contains(a) || !s.prefix.Contains(a.Next()) { // the last one is for broadcasts
		return a, fmt.Errorf("network %s has no room for %d hosts: give the engine larger default-address-pools", s.prefix, i+1)
	}
	return a, nil
}

// addNetwork makes a lab's network. The engine knows which subnets are free on
// its machine, so it chooses; but it gives containers fixed addresses, which a
// member keeps through a restart (FF4), only in a subnet that it was told. So
// the network is made twice.
func (d *Driver) addNetwork(ctx context.Context, id string, labels map[string]string) (subnet, error) {
	name := networkName(id)
	for try := 1; ; try++ {
		made, err := d.engine.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: labels})
		if err != nil {
			return subnet{}, err
		}
		s, err := d.subnet(ctx, made.ID)
		if err != nil {
			return subnet{}, err
		}
		if _, err := d.engine.NetworkRemove(ctx, made.ID, client.NetworkRemoveOptions{}); err != nil {
			return subnet{}, err
		}
		_, err = d.engine.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: labels, IPAM: &network.IPAM{
			Config: []network.IPAMConfig{{Subnet: s.prefix, Gateway: s.gateway}},
		}})
		if err == nil {
			return s, nil
		}
		if try == 5 { // somebody was quicker, five times
			return subnet{}, err
		}
	}
}

// subnet looks where a network is.
func (d *Driver) subnet(ctx context.Context, nameOrID string) (subnet, error) {
	found, err := d.engine.NetworkInspect(ctx, nameOrID, client.NetworkInspectOptions{})
	if err != nil {
		return subnet{}, err
	}
	for _, c := range found.Network.IPAM.Config {
		if !c.Subnet.Addr().Is4() {
			continue
		}
		s := subnet{prefix: c.Subnet.Masked(), gateway: c.Gateway}
		if !s.gateway.IsValid() {
			s.gateway = s.prefix.Addr().Next()
		}
		return s, nil
	}
	return subnet{}, fmt.Errorf("network %s: expected an IPv4 subnet", nameOrID)
}

// reaches tells whether this machine has a way of its own to a container: the
// engine's end of the network is one of this machine's addresses, and the
// container answers, if only to refuse.
func reaches(ctx context.Context, s subnet, host string) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.String() != s.gateway.String() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, "1"))
		if err == nil {
			conn.Close()
		}
		return err == nil || errors.Is(err, syscall.ECONNREFUSED)
	}
	return false
}

// settings guards those of testcontainers, which belong to the whole process.
var settings sync.Mutex

// containers are how containers are made and started in a network, by
// testcontainers.
func (d *Driver) containers(network string) (*testcontainers.DockerProvider, error) {
	settings.Lock()
	defer settings.Unlock()
	// Its reaper would take down labs that are to stay, and needs an image of
	// its own; Down goes by labels instead. It can be told by the environment
	// only, and reads that once.
	const noReaper = "TESTCONTAINERS_RYUK_DISABLED"
	if _, set := os.LookupEnv(noReaper); !set {
		os.Setenv(noReaper, "true")
		defer os.Unsetenv(noReaper)
	}
	quiet := log.NewNoopLogger()
	was := log.Default()
	log.SetDefault(quiet)
	defer log.SetDefault(was)
	// It attaches containers to its default network too, and makes one when
	// there is none. So that is to be theirs.
	options := append(testcontainers.Generic2DockerOptions(testcontainers.WithLogger(quiet)), testcontainers.WithDefaultBridgeNetwork(network))
	p, err := testcontainers.NewDockerProvider(options...)
	if err != nil {
		return nil, err
	}
	if !p.Config().RyukDisabled {
		return nil, fmt.Errorf("testcontainers is in use in this process with its reaper, which would remove labs: set %s=true", noReaper)
	}
	p.SetClient(d.engine)
	return p, nil
}

// addHost makes and starts the container of a host.
func (d *Driver) addHost(ctx context.Context, containers *testcontainers.DockerProvider, image, id, host string, addr netip.Addr, labels map[string]string) error {
	labels = with(labels, labelHost, host)
	made, err := containers.CreateContainer(ctx, testcontainers.ContainerRequest{
		Image:    image,
		Name:     containerName(id, host),
		Labels:   labels,
		Networks: []string{networkName(id)},
		Tmpfs:    map[string]string{"/run": "exec", "/run/lock": "", "/tmp": "exec"},
		ConfigModifier: func(c *container.Config) {
			c.Hostname = host
			c.StopSignal = "SIGRTMIN+3" // systemd's word for: halt
			timeout := 1
			c.StopTimeout = &timeout
		},
		HostConfigModifier: func(c *container.HostConfig) {
			// What systemd, firewall rules and a tracer need, by name: a
			// privileged container would own the devices of its machine too.
			c.CapAdd = []string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"}
			c.SecurityOpt = []string{"seccomp=unconfined", "apparmor=unconfined", "label=disable"}
			// Whatever the engine's own settings are: systemd is the first
			// process, and its root is not another's user.
			noInit := false
			c.Init, c.UsernsMode = &noInit, "host"
			c.CgroupnsMode = container.CgroupnsModePrivate
			c.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyDisabled}
			c.Mounts = []mount.Mount{{
				Type: mount.TypeVolume, Source: volumeName(id, host), Target: home,
				VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: labels},
			}}
		},
		EndpointSettingsModifier: func(networks map[string]*network.EndpointSettings) {
			for _, e := range networks {
				e.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: addr}
				e.Aliases = append(e.Aliases, host)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("host %s: %w", host, err)
	}
	if err := made.Start(ctx); err != nil {
		return fmt.Errorf("host %s: %w", host, err)
	}
	return nil
}

// bootPatience is how long systemd may take to start what it starts.
const bootPatience = time.Minute

// booted waits until systemd has started what it starts.
func (h *Host) booted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	return lab.Until(ctx, "systemd of "+h.name, func(ctx context.Context) error {
		out, err := h.Run(ctx, lab.Cmd{Argv: []string{"systemctl", "is-system-running", "--wait"}, Dir: "/"})
		switch state := strings.TrimSpace(string(out.Stdout)); {
		case state == "running", state == "degraded": // some unit of the image has failed, none of ours
			return nil
		case err == nil:
			return fmt.Errorf("%s: it says %q", h.name, state)
		}
		if eerr := h.ended(ctx); eerr != nil {
			cancel() // it will not come up any more
			return eerr
		}
		return err
	})
}

// ended tells how a container's first process ended, nil when it has not.
func (h *Host) ended(ctx context.Context) error {
	found, err := h.engine.ContainerInspect(ctx, h.container, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	s := found.Container.State
	if s.Running {
		return nil
	}
	said := &tail{}
	if logs, err := h.engine.ContainerLogs(ctx, h.container, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "5"}); err == nil {
		stdcopy.StdCopy(said, said, logs)
		logs.Close()
	}
	return fmt.Errorf("%s: its first process ended with exit code %d %s: %s", h.name, s.ExitCode, s.Error, lastLines(said.String(), 5))
}

// power is the power switch of a lab's hosts. It implements lab.Power.
type power map[string]*Host

func (p power) host(name string) (*Host, error) {
	if h := p[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("no host %q in this lab", name)
}

// Off kills a container: all its processes are gone at once and without
// notice, and so is what is in its memory, /run and /tmp. What it had written
// to its disk stays, also what it had not synced, since the kernel that holds
// it lives on (FF12).
func (p power) Off(ctx context.Context, host string) error {
	h, err := p.host(host)
	if err != nil {
		return err
	}
	defer h.close()
	_, err = h.engine.ContainerKill(ctx, h.container, client.ContainerKillOptions{Signal: "KILL"})
	if err != nil && !errdefs.IsConflict(err) { // it does not run
		return fmt.Errorf("%s: power off: %w", host, err)
	}
	err = lab.Until(ctx, "the end of "+h.container, func(ctx context.Context) error {
		found, err := h.engine.ContainerInspect(ctx, h.container, client.ContainerInspectOptions{})
		if err == nil && found.Container.State.Running {
			err = errors.New("it runs")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: power off: %w", host, err)
	}
	return nil
}

// On starts a container and returns when its systemd is up.
func (p power) On(ctx context.Context, host string) error {
	h, err := p.host(host)
	if err != nil {
		return err
	}
	if _, err := h.engine.ContainerStart(ctx, h.container, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("%s: power on: %w", host, err)
	}
	return h.booted(ctx)
}

// remains are what a lab has in an engine.
type remains struct {
	containers, networks, volumes []string // ids, networks' too; names of volumes
	what                          []string // the same for people
	record                        record
	keep                          bool
}

// find looks for all that carries a lab's label, by lab; for one lab when id
// is not empty.
func (d *Driver) find(ctx context.Context, id string) (map[string]*remains, error) {
	filter := make(client.Filters).Add("label", labelLab)
	if id != "" {
		filter = make(client.Filters).Add("label", labelLab+"="+id)
	}
	out := map[string]*remains{}
	of := func(labels map[string]string, what string) *remains {
		r := out[labels[labelLab]]
		if r == nil {
			r = &remains{record: recordOf(labels)}
			out[labels[labelLab]] = r
		}
		r.what = append(r.what, what)
		return r
	}
	containers, err := d.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filter})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Items {
		r := of(c.Labels, fmt.Sprintf("container %s (%s)", strings.TrimPrefix(strings.Join(c.Names, ","), "/"), c.State))
		r.containers = append(r.containers, c.ID)
	}
	networks, err := d.engine.NetworkList(ctx, client.NetworkListOptions{Filters: filter})
	if err != nil {
		return nil, err
	}
	for _, n := range networks.Items {
		r := of(n.Labels, "network "+n.Name)
		r.networks = append(r.networks, n.ID)
	}
	volumes, err := d.engine.VolumeList(ctx, client.VolumeListOptions{Filters: filter})
	if err != nil {
		return nil, err
	}
	for _, v := range volumes.Items {
		r := of(v.Labels, "volume "+v.Name)
		r.volumes = append(r.volumes, v.Name)
		if keep, _ := strconv.ParseBool(v.Labels[labelKeep]); keep {
			r.keep = true
		}
	}
	return out, nil
}

// remove removes all that a lab has in the engine, and waits until it is gone.
func (d *Driver) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	return lab.Until(ctx, "the end of its containers", func(ctx context.Context) error {
		all, err := d.find(ctx, id)
		if err != nil {
			cancel() // an engine that does not even tell will not remove
			return err
		}
		r := all[id]
		if r == nil {
			return nil
		}
		err = errors.Join(
			each(r.containers, func(_ int, c string) error {
				_, err := d.engine.ContainerRemove(ctx, c, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				return gone(err)
			}),
			each(r.networks, func(_ int, n string) error {
				_, err := d.engine.NetworkRemove(ctx, n, client.NetworkRemoveOptions{})
				return gone(err)
			}),
			each(r.volumes, func(_ int, v string) error {
				_, err := d.engine.VolumeRemove(ctx, v, client.VolumeRemoveOptions{Force: true})
				return gone(err)
			}),
		)
		if err == nil {
			err = fmt.Errorf("%s", strings.Join(r.what, ", ")) // look again
		}
		return err
	})
}

// gone takes away the error that something to remove is not there.
func gone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// each calls do for all items at once and joins the errors.
func each[T any](items []T, do func(i int, item T) error) error {
	errs := make([]error, len(items))
	var all sync.WaitGroup
	for i, item := range items {
		all.Go(func() { errs[i] = do(i, item) })
	}
	all.Wait()
	return errors.Join(errs...)
}

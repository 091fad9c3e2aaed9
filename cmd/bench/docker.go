package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/etcdrill/etcdrill/drivers/docker"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// docker is the driver with the hosts' image made, missing where there is no
// engine.
func (b *bench) docker(ctx context.Context) (*docker.Driver, error) {
	d := docker.New(docker.Options{Root: filepath.Join(b.dir, "home"), Binary: b.binary, Say: func(what string) { fmt.Fprintln(os.Stderr, what) }})
	if why := d.Caps(ctx)[lab.CapUnits]; why != "" {
		return nil, missing{errors.New(why)}
	}
	return d, d.Prepare(ctx)
}

func (b *bench) dockerDrill(ctx context.Context) error {
	if _, err := b.docker(ctx); err != nil {
		return err
	}
	return b.drill(ctx, docker.Name)
}

func (b *bench) dockerFault(ctx context.Context) error {
	d, err := b.docker(ctx)
	if err != nil {
		return err
	}
	return b.fault(ctx, d)
}

// dockerUp measures a lab of three containers, their image present, from
// nothing to its first accepted write, against containers made by hand.
func (b *bench) dockerUp(ctx context.Context) error {
	d, err := b.docker(ctx)
	if err != nil {
		return err
	}
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer engine.Close()
	var ours, floor, booted []float64
	for i := range max(3, b.n/2) {
		id := fmt.Sprintf("bench-up-%d-%d", os.Getpid(), i)
		took, err := b.toFirstWrite(ctx, d, id)
		if err != nil {
			return err
		}
		ours = append(ours, took)
		host, ierr := engine.ContainerInspect(ctx, "etcdrill-"+id+"-m1", client.ContainerInspectOptions{})
		if err := errors.Join(d.Down(context.WithoutCancel(ctx), id), ierr); err != nil {
			return err
		}
		boot, bare, err := b.bare(ctx, engine, host.Container.Config.Image, fmt.Sprintf("etcdrill-bench-bare-%d-%d", os.Getpid(), i))
		if err != nil {
			return fmt.Errorf("containers by hand: %w", err)
		}
		booted, floor = append(booted, boot), append(floor, bare)
	}
	row("lab up, three TLS members, to first accepted write (by hand)", ours, floor, "s")
	row("  by hand: until systemd is up in all three", booted, nil, "s")
	return nil
}

// bare makes three containers as the driver makes them, waits for their
// systemd, and starts an etcd with flags in each, all with the plain client of
// the engine and the three side by side. It returns the seconds until all were
// booted and until the first accepted write. What every run needs alike, a
// certificate authority, is made before the clock starts.
func (b *bench) bare(ctx context.Context, engine *client.Client, image, name string) (booted, wrote float64, err error) {
	pki, err := etcd.NewPKI(time.Hour)
	if err != nil {
		return 0, 0, err
	}
	tlsConfig, err := pki.Client()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := engine.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge"}); err != nil {
		return 0, 0, err
	}
	ids := make([]string, 3)
	defer func() {
		ctx := context.WithoutCancel(ctx)
		var g errgroup.Group
		for _, id := range ids {
			if id == "" {
				continue
			}
			g.Go(func() error {
				_, err := engine.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				return err
			})
		}
		gone := g.Wait()
		_, nerr := engine.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
		err = errors.Join(err, gone, nerr)
	}()
	addrs := make([]string, 3)
	each := func(do func(i int) error) error {
		var g errgroup.Group
		for i := range ids {
			g.Go(func() error { return do(i) })
		}
		return g.Wait()
	}
	err = each(func(i int) error {
		made, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name: fmt.Sprintf("%s-%d", name, i),
			Config: &container.Config{
				Image: image, Hostname: fmt.Sprintf("m%d", i), StopSignal: "SIGRTMIN+3",
			},
			HostConfig: &container.HostConfig{
				NetworkMode:  container.NetworkMode(name),
				CgroupnsMode: container.CgroupnsModePrivate,
				CapAdd:       []string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"},
				SecurityOpt:  []string{"seccomp=unconfined", "apparmor=unconfined", "label=disable"},
				Tmpfs:        map[string]string{"/run": "exec", "/run/lock": "", "/tmp": "exec"},
				Mounts:       []mount.Mount{{Type: mount.TypeVolume, Target: home}},
			},
		})
		if err != nil {
			return err
		}
		ids[i] = made.ID
		if _, err := engine.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
			return err
		}
		found, err := engine.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		addrs[i] = found.Container.NetworkSettings.Networks[name].IPAddress.String()
		return lab.Until(ctx, "systemd", func(ctx context.Context) error {
			said, err := execute(ctx, engine, made.ID, "systemctl", "is-system-running", "--wait")
			if said == "running" || said == "degraded" {
				return nil
			}
			return errors.Join(err, fmt.Errorf("it says %q", said))
		})
	})
	if err != nil {
		return 0, 0, err
	}
	booted = since(start)
	pair, err := pki.Issue("bench", append(addrs, "127.0.0.1", "localhost")...)
	if err != nil {
		return 0, 0, err
	}
	files, err := archive(map[string][]byte{"ca.crt": pki.CA(), "m.crt": pair.Cert, "m.key": pair.Key})
	if err != nil {
		return 0, 0, err
	}
	url := func(i, port int) string { return fmt.Sprintf("https://%s:%d", addrs[i], port) }
	var initial, clients []string
	for i := range addrs {
		initial = append(initial, fmt.Sprintf("m%d=%s", i, url(i, 2380)))
		clients = append(clients, url(i, 2379))
	}
	err = each(func(i int) error {
		if _, err := engine.CopyToContainer(ctx, ids[i], client.CopyToContainerOptions{DestinationPath: home, Content: bytes.NewReader(files)}); err != nil {
			return err
		}
		_, err := execute(ctx, engine, ids[i], append([]string{"sh", "-euc", `ln -s /usr/local/bin/etcdrill "$1/etcd"; shift; exec systemd-run --quiet --unit=etcd "$@"`, "sh", home},
			append([]string{home + "/etcd"}, byHand(fmt.Sprintf("m%d", i), home+"/data", home, url(i, 2380), url(i, 2379), initial)...)...)...)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	cli, err := bareClient(clients, tlsConfig)
	if err != nil {
		return 0, 0, err
	}
	defer cli.Close()
	if err := firstWrite(ctx, cli); err != nil {
		return 0, 0, err
	}
	return booted, since(start), nil
}

// home is a volume, as in the driver's containers.
const home = "/var/lib/etcdrill"

// execute runs a command in a container and returns what it printed, in one
// line. It fails with the command.
func execute(ctx context.Context, engine *client.Client, id string, argv ...string) (string, error) {
	made, err := engine.ExecCreate(ctx, id, client.ExecCreateOptions{AttachStdout: true, AttachStderr: true, Cmd: argv})
	if err != nil {
		return "", err
	}
	open, err := engine.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", err
	}
	defer open.Close()
	var said bytes.Buffer
	if _, err := stdcopy.StdCopy(&said, &said, open.Reader); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	text := strings.Join(strings.Fields(said.String()), " ")
	end, err := engine.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
	if err == nil && end.ExitCode != 0 {
		err = fmt.Errorf("%s: exit %d: %s", argv[0], end.ExitCode, text)
	}
	return text, err
}

// archive is a tar of files.
func archive(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// up measures a lab of three TLS members from nothing to its first accepted
// write, against three bare etcds started cold from flags.
func (b *bench) up(ctx context.Context) error {
	var ours, floor []float64
	for i := range b.n {
		id := fmt.Sprintf("bench-up-%d", i)
		took, err := b.toFirstWrite(ctx, b.driver, id)
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if err := b.driver.Down(ctx, id); err != nil {
			return err
		}
		cold, err := b.cold(ctx, i)
		if err != nil {
			return err
		}
		floor = append(floor, cold)
	}
	row("lab up, three TLS members, to first accepted write (cold etcd)", ours, floor, "s")
	return nil
}

// toFirstWrite brings up a lab of three, which is to be taken down, and returns
// the seconds until it took a write.
func (b *bench) toFirstWrite(ctx context.Context, d lab.Driver, id string) (seconds float64, err error) {
	spec := lab.Spec{}
	lab.Defaults(&spec)
	start := time.Now()
	c, err := d.Up(ctx, id, spec)
	if err != nil {
		return 0, err
	}
	cli, err := etcd.Client(c)
	if err == nil {
		defer cli.Close()
		err = firstWrite(ctx, cli)
	}
	if err != nil {
		return 0, errors.Join(err, d.Down(context.WithoutCancel(ctx), id))
	}
	return since(start), nil
}

// firstWrite tries until a write is acknowledged.
func firstWrite(ctx context.Context, cli *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return lab.Until(ctx, "a first write", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := cli.Put(ctx, "first", "write")
		return err
	})
}

// cold starts three bare etcds the way a manual says and returns the seconds
// until the first write. Certificates are made before the clock starts.
func (b *bench) cold(ctx context.Context, round int) (seconds float64, err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("cold-%d", round))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "etcd")
	if err := os.Symlink(b.binary, bin); err != nil {
		return 0, err
	}
	pki, err := etcd.NewPKI(time.Hour)
	if err != nil {
		return 0, err
	}
	pair, err := pki.Issue("bench", "127.0.0.1", "localhost")
	if err != nil {
		return 0, err
	}
	for name, data := range map[string][]byte{"ca.crt": pki.CA(), "m.crt": pair.Cert, "m.key": pair.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return 0, err
		}
	}
	ports, err := freePorts(6)
	if err != nil {
		return 0, err
	}
	url := func(i int) string { return fmt.Sprintf("https://127.0.0.1:%d", ports[i]) }
	var initial, clients []string
	for i := range 3 {
		initial = append(initial, fmt.Sprintf("m%d=%s", i, url(i)))
		clients = append(clients, url(3+i))
	}
	tlsConfig, err := pki.Client()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range 3 {
		cmd := exec.Command(bin, byHand(fmt.Sprintf("m%d", i), filepath.Join(dir, fmt.Sprint(i)), dir, url(i), url(3+i), initial)...)
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
	}
	cli, err := bareClient(clients, tlsConfig)
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	if err := firstWrite(ctx, cli); err != nil {
		return 0, err
	}
	return since(start), nil
}

// byHand is how a manual starts an etcd with mutual TLS; ca.crt, m.crt and
// m.key are in pki.
func byHand(name, data, pki, peer, client string, initial []string) []string {
	return []string{"--name", name, "--data-dir", data,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--log-level", "error",
		"--client-cert-auth", "--trusted-ca-file", pki + "/ca.crt", "--cert-file", pki + "/m.crt", "--key-file", pki + "/m.key",
		"--peer-client-cert-auth", "--peer-trusted-ca-file", pki + "/ca.crt", "--peer-cert-file", pki + "/m.crt", "--peer-key-file", pki + "/m.key"}
}

// bareClient is a client with the back-off of the lab's.
func bareClient(endpoints []string, t *tls.Config) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: t, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: etcd.BackoffMin, Multiplier: 1.6, MaxDelay: etcd.BackoffMax}, MinConnectTimeout: time.Second})}})
}

// freePorts finds ports below those the kernel hands out for outgoing
// connections.
func freePorts(n int) ([]int, error) {
	var out []int
	for p := 18000 + os.Getpid()%1000; p < 30000 && len(out) < n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		l.Close()
		out = append(out, p)
	}
	if len(out) < n {
		return nil, fmt.Errorf("no %d free ports", n)
	}
	return out, nil
}

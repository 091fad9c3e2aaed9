package main

import (
	"context"
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
		spec := lab.Spec{}
		lab.Defaults(&spec)
		start := time.Now()
		c, err := b.driver.Up(ctx, id, spec)
		if err != nil {
			return err
		}
		cli, err := etcd.Client(c)
		if err != nil {
			return err
		}
		if err := firstWrite(ctx, cli); err != nil {
			return err
		}
		ours = append(ours, since(start))
		cli.Close()
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
		cmd := exec.Command(bin, "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprint(i)),
			"--listen-peer-urls", url(i), "--initial-advertise-peer-urls", url(i),
			"--listen-client-urls", url(3+i), "--advertise-client-urls", url(3+i),
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--log-level", "error",
			"--client-cert-auth", "--trusted-ca-file", dir+"/ca.crt", "--cert-file", dir+"/m.crt", "--key-file", dir+"/m.key",
			"--peer-client-cert-auth", "--peer-trusted-ca-file", dir+"/ca.crt", "--peer-cert-file", dir+"/m.crt", "--peer-key-file", dir+"/m.key")
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: clients, TLS: tlsConfig, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: etcd.BackoffMin, Multiplier: 1.6, MaxDelay: etcd.BackoffMax}, MinConnectTimeout: time.Second})}})
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	if err := firstWrite(ctx, cli); err != nil {
		return 0, err
	}
	return since(start), nil
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

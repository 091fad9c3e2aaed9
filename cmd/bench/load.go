package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// theirs is the release whose benchmark tool is the floor; it is not part of
// this module and is built in a scratch one.
const theirs = "go.etcd.io/etcd/v3@v3.6.8"

// load measures puts per second of the recording load against etcd's own
// benchmark tool, on the same cluster, in turn.
func (b *bench) load(ctx context.Context) error {
	tool, err := b.benchmarkTool(ctx)
	if err != nil {
		fmt.Printf("puts per second: etcd's own benchmark tool cannot be built here, so there is no floor: %s\n", err)
	}
	spec := lab.Spec{}
	lab.Defaults(&spec)
	c, err := b.driver.Up(ctx, "bench-load", spec)
	if err != nil {
		return err
	}
	defer b.driver.Down(ctx, "bench-load")
	for _, clients := range []int{1, 16, 100} {
		var ours, floor []float64
		for i := range 4 {
			if tool != "" {
				v, err := b.benchmark(ctx, tool, c, clients)
				if err != nil {
					return err
				}
				floor = append(floor, v)
			}
			v, err := b.recorded(ctx, c, clients, i)
			if err != nil {
				return err
			}
			ours = append(ours, v)
		}
		row(fmt.Sprintf("puts of 256 B, %d clients, everything recorded (etcd's benchmark)", clients), ours, floor, "/s")
	}
	return nil
}

const loadSeconds = 3

func (b *bench) recorded(ctx context.Context, c *lab.Cluster, clients, round int) (float64, error) {
	spec := lab.LoadSpec{}
	lab.Defaults(&spec)
	spec.Clients, spec.Size, spec.Reads, spec.Deletes, spec.Txns, spec.Probe, spec.Watch = clients, 256, 0, 0, 0, 0, false
	h, err := lab.NewHistory(filepath.Join(b.dir, fmt.Sprintf("load-%d-%d.jsonl", clients, round)), time.Now())
	if err != nil {
		return 0, err
	}
	l, err := b.kit.Load(ctx, c, spec, h, nil, uint64(round))
	if err != nil {
		return 0, err
	}
	time.Sleep(500 * time.Millisecond) // connections
	before, start := l.Acked(), time.Now()
	time.Sleep(loadSeconds * time.Second)
	rate := float64(l.Acked()-before) / since(start)
	if err := l.Stop(ctx); err != nil {
		return 0, err
	}
	return rate, h.Close()
}

var perSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

func (b *bench) benchmark(ctx context.Context, tool string, c *lab.Cluster, clients int) (float64, error) {
	var urls []string
	for _, m := range c.Seats {
		urls = append(urls, m.ClientURL)
	}
	pki := filepath.Join(c.Dir, "pki")
	total := map[int]int{1: 600, 16: 4000, 100: 9000}[clients]
	out, err := exec.CommandContext(ctx, tool, "put", "--endpoints="+strings.Join(urls, ","), "--cacert="+pki+"/ca.crt", "--cert="+pki+"/client.crt", "--key="+pki+"/client.key",
		"--clients="+strconv.Itoa(clients), "--conns="+strconv.Itoa(clients), "--total="+strconv.Itoa(total), "--val-size=256", "--key-space-size=64").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("benchmark: %w: %s", err, out)
	}
	m := perSecond.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("benchmark printed no rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// benchmarkTool builds the tool in a scratch module.
func (b *bench) benchmarkTool(ctx context.Context) (string, error) {
	dir := filepath.Join(b.dir, "tool")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	const main = "package main\n\nimport _ \"go.etcd.io/etcd/v3/tools/benchmark/cmd\"\n\nfunc main() {}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(main), 0o644); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "benchmark")
	for _, argv := range [][]string{
		{"go", "mod", "init", "scratch"},
		{"go", "get", theirs},
		{"go", "build", "-o", bin, "go.etcd.io/etcd/v3/tools/benchmark"},
	} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
	}
	return bin, nil
}

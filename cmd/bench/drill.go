package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// drill measures `etcdrill run leader-kill` as a whole command on a driver, and
// the part of it that is not waiting for etcd: start, judging, rendering. args
// go to the command too.
func (b *bench) drill(ctx context.Context, driver string, args ...string) error {
	var whole, up, own, size []float64
	for i := range max(3, b.n/2) {
		out := filepath.Join(b.dir, fmt.Sprintf("drill-%s-%d", driver, i))
		cmd := exec.CommandContext(ctx, b.binary, append([]string{"run", "leader-kill", "--driver", driver, "--out", out, "-q"}, args...)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that it takes its lab down
		cmd.Env = append(os.Environ(), "ETCDRILL_HOME="+filepath.Join(b.dir, "home"))
		start := time.Now()
		text, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		took := since(start)
		whole = append(whole, took)
		run := filepath.Join(out, "latest")
		events, err := lab.ReadEvents(filepath.Join(run, "events.ndjson"))
		if err != nil {
			return err
		}
		var begin, down float64
		for _, e := range events {
			switch {
			case e.Kind == lab.EventPhase && e.Text == "up":
				begin = e.T
			case e.Kind == lab.EventUp:
				up = append(up, e.Seconds)
			case e.Kind == lab.EventPhase && e.Text == "down":
				down = e.T
			}
		}
		own = append(own, took-(down-begin))
		st, err := os.Stat(filepath.Join(run, "report.html"))
		if err != nil {
			return err
		}
		size = append(size, float64(st.Size())/1e6)
	}
	row("etcdrill run leader-kill, whole command, all reports", whole, nil, "s")
	row("  of it bringing the lab up", up, nil, "s")
	row("  of it start, taking down, judging, rendering", own, nil, "s")
	row("  report.html", size, nil, "MB")
	return nil
}

// crash measures how long a leader's crash keeps writes away, as the tool
// reports it and as a prober of its own sees it that shares nothing with it
// but the endpoints.
func (b *bench) crash(ctx context.Context) error {
	d, err := b.parse("cluster: {members: 3}", "load: {clients: 4, rate: 200/s}", "steps:",
		"- break: crash", "  as: first", "- check: writes", "  accepted: true", "  within: 10s", "- heal: first")
	if err != nil {
		return err
	}
	var tool, prober, differ []float64
	for i := range b.n {
		p := &independent{}
		var start time.Time
		var hurt float64
		o := lab.Options{Out: filepath.Join(b.dir, "crash"), ID: fmt.Sprintf("bench-crash-%d", i), Seed: uint64(i)}
		o.Tell = func(e lab.Event) {
			switch {
			case e.Kind == lab.EventRun:
				start = time.Now()
			case e.Kind == lab.EventUp:
				c, err := b.driver.Open(ctx, o.ID)
				if err == nil {
					err = p.begin(c)
				}
				if err != nil {
					panic(err)
				}
			case e.Kind == lab.EventFault:
				hurt = e.T
			case e.Kind == lab.EventPhase && e.Text == "end":
				p.end()
			}
		}
		r, err := lab.Run(ctx, d, b.driver, b.kit, o)
		if err != nil {
			return err
		}
		if r.Verdict != lab.Pass || r.RTO == nil {
			return fmt.Errorf("the drill ended %s: %s", r.Verdict, r.Reason)
		}
		gap := p.gap(start.Add(time.Duration(hurt * float64(time.Second))))
		tool, prober, differ = append(tool, *r.RTO), append(prober, gap), append(differ, max(*r.RTO-gap, gap-*r.RTO)*1000)
	}
	row("leader crash to first accepted write (independent prober)", tool, prober, "s")
	row("  difference of the two", differ, nil, "ms")
	return nil
}

// independent is a prober: one goroutine per member that writes every five
// milliseconds and notes when a write was acknowledged.
type independent struct {
	mu   sync.Mutex
	acks []time.Time
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (p *independent) begin(c *lab.Cluster) error {
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	for _, m := range c.Seats {
		cli, err := etcd.Client(c, m)
		if err != nil {
			return err
		}
		p.wg.Go(func() {
			defer cli.Close()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			slots := make(chan struct{}, 400)
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				select {
				case slots <- struct{}{}:
				default:
					continue
				}
				p.wg.Go(func() {
					defer func() { <-slots }()
					p.write(ctx, cli, fmt.Sprintf("independent/%s", m.Name))
				})
			}
		})
	}
	return nil
}

func (p *independent) write(ctx context.Context, cli *clientv3.Client, key string) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, key, "x"); err == nil {
		now := time.Now()
		p.mu.Lock()
		p.acks = append(p.acks, now)
		p.mu.Unlock()
	}
}

func (p *independent) end() {
	if p.stop != nil {
		p.stop()
		p.wg.Wait()
	}
}

// gap is the longest time without an acknowledged write after the fault.
func (p *independent) gap(fault time.Time) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := 0.0
	last := fault
	for _, a := range p.acks {
		if a.Before(fault) {
			continue
		}
		longest = max(longest, a.Sub(last).Seconds())
		last = a
	}
	return longest
}

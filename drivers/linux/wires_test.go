package linux

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// TestWires: probes through the proxy meet the kernel's rules, and rules that
// both carry out are one. It has a network namespace to itself.
func TestWires(t *testing.T) {
	const inside = "ETCDRILL_WIRES_TEST"
	if os.Getenv(inside) == "" {
		if out, err := exec.Command("unshare", "-n", "nft", "list", "tables").CombinedOutput(); err != nil {
			t.Skipf("no network to try it in: %v: %s", err, out)
		}
		cmd := exec.Command("unshare", "-n", os.Args[0], "-test.run=^TestWires$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(exec.Command("ip", "link", "set", "lo", "up").Run())
	c := agentConfig{ID: "wires", Host: "m1", Links: kernel.Means{Filter: kernel.Nft}}
	var hosts []network.Host
	for name, addr := range map[string]string{"m1": "10.9.0.1", "m2": "10.9.0.2"} {
		must(exec.Command("ip", "addr", "add", addr+"/32", "dev", "lo").Run())
		s := Seat{Name: name, Addr: addr, Ports: PortsAt(0)}
		c.Seats = append(c.Seats, s)
		h := network.Host{Name: name, Addr: addr, Echo: join(addr, s.Echo)}
		if name == "m1" {
			h.Source = addr
		}
		hosts = append(hosts, h)
		l, err := net.Listen("tcp", h.Echo)
		must(err)
		defer l.Close()
		go echo(l)
	}
	w, err := newWires(ctx, c, Seat{Name: "m1"}, network.New(hosts, time.Second))
	must(err)
	probe := func(from, to string, want bool) {
		t.Helper()
		limit := 20 * time.Second
		if !want {
			limit = 200 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if _, err := w.Probe(ctx, from, to); (err == nil) != want || !want && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("probe from %s to %s: %v", from, to, err)
		}
	}
	for _, cut := range [][2]string{{"m1", "m2"}, {"client", "m1"}, {"m1", "client"}} {
		probe("m1", "m2", true)
		probe("client", "m1", true)
		probe("m1", "client", true)
		rule := lab.Rule{Drop: true, Delay: time.Millisecond, Loss: 0.01}
		must(w.Set(ctx, "cut", cut[0], cut[1], rule))
		probe("m1", "m2", cut[1] != "m2")
		probe("client", "m1", cut[1] == "m2")
		probe("m1", "client", cut[1] == "m2")
		rules, err := w.Rules(ctx)
		if err != nil || len(rules) != 1 || rules[0].Rule != rule || rules[0].Held == 0 {
			t.Errorf("rules %+v, %v", rules, err)
		}
		must(w.Clear(ctx, "cut"))
	}
	probe("m1", "m2", true)
	if err := w.Set(ctx, "cut", "m1", "m2", lab.Rule{Loss: 2}); err == nil {
		t.Error("a loss of everything twice was taken")
	}
	if rules, err := w.Rules(ctx); err != nil || len(rules) != 0 {
		t.Errorf("rules %+v, %v", rules, err)
	}
}

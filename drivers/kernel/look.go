package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Ways to choose the means of a lab.
const (
	Auto   = ""         // what the hosts can do
	Proxy  = "proxy"    // nothing
	Must   = "kernel"   // what the hosts can do, which must be something
	Second = "iptables" // iptables, also where there is nft
)

// Choose finds the means of a lab: what all of its hosts can do. With a reason
// why it is not more. alone tells whether a host has no other lab: two do not
// share a root qdisc.
func Choose(ctx context.Context, way string, hosts []lab.Host, alone func(context.Context, lab.Host) (bool, error)) (m Means, why string, err error) {
	switch way {
	case Proxy:
		return Means{}, "asked for", nil
	case Auto, Must, Second:
	default:
		return Means{}, "", fmt.Errorf("%q: expected %s, %s or %s", way, Proxy, Must, Second)
	}
	looks := make([]ability, len(hosts))
	errs := make(chan error, len(hosts))
	for i, h := range hosts {
		go func() {
			var err error
			if looks[i], err = look(ctx, way, h, hosts); err == nil && looks[i].nft == "" && looks[i].netem == "" {
				var yes bool
				if yes, err = alone(ctx, h); !yes {
					looks[i].netem = "there is another lab, which may shape the same devices"
				}
			}
			errs <- err
		}()
	}
	for range hosts {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return Means{}, "", err
	}
	m, why = common(hosts, looks)
	if m.Filter == "" && way != Auto {
		return m, why, fmt.Errorf("the kernel cannot cut links: %s", why)
	}
	return m, why, nil
}

// ability of a host: empty, or why not.
type ability struct{ nft, iptables, netem string }

// common is what all hosts can do.
func common(hosts []lab.Host, looks []ability) (m Means, why string) {
	all := func(of func(ability) string) (why string) {
		for i, a := range looks {
			if why := of(a); why != "" {
				return hosts[i].Name() + ": " + why
			}
		}
		return ""
	}
	nft, iptables := all(func(a ability) string { return a.nft }), all(func(a ability) string { return a.iptables })
	switch {
	case nft == "":
		netem := all(func(a ability) string { return a.netem })
		if len(hosts) > MostHosts {
			netem = fmt.Sprintf("a lab of more than %d hosts", MostHosts)
		}
		return Means{Filter: Nft, Netem: netem == ""}, netem
	case iptables == "":
		return Means{Filter: Iptables}, nft
	}
	return Means{}, nft + "; " + iptables
}

// look tries on a host what would be done there, in a network namespace that
// ends with the attempt (FF9).
func look(ctx context.Context, way string, h lab.Host, hosts []lab.Host) (a ability, err error) {
	ends := []End{{Name: "me", Addr: h.Addr(), Ports: []int{1}, Clients: []int{1}}}
	for _, o := range hosts {
		if o != h {
			ends = append(ends, End{Name: o.Name(), Addr: o.Addr(), Ports: []int{1}})
		}
	}
	if len(ends) == 1 { // any address will do
		ends = append(ends, End{Name: "other", Addr: h.Addr(), Ports: []int{1}})
	}
	k, err := New("attempt", "me", ends, Means{Filter: Nft, Netem: true})
	if err != nil {
		return a, err
	}
	other := ends[1].Name
	rules := []lab.LinkRule{
		{From: "me", To: other, Rule: lab.Rule{Drop: true}},
		{From: other, To: "me", Rule: lab.Rule{Reject: true}},
		{From: "client", To: "me", Rule: lab.Rule{Reject: true}},
	}
	late := lab.Rule{Delay: 10 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.01, Rate: 1 << 20}
	try := func(stdin string, argv ...string) string {
		if err != nil {
			return ""
		}
		var exit *lab.ExitError
		_, rerr := h.Run(ctx, lab.Cmd{Dir: "/", Argv: append([]string{"unshare", "-n", "--"}, argv...), Stdin: strings.NewReader(stdin)})
		if rerr == nil {
			return ""
		}
		if !errors.As(rerr, &exit) {
			err = rerr
		}
		return fmt.Sprintf("%s: %s", argv[0], strings.Join(strings.Fields(rerr.Error()), " "))
	}
	switch {
	case way == Second:
		a.nft = "not asked for"
	default:
		a.nft = try(k.nft(append(rules, lab.LinkRule{From: "me", To: other, Rule: late})), "nft", "-f", "-")
	}
	if a.nft == "" {
		a.netem = try(strings.Join(k.batch(nil, map[leaf][]string{{"lo", firstBand}: k.qdiscs(leaf{"lo", firstBand}, late, 1500)}), "\n")+"\n", "tc", "-batch", "-")
		if a.netem == "" {
			a.netem, err = taken(ctx, h, ends[1:])
		}
		return a, err
	}
	if family(h.Addr()) == "ip6" {
		a.iptables = "iptables: its addresses are those of IPv6"
	} else {
		a.iptables = try(k.iptables(rules, true), "iptables-restore", "-w", "--noflush", "--counters")
	}
	return a, err
}

// taken tells why a device that leads to one of the others cannot be shaped:
// somebody else does that already. Qdiscs that the kernel itself has put there
// have the handle 0.
func taken(ctx context.Context, h lab.Host, others []End) (string, error) {
	var seen []string
	for _, e := range others {
		out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"ip", "-o", "route", "get", e.Addr}})
		if err != nil {
			return "", err
		}
		device, err := routeDevice(string(out.Stdout))
		if err != nil {
			return "", err
		}
		if slices.Contains(seen, device) {
			continue
		}
		seen = append(seen, device)
		if out, err = h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"tc", "qdisc", "show", "dev", device}}); err != nil {
			return "", err
		}
		if root := rootQdisc(string(out.Stdout)); root != "" {
			return fmt.Sprintf("%s has a root qdisc already (%s)", device, root), nil
		}
	}
	return "", nil
}

// rootQdisc reads from what tc says which root qdisc somebody has given to a
// device: its kind and handle; empty: nobody has.
func rootQdisc(text string) string {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 3 && f[0] == "qdisc" && slices.Contains(f, "root") && f[2] != "0:" {
			return f[1] + " " + f[2]
		}
	}
	return ""
}

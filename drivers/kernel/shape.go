package kernel

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// The root qdisc of a device has a band for each other host, after those three
// that all else goes through as it would without us. nft says which packets go
// to a band, by their priority; there is no mark that others might use too.
const (
	bands     = 16 // the most that prio has
	firstBand = 4
)

// MostHosts is how many hosts a lab may have for its links to be shaped.
const MostHosts = 1 + bands - firstBand + 1

// leaf is a place for qdiscs: a device, and a band of its root.
type leaf struct {
	device string
	band   int
}

// shaped tells whether a rule makes something late, lost or slow.
func shaped(r lab.Rule) bool { return r.Delay > 0 || r.Jitter > 0 || r.Loss > 0 || r.Rate > 0 }

func (k *Kernel) band(to string) int {
	return firstBand + slices.IndexFunc(k.others, func(e End) bool { return e.Name == to })
}

// class is the class of the root that leads to a host.
func (k *Kernel) class(to string) string {
	return k.names.root + strconv.FormatInt(int64(k.band(to)), 16)
}

// shape makes the qdiscs for a set of rules. Those of a link whose rules have
// changed are made anew: what is in their queues is lost, and sent again.
func (k *Kernel) shape(ctx context.Context, rules []lab.LinkRule) error {
	if !k.means.Netem {
		return nil
	}
	want := map[leaf][]string{}
	for _, e := range k.others {
		var on []lab.Rule
		for _, r := range rules {
			if r.From == k.me.Name && r.To == e.Name {
				on = append(on, r.Rule)
			}
		}
		sum := network.Sum(on)
		if !shaped(sum) {
			continue
		}
		device, err := k.device(ctx, e)
		if err != nil {
			return err
		}
		at := leaf{device.Name, k.band(e.Name)}
		want[at] = k.qdiscs(at, sum, device.MTU)
	}
	batch := k.batch(k.leaves, want)
	if len(batch) == 0 {
		return nil
	}
	if _, err := run(ctx, strings.Join(batch, "\n")+"\n", "tc", "-batch", "-"); err != nil {
		// Half of it may be done: the next change begins from nothing.
		for d := range devices(k.leaves, want) {
			run(ctx, "", "tc", "qdisc", "del", "dev", d, "root", "handle", k.names.root)
		}
		k.leaves = nil
		return err
	}
	k.leaves = want
	return nil
}

func devices(sets ...map[leaf][]string) map[string]bool {
	out := map[string]bool{}
	for _, set := range sets {
		for at := range set {
			out[at.device] = true
		}
	}
	return out
}

// batch are the lines for tc that lead from one set of qdiscs to another. A
// device that has a root qdisc of somebody else refuses ours.
func (k *Kernel) batch(have, want map[leaf][]string) []string {
	var out []string
	had, has := devices(have), devices(want)
	for d := range had {
		if !has[d] {
			out = append(out, fmt.Sprintf("qdisc del dev %s root", d))
		}
	}
	for d := range has {
		if !had[d] {
			out = append(out, fmt.Sprintf("qdisc add dev %s root handle %s prio bands %d", d, k.names.root, bands))
		}
	}
	for at, lines := range have {
		if has[at.device] && !slices.Equal(lines, want[at]) {
			out = append(out, fmt.Sprintf("qdisc del dev %s parent %s%x", at.device, k.names.root, at.band))
		}
	}
	for at, lines := range want {
		if !slices.Equal(lines, have[at]) {
			out = append(out, lines...)
		}
	}
	return out
}

// qdiscs are the lines for tc that make late, lost and slow what goes through a
// band: netem, below it a rate, below that all connections in turn, so that a
// heartbeat does not wait behind a snapshot.
func (k *Kernel) qdiscs(at leaf, r lab.Rule, mtu int) []string {
	parent := fmt.Sprintf("%s%x", k.names.root, at.band)
	var out []string
	add := func(layer int, words ...string) {
		// Handles differ on a device.
		handle := fmt.Sprintf("f%x%02x:", layer, at.band)
		out = append(out, strings.Join(append([]string{"qdisc add dev", at.device, "parent", parent, "handle", handle}, words...), " "))
		parent = handle + "1"
	}
	if r.Delay > 0 || r.Jitter > 0 || r.Loss > 0 {
		netem := []string{"netem limit 20000"}
		if r.Delay > 0 || r.Jitter > 0 {
			netem = append(netem, "delay", micros(r.Delay))
		}
		if r.Jitter > 0 {
			// With a rate packets stay in order.
			netem = append(netem, micros(r.Jitter), "rate 10gbit")
		}
		if r.Loss > 0 {
			netem = append(netem, "loss", strconv.FormatFloat(100*r.Loss, 'f', 4, 64)+"%")
		}
		add(1, netem...)
	}
	if r.Rate > 0 {
		// The burst takes the longest frame, and what a late timer has to
		// make up for.
		burst := int64(mtu) + 100 + r.Rate/200
		add(2, fmt.Sprintf("tbf rate %dbps burst %d limit 1000000", r.Rate, burst))
		add(3, "sfq")
	}
	return out
}

func micros(d time.Duration) string { return fmt.Sprintf("%dus", d.Microseconds()) }

// device is the one through which packets to a host leave.
func (k *Kernel) device(ctx context.Context, to End) (*net.Interface, error) {
	text, err := run(ctx, "", "ip", "-o", "route", "get", to.Addr)
	if err != nil {
		return nil, err
	}
	name, err := routeDevice(text)
	if err != nil {
		return nil, err
	}
	return net.InterfaceByName(name)
}

// routeDevice reads the device from what ip route get says.
func routeDevice(text string) (string, error) {
	words := strings.Fields(text)
	at := slices.Index(words, "dev")
	if at < 0 || at+1 == len(words) {
		return "", fmt.Errorf("ip route get: expected a device: %q", text)
	}
	return words[at+1], nil
}

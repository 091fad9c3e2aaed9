package kernel

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

func TestMeans(t *testing.T) {
	all := lab.Rule{Drop: true, Reject: true, Delay: 1, Jitter: 2, Loss: 0.5, Rate: 3}
	cuts := lab.Rule{Drop: true, Reject: true}
	for _, c := range []struct {
		m        Means
		says     string
		m2, kind lab.Rule // of what goes to m2 and to clients
	}{
		{Means{}, "proxy", lab.Rule{}, lab.Rule{}},
		{Means{Filter: Nft}, "nft, proxy for delays", cuts, cuts},
		{Means{Filter: Iptables}, "iptables, proxy for delays", cuts, cuts},
		{Means{Filter: Nft, Netem: true}, "nft+netem", all, cuts},
	} {
		if got := c.m.String(); got != c.says {
			t.Errorf("%q, want %q", got, c.says)
		}
		if got := c.m.Takes("m1", "m2", all); got != c.m2 {
			t.Errorf("%s: of a link between hosts it takes %+v", c.m, got)
		}
		for _, dir := range [][2]string{{"client", "m1"}, {"m1", "client"}} {
			if got := c.m.Takes(dir[0], dir[1], all); got != c.kind {
				t.Errorf("%s: of a link to clients it takes %+v", c.m, got)
			}
		}
	}
}

// TestShape: from one set of rules to the next by as little as possible.
func TestShape(t *testing.T) {
	k := newKernel(t, Means{Filter: Nft, Netem: true})
	k.names.root = "e123:"
	late := lab.Rule{Delay: 100 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.025}
	m2, m3, other := leaf{"eth0", k.band("m2")}, leaf{"eth0", k.band("m3")}, leaf{"eth1", k.band("m3")}
	netem := "qdisc add dev eth0 parent e123:4 handle f104: netem limit 20000 delay 100000us 20000us rate 10gbit loss 2.5000%"
	slow := []string{
		"qdisc add dev eth0 parent e123:5 handle f205: tbf rate 1000000bps burst 6600 limit 1000000",
		"qdisc add dev eth0 parent f205:1 handle f305: sfq",
	}
	both := []string{
		"qdisc add dev eth0 parent e123:4 handle f104: netem limit 20000 loss 1.0000%",
		"qdisc add dev eth0 parent f104:1 handle f204: tbf rate 1000bps burst 1605 limit 1000000",
		"qdisc add dev eth0 parent f204:1 handle f304: sfq",
	}
	if got := k.qdiscs(m2, late, 1500); !slices.Equal(got, []string{netem}) {
		t.Errorf("late: %q", got)
	}
	if got := k.qdiscs(m3, lab.Rule{Rate: 1_000_000}, 1500); !slices.Equal(got, slow) {
		t.Errorf("slow: %q", got)
	}
	if got := k.qdiscs(m2, lab.Rule{Rate: 1000, Loss: 0.01}, 1500); !slices.Equal(got, both) {
		t.Errorf("both: %q", got)
	}
	set := func(l map[leaf][]string) map[leaf][]string { return l }
	root := "qdisc add dev eth0 root handle e123: prio bands 16"
	for name, c := range map[string]struct {
		have, want map[leaf][]string
		batch      []string
	}{
		"nothing":   {nil, nil, nil},
		"the first": {nil, set(map[leaf][]string{m2: {netem}}), []string{root, netem}},
		"one more":  {set(map[leaf][]string{m2: {netem}}), set(map[leaf][]string{m2: {netem}, m3: slow}), slow},
		"the same":  {set(map[leaf][]string{m2: {netem}}), set(map[leaf][]string{m2: {netem}}), nil},
		"another":   {set(map[leaf][]string{m2: {netem}}), set(map[leaf][]string{m2: both}), append([]string{"qdisc del dev eth0 parent e123:4"}, both...)},
		"one less":  {set(map[leaf][]string{m2: {netem}, m3: slow}), set(map[leaf][]string{m2: {netem}}), []string{"qdisc del dev eth0 parent e123:5"}},
		"none":      {set(map[leaf][]string{m2: {netem}}), nil, []string{"qdisc del dev eth0 root"}},
		"elsewhere": {set(map[leaf][]string{m2: {netem}}), set(map[leaf][]string{other: {"x"}}), []string{
			"qdisc del dev eth0 root", "qdisc add dev eth1 root handle e123: prio bands 16", "x"}},
	} {
		if got := k.batch(c.have, c.want); !slices.Equal(got, c.batch) {
			t.Errorf("%s: %q, want %q", name, got, c.batch)
		}
	}
	// What is shaped is told apart by nft, on the way out alone.
	text := k.nft([]lab.LinkRule{{From: "m1", To: "m3", Rule: late}, {From: "m2", To: "m1", Rule: late}})
	if n := strings.Count(text, "meta priority set e123:5"); n != 2 || strings.Contains(text, "e123:4") {
		t.Errorf("classes:\n%s", text)
	}
}

func TestNames(t *testing.T) {
	a, b := namesOf(strings.Repeat("a", 100)), namesOf("b")
	if a.chain == b.chain || a.table == b.table || a.root == b.root {
		t.Errorf("two labs: %+v, %+v", a, b)
	}
	// A chain of iptables has at most 28 letters, a handle four digits.
	if len(a.chain+"-out") > 28 || len(a.root) != 5 || a.root[0] != 'e' || a.root[4] != ':' {
		t.Errorf("names: %+v", a)
	}
}

func TestReading(t *testing.T) {
	for text, want := range map[string]string{
		"qdisc noqueue 0: root refcnt 2 \n":                                                                  "",
		"qdisc mq 0: root \nqdisc fq_codel 0: parent :1 limit 10240p\n":                                      "",
		"qdisc htb 1: root refcnt 2 r2q 10 default 0\nqdisc pfifo 8001: parent 1:1 limit 9p\n":               "htb 1:",
		"qdisc fq_codel 8003: dev eth0 root refcnt 2 limit 10240p\n":                                         "fq_codel 8003:",
		"qdisc pfifo_fast 0: root refcnt 2 bands 3\nqdisc ingress ffff: parent ffff:fff1 ----------------\n": "",
	} {
		if got := rootQdisc(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got, err := routeDevice(`10.0.0.2 dev eth1 src 10.0.0.1 uid 0 \    cache `); got != "eth1" || err != nil {
		t.Errorf("route: %q, %v", got, err)
	}
	if got, err := routeDevice("unreachable"); err == nil {
		t.Errorf("no route: %q", got)
	}
	said := "table inet etcdrill-x {\n\tcounter c1 {\n\t\tpackets 2 bytes 77\n\t}\n\tcounter c10 {\n\t\tpackets 0 bytes 0\n\t}\n}\n"
	if got, want := parseNft(said), map[string]int64{"c1": 77, "c10": 0}; !reflect.DeepEqual(got, want) {
		t.Errorf("nft: %v, want %v", got, want)
	}
	k := newKernel(t, Means{Filter: Iptables})
	c := k.names.chain
	text := "*filter\n:" + c + "-in - [0:0]\n[9:900] -A INPUT -m comment --comment \"etcdrill-x\" -j " + c + "-in\n" +
		"[1:40] -A " + c + "-in -s 10.0.0.2/32 -p tcp -m tcp --dport 1 -m comment --comment c0\n" +
		"[1:2] -A " + c + "-out -d 10.0.0.2/32 -p tcp -m tcp --dport 1 -m comment --comment \"c0\"\n" +
		"[3:300] -A etcdrill-000000000000-in -m comment --comment c0\nCOMMIT\n"
	if got, want := k.parseIptables(text), map[string]int64{"c0": 42}; !reflect.DeepEqual(got, want) {
		t.Errorf("iptables: %v, want %v", got, want)
	}
}

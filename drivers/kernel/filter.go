package kernel

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// match is some of the TCP that goes between this host and another one.
type match struct {
	out        bool   // what leaves this host, else what arrives
	peer       string // address of the other one; empty: whoever is left
	sport      []int  // at one of the ports of whoever sends
	dport      []int  // or of whoever receives
	everything bool   // all protocols and ports
	noReset    bool   // but packets that reset a connection
}

// line is a match and what befalls it. Lines are looked at in order.
type line struct {
	match
	do  string // one of those below
	arg string
}

const (
	doCount  = "count"  // arg is a counter
	doReset  = "reset"  // the sender is told that there is no such connection
	doDrop   = "drop"   // nobody is told
	doClass  = "class"  // arg is the class of the root qdisc
	doReturn = "return" // no further line is looked at
)

func counter(i int) string { return "c" + strconv.Itoa(i) }

// end finds another host.
func (k *Kernel) end(name string) (End, bool) {
	for _, e := range k.others {
		if e.Name == name {
			return e, true
		}
	}
	return End{}, false
}

// matches are what this host sees of what from sends to to: on connections
// that either of them has opened.
func (k *Kernel) matches(from, to string) []match {
	out := from == k.me.Name
	other := from
	if out {
		other = to
	}
	if other == network.Client {
		if out {
			return []match{{out: true, sport: k.me.Clients}}
		}
		return []match{{dport: k.me.Clients}}
	}
	e, ok := k.end(other)
	if !ok {
		return nil
	}
	if out {
		return []match{{out: true, peer: e.Addr, dport: e.Ports}, {out: true, peer: e.Addr, sport: k.me.Ports}}
	}
	return []match{{peer: e.Addr, dport: k.me.Ports}, {peer: e.Addr, sport: e.Ports}}
}

// lines are a set of rules, written out. First all is counted, so that each of
// several rules on a link counts; then they take effect, the links to hosts
// before those to clients, who are the rest.
func (k *Kernel) lines(rules []lab.LinkRule) []line {
	var hosts, clients struct{ count, reset, drop, class []line }
	for i, r := range rules {
		to := &hosts
		if r.From == network.Client || r.To == network.Client {
			to = &clients
		}
		ms := k.matches(r.From, r.To)
		if r.Rule.Reject {
			// A connection that one direction refuses is refused to both ends.
			for _, m := range append(ms, k.matches(r.To, r.From)...) {
				to.count = append(to.count, line{m, doCount, counter(i)})
				m.noReset = true
				to.reset = append(to.reset, line{m, doReset, ""})
			}
			continue
		}
		for _, m := range ms {
			// What is shaped is shaped where it leaves.
			if r.Rule.Drop || m.out {
				to.count = append(to.count, line{m, doCount, counter(i)})
			}
			if r.Rule.Drop {
				to.drop = append(to.drop, line{m, doDrop, ""})
			}
			if m.out && shaped(r.Rule) {
				to.class = append(to.class, line{m, doClass, k.class(r.To)})
			}
		}
	}
	var out []line
	for _, ls := range [][]line{hosts.count, hosts.reset, hosts.drop, hosts.class} {
		out = append(out, ls...)
	}
	if len(clients.count) > 0 {
		for _, e := range k.others {
			out = append(out, line{match{peer: e.Addr, everything: true}, doReturn, ""}, line{match{out: true, peer: e.Addr, everything: true}, doReturn, ""})
		}
	}
	for _, ls := range [][]line{clients.count, clients.reset, clients.drop} {
		out = append(out, ls...)
	}
	return out
}

// filter writes a set of rules into the kernel, instead of the one that is
// there, at once.
func (k *Kernel) filter(ctx context.Context, rules []lab.LinkRule) error {
	if k.means.Filter == Iptables {
		_, absent := run(ctx, "", "iptables", append([]string{"-w", "-C"}, k.jumps()[0]...)...)
		_, err := run(ctx, k.iptables(rules, absent != nil), "iptables-restore", "-w", "--noflush", "--counters")
		return err
	}
	_, err := run(ctx, k.nft(rules), "nft", "-f", "-")
	return err
}

// counters reads what was counted, in bytes.
func (k *Kernel) counters(ctx context.Context) (map[string]int64, error) {
	if k.means.Filter == Iptables {
		text, err := run(ctx, "", "iptables-save", "-c", "-t", "filter")
		return k.parseIptables(text), err
	}
	text, err := run(ctx, "", "nft", "list", "counters", "table", "inet", k.names.table)
	return parseNft(text), err
}

// nft is a set of rules as a transaction of nft.
func (k *Kernel) nft(rules []lab.LinkRule) string {
	var b strings.Builder
	// Deleting a table that is not there is an error, adding one that is, is not.
	fmt.Fprintf(&b, "add table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n", k.names.table)
	for i, r := range rules {
		fmt.Fprintf(&b, "\tcounter %s {\n\t\tpackets 0 bytes %d\n\t}\n", counter(i), r.Held)
	}
	for _, c := range []struct {
		hook string
		out  bool
	}{{"input", false}, {"output", true}} {
		// Before the filters of others, who may let pass what is established.
		fmt.Fprintf(&b, "\tchain %[1]s {\n\t\ttype filter hook %[1]s priority -10; policy accept;\n", c.hook)
		for _, l := range k.lines(rules) {
			if l.out == c.out {
				fmt.Fprintf(&b, "\t\t%s\n", l.nft(k.me.Addr))
			}
		}
		fmt.Fprint(&b, "\t}\n")
	}
	fmt.Fprint(&b, "}\n")
	return b.String()
}

func (l line) nft(me string) string {
	ip, mine, theirs := family(me), "daddr", "saddr"
	if l.out {
		mine, theirs = theirs, mine
	}
	var words []string
	if l.peer != "" {
		words = append(words, ip, theirs, l.peer)
	}
	words = append(words, ip, mine, me)
	for _, p := range []struct {
		word  string
		ports []int
	}{{"sport", l.sport}, {"dport", l.dport}} {
		if len(p.ports) > 0 {
			words = append(words, "tcp", p.word, "{", commas(p.ports), "}")
		}
	}
	if l.noReset {
		words = append(words, "tcp flags & rst == 0")
	}
	words = append(words, map[string]string{
		doCount:  "counter name " + strconv.Quote(l.arg),
		doReset:  "reject with tcp reset",
		doDrop:   "drop",
		doClass:  "meta priority set " + l.arg,
		doReturn: "return",
	}[l.do])
	return strings.Join(words, " ")
}

func commas(ports []int) string {
	var out []string
	for _, p := range ports {
		out = append(out, strconv.Itoa(p))
	}
	return strings.Join(out, ", ")
}

// nftCounter is a counter in what nft lists; not every nft speaks JSON.
var nftCounter = regexp.MustCompile(`counter (c\d+) \{\s*packets \d+ bytes (\d+)`)

// parseNft reads what nft tells about counters.
func parseNft(text string) map[string]int64 {
	out := map[string]int64{}
	for _, m := range nftCounter.FindAllStringSubmatch(text, -1) {
		out[m[1]], _ = strconv.ParseInt(m[2], 10, 64) // digits
	}
	return out
}

// jumps are the rules of iptables, each behind its chain, that lead to ours.
func (k *Kernel) jumps() [][]string {
	var out [][]string
	for _, j := range [][2]string{{"INPUT", "-in"}, {"OUTPUT", "-out"}} {
		out = append(out, []string{j[0], "-m", "comment", "--comment", k.names.table, "-j", k.names.chain + j[1]})
	}
	return out
}

// iptables is a set of rules for iptables-restore, with the jumps to our chains
// where they are absent. IPv4 only.
func (k *Kernel) iptables(rules []lab.LinkRule, absent bool) string {
	var b strings.Builder
	in, out := k.names.chain+"-in", k.names.chain+"-out"
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n:%s - [0:0]\n", in, out)
	if absent {
		for _, j := range k.jumps() {
			fmt.Fprintf(&b, "[0:0] -I %s\n", strings.Join(j, " "))
		}
	}
	told := map[string]bool{}
	for _, l := range k.lines(rules) {
		chain, peer, me := in, "-s", "-d"
		if l.out {
			chain, peer, me = out, me, peer
		}
		words := []string{"-A", chain}
		if l.peer != "" {
			words = append(words, peer, l.peer)
		}
		words = append(words, me, k.me.Addr)
		end := map[string][]string{
			doCount:  {"-m", "comment", "--comment", l.arg},
			doReset:  {"-j", "REJECT", "--reject-with", "tcp-reset"},
			doDrop:   {"-j", "DROP"},
			doReturn: {"-j", "RETURN"},
		}[l.do]
		var ports [][]string // each a line of its own
		for _, p := range l.sport {
			ports = append(ports, []string{"-p", "tcp", "-m", "tcp", "--sport", strconv.Itoa(p)})
		}
		for _, p := range l.dport {
			ports = append(ports, []string{"-p", "tcp", "-m", "tcp", "--dport", strconv.Itoa(p)})
		}
		if l.everything {
			ports = [][]string{nil}
		}
		for _, p := range ports {
			if l.noReset {
				p = append(p, "!", "--tcp-flags", "RST", "RST")
			}
			var before int64
			if l.do == doCount && !told[l.arg] {
				told[l.arg] = true
				n, _ := strconv.Atoi(l.arg[1:])
				before = rules[n].Held
			}
			all := append(append(append([]string(nil), words...), p...), end...)
			fmt.Fprintf(&b, "[0:%d] %s\n", before, strings.Join(all, " "))
		}
	}
	fmt.Fprint(&b, "COMMIT\n")
	return b.String()
}

// counterLine is a line of iptables-save with a counter: its bytes, the chain
// without its direction, and the counter's name.
var counterLine = regexp.MustCompile(`(?m)^\[\d+:(\d+)\] -A (\S+)-(?:in|out) .*--comment "?(c\d+)"?\s*$`)

// parseIptables reads what iptables-save tells about counters.
func (k *Kernel) parseIptables(text string) map[string]int64 {
	out := map[string]int64{}
	for _, m := range counterLine.FindAllStringSubmatch(text, -1) {
		if m[2] == k.names.chain {
			n, _ := strconv.ParseInt(m[1], 10, 64) // digits
			out[m[3]] += n
		}
	}
	return out
}

package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// Means say what of a host's kernel is used.
type Means struct {
	Filter string `json:"filter,omitempty"` // Nft or Iptables; empty: nothing is
	Netem  bool   `json:"netem,omitempty"`  // what is between two hosts is made late and slow by tc; needs Nft
}

// The filters.
const (
	Nft      = "nft"
	Iptables = "iptables"
)

// String is for reports.
func (m Means) String() string {
	switch {
	case m.Filter == "":
		return "proxy"
	case m.Netem:
		return m.Filter + "+netem"
	}
	return m.Filter + ", proxy for delays"
}

// Takes is the part of a rule that the kernel carries out; the rest is for the
// proxy. Every host of a lab comes to the same answer.
func (m Means) Takes(from, to string, r lab.Rule) lab.Rule {
	if m.Filter == "" {
		return lab.Rule{}
	}
	take := lab.Rule{Drop: r.Drop, Reject: r.Reject}
	if m.Netem && from != network.Client && to != network.Client {
		take = r
	}
	return take
}

// End is a host of the lab, as the others see it.
type End struct {
	Name    string
	Addr    string // IP
	Ports   []int  // at which other hosts reach it
	Clients []int  // at which clients do
}

// Kernel is the kernel's part of the links of one host. Set, Clear and Rules
// are like those of lab.Links, for the links of this host; rules have been
// checked and are what Means.Takes gives.
type Kernel struct {
	names  names
	me     End
	others []End
	means  Means

	mu     sync.Mutex
	rules  []lab.LinkRule    // in place; Held is what was held before the table was last written
	leaves map[leaf][]string // qdiscs in place
}

// New makes the kernel's part of the links of host me in a lab. It touches
// nothing.
func New(id, me string, ends []End, m Means) (*Kernel, error) {
	k := &Kernel{names: namesOf(id), means: m}
	for _, e := range ends {
		if e.Name == me {
			k.me = e
		} else {
			k.others = append(k.others, e)
		}
	}
	if k.me.Name == "" {
		return nil, fmt.Errorf("no host %q in this lab", me)
	}
	return k, nil
}

// names of what a lab has in a kernel.
type names struct {
	table string // of nft; also the comment of the jumps of iptables
	chain string // of iptables, where names are short: the first part
	root  string // handle of the root qdisc, which is a number
}

// prefix of all tables.
const prefix = "etcdrill-"

func namesOf(id string) names {
	sum := sha256.Sum256([]byte(id))
	// Handles from 8000 on are those that the kernel gives by itself, most of
	// them the first few.
	return names{table: prefix + id, chain: prefix + hex.EncodeToString(sum[:6]), root: fmt.Sprintf("e%s:", hex.EncodeToString(sum[:2])[:3])}
}

// Set puts owner's rule on a link of this host, instead of an earlier one; the
// zero Rule takes it away.
func (k *Kernel) Set(ctx context.Context, owner, from, to string, r lab.Rule) error {
	return k.change(ctx, func(rules []lab.LinkRule) []lab.LinkRule {
		rules = slices.DeleteFunc(rules, func(o lab.LinkRule) bool { return o.Owner == owner && o.From == from && o.To == to })
		if r != (lab.Rule{}) {
			rules = append(rules, lab.LinkRule{Owner: owner, From: from, To: to, Rule: r})
		}
		return rules
	})
}

// Clear takes away all rules of owner.
func (k *Kernel) Clear(ctx context.Context, owner string) error {
	return k.change(ctx, func(rules []lab.LinkRule) []lab.LinkRule {
		return slices.DeleteFunc(rules, func(o lab.LinkRule) bool { return o.Owner == owner })
	})
}

// Rules lists what is set.
func (k *Kernel) Rules(ctx context.Context) ([]lab.LinkRule, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.counted(ctx)
}

// Reset takes away all that the lab has in this kernel, also what an earlier
// process has left.
func (k *Kernel) Reset(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reset(ctx)
}

func (k *Kernel) reset(ctx context.Context) error {
	argv := removal(k.names)
	if _, err := run(ctx, "", argv[0], argv[1:]...); err != nil {
		return fmt.Errorf("rules in the kernel of %s: %w", k.me.Name, err)
	}
	k.rules, k.leaves = nil, nil
	return nil
}

// patience with the tools of a host for one change: there are a dozen calls, and
// an emulated host takes seconds for each.
const patience = time.Minute

// change goes from one set of rules to another. What was begun is finished,
// whoever still waits for it.
func (k *Kernel) change(ctx context.Context, to func([]lab.LinkRule) []lab.LinkRule) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	was, err := k.counted(ctx)
	if err != nil {
		was = slices.Clone(k.rules) // somebody has flushed all tables: ours is written anew
	}
	now := to(slices.Clone(was))
	switch {
	case len(now) == 0 && len(was) == 0:
		return nil
	case len(now) == 0:
		return k.reset(ctx)
	}
	err = k.filter(ctx, now)
	if err == nil {
		if err = k.shape(ctx, now); err == nil {
			k.rules = now
			return nil
		}
	}
	// As it was before.
	if len(was) == 0 {
		k.reset(ctx)
	} else {
		k.rules = was
		k.filter(ctx, was)
	}
	return fmt.Errorf("rules in the kernel of %s: %w", k.me.Name, err)
}

// counted are the rules with what they have held by now.
func (k *Kernel) counted(ctx context.Context) ([]lab.LinkRule, error) {
	if len(k.rules) == 0 {
		return nil, nil
	}
	held, err := k.counters(ctx)
	if err != nil {
		return nil, fmt.Errorf("rules in the kernel of %s: %w", k.me.Name, err)
	}
	rules := slices.Clone(k.rules)
	for i := range rules {
		rules[i].Held = held[counter(i)]
	}
	return rules, nil
}

// run runs a tool of the system.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, complaint strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &complaint
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// family is the word of nft for the addresses of a lab.
func family(addr string) string {
	if ip, err := netip.ParseAddr(addr); err == nil && ip.Unmap().Is6() {
		return "ip6"
	}
	return "ip"
}

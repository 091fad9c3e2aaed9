package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Cut stops what members say to each other, on open connections too. In the
// pictures a line is a link that is left.
//
// isolate: the member reaches nobody and nobody reaches it.
//
//	m1      m2
//	       /  \
//	     m3 -- m4
//
// halves: two halves, `member` in the first, which is the smaller one when
// they cannot be equal and `member` fits into it.
//
//	m1      m3 -- m4
//	 |        \  /
//	m2         m5
//
// bridge: two halves that do not reach each other, and one member in the
// middle that reaches both. `member` is in the first half.
//
//	m1           m4
//	 | \       / |
//	 |   m3      |
//	 | /       \ |
//	m2           m5
//
// ring: each member reaches its two neighbours and nobody else.
//
//	m1 -- m2
//	|      |
//	m4 -- m3
//
// one-way: nothing goes `from` → `to`; the other way all goes, or as much as
// TCP sends without an acknowledgement where the hosts' kernels do the cutting.
//
//	m1 <-- m2
//
// clients: the members see each other, and `member` sees no client.
//
//	client      m1
//	   |  \    /  |
//	   |    m2    |
//	   |          |
//	   +--- m3 ---+
type Cut struct {
	Member  lab.Target `default:"leader" doc:"isolate, clients: who is cut off; halves, bridge: who is in the first half"`
	Shape   string     `default:"isolate" doc:"isolate, halves, bridge, ring, one-way or clients"`
	From    lab.Target `doc:"one-way: whose words do not arrive"`
	To      lab.Target `doc:"one-way: where they do not arrive"`
	Mode    string     `default:"drop" doc:"drop (silence, requests time out) or reject (refused at once)"`
	Clients bool       `doc:"isolate, halves: clients do not reach who is cut off or in the first half either"`
}

// Doc says what the fault does.
func (*Cut) Doc() string {
	return "cut what members say to each other, in one of six shapes; open connections too"
}

// Touches says how much of an adopted cluster it changes.
func (*Cut) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Cut) Needs() []lab.Cap { return []lab.Cap{lab.CapLinks} }

// Valid refuses arguments that do not go together.
func (f *Cut) Valid() error {
	if err := oneOf("shape", f.Shape, "isolate", "halves", "bridge", "ring", "one-way", "clients"); err != nil {
		return err
	}
	if err := oneOf("mode", f.Mode, "drop", "reject"); err != nil {
		return err
	}
	if oneWay := f.Shape == "one-way"; oneWay != (f.From.Role != "") || oneWay != (f.To.Role != "") {
		if oneWay {
			return fmt.Errorf("shape one-way: expected both `from` and `to`")
		}
		return fmt.Errorf("shape %s: `from` and `to` are for one-way only", f.Shape)
	}
	if f.Clients && f.Shape != "isolate" && f.Shape != "halves" {
		return fmt.Errorf("shape %s: `clients` is for isolate and halves only", f.Shape)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *Cut) Shell() (do, undo []string) {
	t, action := f.Member, map[string]string{"drop": "drop", "reject": "reject with tcp reset"}[f.Mode]
	if f.Shape == "one-way" {
		t = f.To
	}
	return operator(t,
			"nft add table inet etcdrill",
			"nft add chain inet etcdrill in '{ type filter hook input priority -10; }'",
			fmt.Sprintf("nft add rule inet etcdrill in ip saddr '{ the others, as drawn by %s }' tcp dport '{ 2379, 2380 }' %s", f.Shape, action)),
		operator(t, "nft delete table inet etcdrill")
}

// drawn lists the paths that are cut.
func (f *Cut) drawn(e *lab.Env) ([]pathway, error) {
	switch f.Shape {
	case "isolate":
		return between(e, f.Member, lab.Target{}, lab.Target{}, f.Clients)
	case "one-way":
		return between(e, lab.Target{}, f.From, f.To, false)
	case "clients":
		ms, err := seats(e, f.Member)
		if err != nil {
			return nil, err
		}
		var out []pathway
		for _, m := range hosts(ms) {
			out = append(out, both(client, m)...)
		}
		return out, nil
	case "ring":
		all := members(e)
		if len(all) < 4 {
			return nil, fmt.Errorf("a ring needs at least 4 members, in one of %d everybody is a neighbour", len(all))
		}
		var out []pathway
		for i, a := range all {
			for j := range i {
				if i-j != 1 && i-j != len(all)-1 {
					out = append(out, both(a, all[j])...)
				}
			}
		}
		return unique(out), nil
	}
	first, second, err := f.sides(e)
	if err != nil {
		return nil, err
	}
	var out []pathway
	for _, a := range first {
		for _, b := range second {
			out = append(out, both(a, b)...)
		}
		if f.Clients {
			out = append(out, both(client, a)...)
		}
	}
	return unique(out), nil
}

// sides divides the members for halves and bridge: `member` first, the others
// in order of the seats. The one in the middle of a bridge is on no side.
func (f *Cut) sides(e *lab.Env) (first, second []string, err error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return nil, nil, err
	}
	order := hosts(ms)
	for _, h := range members(e) {
		if !slices.Contains(order, h) {
			order = append(order, h)
		}
	}
	n, mid := len(order)/2, 0
	if f.Shape == "bridge" {
		n, mid = (len(order)-1)/2, 1
	}
	n = max(n, len(ms)) // whoever was named is in the first half
	if n < 1 || len(order) < n+mid+1 {
		return nil, nil, fmt.Errorf("shape %s: %d members cannot be divided so: %s would be on one side and nobody on the other",
			f.Shape, len(order), strings.Join(order, ", "))
	}
	return order[:n], order[n+mid:], nil
}

func (f *Cut) rule() lab.Rule {
	if f.Mode == "reject" {
		return lab.Rule{Reject: true}
	}
	return lab.Rule{Drop: true}
}

// Inject sets a rule on every path of the shape.
func (f *Cut) Inject(ctx context.Context, e *lab.Env) error {
	ps, err := f.drawn(e)
	if err != nil {
		return err
	}
	e.Note("", "cut (%s, %s): %s", f.Shape, f.Mode, list(ps))
	return setAll(ctx, e, ps, f.rule())
}

// Prove sends a message along every path. The cut bites when each path that is
// drawn has its rule, the message does not arrive, and the rule says that it
// held something back, while between members the shape leaves together it
// does arrive. It is gone when no rule is left and every message arrives.
func (f *Cut) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ps, err := f.drawn(e)
	if err != nil {
		return lab.Proof{}, err
	}
	ps = looked(e, ps)
	mine, others, err := rules(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	dead, err := dead(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	if len(mine) == 0 {
		return whole(ctx, e, ps, others, dead)
	}
	for _, p := range ps {
		if r, ok := mine[p]; !ok || r.Rule != f.rule() {
			return lab.Proof{Evidence: "no rule yet for " + p.String()}, nil
		}
	}
	left := f.left(e, ps, others, dead)
	for i, got := range probeAll(ctx, e, slices.Concat(ps, left), patience+drag(others)) {
		switch {
		case i < len(ps) && got.err == nil:
			return lab.Proof{Evidence: fmt.Sprintf("a message still goes %s and back, in %s", ps[i], got.rtt)}, nil
		case i >= len(ps) && got.err != nil:
			return lab.Proof{Evidence: fmt.Sprintf("%s is not part of the cut and does not pass: %s", left[i-len(ps)], got.err)}, nil
		}
	}
	// A message that did not arrive may have failed for another reason; what
	// the rule held back did not.
	mine, _, err = rules(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	var held int64
	for _, p := range ps {
		held += mine[p].Held
		back := mine[pathway{p.to, p.from}]
		if mine[p].Held == 0 && !(p.to == client && back.Held > 0) {
			return lab.Proof{Evidence: fmt.Sprintf("the rule for %s has held nothing back yet", p)}, nil
		}
	}
	return lab.Proof{State: lab.Bites, Evidence: fmt.Sprintf(
		"no message passes %s; held back so far: %d; all that is not drawn passes (%d paths)", list(ps), held, len(left))}, nil
}

// left lists paths between members that the shape leaves, in neither
// direction touched by it or by anybody else, between members that run.
func (f *Cut) left(e *lab.Env, ps []pathway, others map[pathway]lab.Rule, dead map[string]bool) []pathway {
	var out []pathway
	all := members(e)
	for _, a := range all {
		for _, b := range all {
			p, back := pathway{a, b}, pathway{b, a}
			if a != b && !dead[a] && !dead[b] && !blocked(others, p) && !slices.Contains(ps, p) && !slices.Contains(ps, back) {
				out = append(out, p)
			}
		}
	}
	return out
}

// whole is the proof that nothing is cut any more: every message passes, where
// the members run and nobody else holds it up.
func whole(ctx context.Context, e *lab.Env, ps []pathway, others map[pathway]lab.Rule, dead map[string]bool) (lab.Proof, error) {
	ps = slices.DeleteFunc(slices.Clone(ps), func(p pathway) bool { return dead[p.from] || dead[p.to] || blocked(others, p) })
	for i, got := range probeAll(ctx, e, ps, time.Second+drag(others)) {
		if got.err != nil {
			return lab.Proof{Evidence: fmt.Sprintf("no rule is left, and no message passes %s: %s", ps[i], got.err)}, nil
		}
	}
	return lab.Proof{State: lab.Gone, Evidence: fmt.Sprintf("no rule is left, messages pass %s", list(ps))}, nil
}

// Heal takes all rules of the fault away.
func (f *Cut) Heal(ctx context.Context, e *lab.Env) error { return clearLinks(ctx, e) }

func clearLinks(ctx context.Context, e *lab.Env) error {
	l, err := links(e)
	if err != nil {
		return err
	}
	if err := l.Clear(ctx, e.Owner); err != nil {
		return fmt.Errorf("rules of %s: %w", e.Owner, err)
	}
	return nil
}

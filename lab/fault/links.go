package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// client is the end of a link that is nobody's host.
const client = "client"

// pathway is one direction between two ends: names of hosts, or client.
type pathway struct{ from, to string }

func (p pathway) String() string { return p.from + "→" + p.to }

// both is a pair of ends, in both directions.
func both(a, b string) []pathway { return []pathway{{a, b}, {b, a}} }

// links returns the lab's network, or why there is none.
func links(e *lab.Env) (lab.Links, error) {
	if e.Links == nil {
		return nil, errors.New("this lab cannot cut or slow what its hosts say to each other")
	}
	return e.Links, nil
}

// hosts are the names of the hosts of members.
func hosts(ms []*lab.Member) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Host.Name())
	}
	return out
}

// members are the hosts with a member, in order of the seats, as they were
// right before the fault.
func members(e *lab.Env) []string {
	absent := map[string]bool{}
	for _, s := range e.Before {
		absent[s.Name] = s.Absent
	}
	var out []string
	for _, m := range e.Seats {
		if !absent[m.Name] {
			out = append(out, m.Host.Name())
		}
	}
	return out
}

// between lists the paths a fault on links is about: from → to when both are
// given, else all between the members and everybody else, and with clients
// also those between the members and clients.
func between(e *lab.Env, member, from, to lab.Target, clients bool) ([]pathway, error) {
	var out []pathway
	if from.Role != "" {
		a, err := seats(e, from)
		if err != nil {
			return nil, err
		}
		b, err := seats(e, to)
		if err != nil {
			return nil, err
		}
		for _, x := range hosts(a) {
			for _, y := range hosts(b) {
				if x != y {
					out = append(out, pathway{x, y})
				}
			}
		}
	} else {
		ms, err := seats(e, member)
		if err != nil {
			return nil, err
		}
		for _, x := range hosts(ms) {
			for _, h := range e.Hosts {
				if y := h.Name(); x != y {
					out = append(out, both(x, y)...)
				}
			}
			if clients {
				out = append(out, both(client, x)...)
			}
		}
	}
	out = unique(out)
	if len(out) == 0 {
		return nil, errors.New("there is no link between those members: a lab of one member has only clients")
	}
	return out, nil
}

func unique(ps []pathway) []pathway {
	slices.SortFunc(ps, func(a, b pathway) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(ps)
}

// looked picks the paths a proof can look at: those between members, and
// between members and clients. Hosts without a member have rules too, for
// members that come later, but nobody there who would answer.
func looked(e *lab.Env, ps []pathway) []pathway {
	in := append(members(e), client)
	var out []pathway
	for _, p := range ps {
		if slices.Contains(in, p.from) && slices.Contains(in, p.to) {
			out = append(out, p)
		}
	}
	return out
}

// setAll puts one rule on all paths.
func setAll(ctx context.Context, e *lab.Env, ps []pathway, r lab.Rule) error {
	l, err := links(e)
	if err != nil {
		return err
	}
	for _, p := range ps {
		if err := l.Set(ctx, e.Owner, p.from, p.to, r); err != nil {
			return fmt.Errorf("rule for %s: %w", p, err)
		}
	}
	return nil
}

// rules are the rules in place, by path: this fault's own, and those of
// others, added up.
func rules(ctx context.Context, e *lab.Env) (mine map[pathway]lab.LinkRule, others map[pathway]lab.Rule, err error) {
	l, err := links(e)
	if err != nil {
		return nil, nil, err
	}
	all, err := l.Rules(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("rules in place: %w", err)
	}
	mine, others = map[pathway]lab.LinkRule{}, map[pathway]lab.Rule{}
	for _, r := range all {
		p := pathway{r.From, r.To}
		if r.Owner == e.Owner {
			mine[p] = r
			continue
		}
		o := others[p]
		o.Drop, o.Reject = o.Drop || r.Rule.Drop, o.Reject || r.Rule.Reject
		o.Delay, o.Jitter, o.Loss = o.Delay+r.Rule.Delay, o.Jitter+r.Rule.Jitter, max(o.Loss, r.Rule.Loss)
		if r.Rule.Rate > 0 && (o.Rate == 0 || r.Rule.Rate < o.Rate) {
			o.Rate = r.Rule.Rate
		}
		others[p] = o
	}
	return mine, others, nil
}

// probe is what a look at one path found.
type probe struct {
	rtt time.Duration
	err error
}

// probeAll sends one message along every path, all at once. A path that ends
// at a client is looked at from the client, since nobody listens there. What
// it found has the order of the paths.
func probeAll(ctx context.Context, e *lab.Env, ps []pathway, limit time.Duration) []probe {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	got := make([]probe, len(ps))
	var wg sync.WaitGroup
	for i, p := range ps {
		if p.to == client {
			p = pathway{p.to, p.from}
		}
		wg.Go(func() { got[i].rtt, got[i].err = e.Links.Probe(ctx, p.from, p.to) })
	}
	wg.Wait()
	return got
}

// dead are the hosts whose member does not run or is frozen: no path to them
// says anything.
func dead(ctx context.Context, e *lab.Env) (map[string]bool, error) {
	out := map[string]bool{}
	for _, m := range e.Seats {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return nil, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		out[m.Host.Name()] = !st.Running || st.Paused
	}
	return out, nil
}

// blocked tells whether somebody else stops what goes along a path or back.
func blocked(others map[pathway]lab.Rule, p pathway) bool {
	for _, d := range both(p.from, p.to) {
		if o := others[d]; o.Drop || o.Reject {
			return true
		}
	}
	return false
}

// drag is how much the rules of others may lengthen an exchange of a few
// messages on the slowest of the paths: a connection, TLS, a question, an
// answer.
func drag(others map[pathway]lab.Rule) time.Duration {
	var slowest time.Duration
	for p, o := range others {
		back := others[pathway{p.to, p.from}]
		slowest = max(slowest, o.Delay+o.Jitter+back.Delay+back.Jitter)
	}
	return 5 * slowest
}

// list writes paths for people, the first few of them.
func list(ps []pathway) string {
	const most = 12
	var out []string
	for i, p := range ps {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(ps)-most))
			break
		}
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

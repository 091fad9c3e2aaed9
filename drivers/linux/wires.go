package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// wires are the links of one host: what its kernel can do of a rule the kernel
// does, the proxy does the rest. All connections go through the proxy, which
// meets the kernel's rules like anybody. It implements lab.Links.
type wires struct {
	proxy   *network.Network
	kernel  *kernel.Kernel
	means   kernel.Means
	adopted bool // members do not talk through the proxy
}

// newWires makes the links of the host of an agent, and clears its kernel of
// what an earlier life of the agent may have left.
func newWires(ctx context.Context, c agentConfig, me Seat, proxy *network.Network) (*wires, error) {
	var ends []kernel.End
	for _, s := range c.Seats {
		ends = append(ends, s.end())
	}
	k, err := kernel.New(c.ID, me.Name, ends, c.Links)
	if err != nil {
		return nil, err
	}
	if c.Links.Filter != "" {
		err = k.Reset(ctx)
	}
	return &wires{proxy: proxy, kernel: k, means: c.Links, adopted: me.Found != nil}, err
}

// Set implements lab.Links. The proxy knows of every rule, also of those that
// leave nothing for it to do.
func (w *wires) Set(ctx context.Context, owner, from, to string, r lab.Rule) error {
	if err := network.Check(r); err != nil {
		return err
	}
	take := w.means.Takes(from, to, r)
	rest := without(r, take)
	if w.adopted && rest != (lab.Rule{}) {
		return fmt.Errorf("%s to %s: what an adopted cluster says goes through no proxy, and by %s alone this link can be cut and no more: nothing was set", from, to, cmp.Or(w.means.Filter, "the kernel"))
	}
	if err := w.proxy.Set(ctx, owner, from, to, rest); err != nil {
		return err
	}
	return w.kernel.Set(ctx, owner, from, to, take)
}

// without is a rule without the part that is taken from it.
func without(r, part lab.Rule) lab.Rule {
	if part.Drop {
		r.Drop = false
	}
	if part.Reject {
		r.Reject = false
	}
	r.Delay, r.Jitter, r.Loss, r.Rate = r.Delay-part.Delay, r.Jitter-part.Jitter, r.Loss-part.Loss, r.Rate-part.Rate
	return r
}

// with puts the part back.
func with(r, part lab.Rule) lab.Rule {
	r.Drop, r.Reject = r.Drop || part.Drop, r.Reject || part.Reject
	r.Delay, r.Jitter, r.Loss, r.Rate = r.Delay+part.Delay, r.Jitter+part.Jitter, r.Loss+part.Loss, r.Rate+part.Rate
	return r
}

// Clear implements lab.Links.
func (w *wires) Clear(ctx context.Context, owner string) error {
	return errors.Join(w.kernel.Clear(ctx, owner), w.proxy.Clear(ctx, owner))
}

// Rules implements lab.Links. When the kernel does not tell, the rules come
// along with the error.
func (w *wires) Rules(ctx context.Context) ([]lab.LinkRule, error) {
	rules, err := w.proxy.Rules(ctx)
	if err != nil {
		return nil, err
	}
	taken, err := w.kernel.Rules(ctx)
	for _, t := range taken {
		for i, r := range rules {
			if r.Owner == t.Owner && r.From == t.From && r.To == t.To {
				rules[i].Rule = with(r.Rule, t.Rule)
				rules[i].Held += t.Held
			}
		}
	}
	return rules, err
}

// Probe implements lab.Links.
func (w *wires) Probe(ctx context.Context, from, to string) (time.Duration, error) {
	return w.proxy.Probe(ctx, from, to)
}

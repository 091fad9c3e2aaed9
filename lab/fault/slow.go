package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Slow makes what members say to each other late: by a fixed delay, by one
// that varies, or, for a share of it, by the time until it is sent again.
//
// Without `from` and `to` it is for all links of the member, in both
// directions, so that a round trip takes twice the delay longer.
type Slow struct {
	Member  lab.Target    `default:"all" doc:"whose links are slow, when from and to are not given"`
	From    lab.Target    `doc:"one direction only: whose words come late"`
	To      lab.Target    `doc:"one direction only: where they come late"`
	Delay   time.Duration `doc:"added to every message; at least 5ms, less cannot be told from a busy machine"`
	Jitter  time.Duration `doc:"the delay varies by up to this much, both ways; less than the delay"`
	Loss    float64       `doc:"share of segments, 0.001 to below 1, that arrive only after a retransmission time-out"`
	Clients bool          `doc:"the links between the member and clients too"`
}

// least is the smallest delay that a proof can tell from a busy machine.
const least = 5 * time.Millisecond

// again is the least a lost segment is late: no TCP sends again much sooner
// than after 200ms.
const again = 180 * time.Millisecond

// Doc says what the fault does.
func (*Slow) Doc() string {
	return "delay what members say to each other, or make a share of it arrive late as if lost and sent again"
}

// Touches says how much of an adopted cluster it changes.
func (*Slow) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Slow) Needs() []lab.Cap { return []lab.Cap{lab.CapLinks} }

// Valid refuses arguments that do not go together.
func (f *Slow) Valid() error {
	switch {
	case f.Delay == 0 && f.Loss == 0:
		return errors.New("slow: expected a `delay` or a `loss`")
	case f.Delay != 0 && f.Delay < least:
		return fmt.Errorf("delay: %s: expected at least %s, less cannot be told from a busy machine", f.Delay, least)
	case f.Jitter < 0 || f.Jitter > 0 && f.Delay-f.Jitter < least:
		return fmt.Errorf("jitter: %s: expected so little that at least %s of the delay of %s are left", f.Jitter, least, f.Delay)
	case f.Loss != 0 && f.Loss < 0.001 || f.Loss >= 1:
		return fmt.Errorf("loss: %g: expected a share from 0.001 to below 1; what loses everything is a cut", f.Loss)
	}
	return direction(f.From, f.To, f.Clients)
}

// direction refuses half a direction.
func direction(from, to lab.Target, clients bool) error {
	if (from.Role != "") != (to.Role != "") {
		return errors.New("expected `from` and `to` together, or neither and `member`")
	}
	if clients && from.Role != "" {
		return errors.New("`clients` goes with `member`, not with `from` and `to`")
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *Slow) Shell() (do, undo []string) {
	t := f.Member
	if f.From.Role != "" {
		t = f.From
	}
	netem := "tc qdisc add dev eth0 root netem"
	if f.Delay > 0 {
		netem += fmt.Sprintf(" delay %s", f.Delay)
	}
	if f.Jitter > 0 {
		netem += fmt.Sprintf(" %s", f.Jitter)
	}
	if f.Loss > 0 {
		netem += fmt.Sprintf(" loss %g%%", 100*f.Loss)
	}
	return operator(t, netem), operator(t, "tc qdisc del dev eth0 root")
}

func (f *Slow) rule() lab.Rule { return lab.Rule{Delay: f.Delay, Jitter: f.Jitter, Loss: f.Loss} }

// Inject sets a rule on every path.
func (f *Slow) Inject(ctx context.Context, e *lab.Env) error {
	ps, err := between(e, f.Member, f.From, f.To, f.Clients)
	if err != nil {
		return err
	}
	e.Note("", "delay %s ± %s, loss %g: %s", f.Delay, f.Jitter, f.Loss, list(ps))
	return setAll(ctx, e, ps, f.rule())
}

// Prove measures round trips, three on every path, and takes the shortest,
// which a busy machine can lengthen but not shorten. They must take at least
// what the rules of both directions add, and less than that when the fault is
// gone. A loss without a delay is proved by messages of which some take as
// long as TCP waits before it sends again.
func (f *Slow) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ps, err := between(e, f.Member, f.From, f.To, f.Clients)
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
	if len(mine) > 0 {
		for _, p := range ps {
			if r, ok := mine[p]; !ok || r.Rule != f.rule() {
				return lab.Proof{Evidence: "no rule yet for " + p.String()}, nil
			}
		}
	}
	slow := map[pathway]time.Duration{} // what the fault adds to a round trip
	var open []pathway                  // paths that can be measured
	for _, p := range ps {
		if dead[p.from] || dead[p.to] || blocked(others, p) {
			continue
		}
		open = append(open, p)
		for _, q := range ps {
			if q == p || q.from == p.to && q.to == p.from {
				slow[p] += f.Delay - f.Jitter
			}
		}
	}
	if len(open) == 0 {
		if len(mine) > 0 {
			return lab.Proof{Evidence: "no link it slows has two members that run"}, nil
		}
		return lab.Proof{State: lab.Gone, Evidence: "no rule is left, and no link it slowed has two members that run"}, nil
	}
	if f.Delay == 0 && len(mine) > 0 {
		return f.late(ctx, e, open)
	}
	limit := time.Second + 10*(f.Delay+f.Jitter) + drag(others)
	rtt, err := shortest(ctx, e, open, limit, 3)
	if err != nil {
		return lab.Proof{Evidence: err.Error()}, nil
	}
	if len(mine) == 0 {
		for _, p := range open {
			bound := slow[p]
			if f.Delay == 0 {
				bound = time.Second
			}
			for _, d := range both(p.from, p.to) {
				bound += others[d].Delay + others[d].Jitter
			}
			if rtt[p] >= bound {
				return lab.Proof{Evidence: fmt.Sprintf("no rule is left, and a round trip %s still takes %s", p, rtt[p])}, nil
			}
		}
		return lab.Proof{State: lab.Gone, Evidence: "no rule is left; round trips: " + trips(open, rtt)}, nil
	}
	if mine, _, err = rules(ctx, e); err != nil {
		return lab.Proof{}, err
	}
	var held int64
	for _, p := range open {
		held += mine[p].Held
		if mine[p].Held == 0 {
			return lab.Proof{Evidence: fmt.Sprintf("the rule for %s has held nothing up yet", p)}, nil
		}
		want := slow[p] // beside what others add
		for _, d := range both(p.from, p.to) {
			want += max(0, others[d].Delay-others[d].Jitter)
		}
		if rtt[p] < want {
			return lab.Proof{Evidence: fmt.Sprintf("a round trip %s takes %s, expected at least %s", p, rtt[p], want)}, nil
		}
	}
	return lab.Proof{State: lab.Bites, Evidence: fmt.Sprintf("held up so far: %d; round trips: %s", held, trips(open, rtt))}, nil
}

// late proves a loss without a delay: of many messages some come late.
func (f *Slow) late(ctx context.Context, e *lab.Env, ps []pathway) (lab.Proof, error) {
	late := 0
	all := slices.Repeat(ps, 8)
	for _, got := range probeAll(ctx, e, all, 5*again) {
		if got.err != nil || got.rtt >= again {
			late++
		}
	}
	mine, _, err := rules(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	var held int64
	for _, r := range mine {
		held += r.Held
	}
	p := lab.Proof{Evidence: fmt.Sprintf("%d of %d messages took %s and more; held up so far: %d", late, len(all), again, held)}
	// One or two may be the machine's doing, or all of them another fault's.
	if held > 0 && late > 0 && late < len(all) {
		p.State = lab.Bites
	}
	return p, nil
}

// shortest measures n round trips on every path and returns the shortest.
func shortest(ctx context.Context, e *lab.Env, ps []pathway, limit time.Duration, n int) (map[pathway]time.Duration, error) {
	out := map[pathway]time.Duration{}
	for range n {
		for i, got := range probeAll(ctx, e, ps, limit) {
			p := ps[i]
			if got.err != nil {
				return nil, fmt.Errorf("no message passes %s: %w", p, got.err)
			}
			if out[p] == 0 || got.rtt < out[p] {
				out[p] = got.rtt
			}
		}
	}
	return out, nil
}

// trips writes round trips for people: the shortest and the longest.
func trips(ps []pathway, rtt map[pathway]time.Duration) string {
	low, high := ps[0], ps[0]
	for _, p := range ps {
		if rtt[p] < rtt[low] {
			low = p
		}
		if rtt[p] > rtt[high] {
			high = p
		}
	}
	return fmt.Sprintf("%s (%s) to %s (%s)", rtt[low].Round(10*time.Microsecond), low, rtt[high].Round(10*time.Microsecond), high)
}

// Heal takes all rules of the fault away.
func (f *Slow) Heal(ctx context.Context, e *lab.Env) error { return clearLinks(ctx, e) }

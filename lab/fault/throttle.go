package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Throttle limits how many bytes per second go over links. Heartbeats still
// fit, so nobody is missed, but a follower or learner falls behind, and a
// snapshot takes for ever.
//
// Without `from` and `to` it is for all links of the member, in both
// directions, each with the whole rate.
type Throttle struct {
	Member  lab.Target `default:"all" doc:"whose links are throttled, when from and to are not given"`
	From    lab.Target `doc:"one direction only: who sends"`
	To      lab.Target `doc:"one direction only: who receives"`
	Rate    lab.Bytes  `need:"yes" doc:"bytes per second over each link, 4KiB to 4MiB"`
	Clients bool       `doc:"the links between the member and clients too"`
}

// The rates a proof can tell from silence and from no limit at all.
const (
	slowest = lab.Bytes(4 << 10)
	fastest = lab.Bytes(4 << 20)
)

// Doc says what the fault does.
func (*Throttle) Doc() string { return "limit how many bytes per second members can say to each other" }

// Touches says how much of an adopted cluster it changes.
func (*Throttle) Touches() lab.Touch { return lab.Passes }

// Needs lists the abilities it must have.
func (*Throttle) Needs() []lab.Cap { return []lab.Cap{lab.CapLinks} }

// Valid refuses arguments that do not go together.
func (f *Throttle) Valid() error {
	if f.Rate < slowest || f.Rate > fastest {
		return fmt.Errorf("rate: %s: expected %s to %s per second: less is a cut, more cannot be told from no limit", f.Rate, slowest, fastest)
	}
	return direction(f.From, f.To, f.Clients)
}

// Shell shows the commands it amounts to.
func (f *Throttle) Shell() (do, undo []string) {
	t := f.Member
	if f.From.Role != "" {
		t = f.From
	}
	return operator(t, fmt.Sprintf("tc qdisc add dev eth0 root tbf rate %dbps burst 1600 latency 1s", int64(f.Rate))),
		operator(t, "tc qdisc del dev eth0 root")
}

func (f *Throttle) rule() lab.Rule { return lab.Rule{Rate: int64(f.Rate)} }

// Inject sets a rule on every path.
func (f *Throttle) Inject(ctx context.Context, e *lab.Env) error {
	ps, err := between(e, f.Member, f.From, f.To, f.Clients)
	if err != nil {
		return err
	}
	e.Note("", "%s per second: %s", f.Rate, list(ps))
	return setAll(ctx, e, ps, f.rule())
}

// sample is how much a proof sends: half a second's worth, but so much that it
// does not fit into a burst, and so little that an HTTP server takes it.
func (f *Throttle) sample() int { return int(min(max(f.Rate/2, 16<<10), 512<<10)) }

// bound is the time below which the sample went faster than the rate allows.
// Half of the ideal leaves room for bursts; without a limit it takes a small
// part of that.
func (f *Throttle) bound() time.Duration {
	return time.Duration(float64(f.sample()) / float64(f.Rate) / 2 * float64(time.Second))
}

// Prove sends a known number of bytes over each path to a member that runs, as
// a request, and measures how long it takes until it is answered.
func (f *Throttle) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
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
	ps = slices.DeleteFunc(ps, func(p pathway) bool {
		return p.to == client || dead[p.from] || dead[p.to] || blocked(others, p) || others[p].Rate > 0
	})
	// Few at a time, and one when it must be quick: they take each other's time.
	lanes := 1
	if len(mine) > 0 {
		lanes = 4
	}
	var seen []string
	for i, got := range f.sendAll(ctx, e, ps, lanes, drag(others)) {
		text := fmt.Sprintf("%s %s in %s", ps[i], lab.Bytes(f.sample()), got.rtt.Round(time.Millisecond))
		slow := got.rtt >= f.bound()
		if len(mine) == 0 {
			slow = got.rtt >= f.bound()+drag(others)
		}
		switch {
		case got.err != nil:
			return lab.Proof{Evidence: fmt.Sprintf("%s: %s", ps[i], got.err)}, nil
		case slow && len(mine) == 0:
			return lab.Proof{Evidence: "no rule is left, and still " + text}, nil
		case !slow && len(mine) > 0:
			return lab.Proof{Evidence: fmt.Sprintf("%s, expected at least %s", text, f.bound())}, nil
		}
		seen = append(seen, text)
	}
	text := strings.Join(seen, ", ")
	switch {
	case len(mine) == 0:
		return lab.Proof{State: lab.Gone, Evidence: strings.TrimSuffix("no rule is left; "+text, "; ")}, nil
	case len(ps) == 0:
		return lab.Proof{Evidence: "no link it throttles has two members that run"}, nil
	}
	if mine, _, err = rules(ctx, e); err != nil {
		return lab.Proof{}, err
	}
	for _, p := range ps {
		if mine[p].Held == 0 {
			return lab.Proof{Evidence: fmt.Sprintf("the rule for %s has held nothing up yet", p)}, nil
		}
	}
	return lab.Proof{State: lab.Bites, Evidence: text}, nil
}

// sendAll sends along every path, so many at a time.
func (f *Throttle) sendAll(ctx context.Context, e *lab.Env, ps []pathway, lanes int, drag time.Duration) []probe {
	limit := 2*time.Second + 8*f.bound() + drag
	got := make([]probe, len(ps))
	free := make(chan struct{}, lanes)
	var wg sync.WaitGroup
	for i, p := range ps {
		free <- struct{}{}
		wg.Go(func() {
			got[i].rtt, got[i].err = f.send(ctx, e, p, limit)
			<-free
		})
	}
	wg.Wait()
	return got
}

// send makes a request along a path, with a header of the sample's size, and
// returns the time until it is answered. The member that is asked reads all of
// it, answers with its version and changes nothing.
func (f *Throttle) send(ctx context.Context, e *lab.Env, p pathway, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var from, to *lab.Member
	for _, m := range e.Seats {
		switch m.Host.Name() {
		case p.from:
			from = m
		case p.to:
			to = m
		}
	}
	if to == nil {
		return 0, errors.New("it ends at no member")
	}
	raw, dial := to.PeerURL, (&net.Dialer{}).DialContext
	if from == nil {
		raw = to.ClientURL
	} else {
		dial = func(ctx context.Context, _, addr string) (net.Conn, error) { return from.Host.Dial(ctx, addr) }
	}
	u, err := url.Parse(raw)
	if err != nil {
		return 0, err
	}
	t := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	if t.TLSClientConfig, err = etcd.ClientConfig(e.Cluster); err != nil {
		return 0, err
	}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("version").String(), nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Padding", strings.Repeat("x", f.sample()))
	start := time.Now()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s answers %s", raw, resp.Status)
	}
	return time.Since(start), nil
}

// Heal takes all rules of the fault away.
func (f *Throttle) Heal(ctx context.Context, e *lab.Env) error { return clearLinks(ctx, e) }

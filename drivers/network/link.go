package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// errRefused is what a connection meets on a link with Reject.
var errRefused = errors.New("refused")

// pair is an ordered pair of ends.
type pair struct{ from, to string }

// link is one direction between two ends, with the rules that hold there now.
type link struct {
	pair
	now atomic.Pointer[rules]
}

// rules are all rules on a link at a time. They never change: a new set takes
// the place of the old one, whose channel is then closed.
type rules struct {
	owned   []*ownedRule
	sum     lab.Rule
	quiet   bool // no rule: all pass
	changed chan struct{}
	bucket  bucket
}

type ownedRule struct {
	owner string
	rule  lab.Rule
	held  atomic.Int64
}

func newRules(owned []*ownedRule) *rules {
	r := &rules{owned: owned, changed: make(chan struct{})}
	var all []lab.Rule
	for _, o := range owned {
		all = append(all, o.rule)
	}
	r.sum = Sum(all)
	r.quiet = r.sum == lab.Rule{}
	return r
}

// Sum adds up the rules of several owners on one link.
func Sum(all []lab.Rule) lab.Rule {
	var sum lab.Rule
	pass := 1.0
	for _, r := range all {
		sum.Drop = sum.Drop || r.Drop
		sum.Reject = sum.Reject || r.Reject
		sum.Delay += r.Delay
		sum.Jitter += r.Jitter
		pass *= 1 - r.Loss
		if r.Rate > 0 && (sum.Rate == 0 || r.Rate < sum.Rate) {
			sum.Rate = r.Rate
		}
	}
	sum.Loss = 1 - pass
	return sum
}

// Check refuses a rule with values that no link can have.
func Check(r lab.Rule) error {
	switch {
	case r.Delay < 0 || r.Jitter < 0 || r.Rate < 0:
		return errors.New("delay, jitter and rate: expected no negative value")
	case !(r.Loss >= 0 && r.Loss <= 1):
		return fmt.Errorf("loss: %g: expected a share from 0 to 1", r.Loss)
	}
	return nil
}

// count notes that n bytes, or one connection attempt, met the rules.
func (r *rules) count(n int) {
	for _, o := range r.owned {
		o.held.Add(int64(n))
	}
}

func (l *link) quiet() bool { return l.now.Load().quiet }

// segment is the largest piece that loss and rate treat as one: what a TCP
// segment carries on an ethernet.
const segment = 1448

// piece is how many of n bytes go over the link in one.
func (l *link) piece(n int) int {
	if s := l.now.Load().sum; s.Loss > 0 || s.Rate > 0 {
		return min(n, segment)
	}
	return n
}

// cross waits until n bytes that came to the link at the given time may leave
// it. It follows every change of the rules while it waits, and returns
// errRefused, or ctx's error when ctx ends.
func (l *link) cross(ctx context.Context, came time.Time, n int) error {
	for {
		r := l.now.Load()
		var err error
		switch {
		case r.sum.Reject:
			return errRefused
		case r.quiet:
			return nil
		case r.sum.Drop:
			err = r.wait(ctx, nil)
		default:
			err = r.until(ctx, came.Add(draw(r.sum)))
			if err == nil && r.sum.Rate > 0 {
				err = r.until(ctx, r.bucket.take(n, r.sum.Rate))
			}
			if err == nil {
				return nil
			}
		}
		if err != errChanged {
			return err
		}
	}
}

// errChanged says that other rules hold now.
var errChanged = errors.New("rules changed")

func (r *rules) until(ctx context.Context, t time.Time) error {
	d := time.Until(t)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	return r.wait(ctx, timer.C)
}

func (r *rules) wait(ctx context.Context, timer <-chan time.Time) error {
	select {
	case <-timer:
		return nil
	case <-r.changed:
		return errChanged
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retransmission is the time after which TCP sends a lost segment again, the
// least that Linux waits. It doubles with every further loss of the segment.
const retransmission = 200 * time.Millisecond

// draw says how long after it came a segment arrives. The sender's TCP repeats
// lost segments, so that loss is nothing but delay to those who talk over it.
func draw(s lab.Rule) time.Duration {
	d := s.Delay
	if s.Jitter > 0 {
		d += time.Duration((2*rand.Float64() - 1) * float64(s.Jitter))
	}
	for rto := retransmission; s.Loss > 0 && rand.Float64() < s.Loss && rto < time.Minute; rto *= 2 {
		d += rto
	}
	return d
}

// bucket lets bytes pass at a rate. The links of all connections of a pair
// share one.
type bucket struct {
	mu   sync.Mutex
	free time.Time // when the last byte taken so far has passed
}

// burst is how much unused time may be made up for, so that timers that fire
// late do not lower the rate.
const burst = 5 * time.Millisecond

// take says when n bytes have passed.
func (b *bucket) take(n int, rate int64) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if early := time.Now().Add(-burst); b.free.Before(early) {
		b.free = early
	}
	b.free = b.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return b.free
}

package lab

import (
	"fmt"
	"time"
)

// Slowest is the highest factor of [Drill.Slow].
const Slowest = 20

// etcd takes election timeouts up to 50 s.
const longestElection = 50 * time.Second

// Slow makes a drill one for machines that are n times as slow as those it was
// written for, emulated ones for example: ticks, deadlines, probes and what is
// promised about times are n times as long, and the load is as much thinner.
// What happens, and in which order, is the same. n is 1 to Slowest.
func (d *Drill) Slow(n int) error {
	if n < 1 || n > Slowest {
		return fmt.Errorf("slow: %d: expected 1 to %d", n, Slowest)
	}
	if n == 1 {
		return nil
	}
	d.Cluster.Slower = n
	times := time.Duration(n)
	ticks := min(times, longestElection/d.Cluster.Election)
	d.Cluster.Heartbeat *= ticks
	d.Cluster.Election *= ticks
	if l := d.Load; l != nil {
		l.Rate /= Rate(n)
		l.Gate /= Rate(n)
		for _, t := range []*time.Duration{&l.Timeout, &l.Backoff, &l.Probe, &l.Warmup} {
			*t *= times
		}
	}
	for s := range d.Each {
		s.Within *= times
		s.For *= times
	}
	for i, e := range d.Expect {
		if ExpectTerms[e.Term].Unit != "s" {
			continue
		}
		e.Value *= float64(n)
		term := e.Term
		if e.Arg != "" {
			term += "." + e.Arg
		}
		e.Text = fmt.Sprintf("%s %s %s", term, e.Op, time.Duration(e.Value*float64(time.Second)))
		d.Expect[i] = e
	}
	return nil
}

// Long is how long something may take on the machines of a cluster that takes
// this long elsewhere.
func (s *Spec) Long(t time.Duration) time.Duration { return t * time.Duration(max(1, s.Slower)) }

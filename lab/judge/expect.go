package judge

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// weigh decides one promise about the whole run.
//
// What was not measured is an error: a promise about outages without probers,
// about losses without a final read, about a fault that was never injected.
// What was measured only in part is unknown, unless that part decides: an
// outage that had not ended is too long already, or may be.
func (c *court) weigh(e lab.Expect) lab.ExpectReport {
	rep := lab.ExpectReport{Text: e.Text, Standing: e.Standing}
	rep.Measured, rep.Verdict = c.measure(e)
	return rep
}

func (c *court) measure(e lab.Expect) (string, lab.Verdict) {
	s := c.story
	if s.ended && s.verdict == lab.Skip {
		return "not run", lab.Skip
	}
	number := func(n int) (string, lab.Verdict) { return fmt.Sprint(n), met(e, float64(n)) }
	switch e.Term {
	case "elections":
		if s.elections < 0 {
			return "no leader was ever seen", lab.Error
		}
		return number(s.elections)
	case "rto", "outage", "read-outage", "latency", "lost", "undone", "resurrected", "unknown", "acked", "linearizable", "revisions", "watch":
		if !c.ran {
			return "there was no load", lab.Error
		}
	}
	switch e.Term {
	case "rto":
		return c.time(e, "write", "")
	case "outage":
		return c.time(e, "write", e.Arg)
	case "read-outage":
		return c.time(e, "read", e.Arg)
	case "latency":
		l, ok := c.latency["write"]
		if !ok {
			return "no write of a client was acknowledged", lab.Error
		}
		v, ok := map[string]float64{"p50": l.P50, "p95": l.P95, "p99": l.P99, "max": l.Max}[e.Arg]
		if !ok {
			return fmt.Sprintf("latency.%s: expected p50, p95, p99 or max", e.Arg), lab.Error
		}
		return c.timed(fmt.Sprintf("%s of %d writes", text(v), l.Count), met(e, v))
	case "lost", "resurrected":
		if !c.losses.Looked {
			return "could not look: there is no final read", lab.Error
		}
		if e.Term == "lost" {
			return number(len(c.losses.Lost))
		}
		return number(len(c.losses.Resurrected))
	case "undone":
		return number(c.undone)
	case "unknown":
		return number(c.vague)
	case "acked":
		return number(c.acked)
	case "linearizable":
		l := c.linear
		over := fmt.Sprintf("%d keys take more than the budget of %d steps: %s", len(l.Unknown), c.opts.Steps, lab.Some(l.Unknown, 5))
		switch c.answer() {
		case "yes":
			return fmt.Sprintf("yes: %d operations on %d keys", l.Ops, l.Keys), lab.Pass
		case "no":
			if len(l.Bad) == 0 {
				return "no: each key by itself is, all keys together are not", lab.Fail
			}
			return "no: " + lab.Some(l.Bad, 5), lab.Fail
		}
		return "unknown: " + over, lab.Undecided
	case "revisions":
		if c.orders.Count > 0 {
			return fmt.Sprintf("%d times against the order, first: %s", c.orders.Count, c.orders.Findings[0].What), lab.Fail
		}
		return "always forwards", lab.Pass
	case "watch":
		return c.watchers(e)
	}
	return "unknown promise", lab.Error
}

func (c *court) watchers(e lab.Expect) (string, lab.Verdict) {
	w := c.watched
	switch {
	case w.Watchers == 0 && e.Standing && c.story.load() != nil && !c.story.load().Watch:
		return "no watcher was asked for", lab.Skip
	case w.Watchers == 0:
		return "no watcher ran", lab.Error
	case w.Count > 0:
		return fmt.Sprintf("%d times not so, first: %s", w.Count, w.Findings[0].What), lab.Fail
	case len(w.Behind) == w.Watchers:
		return "no watcher came to the end of the history", lab.Undecided
	}
	text := fmt.Sprintf("%d watchers", w.Watchers)
	if len(w.Behind) == 0 {
		return text + " saw everything", lab.Pass
	}
	// A watcher cannot go on when its member is down.
	idle := slices.DeleteFunc(slices.Clone(w.Behind), func(m string) bool { return !c.story.up[m] })
	if len(idle) > 0 {
		return fmt.Sprintf("%s, %s did not come to the end though it was up", text, strings.Join(idle, ", ")), lab.Undecided
	}
	return fmt.Sprintf("%s, %s as far as it was up", text, strings.Join(w.Behind, ", ")), lab.Pass
}

// time weighs the longest outage of a kind during a fault, of all when name is
// empty.
func (c *court) time(e lab.Expect, kind, name string) (string, lab.Verdict) {
	if kind == "write" && !c.writeProbed || kind == "read" && !c.readProbed {
		return "nobody measured: the load had no prober", lab.Error
	}
	if name != "" && !slices.ContainsFunc(c.story.faults, func(f lab.FaultReport) bool { return f.Name == name }) {
		return fmt.Sprintf("fault %s was never injected", name), lab.Error
	}
	o := c.longest(kind, name)
	if !o.Open {
		return c.timed(text(o.Duration), met(e, o.Duration))
	}
	v := lab.Undecided
	switch e.Op {
	case "<", "<=", "==":
		if o.Duration > e.Value || e.Op == "<" && o.Duration == e.Value {
			v = lab.Fail
		}
	case ">", ">=", "!=":
		if o.Duration > e.Value {
			v = lab.Pass
		}
	}
	return c.timed(text(o.Duration)+" and not over at the end", v)
}

// timed takes a verdict about time back when the machine was too slow to tell.
func (c *court) timed(measured string, v lab.Verdict) (string, lab.Verdict) {
	if c.void() {
		return measured + ", on a machine too slow to tell", lab.Error
	}
	return measured, v
}

func met(e lab.Expect, v float64) lab.Verdict {
	if e.Met(v) {
		return lab.Pass
	}
	return lab.Fail
}

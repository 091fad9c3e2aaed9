package judge

import (
	"context"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
)

// livesOf cuts a history where the store was put back to an earlier state on
// purpose. Each life of the store is judged by itself: it began with what the
// state it was put back to contains, and ended with the next return. Revisions
// say what belongs to which life, since a store goes on above all it had given
// out; see lab.Return. What carries no revision, such as a write without an
// answer, may belong to any.
//
// Nothing is excused by this but what lies between the two revisions of a
// return: a write that the snapshot contained and the restored store does not
// is lost, and so is what the new life forgets.
func livesOf(r *Record, returns []lab.Return) []*Record {
	if len(returns) == 0 {
		return []*Record{r}
	}
	var out []*Record
	for n := 0; n <= len(returns); n++ {
		var ops []lab.Op
		for i := range r.Ops {
			rev := told(&r.Ops[i])
			if gone(returns[:n], rev) || n < len(returns) && rev >= returns[n].From {
				continue
			}
			ops = append(ops, r.Ops[i])
		}
		out = append(out, NewRecord(ops))
	}
	return out
}

// told is the revision that says when an operation saw the store, 0 when none
// does.
func told(op *lab.Op) int64 {
	if op.Kind == lab.OpEvent {
		return op.Mod
	}
	return op.Revision
}

// gone tells whether a revision is of what was taken back.
func gone(returns []lab.Return, rev int64) bool {
	return slices.ContainsFunc(returns, func(t lab.Return) bool { return rev > t.Revision && rev < t.From })
}

// undone counts the acknowledged writes that were taken back on purpose.
func undone(r *Record, returns []lab.Return) int {
	n := 0
	for _, i := range r.clients {
		if op := &r.Ops[i]; committed(op) && gone(returns, op.Revision) {
			n++
		}
	}
	return n
}

// linearLives is Linearizable of every life.
func linearLives(ctx context.Context, lives []*Record, steps int) Linear {
	out := Linearizable(ctx, lives[len(lives)-1], steps)
	for _, r := range lives[:len(lives)-1] {
		l := Linearizable(ctx, r, steps)
		out.Ops += l.Ops
		out.Bad, out.Unknown = append(out.Bad, l.Bad...), append(out.Unknown, l.Unknown...)
		if l.Picture != nil {
			out.Picture = l.Picture
		}
		if out.Answer != "no" && l.Answer != "yes" {
			out.Answer = l.Answer
		}
	}
	return out
}

// orderLives is Revisions of every life.
func orderLives(lives []*Record) Orders {
	var out Orders
	for _, r := range lives {
		out.join(Revisions(r))
	}
	return out
}

// watchLives is Watch of every life; how far watchers came is told by the last.
func watchLives(lives []*Record) Watched {
	out := Watch(lives[len(lives)-1])
	for _, r := range lives[:len(lives)-1] {
		out.join(Watch(r).Orders)
	}
	return out
}

// join adds what another judge of order found.
func (o *Orders) join(p Orders) {
	if o.Count == 0 {
		o.Pair = p.Pair
	}
	o.Count += p.Count
	o.Findings = append(o.Findings, p.Findings[:min(len(p.Findings), maxFindings-len(o.Findings))]...)
}

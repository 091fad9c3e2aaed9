package judge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// Watched is what [Watch] found.
type Watched struct {
	Orders
	Watchers int
	// Behind are the members whose watcher did not come to the end of the
	// history: what it delivered was judged, what it did not is not known.
	Behind []string
}

// Watch holds every watcher to etcd's guarantees:
//
//   - ordered: revisions never go back;
//   - unique: no event comes twice;
//   - reliable: between the first and the last event nothing is missing that
//     was acknowledged, or that another watcher got;
//   - atomic: an event is what was written at that revision, and watchers
//     agree about it;
//   - resumable: this holds across the ends and new beginnings of a watch,
//     except where etcd said that revisions were compacted.
//
// There is no promise about delay: a watcher that did not come to the marker
// is Behind, and not a finding.
//
// An event must be of something a client did: of an acknowledged write at its
// revision, or of one without an answer, which is thereby known to have
// happened, once.
func Watch(r *Record) Watched {
	w := Watched{Watchers: len(r.Watchers)}
	truth := known(r)
	for _, one := range r.Watchers {
		s := follow(r, one, truth, &w.Orders)
		if r.Marker == nil || s.upto < r.Marker.Revision {
			w.Behind = append(w.Behind, one.Member)
		}
	}
	slices.Sort(w.Behind)
	if o := agree(r, truth); o.Count > 0 {
		for i, f := range o.Findings {
			if i == 0 {
				w.add(o.Pair[0], o.Pair[1], f)
			} else {
				w.add(nil, nil, f)
			}
		}
	}
	return w
}

// change is what is known to have happened at a revision.
type change struct {
	rev int64
	op  int32 // the acknowledged write, or the first event of it
}

// known lists what clients and watchers together know of each revision, by
// revision: acknowledged writes first, then events.
func known(r *Record) []change {
	all := make([]change, 0, len(r.made)+len(r.made)/16)
	for _, i := range r.made {
		all = append(all, change{r.Ops[i].Revision, i})
	}
	sorted := func(a, b change) int { return cmp.Or(cmp.Compare(a.rev, b.rev), cmp.Compare(a.op, b.op)) }
	for _, w := range r.Watchers {
		var more []change
		look := finger{all: all}
		for _, i := range w.Ops {
			op := &r.Ops[i]
			if op.Kind != lab.OpEvent {
				continue
			}
			if _, ok := look.at(op.Mod); !ok {
				more = append(more, change{op.Mod, i})
			}
		}
		if len(more) > 0 {
			all = append(all, more...)
			slices.SortFunc(all, sorted)
			all = slices.CompactFunc(all, func(a, b change) bool { return a.rev == b.rev && r.Ops[b.op].Kind == lab.OpEvent })
		}
	}
	return all
}

func at(all []change, rev int64) (int, bool) {
	return slices.BinarySearchFunc(all, rev, func(c change, rev int64) int { return cmp.Compare(c.rev, rev) })
}

// finger finds revisions in a list; one that comes soon after the last it finds
// at once, as they do in a stream of events.
type finger struct {
	all []change
	n   int
}

func (f *finger) at(rev int64) (int, bool) {
	for steps := 0; steps < 8 && f.n < len(f.all) && f.all[f.n].rev < rev; steps++ {
		f.n++
	}
	if f.n >= len(f.all) || f.all[f.n].rev != rev || f.n > 0 && f.all[f.n-1].rev == rev {
		n, ok := at(f.all, rev)
		f.n = n
		return n, ok
	}
	return f.n, true
}

// span is how far a watcher came.
type span struct{ upto int64 }

// follow judges one watcher.
func follow(r *Record, w Watcher, truth []change, o *Orders) span {
	ops := r.Ops
	var events []int32
	from := int64(0)
	var holes [][2]int64 // revisions that etcd said were compacted: from, to
	var last *lab.Op
	for _, i := range w.Ops {
		op := &ops[i]
		switch {
		case op.Kind == lab.OpWatch && op.Error == "":
			if from == 0 {
				from = op.Revision
			}
		case op.Kind == lab.OpWatch:
			if strings.HasPrefix(op.Error, "compacted") {
				first := from
				if last != nil {
					first = last.Mod + 1
				}
				holes = append(holes, [2]int64{first, op.Revision})
			}
		default:
			switch {
			case last == nil || op.Mod > last.Mod:
				last = op
			case op.Mod < last.Mod:
				again := slices.ContainsFunc(events, func(j int32) bool { return ops[j].Mod == op.Mod && ops[j].Key == op.Key })
				if again {
					o.add(last, op, finding("watch", op, "the watcher through %s got the event of revision %d twice", w.Member, op.Mod))
				} else {
					o.add(last, op, finding("watch", op, "the watcher through %s got the event of revision %d after that of revision %d", w.Member, op.Mod, last.Mod))
				}
			case op.Key == last.Key:
				o.add(last, op, finding("watch", op, "the watcher through %s got the event of revision %d twice", w.Member, op.Mod))
			}
			events = append(events, i)
		}
	}
	if last == nil {
		if from > 0 {
			return span{from - 1}
		}
		return span{}
	}
	if from == 0 {
		from = ops[events[0]].Mod // it began before the record did
	}
	events = r.sorted(events, byMod)
	// Everything known between the first and the last event must be there.
	n := 0
	first, _ := at(truth, from)
	for _, c := range truth[first:] {
		if c.rev > last.Mod {
			break
		}
		for n < len(events) && ops[events[n]].Mod < c.rev {
			n++
		}
		if n < len(events) && ops[events[n]].Mod == c.rev {
			continue
		}
		if slices.ContainsFunc(holes, func(h [2]int64) bool { return c.rev >= h[0] && c.rev < h[1] }) {
			continue
		}
		by := &ops[c.op]
		who := fmt.Sprintf("the watcher through %s got it", by.Member)
		if by.Kind != lab.OpEvent {
			who = fmt.Sprintf("client %d got its %s acknowledged", by.Client, by.Kind)
		}
		next := last
		if n < len(events) {
			next = &ops[events[n]]
		}
		f := finding("watch", next, "the watcher through %s never got the event of revision %d, but that of revision %d: %s", w.Member, c.rev, next.Mod, who)
		f.Key, f.Client = by.Key, ops[w.Ops[0]].Client
		o.add(by, next, f)
	}
	return span{last.Mod}
}

// agree judges what the events say.
func agree(r *Record, truth []change) Orders {
	var o Orders
	ops := r.Ops
	// What may have happened, and what must not, by key and value; a
	// deletion has no value of its own.
	type name struct{ key, value string }
	pending := map[name]bool{}
	silent := map[name]int64{} // deletions that do not say whether they found anything
	refused := map[name]*lab.Op{}
	for _, i := range r.clients {
		op := &ops[i]
		if !writes(op) || op.Outcome == lab.OK {
			continue
		}
		n := name{op.Key, op.Value}
		if op.Outcome == lab.Unknown {
			pending[n] = true
		} else if op.Kind != lab.OpDelete {
			refused[n] = op
		}
	}
	for _, k := range r.Keys {
		for _, i := range k.Ops {
			op := &ops[i]
			if op.Kind == lab.OpMarker && op.Outcome == lab.Unknown {
				pending[name{op.Key, op.Value}] = true
			}
			if op.Kind == lab.OpDelete && op.Outcome == lab.OK && !op.Deleted {
				silent[name{key: op.Key}] = max(silent[name{key: op.Key}], op.Revision)
			}
		}
	}
	var acked map[name]*lab.Op // made when it is needed, which is seldom
	find := func(n name) *lab.Op {
		if acked == nil {
			acked = map[name]*lab.Op{}
			for _, k := range r.Keys {
				for _, i := range k.Ops {
					if op := &ops[i]; wrote(op) {
						acked[name{op.Key, op.Value}] = op
					}
				}
			}
		}
		return acked[n]
	}
	once := map[name]*lab.Op{}
	told := map[int64]bool{} // revisions about which the same was said of another watcher
	for _, w := range r.Watchers {
		look := finger{all: truth}
		for _, i := range w.Ops {
			e := &ops[i]
			if e.Kind != lab.OpEvent || told[e.Mod] {
				continue
			}
			say := func(judge, format string, args ...any) {
				told[e.Mod] = true
				o.add(e, e, finding(judge, e, format, args...))
			}
			n, _ := look.at(e.Mod)
			by := &ops[truth[n].op]
			if by.Kind != lab.OpEvent {
				if by.Key != e.Key || e.Deleted != (by.Kind == lab.OpDelete) || !e.Deleted && by.Value != e.Value {
					say("divergence", "the event of revision %d through %s is %s, but %s was acknowledged at it", e.Mod, w.Member, said(e), said(by))
				}
				continue
			}
			if by.Key != e.Key || by.Value != e.Value || by.Deleted != e.Deleted {
				say("divergence", "the event of revision %d is %s through %s and %s through %s", e.Mod, said(by), by.Member, said(e), w.Member)
				continue
			}
			who := name{e.Key, e.Value}
			if e.Deleted {
				if !pending[who] && silent[who] < e.Mod {
					say("watch", "the event of revision %d is a deletion that no client asked for", e.Mod)
				}
				continue
			}
			switch before := once[who]; {
			case before != nil && before.Mod != e.Mod:
				say("watch", "%q was written at revision %d and again at revision %d", e.Value, before.Mod, e.Mod)
			case pending[who]:
				once[who] = e
			case refused[who] != nil:
				say("watch", "%q was refused, and written at revision %d", e.Value, e.Mod)
			default:
				if a := find(who); a != nil {
					say("watch", "%q was acknowledged at revision %d and written at revision %d", e.Value, a.Revision, e.Mod)
				} else {
					say("watch", "the event of revision %d is of %q, which no client has written", e.Mod, e.Value)
				}
			}
		}
	}
	return o
}

func said(op *lab.Op) string {
	if op.Kind == lab.OpDelete || op.Deleted {
		return "a deletion of " + op.Key
	}
	return fmt.Sprintf("%q at %s", op.Value, op.Key)
}

package judge

import (
	"fmt"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
)

// Orders is what a judge of order found: all it counted, and the first
// hundred of them.
type Orders struct {
	Count    int
	Findings []lab.Finding
	Pair     [2]*lab.Op // the two operations of the first finding, nil without
}

func (o *Orders) add(a, b *lab.Op, f lab.Finding) {
	if o.Count == 0 {
		o.Pair = [2]*lab.Op{a, b}
	}
	if o.Count++; o.Count <= maxFindings {
		o.Findings = append(o.Findings, f)
	}
}

// Revisions looks for revisions that are not what etcd promises of them:
//
//   - a linearizable answer never shows a lower revision than any answer that
//     came before its operation was called, and a write gets a higher one;
//   - no two writes get the same revision;
//   - the mod_revision of a key, as read or as its writes were acknowledged,
//     never goes back, and is never above the revision of the store;
//   - a value stands at the revision at which its write was acknowledged. If
//     not, the write was applied twice, or something else changed it.
//
// Serializable reads are left out: they may be old.
func Revisions(r *Record) Orders {
	var o Orders
	goesBack(r, &o)
	givenTwice(r, &o)
	perKey := make([]Orders, len(r.Keys))
	each(len(r.Keys), func(i int) { perKey[i] = modsOf(r, r.Keys[i]) })
	for _, p := range perKey {
		if o.Count == 0 {
			o.Pair = p.Pair
		}
		o.Count += p.Count
		o.Findings = append(o.Findings, p.Findings[:min(len(p.Findings), maxFindings-len(o.Findings))]...)
	}
	return o
}

func goesBack(r *Record, o *Orders) {
	ops := r.Ops
	var top *lab.Op
	n := 0
	look := func(op *lab.Op) {
		for ; n < len(r.told) && ops[r.told[n]].Return < op.Call; n++ {
			if before := &ops[r.told[n]]; top == nil || before.Revision > top.Revision {
				top = before
			}
		}
		if top == nil {
			return
		}
		// A deletion that found nothing makes no revision, nor does a read.
		if op.Revision < top.Revision || op.Revision == top.Revision && committed(op) {
			o.add(top, op, finding("revisions", op, "%s through %s was answered at revision %d, but before it was called client %d had been answered at revision %d through %s",
				op.Kind, seat(op), op.Revision, top.Client, top.Revision, seat(top)))
		}
	}
	for _, i := range r.called {
		look(&ops[i])
	}
	if r.Final != nil {
		look(r.Final)
	}
}

func givenTwice(r *Record, o *Orders) {
	ops, made := r.Ops, r.made
	for n := 1; n < len(made); n++ {
		a, b := &ops[made[n-1]], &ops[made[n]]
		if a.Revision == b.Revision {
			o.add(a, b, finding("revisions", b, "%s was acknowledged at revision %d, as was %s of %s by client %d", b.Kind, b.Revision, a.Kind, a.Key, a.Client))
		}
	}
}

// modsOf judges the mod_revisions read at one key.
func modsOf(r *Record, k Key) Orders {
	var o Orders
	ops := r.Ops
	wroteAt := map[string]int32{}
	var reads, told []int32
	for _, i := range k.Ops {
		op := &ops[i]
		if wrote(op) && op.Revision > 0 {
			wroteAt[op.Value] = i
		}
		if shows(op) {
			reads = append(reads, i)
		}
		if mod(op) > 0 {
			told = append(told, i)
		}
	}
	look := func(op *lab.Op) {
		if i, ok := wroteAt[op.Value]; ok && ops[i].Revision != op.Mod {
			o.add(&ops[i], op, finding("revisions", op, "%q was acknowledged at revision %d and read at mod_revision %d: it was written again", op.Value, ops[i].Revision, op.Mod))
		} else if op.Revision > 0 && op.Mod > op.Revision {
			o.add(op, op, finding("revisions", op, "mod_revision %d was read at revision %d", op.Mod, op.Revision))
		}
	}
	told = r.sorted(told, byReturn)
	var top *lab.Op
	n := 0
	for _, i := range reads {
		op := &ops[i]
		for ; n < len(told) && ops[told[n]].Return < op.Call; n++ {
			if before := &ops[told[n]]; top == nil || mod(before) > mod(top) {
				top = before
			}
		}
		if top != nil && op.Mod < mod(top) {
			o.add(top, op, finding("revisions", op, "mod_revision %d was read through %s, but before that client %d had been told of mod_revision %d through %s",
				op.Mod, seat(op), top.Client, mod(top), seat(top)))
		}
		look(op)
	}
	if row := r.Rows[k.Name]; row != nil {
		look(row)
	}
	return o
}

// shows tells whether an operation read a value with its mod_revision, and
// must have read the newest.
func shows(op *lab.Op) bool {
	return op.Outcome == lab.OK && op.Mod > 0 && (op.Kind == lab.OpGet && !op.Serializable || op.Kind == lab.OpTxn && !op.Swapped)
}

// mod is the mod_revision of its key that an operation was told of, be it by
// reading or by writing; 0 when it was told of none.
func mod(op *lab.Op) int64 {
	switch {
	case shows(op):
		return op.Mod
	case committed(op):
		return op.Revision
	}
	return 0
}

func seat(op *lab.Op) string {
	if op.Member == "" {
		return "any member"
	}
	return op.Member
}

// more adds a last finding that counts what was left out.
func (o Orders) more(judge string) []lab.Finding {
	if o.Count > len(o.Findings) {
		return append(slices.Clone(o.Findings), lab.Finding{Judge: judge, What: fmt.Sprintf("and %d more", o.Count-len(o.Findings))})
	}
	return o.Findings
}

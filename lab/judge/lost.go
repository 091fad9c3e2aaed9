package judge

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
)

// Losses is what [Lost] found.
type Losses struct {
	// Looked is false when there is no final read: then nothing is known.
	Looked bool
	// Lost are the acknowledged writes that are lost, by time.
	Lost []lab.Finding
	// Resurrected are keys that are there though a deletion of them was
	// acknowledged, one finding per key.
	Resurrected []lab.Finding
	// First is the operation that the first finding is about, nil without one.
	First *lab.Op
}

// Lost compares what was acknowledged with what is there in the end.
//
// An acknowledged write of a value is lost when the history of the store that
// answered the final read cannot contain it. It is kept when its value stands
// at the key. When something else stands there, or nothing, it is excused only
// by another write or deletion of the key that can be the later one:
//
//   - every change has a revision of its own, and they grow. So a write that
//     was acknowledged at revision 100 is lost when its key was last modified
//     at revision 95, whatever stands there, and when another key was modified
//     at revision 100;
//   - an operation that was answered before the lost one was called is not
//     later, whatever its revision says;
//   - an operation without an answer may have happened, as late as one likes,
//     and always excuses; a refused one never does.
//
// A store that was rolled back gives out revisions a second time, and new
// writes soon cover what was lost. Two acknowledged writes whose revisions
// contradict the order in which they happened cannot both be in one history:
// the later one is taken to be, the earlier one to be lost, except where the
// final read shows the opposite. So everything acknowledged between the point
// to which the store fell back and the fall counts as lost, also where its key
// was written again since. Without the fall being seen in revisions (a restore
// that raises them) a lost write that was overwritten later goes unseen, as it
// does for the store's users.
//
// A deletion is undone, and its key resurrected, when the key stands there at
// a revision below the deletion's, or with a value whose writing was answered
// before the deletion was called.
func Lost(r *Record) Losses {
	if r.Final == nil {
		return Losses{}
	}
	l := Losses{Looked: true}
	var lost, back []int32
	gone := overruled(r)
	owner := map[int64]string{} // of the revisions the final read shows
	for _, row := range r.Rows {
		owner[row.Mod] = row.Key
	}
	for _, k := range r.Keys {
		row := r.Rows[k.Name]
		d := deletions(r, k)
		var writer *lab.Op // of the value that stands there
		if row != nil {
			for _, i := range k.Ops {
				if op := &r.Ops[i]; writes(op) && op.Value == row.Value && op.Kind != lab.OpDelete && (wrote(op) || op.Outcome == lab.Unknown) {
					writer = op
				}
			}
		}
		for _, i := range k.Ops {
			op := &r.Ops[i]
			if !wrote(op) || row != nil && row.Value == op.Value {
				continue
			}
			switch other, taken := owner[op.Revision]; {
			case gone[i]:
			case op.Revision > 0 && taken && other != k.Name:
			case op.Revision > r.Final.Revision:
			case row != nil && op.Revision > 0 && row.Mod > 0 && row.Mod <= op.Revision:
			case row != nil && writer != nil && writer.Outcome == lab.OK && writer.Return < op.Call:
			case row == nil && !d.excuse(op):
			default:
				continue
			}
			lost = append(lost, i)
		}
		if row == nil {
			continue
		}
		for _, i := range d.acked {
			op := &r.Ops[i]
			early := writer != nil && writer.Outcome == lab.OK && writer.Return < op.Call
			if row.Mod > 0 && op.Revision > 0 && row.Mod <= op.Revision || early {
				back = append(back, i)
				break
			}
		}
	}
	for _, i := range r.sorted(lost, byReturn) {
		op := &r.Ops[i]
		f := finding("lost", op, "%s of %q, acknowledged at revision %d, is not there: %s", op.Kind, op.Value, op.Revision, stands(r, op.Key))
		l.Lost = append(l.Lost, f)
		l.First = cmp.Or(l.First, op)
	}
	for _, i := range r.sorted(back, byReturn) {
		op := &r.Ops[i]
		l.Resurrected = append(l.Resurrected, finding("resurrected", op, "deletion, acknowledged at revision %d, is undone: %s", op.Revision, stands(r, op.Key)))
		l.First = cmp.Or(l.First, op)
	}
	return l
}

func finding(judge string, op *lab.Op, format string, args ...any) lab.Finding {
	return lab.Finding{Judge: judge, Key: op.Key, What: fmt.Sprintf(format, args...), At: seconds(op.Return), Client: op.Client}
}

// stands says what the final read found at a key.
func stands(r *Record, key string) string {
	row := r.Rows[key]
	if row == nil {
		return fmt.Sprintf("nothing stands at the key at revision %d", r.Final.Revision)
	}
	return fmt.Sprintf("%q of revision %d stands at the key at revision %d", row.Value, row.Mod, r.Final.Revision)
}

// deleted is who may have deleted a key.
type deleted struct {
	r       *Record
	acked   []int32
	unknown bool
}

func deletions(r *Record, k Key) deleted {
	d := deleted{r: r}
	for _, i := range k.Ops {
		if op := &r.Ops[i]; op.Kind == lab.OpDelete {
			switch op.Outcome {
			case lab.OK:
				d.acked = append(d.acked, i)
			case lab.Unknown:
				d.unknown = true
			}
		}
	}
	return d
}

// excuse tells whether a write may have been deleted since.
func (d deleted) excuse(op *lab.Op) bool {
	if d.unknown {
		return true
	}
	return slices.ContainsFunc(d.acked, func(i int32) bool {
		by := &d.r.Ops[i]
		return by.Return >= op.Call && (by.Revision == 0 || op.Revision == 0 || by.Revision > op.Revision)
	})
}

// overruled finds the acknowledged writes that cannot be in the history of the
// store because of the revisions of others; see Lost. It is empty unless
// revisions went back.
func overruled(r *Record) map[int32]bool {
	ops := r.Ops
	var byReturn, byCall []int32
	for _, i := range r.told {
		if committed(&ops[i]) {
			byReturn = append(byReturn, i)
		}
	}
	for _, i := range r.called {
		if committed(&ops[i]) {
			byCall = append(byCall, i)
		}
	}

	// sure is what the final read shows to be there.
	sure := func(i int32) bool {
		row := r.Rows[ops[i].Key]
		return row != nil && wrote(&ops[i]) && row.Value == ops[i].Value && row.Mod == ops[i].Revision
	}
	gone := map[int32]bool{}
	// Forwards: nothing that was called after a write that is surely there
	// was answered can have a lower revision and be there too.
	inverted := false
	top, topSure, n := int64(0), int64(0), 0
	for _, i := range byCall {
		for ; n < len(byReturn) && ops[byReturn[n]].Return < ops[i].Call; n++ {
			before := byReturn[n]
			top = max(top, ops[before].Revision)
			if sure(before) {
				topSure = max(topSure, ops[before].Revision)
			}
		}
		inverted = inverted || ops[i].Revision <= top
		if ops[i].Revision <= topSure && !sure(i) {
			gone[i] = true
		}
	}
	if !inverted {
		return gone
	}
	// Backwards: of the others the later ones are taken to be there.
	low, n := r.Final.Revision+1, len(byCall)-1
	for _, i := range slices.Backward(byReturn) {
		for ; n >= 0 && ops[byCall[n]].Call > ops[i].Return; n-- {
			if after := byCall[n]; !gone[after] {
				low = min(low, ops[after].Revision)
			}
		}
		if ops[i].Revision >= low && !sure(i) {
			gone[i] = true
		}
	}
	return gone
}

// UnknownWrites counts the writes of which no client knows whether they
// happened.
func UnknownWrites(r *Record) int {
	n := 0
	for _, i := range r.clients {
		if op := &r.Ops[i]; writes(op) && op.Outcome == lab.Unknown {
			n++
		}
	}
	return n
}

// AckedWrites counts the writes that were acknowledged; a transaction whose
// comparison failed is none.
func AckedWrites(r *Record) int {
	n := 0
	for _, i := range r.clients {
		if op := &r.Ops[i]; wrote(op) || op.Kind == lab.OpDelete && op.Outcome == lab.OK {
			n++
		}
	}
	return n
}

package judge

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/etcdrill/etcdrill/lab"
)

// Record is a history sorted for judging. It holds on to the operations it
// was made from and never changes them.
type Record struct {
	Ops []lab.Op
	// Keys are in the order in which they first appear.
	Keys []Key
	// Final is the final full read, nil when nobody could look. Rows are its
	// keys.
	Final *lab.Op
	Rows  map[string]*lab.Op
	// Marker is the last write of the run, nil when none was acknowledged.
	Marker *lab.Op
	// Watchers lists for each watcher its operations, in the order they were
	// recorded.
	Watchers []Watcher

	clients []int32 // operations of clients and probers, in the order they returned
	// Acknowledged operations that tell a revision, serializable reads left
	// out: in the order they returned, and in the order they were called.
	told, called []int32
	made         []int32 // those of them that made a revision, by revision
}

// Key is what was done to one key: indices into Record.Ops, by time of call.
type Key struct {
	Name string
	Ops  []int32
}

// Watcher is what one watcher saw: indices into Record.Ops.
type Watcher struct {
	Member string
	Ops    []int32
}

// forever is the return time of an operation that may still happen.
const forever = int64(1)<<62 - 1

// NewRecord sorts a history.
func NewRecord(ops []lab.Op) *Record {
	r := &Record{Ops: ops}
	ids := map[string]int32{}
	key := make([]int32, len(ops)) // id of the operation's key, -1 for what no client did
	var size []int32
	watchers := map[int]int{}
	for i := range ops {
		op := &ops[i]
		key[i] = -1
		switch op.Kind {
		case lab.OpPut, lab.OpDelete, lab.OpTxn, lab.OpGet, lab.OpMarker:
			id, ok := ids[op.Key]
			if !ok {
				id = int32(len(r.Keys))
				ids[op.Key] = id
				r.Keys = append(r.Keys, Key{Name: op.Key})
				size = append(size, 0)
			}
			key[i] = id
			size[id]++
			if op.Kind != lab.OpMarker {
				r.clients = append(r.clients, int32(i))
			} else if op.Outcome == lab.OK {
				r.Marker = op
			}
		case lab.OpEvent, lab.OpWatch:
			n, ok := watchers[op.Client]
			if !ok {
				n = len(r.Watchers)
				watchers[op.Client] = n
				r.Watchers = append(r.Watchers, Watcher{Member: op.Member})
			}
			r.Watchers[n].Ops = append(r.Watchers[n].Ops, int32(i))
		case lab.OpFinal:
			if op.Key == "" && op.Outcome == lab.OK {
				r.Final = op
			}
		}
	}
	if r.Final != nil {
		r.Rows = map[string]*lab.Op{}
		for i := range ops {
			if op := &ops[i]; op.Kind == lab.OpFinal && op.Key != "" && op.Revision == r.Final.Revision {
				r.Rows[op.Key] = op
				if _, ok := ids[op.Key]; !ok {
					ids[op.Key] = int32(len(r.Keys))
					r.Keys = append(r.Keys, Key{Name: op.Key})
					size = append(size, 0)
				}
			}
		}
	}
	// One array for all keys, cut into pieces.
	total := int32(0)
	for _, n := range size {
		total += n
	}
	all := make([]int32, total)
	for id, n := range size {
		r.Keys[id].Ops, all = all[:0:n], all[n:]
	}
	for i, id := range key {
		if id >= 0 {
			r.Keys[id].Ops = append(r.Keys[id].Ops, int32(i))
		}
	}
	each(len(r.Keys), func(i int) { copy(r.Keys[i].Ops, r.sorted(r.Keys[i].Ops, byCall)) })
	r.clients = r.sorted(r.clients, byReturn)
	for _, i := range r.clients {
		if op := &ops[i]; op.Outcome == lab.OK && op.Revision > 0 && !op.Serializable {
			r.told = append(r.told, i)
		}
	}
	for i := range ops {
		if op := &ops[i]; op.Kind == lab.OpMarker && op.Outcome == lab.OK && op.Revision > 0 {
			r.told = append(r.told, int32(i))
		}
	}
	r.told = r.sorted(r.told, byReturn)
	r.called = r.sorted(r.told, byCall)
	for _, i := range r.told {
		if committed(&ops[i]) {
			r.made = append(r.made, i)
		}
	}
	r.made = r.sorted(r.made, byRevision)
	return r
}

func byCall(op *lab.Op) int64     { return op.Call }
func byReturn(op *lab.Op) int64   { return op.Return }
func byRevision(op *lab.Op) int64 { return op.Revision }
func byMod(op *lab.Op) int64      { return op.Mod }

// sorted returns operations in another order; those that are equal stay as
// they are. The numbers are taken out first: comparing them in place would
// miss the processor's cache twice per comparison.
func (r *Record) sorted(ops []int32, by func(*lab.Op) int64) []int32 {
	type entry struct {
		by int64
		op int32
		at int32
	}
	list := make([]entry, len(ops))
	ready := true
	for n, i := range ops {
		list[n] = entry{by(&r.Ops[i]), i, int32(n)}
		ready = ready && (n == 0 || list[n-1].by <= list[n].by)
	}
	if ready {
		return ops
	}
	slices.SortFunc(list, func(a, b entry) int {
		if a.by != b.by {
			return cmp.Compare(a.by, b.by)
		}
		return cmp.Compare(a.at, b.at)
	})
	out := make([]int32, len(ops))
	for n := range list {
		out[n] = list[n].op
	}
	return out
}

// writes tells whether an operation is one that changes, or would have.
func writes(op *lab.Op) bool {
	switch op.Kind {
	case lab.OpPut, lab.OpDelete, lab.OpTxn, lab.OpMarker:
		return true
	}
	return false
}

// wrote tells whether an acknowledged operation left its value.
func wrote(op *lab.Op) bool {
	if op.Outcome != lab.OK {
		return false
	}
	return op.Kind == lab.OpPut || op.Kind == lab.OpMarker || op.Kind == lab.OpTxn && op.Swapped
}

// committed tells whether an acknowledged operation made a revision of its own.
func committed(op *lab.Op) bool {
	return wrote(op) || op.Outcome == lab.OK && op.Kind == lab.OpDelete && op.Deleted
}

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

// each calls f for 0 to n-1 on all cores and returns when it is done. f(i)
// must touch nothing that another f touches.
func each(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
}

// maxFindings is how many findings of one judge are listed; the rest is
// counted.
const maxFindings = 100

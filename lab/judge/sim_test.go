package judge

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"

	"github.com/etcdrill/etcdrill/lab"
)

// sim makes histories by simulating a linearizable store with revisions, and
// clients that are slow, lose answers and watch.
type sim struct {
	seed     uint64
	ops      int // of the clients, about
	clients  int
	keys     int
	watchers int
	unknown  float64 // share of operations that lose their answer
	probes   bool
}

// moment is something that happens to an operation.
type moment struct {
	at   int64
	what int // 0 call, 1 take effect, 2 return
	op   *lab.Op
	who  int
	lost bool
}

type moments []moment

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].at < m[j].at }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)        { *m = append(*m, x.(moment)) }
func (m *moments) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}

type cell struct {
	value string
	mod   int64
}

func (s sim) history() []lab.Op {
	r := rand.New(rand.NewPCG(s.seed, 1))
	const ms = int64(1e6)
	store := map[string]cell{}
	rev := int64(1)
	var out []lab.Op
	for w := range s.watchers {
		out = append(out, lab.Op{Client: lab.ClientWatcher - w, Kind: lab.OpWatch, Outcome: lab.OK, Revision: 2, Member: "m" + strconv.Itoa(w+1)})
	}
	now := int64(0)
	tell := func(key, value string, deleted bool) {
		for w := range s.watchers {
			at := now + int64(w)
			out = append(out, lab.Op{Client: lab.ClientWatcher - w, Kind: lab.OpEvent, Key: key, Value: value, Call: at, Return: at, Outcome: lab.OK,
				Mod: rev, Deleted: deleted, Member: "m" + strconv.Itoa(w+1)})
		}
	}
	take := func(op *lab.Op) {
		was, there := store[op.Key]
		switch op.Kind {
		case lab.OpPut, lab.OpMarker:
			rev++
			store[op.Key] = cell{op.Value, rev}
			tell(op.Key, op.Value, false)
		case lab.OpDelete:
			if there {
				rev++
				delete(store, op.Key)
				op.Deleted = true
				tell(op.Key, "", true)
			}
		case lab.OpTxn:
			if was.value == op.Prev {
				rev++
				store[op.Key] = cell{op.Value, rev}
				op.Swapped = true
				tell(op.Key, op.Value, false)
			} else {
				op.Value, op.Mod = was.value, was.mod
			}
		case lab.OpGet:
			op.Value, op.Mod = was.value, was.mod
		}
		op.Revision = rev
	}
	q := &moments{}
	count := make([]int, s.clients+1)
	for c := 1; c <= s.clients; c++ {
		heap.Push(q, moment{at: int64(r.IntN(int(ms))), who: c})
	}
	if s.probes {
		heap.Push(q, moment{who: lab.ClientWriteProber})
		heap.Push(q, moment{who: lab.ClientReadProber})
	}
	n, probe := 0, 0
	for q.Len() > 0 {
		m := heap.Pop(q).(moment)
		now = m.at
		switch m.what {
		case 0:
			if n >= s.ops {
				continue
			}
			n++
			op := &lab.Op{Client: m.who, Call: now, Member: "m" + strconv.Itoa(n%3+1)}
			switch {
			case m.who == lab.ClientWriteProber:
				probe++
				op.Kind, op.Key, op.Value = lab.OpPut, "load/abcdefgh/p"+strconv.Itoa(probe), "p."+strconv.Itoa(probe)
			case m.who == lab.ClientReadProber:
				op.Kind, op.Key = lab.OpGet, "load/abcdefgh/p"+strconv.Itoa(probe)
			default:
				count[m.who]++
				op.Key = "load/abcdefgh/k" + strconv.Itoa(r.IntN(s.keys))
				value := "c" + strconv.Itoa(m.who) + "." + strconv.Itoa(count[m.who])
				switch x := r.Float64(); {
				case x < 0.3:
					op.Kind = lab.OpGet
				case x < 0.33:
					op.Kind = lab.OpDelete
				case x < 0.40:
					op.Kind, op.Value, op.Prev = lab.OpTxn, value, store[op.Key].value
				default:
					op.Kind, op.Value = lab.OpPut, value
				}
			}
			took := ms/2 + int64(r.ExpFloat64()*float64(ms))
			effect := now + 1 + int64(r.Float64()*float64(took))
			lost := r.Float64() < s.unknown
			if lost {
				switch r.IntN(3) {
				case 0: // it never happens
					effect = -1
				case 1: // it happens long after the client gave up
					effect = now + int64(r.Float64()*float64(50*ms))
				}
				took = 10 * ms
			}
			if effect >= 0 {
				heap.Push(q, moment{effect, 1, op, m.who, lost})
			}
			heap.Push(q, moment{max(now+took, effect+1), 2, op, m.who, lost})
			if m.who < 0 {
				heap.Push(q, moment{at: now + 10*ms, who: m.who})
			}
		case 1:
			if !m.lost {
				take(m.op)
				break
			}
			ghost := *m.op // its client never learns what came of it
			take(&ghost)
		case 2:
			m.op.Return = now
			m.op.Outcome = lab.OK
			if m.lost {
				m.op.Return = m.op.Call + 10*ms
				m.op.Outcome, m.op.Revision, m.op.Error = lab.Unknown, 0, "context deadline exceeded"
			}
			out = append(out, *m.op)
			if m.who > 0 {
				heap.Push(q, moment{at: now + 1 + int64(r.IntN(int(ms/4))), who: m.who})
			}
		}
	}
	now += ms
	end := lab.Op{Client: lab.ClientCloser, Kind: lab.OpMarker, Key: "load/abcdefgh/marker", Value: "end.1", Call: now, Outcome: lab.OK}
	take(&end)
	now += ms
	end.Return = now
	out = append(out, end)
	for _, k := range slices.Sorted(maps.Keys(store)) {
		c := store[k]
		out = append(out, lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Key: k, Value: c.value, Call: now + 1, Return: now + ms, Outcome: lab.OK, Revision: rev, Mod: c.mod})
	}
	out = append(out, lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Call: now + 1, Return: now + ms, Outcome: lab.OK, Revision: rev})
	sort.SliceStable(out, func(i, j int) bool { return out[i].Return < out[j].Return })
	return out
}

func (s sim) String() string {
	return fmt.Sprintf("%d operations of %d clients on %d keys, %.0f%% unknown, seed %d", s.ops, s.clients, s.keys, s.unknown*100, s.seed)
}

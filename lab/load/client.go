package load

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// stay is how many answered operations a client stays with one member. Then
// it moves on although all is well, so that a member which has just healed is
// spoken to by everybody again.
const stay = 50

// client does one operation after the other until the load ends.
//
// With a rate it keeps a schedule: an operation has a time at which it is due,
// and when the client is late because an earlier one took long, that time is
// recorded and latency counts from there. What was due longer ago than the
// timeout is left out, as its user would have given up by then.
func (l *load) client(id int, start time.Time) {
	r := rand.New(rand.NewPCG(l.seed, uint64(id)))
	values := names{tag: "c" + strconv.Itoa(id) + "."}
	wait := patience{parent: l.ctx, limit: l.spec.Timeout}
	defer wait.close()
	var every time.Duration
	if l.spec.Rate > 0 {
		every = time.Duration(float64(l.spec.Clients) / float64(l.spec.Rate) * float64(time.Second))
		start = start.Add(every * time.Duration(id-1) / time.Duration(l.spec.Clients))
	}
	at, answered := id, 0
	for due := start; ; {
		late := time.Duration(0)
		if every > 0 {
			late = time.Since(due)
			for late > l.spec.Timeout {
				due, late = due.Add(every), late-every
			}
			due = due.Add(every)
		}
		if !l.sleep(-late) {
			return
		}
		seats := l.mine()
		s := seats[at%len(seats)]
		op := l.choose(r, &values)
		op.Client, op.Member = id, s.name
		s.shared[id%len(s.shared)].perform(l.history, &op, int(l.spec.Size), &wait)
		if late > time.Millisecond {
			op.Due = op.Call - int64(late)
		}
		l.learn(&op)
		l.record(&op)
		if answered++; op.Outcome != lab.OK || answered == stay {
			at, answered = at+1, 0
		}
		if op.Outcome != lab.OK && !l.sleep(l.spec.Backoff) {
			return
		}
	}
}

// mine lists the members that clients talk to.
func (l *load) mine() []*seat {
	serving := *l.serving.Load()
	if l.through == nil {
		return serving
	}
	var out []*seat
	for _, s := range l.seats {
		if slices.Contains(l.through, s.name) {
			out = append(out, s)
		}
	}
	return out
}

// choose draws an operation.
func (l *load) choose(r *rand.Rand, values *names) lab.Op {
	op := lab.Op{Kind: lab.OpPut}
	switch x := r.Float64(); {
	case x < l.spec.Reads:
		op.Kind = lab.OpGet
	case x < l.spec.Reads+l.spec.Deletes:
		op.Kind = lab.OpDelete
	case x < l.spec.Reads+l.spec.Deletes+l.spec.Txns:
		op.Kind = lab.OpTxn
	}
	n := r.IntN(len(l.keys))
	op.Key = l.keys[n]
	if op.Kind == lab.OpPut || op.Kind == lab.OpTxn {
		op.Value = values.next()
	}
	if op.Kind == lab.OpTxn {
		if v := l.seen[n].Load(); v != nil {
			op.Prev = *v
		}
	}
	return op
}

// learn remembers what stood at a key last, so that comparisons hold often.
func (l *load) learn(op *lab.Op) {
	if op.Outcome != lab.OK || l.spec.Txns == 0 {
		return
	}
	n, err := strconv.Atoi(op.Key[len(l.prefix)+1:])
	if err != nil {
		return // not one of the clients' keys
	}
	v := op.Value // "" after a delete
	l.seen[n].Store(&v)
}

// names gives out values that occur once in a run.
type names struct {
	tag string
	n   int
}

func (n *names) next() string {
	n.n++
	return n.tag + strconv.Itoa(n.n)
}

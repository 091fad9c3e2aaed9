package judge

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/anishathalye/porcupine"

	"github.com/etcdrill/etcdrill/lab"
)

// Linear is what [Linearizable] found.
type Linear struct {
	Answer  string // "yes", "no", "unknown"
	Keys    int
	Ops     int      // that were judged
	Bad     []string // keys whose operations have no order
	Unknown []string // keys that took more than the budget
	Picture *lab.Picture
}

// Linearizable asks for every key whether its operations can be put into one
// order that explains every answer and in which no operation that was answered
// comes after one that was called later. Each key by itself is enough, because
// each operation touches one key only (linearizability is local).
//
// The model is a register with put, get, delete and compare-and-put, absent at
// the beginning. The final read takes part as a read of every key. Serializable
// reads do not, nor do refused operations. An operation without an answer may
// have happened at any time after it was called, or never:
//
//   - a write whose value somebody saw has happened before the first answer
//     that shows it. Values are unique, so there is no doubt which one it was;
//   - a write whose value nobody ever saw is left out. That loses nothing: had
//     it happened, it would stand in an order between its predecessor and the
//     next write with no other operation in between, for each of those tells
//     what it found (a failed comparison too), so the order without it is as
//     good;
//   - a deletion leaves no name behind. It stays pending for ever, unless
//     nobody found the key absent after it was called.
//
// Finding an order is exponential in the number of operations at the same
// time, so it is tried in two ways. First the revisions that etcd gave out are
// taken as a guess at the order. If the order so guessed passes every check,
// it is a proof, and cheap; whatever the guess was, only the order itself
// counts. Where it does not pass, the guess proves nothing and porcupine
// searches, see search. steps bounds that search per key and a key that takes
// more is unknown: a budget in steps gives the same answer on every machine,
// which one in seconds would not, and porcupine's own timeout is only looked
// at between steps.
func Linearizable(ctx context.Context, r *Record, steps int) Linear {
	return linearizable(ctx, r, steps, true)
}

func linearizable(ctx context.Context, r *Record, steps int, guess bool) Linear {
	type answer struct {
		ok, known bool
		ops       int
		bad       *segment
	}
	answers := make([]answer, len(r.Keys))
	each(len(r.Keys), func(i int) {
		items := itemsOf(r, r.Keys[i])
		a := answer{ok: true, known: true, ops: len(items)}
		if !guess || !guessed(items) {
			a.bad, a.known = search(ctx, items, steps)
			a.ok = a.bad == nil
		}
		answers[i] = a
	})
	l := Linear{Answer: "yes", Keys: len(r.Keys)}
	var worst *segment
	for i, a := range answers {
		l.Ops += a.ops
		switch {
		case !a.ok:
			l.Bad = append(l.Bad, r.Keys[i].Name)
			if worst == nil || a.bad.end() < worst.end() {
				worst = a.bad
			}
		case !a.known:
			l.Unknown = append(l.Unknown, r.Keys[i].Name)
		}
	}
	switch {
	case worst != nil:
		l.Answer = "no"
		l.Picture = worst.picture(ctx, r, steps)
	case len(l.Unknown) > 0:
		l.Answer = "unknown"
	}
	return l
}

// item is an operation as the register model sees it.
type item struct {
	kind    itemKind
	call    int64
	ret     int64  // forever when it may still happen
	value   string // written, or found; "" is absent
	prev    string // swap: what it replaced
	rev     int64  // by which the guess orders; 0 when nothing is known
	pending bool   // nobody knows whether it happened
	op      *lab.Op
}

type itemKind uint8

const (
	itemRead itemKind = iota
	itemWrite
	itemDelete
	itemSwap
	itemMaybeSwap // a swap that need not have happened yet
)

// step is the register: what an item does to a state, and whether it can
// have been answered so.
func (it *item) step(state string) (bool, string) {
	switch it.kind {
	case itemRead:
		return state == it.value, state
	case itemSwap:
		return state == it.prev, it.value
	case itemMaybeSwap:
		if state != it.prev {
			return true, state
		}
	}
	return true, it.value // a deletion writes "absent"
}

// itemsOf turns what clients did to a key into items, in order of call.
func itemsOf(r *Record, k Key) []item {
	ops := r.Ops
	items := make([]item, 0, len(k.Ops)+1)
	unknown := map[string]int{} // value to index of the item that may have written it
	lastAbsent := int64(math.MinInt64)
	for _, i := range k.Ops {
		op := &ops[i]
		it := item{call: op.Call, ret: op.Return, value: op.Value, rev: op.Revision, op: op}
		switch {
		case op.Outcome == lab.Refused, op.Outcome == lab.Unknown && op.Kind == lab.OpGet, op.Kind == lab.OpGet && op.Serializable:
			continue
		case op.Outcome == lab.Unknown:
			it.pending, it.ret, it.rev = true, forever, 0
			if op.Kind != lab.OpDelete {
				unknown[op.Value] = len(items)
			}
		}
		switch op.Kind {
		case lab.OpPut, lab.OpMarker:
			it.kind = itemWrite
		case lab.OpDelete:
			it.kind, it.value = itemDelete, ""
		case lab.OpTxn:
			if it.kind, it.prev = itemSwap, op.Prev; op.Outcome == lab.OK && !op.Swapped {
				// It found another value than the one it compared with; if it
				// claims the same one, nothing explains it.
				it.kind, it.prev = itemRead, ""
				if op.Value == op.Prev {
					it.value = "comparison failed with " + op.Prev
				}
			}
		}
		items = append(items, it)
	}
	if r.Final != nil {
		it := item{kind: itemRead, call: r.Final.Call, ret: r.Final.Return, rev: r.Final.Revision, op: r.Final}
		if row := r.Rows[k.Name]; row != nil {
			it.value, it.op = row.Value, row
		}
		items = append(items, it)
	}
	// Who saw what: settles pending writes.
	seen := make(map[string]bool, len(unknown))
	saw := func(value string, by *item, mod int64) {
		if value == "" {
			lastAbsent = max(lastAbsent, by.ret)
			return
		}
		if len(unknown) == 0 {
			return
		}
		if at, ok := unknown[value]; ok {
			seen[value] = true
			w := &items[at]
			w.ret = min(w.ret, by.ret)
			if mod > 0 {
				w.rev = mod
			} else if w.rev == 0 && by.rev > 0 {
				w.rev = by.rev - 1 // right before who replaced it
			}
		}
	}
	// A pending swap that happened saw its Prev, so go round until nothing new
	// is seen.
	for n := -1; n != len(seen); {
		n = len(seen)
		for i := range items {
			it := &items[i]
			switch {
			case it.pending && (it.kind != itemSwap || !seen[it.value]):
			case it.kind == itemRead:
				saw(it.value, it, it.op.Mod)
			case it.kind == itemSwap:
				saw(it.prev, it, 0)
			}
		}
		if len(unknown) == 0 {
			break
		}
	}
	kept := items[:0]
	for _, it := range items {
		if it.pending {
			if it.kind == itemDelete && it.call > lastAbsent || it.kind != itemDelete && !seen[it.value] {
				continue
			}
		}
		kept = append(kept, it)
	}
	slices.SortStableFunc(kept, func(a, b item) int { return cmp.Compare(a.call, b.call) })
	return kept
}

// guessed tries the order of the revisions. True is a proof that the items are
// linearizable; false proves nothing.
func guessed(items []item) bool {
	order := make([]int32, 0, len(items))
	var spare []int32 // pending deletions, by call
	for i := range items {
		switch it := &items[i]; {
		case it.pending && it.kind == itemDelete:
			spare = append(spare, int32(i))
		case it.rev == 0:
			return false
		default:
			order = append(order, int32(i))
		}
	}
	// At one revision the change comes first, then those who saw it.
	class := func(it *item) int {
		if it.kind == itemRead {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := &items[a], &items[b]
		return cmp.Or(cmp.Compare(x.rev, y.rev), cmp.Compare(class(x), class(y)), cmp.Compare(x.call, y.call))
	})
	state, called := "", int64(math.MinInt64)
	for _, i := range order {
		it := &items[i]
		ok, next := it.step(state)
		if !ok && len(spare) > 0 {
			// An absent key may be the work of a pending deletion.
			if ok, next = it.step(""); ok {
				called = max(called, items[spare[0]].call)
				spare = spare[1:]
			}
		}
		if !ok || it.ret < called { // answered before something earlier in the order was called
			return false
		}
		state, called = next, max(called, it.call)
	}
	return true
}

// segment is a part of a key's items that can be judged by itself, because
// the state it begins with is known.
type segment struct {
	items []item
	start string // the state at its beginning
	pin   *item  // the operation that left it, nil at the beginning of all
}

func (s *segment) end() int64 {
	end := int64(0)
	for i := range s.items {
		if s.items[i].ret < forever {
			end = max(end, s.items[i].ret)
		}
	}
	return end
}

// search looks for an order with porcupine. The items are cut into segments:
// an operation during which nothing else was under way leaves a state that is
// known, whatever the order before it, so what follows can be judged by
// itself. That keeps both the histories and the search small. bad is the first
// segment without an order, nil when there is none; known is false when the
// budget did not suffice for one of the segments and none of the others is
// bad.
func search(ctx context.Context, items []item, steps int) (bad *segment, known bool) {
	known = true
	now := segment{}
	busy := int64(math.MinInt64) // until when an earlier operation was under way
	for i := range items {
		it := &items[i]
		alone := it.call > busy && (i+1 == len(items) || items[i+1].call > it.ret)
		busy = max(busy, it.ret)
		now.items = append(now.items, *it)
		if !alone && i+1 < len(items) {
			continue
		}
		ok, sure := now.check(ctx, steps)
		if sure && !ok {
			return &now, true
		}
		known = known && sure
		now = segment{start: it.value, pin: it}
	}
	return nil, known
}

// The memory of one search, about: an entry of porcupine's cache holds a bit
// per operation.
const searchBytes = 64 << 20

// check asks porcupine. sure is false when the budget was used up.
//
// The budget is kept inside the model, where porcupine cannot miss it: each
// step that is accepted costs one unit, and makes at most one entry in
// porcupine's cache. Once the budget is used up, or ctx has ended, the model
// accepts nothing any more. Then the search can only go back, one operation
// after the other, past those that were under way at the same time. So time
// and memory of a search are bounded before it begins, without a process of
// its own to be killed; and one that could not place each operation once is
// not begun.
func (s *segment) check(ctx context.Context, steps int) (ok, sure bool) {
	if len(s.items) == 1 {
		ok, _ := s.items[0].step(s.start)
		return ok, true
	}
	left := min(steps, searchBytes/(len(s.items)/8+200))
	if left < len(s.items) {
		return false, false
	}
	ids := map[string]int32{"": 0}
	id := func(v string) int32 {
		n, ok := ids[v]
		if !ok {
			n = int32(len(ids))
			ids[v] = n
		}
		return n
	}
	type input struct {
		kind        itemKind
		value, prev int32
	}
	ops := make([]porcupine.Operation, len(s.items))
	for i := range s.items {
		it := &s.items[i]
		ops[i] = porcupine.Operation{ClientId: i, Input: input{it.kind, id(it.value), id(it.prev)}, Call: it.call, Return: it.ret}
	}
	model := porcupine.Model{
		Init: func() any { return id(s.start) },
		Step: func(state, in, _ any) (bool, any) {
			if left <= 0 || left%1024 == 0 && ctx.Err() != nil {
				left = 0
				return false, state
			}
			now, it := state.(int32), in.(input)
			switch it.kind {
			case itemRead:
				if now != it.value {
					return false, state
				}
				left--
				return true, state
			case itemSwap:
				if now != it.prev {
					return false, state
				}
			case itemMaybeSwap:
				if now != it.prev {
					left--
					return true, state
				}
			}
			left--
			return true, it.value
		},
		Hash: func(state any) uint64 { return uint64(state.(int32)) * 0x9e3779b97f4a7c15 },
	}
	if porcupine.CheckOperations(model, ops) {
		return true, true
	}
	return false, left > 0
}

// picture shrinks a segment without an order to the smallest set of
// operations that has none either, and shows it.
func (s *segment) picture(ctx context.Context, r *Record, steps int) *lab.Picture {
	core := s.shrink(ctx, steps)
	bad := 0
	for i := range core {
		if core[i].ret < forever && core[i].ret >= core[bad].ret || core[bad].ret == forever {
			bad = i
		}
	}
	p := &lab.Picture{Judge: "linearizable", Key: s.items[0].op.Key}
	if p.Key == "" {
		p.Key = core[bad].op.Key
	}
	from, to := int64(math.MaxInt64), int64(0)
	show := func(it *item) {
		p.Ops = append(p.Ops, *it.op)
		from, to = min(from, it.call), max(to, it.op.Return)
	}
	if s.pin != nil && s.pin.op != nil {
		show(s.pin)
	}
	for i := range core {
		if i == bad {
			p.Bad = len(p.Ops)
		}
		show(&core[i])
	}
	for _, k := range r.Keys {
		if k.Name != p.Key {
			continue
		}
		for _, i := range k.Ops {
			if op := &r.Ops[i]; op.Call <= to && op.Return >= from {
				p.Cut++
			}
		}
	}
	p.Cut = max(0, p.Cut-len(p.Ops))
	it := &core[bad]
	p.Text = fmt.Sprintf("no order of these operations on %s explains that %s", p.Key, it.claim())
	return p
}

// claim says what the client of an item was told.
func (it *item) claim() string {
	who := fmt.Sprintf("client %d", it.op.Client)
	if it.op.Kind == lab.OpFinal {
		who = "the final read"
	}
	found := fmt.Sprintf("%q", it.value)
	if it.value == "" {
		found = "nothing"
	}
	switch it.kind {
	case itemRead:
		return who + " found " + found
	case itemSwap:
		return fmt.Sprintf("%s replaced %q by %q", who, it.prev, it.value)
	case itemDelete:
		return who + " deleted the key"
	}
	return fmt.Sprintf("%s wrote %q", who, it.value)
}

// shrink leaves out what is not needed for the contradiction. First what came
// after it: the items by return, the shortest beginning that has no order.
// Then reads, and writes that none of the rest saw; leaving those out never
// makes a contradiction of what had an order.
func (s *segment) shrink(ctx context.Context, steps int) []item {
	illegal := func(items []item) bool {
		ok, sure := (&segment{items: items, start: s.start}).check(ctx, steps)
		return sure && !ok
	}
	ends := make([]int64, 0, len(s.items))
	for i := range s.items {
		ends = append(ends, s.items[i].ret)
	}
	slices.Sort(ends)
	upto := func(end int64) []item {
		var out []item
		for _, it := range s.items {
			if it.ret > end {
				if it.call > end || it.kind == itemRead {
					continue
				}
				it.ret = forever
				if it.kind == itemSwap {
					it.kind = itemMaybeSwap
				}
			}
			out = append(out, it)
		}
		return out
	}
	n := sort.Search(len(ends), func(n int) bool { return illegal(upto(ends[n])) })
	if n == len(ends) {
		return s.items
	}
	core := upto(ends[n])
	for size := len(core) / 2; size >= 1; size /= 2 {
		for from := 0; from < len(core); {
			rest := settled(slices.Concat(core[:from], core[min(from+size, len(core)):]))
			if closed(rest, core, s.start) && illegal(rest) {
				core = rest
			} else {
				from += size
			}
		}
	}
	return core
}

// settled gives pending writes the return times that the rest of a part
// proves, see Linearizable.
func settled(part []item) []item {
	for i := range part {
		w := &part[i]
		if !w.pending || w.kind == itemDelete {
			continue
		}
		w.ret = forever
		for j := range part {
			it := &part[j]
			if it.kind == itemRead && it.value == w.value || it.kind == itemSwap && it.prev == w.value {
				w.ret = min(w.ret, it.ret)
			}
		}
	}
	return part
}

// closed tells whether a part of the items can be judged alone: every value
// that is seen in it is written in it, and when somebody found the key absent
// no deletion is missing.
func closed(part, whole []item, start string) bool {
	there := map[string]bool{"": true, start: true}
	deletions := 0
	for i := range part {
		switch it := &part[i]; it.kind {
		case itemWrite, itemSwap, itemMaybeSwap:
			there[it.value] = true
		case itemDelete:
			deletions++
		}
	}
	absent := false
	for i := range part {
		it := &part[i]
		sees := it.value
		if it.kind == itemSwap || it.kind == itemMaybeSwap {
			sees = it.prev
		} else if it.kind != itemRead {
			continue
		}
		if !there[sees] {
			return false
		}
		absent = absent || sees == ""
	}
	if absent {
		for i := range whole {
			if whole[i].kind == itemDelete {
				deletions--
			}
		}
		return deletions == 0
	}
	return len(part) > 0
}

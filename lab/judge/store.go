package judge

import (
	"context"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/anishathalye/porcupine"
)

// WholeStore asks whether all operations on all keys together have one order
// in which also the revisions grow as etcd promises: a write gets a higher
// revision than everything before it, a read one that is not lower. That says
// more than [Linearizable], across keys, and costs far more: it cannot be cut
// into keys, so it is for histories of a few thousand operations. Other
// clients of the store may have made revisions in between.
//
// steps is a budget as in Linearizable; the answer is "unknown" when it does
// not suffice.
func WholeStore(ctx context.Context, r *Record, steps int) string {
	type store struct {
		rev  int64
		keys map[string]string
		hash uint64 // of keys
	}
	mark := func(k, v string) uint64 {
		h := fnv.New64a()
		h.Write([]byte(k))
		h.Write([]byte{0})
		h.Write([]byte(v))
		return h.Sum64()
	}
	type input struct {
		*item
		key string
	}
	var ops []porcupine.Operation
	for _, k := range r.Keys {
		items := itemsOf(r, k)
		for i := range items {
			it := &items[i]
			ops = append(ops, porcupine.Operation{Input: input{it, k.Name}, Call: it.call, Return: it.ret})
		}
	}
	if len(ops) == 0 {
		return "unknown"
	}
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(min(max(a.Call-b.Call, -1), 1)) })
	size := 0
	for _, k := range r.Keys {
		size += 2*len(k.Name) + 48
	}
	left := min(steps, searchBytes/(len(ops)/8+200+size))
	model := porcupine.Model{
		Init: func() any { return &store{} },
		Step: func(state, in, _ any) (bool, any) {
			if left <= 0 || left%256 == 0 && ctx.Err() != nil {
				left = 0
				return false, state
			}
			now, it := state.(*store), in.(input)
			was := now.keys[it.key]
			ok, will := it.step(was)
			rev := it.op.Revision
			if it.pending {
				rev = 0 // nobody was told; it is one more at least
			}
			changes := will != was || it.kind == itemWrite || it.kind == itemSwap
			switch {
			case !ok, rev > 0 && rev < now.rev, rev > 0 && changes && rev == now.rev:
				return false, state
			case rev == 0 && changes:
				rev = now.rev + 1
			}
			left--
			if !changes {
				return true, &store{max(rev, now.rev), now.keys, now.hash}
			}
			next := &store{max(rev, now.rev), maps.Clone(now.keys), now.hash}
			if next.keys == nil {
				next.keys = map[string]string{}
			}
			if was != "" {
				next.hash ^= mark(it.key, was)
			}
			if delete(next.keys, it.key); will != "" {
				next.keys[it.key] = will
				next.hash ^= mark(it.key, will)
			}
			return true, next
		},
		Equal: func(a, b any) bool {
			x, y := a.(*store), b.(*store)
			return x.rev == y.rev && x.hash == y.hash && maps.Equal(x.keys, y.keys)
		},
		Hash: func(state any) uint64 { s := state.(*store); return s.hash ^ uint64(s.rev)*0x9e3779b97f4a7c15 },
	}
	switch {
	case porcupine.CheckOperations(model, ops):
		return "yes"
	case left > 0:
		return "no"
	}
	return "unknown"
}

package reports

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// drawing is a violation as a picture: a row per client, a box per operation
// from its call to its return. The axis is the order of calls and returns, not
// time: which operations overlap is all that matters, and a millisecond is
// seen as well as a second.
type drawing struct {
	*lab.Picture
	Width, Height int
	Rows          []drawnRow
	Boxes         []box
	Cut           int
	Table         []opRow
}

type drawnRow struct {
	Y    int
	Name string
}

type box struct {
	X, Y, W    int
	Text, Note string
	Class      string
	Bad        bool
}

type opRow struct {
	Client, What, Outcome string
	Call, Return          float64
	Bad                   bool
}

// The measures of a drawing, in pixels.
const (
	picLeft = 76
	picStep = 46
	picRow  = 46
	picBox  = 32
	picTop  = 14
	picMost = 60 // operations
)

func draw(p *lab.Picture) *drawing {
	d := &drawing{Picture: p, Cut: p.Cut}
	type numbered struct {
		lab.Op
		bad bool
	}
	var ops []numbered
	for i, op := range p.Ops {
		ops = append(ops, numbered{op, i == p.Bad})
	}
	if n := len(ops) - picMost; n > 0 { // around the bad one
		from := min(max(0, p.Bad-picMost*2/3), n)
		ops = ops[from : from+picMost]
		d.Cut += n
	}
	var moments []int64
	var clients []int
	for _, op := range ops {
		moments = append(moments, op.Call, op.Return)
		clients = append(clients, op.Client)
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	slices.Sort(clients)
	clients = slices.Compact(clients)

	// A client's operations that overlap, as those of a watcher or of the
	// last read can, take rows of their own.
	type rowKey struct{ client, n int }
	busy := map[rowKey]int64{}
	rows := map[rowKey]int{}
	slots := map[int]int{}
	place := make([]rowKey, len(ops))
	order := make([]int, len(ops))
	for i := range ops {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case ops[a].Call < ops[b].Call:
			return -1
		case ops[a].Call > ops[b].Call:
			return 1
		}
		return 0
	})
	for _, i := range order {
		k := rowKey{ops[i].Client, 0}
		for ; k.n < slots[k.client] && busy[k] > ops[i].Call; k.n++ {
		}
		slots[k.client] = max(slots[k.client], k.n+1)
		busy[k] = ops[i].Return
		place[i] = k
	}
	for _, c := range clients {
		for n := range slots[c] {
			y := picTop + len(d.Rows)*picRow
			rows[rowKey{c, n}] = y
			name := clientName(c)
			if n > 0 {
				name = ""
			}
			d.Rows = append(d.Rows, drawnRow{y, name})
		}
	}
	// Each moment gets at least a step; a box is made wide enough for its text.
	xs := map[int64]int{}
	x := picLeft
	for i, m := range moments {
		if i > 0 {
			x += picStep
		}
		for _, op := range ops {
			if op.Return == m {
				x = max(x, xs[op.Call]+len([]rune(opText(op.Op, 16)))*37/5+20)
			}
		}
		xs[m] = x
	}
	d.Width, d.Height = x+24, picTop+len(d.Rows)*picRow+4
	for i, op := range ops {
		b := box{X: xs[op.Call], Y: rows[place[i]], W: max(6, xs[op.Return]-xs[op.Call]-4), Text: opText(op.Op, 16),
			Class: "read", Note: opLong(op.Op), Bad: op.bad}
		if op.Call == op.Return {
			b.W = len([]rune(b.Text))*7 + 18
			d.Width = max(d.Width, b.X+b.W+24)
		}
		switch op.Kind {
		case lab.OpPut, lab.OpDelete, lab.OpTxn, lab.OpMarker:
			b.Class = "write"
		}
		if op.Outcome == lab.Unknown {
			b.Class += " open"
		}
		d.Boxes = append(d.Boxes, b)
	}
	for _, i := range order {
		op := ops[i]
		d.Table = append(d.Table, opRow{clientName(op.Client), opLong(op.Op), string(op.Outcome), float64(op.Call) / 1e9, float64(op.Return) / 1e9, op.bad})
	}
	return d
}

// clientName says who did an operation.
func clientName(n int) string {
	switch {
	case n == lab.ClientCloser:
		return "last read"
	case n == lab.ClientWriteProber:
		return "w. prober"
	case n == lab.ClientReadProber:
		return "r. prober"
	case n <= lab.ClientWatcher:
		return fmt.Sprintf("watcher %d", lab.ClientWatcher-n+1)
	}
	return fmt.Sprintf("client %d", n)
}

// value shows what was written or read.
func value(v string, n int) string {
	if v == "" {
		return "nothing"
	}
	if n > 0 {
		return cutTo(oneLine(v), n)
	}
	return oneLine(v)
}

// opText is an operation in a small box. The key is that of the picture.
func opText(op lab.Op, n int) string {
	s := ""
	switch op.Kind {
	case lab.OpPut, lab.OpMarker:
		s = "put " + value(op.Value, n)
	case lab.OpDelete:
		s = "delete"
	case lab.OpTxn:
		s = "if " + value(op.Prev, n) + " put " + value(op.Value, n)
		if op.Outcome == lab.OK && !op.Swapped {
			s += ": no"
		}
	case lab.OpGet, lab.OpFinal:
		s = "get → " + value(op.Value, n)
		if op.Outcome != lab.OK {
			s = "get"
		}
	case lab.OpEvent:
		s = "event " + value(op.Value, n)
		if op.Deleted {
			s = "event: deleted"
		}
	default:
		s = op.Kind
	}
	if op.Outcome == lab.Unknown {
		s += " ?"
	}
	if op.Outcome == lab.Refused {
		s += " refused"
	}
	return oneLine(s)
}

// opLong is the same in full.
func opLong(op lab.Op) string {
	parts := []string{opText(op, 0)}
	if op.Revision > 0 {
		parts = append(parts, fmt.Sprintf("revision %d", op.Revision))
	}
	if op.Mod > 0 {
		parts = append(parts, fmt.Sprintf("mod revision %d", op.Mod))
	}
	if op.Member != "" {
		parts = append(parts, "at "+op.Member)
	}
	if op.Serializable {
		parts = append(parts, "serializable")
	}
	if op.Error != "" {
		parts = append(parts, op.Error)
	}
	return oneLine(strings.Join(parts, ", "))
}

package fault

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/etcdrill/etcdrill/lab"
)

// nameOnly is a host of which nothing but the name is asked.
type nameOnly struct {
	lab.Host
	name string
}

func (h nameOnly) Name() string { return h.name }

// paper is a cluster on paper: m1 to mN, the last one a spare when told so.
func paper(n int, spare bool) *lab.Env {
	e := &lab.Env{Cluster: &lab.Cluster{}}
	for i := range n {
		h := nameOnly{name: fmt.Sprintf("m%d", i+1)}
		e.Hosts = append(e.Hosts, h)
		e.Seats = append(e.Seats, &lab.Member{Name: h.name, Host: h})
		e.Before = append(e.Before, lab.Status{Name: h.name, Absent: spare && i == n-1})
	}
	return e
}

func whom(names ...string) lab.Target {
	return lab.Target{Role: strings.Join(names, ", "), Names: names}
}

// The links that a shape leaves, in the pictures of Cut.
func TestDrawn(t *testing.T) {
	for _, c := range []struct {
		n     int
		spare bool
		cut   Cut
		left  string // pairs of members that still reach each other, both ways
		extra string // single directions that are left beside those
	}{
		{4, false, Cut{Shape: "isolate", Member: whom("m1")}, "m2-m3 m2-m4 m3-m4", ""},
		{4, false, Cut{Shape: "isolate", Member: whom("m1", "m2")}, "m3-m4", ""},
		{5, false, Cut{Shape: "halves", Member: whom("m3")}, "m1-m3 m2-m4 m2-m5 m4-m5", ""},
		{4, false, Cut{Shape: "halves", Member: whom("m4")}, "m1-m4 m2-m3", ""},
		{3, false, Cut{Shape: "halves", Member: whom("m2")}, "m1-m3", ""},
		{2, false, Cut{Shape: "halves", Member: whom("m2")}, "", ""},
		{4, true, Cut{Shape: "halves", Member: whom("m2")}, "m1-m3 m1-m4 m2-m4 m3-m4", ""}, // m4 is a spare
		{5, false, Cut{Shape: "bridge", Member: whom("m1")}, "m1-m2 m1-m3 m2-m3 m3-m4 m3-m5 m4-m5", ""},
		{4, false, Cut{Shape: "bridge", Member: whom("m1")}, "m1-m2 m2-m3 m2-m4 m3-m4", ""},
		{3, false, Cut{Shape: "bridge", Member: whom("m3")}, "m1-m2 m1-m3", ""},
		{4, false, Cut{Shape: "ring"}, "m1-m2 m1-m4 m2-m3 m3-m4", ""},
		{5, false, Cut{Shape: "ring"}, "m1-m2 m1-m5 m2-m3 m3-m4 m4-m5", ""},
		{3, false, Cut{Shape: "one-way", From: whom("m1"), To: whom("m2", "m3")}, "m2-m3", "m2→m1 m3→m1"},
		{3, false, Cut{Shape: "clients", Member: whom("m1")}, "m1-m2 m1-m3 m2-m3", ""},
	} {
		e := paper(c.n, c.spare)
		cut, err := c.cut.drawn(e)
		if err != nil {
			t.Errorf("%s of %d: %v", c.cut.Shape, c.n, err)
			continue
		}
		var left, extra []string
		for i, a := range e.Hosts {
			for j, b := range e.Hosts {
				there, back := pathway{a.Name(), b.Name()}, pathway{b.Name(), a.Name()}
				switch {
				case i == j || slices.Contains(cut, there):
				case slices.Contains(cut, back):
					extra = append(extra, there.String())
				case i < j:
					left = append(left, a.Name()+"-"+b.Name())
				}
			}
		}
		if strings.Join(left, " ") != c.left || strings.Join(extra, " ") != c.extra {
			t.Errorf("%s of %d: left %q and %q, expected %q and %q", c.cut.Shape, c.n, left, extra, c.left, c.extra)
		}
		clients := slices.ContainsFunc(cut, func(p pathway) bool { return p.from == client || p.to == client })
		if clients != (c.cut.Shape == "clients") {
			t.Errorf("%s: clients are cut: %v", c.cut.Shape, clients)
		}
	}
	for _, c := range []struct {
		n   int
		cut Cut
	}{
		{1, Cut{Shape: "isolate", Member: whom("m1")}},
		{1, Cut{Shape: "halves", Member: whom("m1")}},
		{2, Cut{Shape: "bridge", Member: whom("m1")}},
		{3, Cut{Shape: "ring"}},
		{3, Cut{Shape: "halves", Member: whom("m1", "m2", "m3")}},
	} {
		if cut, err := c.cut.drawn(paper(c.n, false)); err == nil {
			t.Errorf("%s of %d is not refused: %v", c.cut.Shape, c.n, cut)
		}
	}
}

func TestWalEntries(t *testing.T) {
	frame := func(kind byte, data string) []byte {
		record := append([]byte{1 << 3, kind, 2 << 3, 7, 3<<3 | 2, byte(len(data))}, data...)
		pad := (8 - len(record)%8) % 8
		size := uint64(len(record))
		if pad > 0 {
			size |= uint64(0x80|pad) << 56
		}
		return append(append(binary.LittleEndian.AppendUint64(nil, size), record...), make([]byte, pad)...)
	}
	head := slices.Concat(frame(4, ""), frame(1, "metadata"))
	wal := slices.Concat(head, frame(2, "first"), frame(3, "state"), frame(2, "the second one"))
	whole := len(wal)
	got := walEntries(append(slices.Clone(wal), make([]byte, 100)...))
	if len(got) != 2 || got[0].last != 't' || got[1].last != 'e' || got[0].start != len(head)+8 || wal[got[1].end-1] != 'e' {
		t.Errorf("entries: %+v", got)
	}
	for _, torn := range []int{0, 3, len(head) + 4, whole - 12} {
		if got := walEntries(wal[:torn]); len(got) > 1 {
			t.Errorf("the first %d bytes have %d entries", torn, len(got))
		}
	}
	if got := walEntries(slices.Repeat([]byte{0xFF}, 64)); len(got) != 0 {
		t.Errorf("noise has entries: %+v", got)
	}
}

func TestStored(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), CreateRevision: 2, ModRevision: 300, Version: 1, Value: []byte("v")}
	if got, want := stored(kv), []byte{10, 1, 'k', 16, 2, 24, 0xAC, 2, 32, 1, 42, 1, 'v'}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMetric(t *testing.T) {
	text := "# TYPE a_sum counter\na_sum 1.5e-05\na_sum_more 3\nb NaN\nc{x=\"y\"} 4\n"
	if v, ok := metric(text, "a_sum"); !ok || v != 1.5e-05 {
		t.Error("a_sum", v, ok)
	}
	for _, name := range []string{"b", "c", "d"} {
		if v, ok := metric(text, name); ok {
			t.Error(name, v)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		n                    int
		bites, gone, unclear []string
		want                 lab.ProofState
	}{
		{2, []string{"a", "b"}, nil, nil, lab.Bites},
		{2, nil, []string{"a", "b"}, nil, lab.Gone},
		{2, []string{"a"}, []string{"b"}, nil, lab.Unclear},
		{2, []string{"a"}, nil, []string{"b"}, lab.Unclear},
		{0, nil, nil, nil, lab.Unclear},
	} {
		if got := verdict(c.n, c.bites, c.gone, c.unclear); got.State != c.want || got.Evidence == "" {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

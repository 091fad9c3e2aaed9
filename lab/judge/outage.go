package judge

import (
	"math"
	"slices"
	"sort"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// How many times the resolution a gap between two answers must last to be an
// outage. The resolution is the interval of the probers plus the clients'
// back-off: a healthy cluster is asked and answers in every one of them. One
// missed answer may be a slow disk, so a gap without a known cause must span
// five; a gap in which a fault was injected or healed has a known cause and
// needs two.
const (
	gapPlain     = 5
	gapExplained = 2
)

// Outages finds the times in which no client got an answer of a kind from any
// member, in order of their start.
//
// An outage is a gap between two acknowledgements (linearizable reads for
// kind read, puts, deletes and transactions for kind write) that is longer
// than a few times the resolution, and in which somebody was asking for that
// long. It begins with the last acknowledgement before the gap, or with the
// injection of the fault when that came after it and explains the gap; it ends
// with the return of the first acknowledgement after it. A gap that lasts
// until the clients stop is Open.
//
// During is the fault that was injected in the gap, else the last one still in
// force, else the last one injected.
func Outages(r *Record, faults []lab.FaultReport, resolution time.Duration) []lab.Outage {
	out := []lab.Outage{}
	for _, kind := range []string{"write", "read"} {
		out = append(out, outages(r, kind, faults, int64(resolution))...)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Start < out[j].Start })
	return out
}

// asksFor tells whether an operation counts for a kind of outage.
func asksFor(op *lab.Op, kind string) bool {
	if op.Kind == lab.OpGet {
		return kind == "read" && !op.Serializable
	}
	return kind == "write"
}

func outages(r *Record, kind string, faults []lab.FaultReport, resolution int64) []lab.Outage {
	var asked []int32 // by return
	begin, end, longest := int64(math.MaxInt64), int64(0), int64(0)
	for _, i := range r.clients {
		op := &r.Ops[i]
		// What hangs when the load stops says nothing about the time after.
		end = max(end, op.Call)
		if asksFor(op, kind) {
			asked = append(asked, i)
			begin, longest = min(begin, op.Call), max(longest, op.Return-op.Call)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	// since is when somebody first asked in vain in a gap, math.MaxInt64 when
	// nobody did.
	since := func(n int, from, to int64) int64 {
		first := int64(math.MaxInt64)
		for ; n < len(asked) && r.Ops[asked[n]].Return-longest <= to; n++ {
			if op := &r.Ops[asked[n]]; op.Call < to {
				first = min(first, max(op.Call, from))
			}
		}
		return first
	}
	var out []lab.Outage
	last, next := begin, 0
	gap := func(n int, to int64, open bool) {
		if to-last <= gapExplained*resolution {
			return
		}
		o := lab.Outage{Kind: kind, Start: seconds(last), End: seconds(to), Open: open}
		f, inside := during(faults, o.Start, o.End, float64(gapPlain*resolution)/1e9)
		limit := int64(gapPlain) * resolution
		if inside {
			limit = gapExplained * resolution
		}
		if first := since(next, last, to); first > to || to-first <= limit {
			return
		}
		if f != nil {
			o.During = f.Name
			if inside && f.Start > o.Start && f.Start < o.End {
				o.Start = f.Start
			}
		}
		o.Duration = o.End - o.Start
		if o.Duration <= float64(gapExplained*resolution)/1e9 {
			return // most of the gap was before the fault: a slow answer, and no outage
		}
		out = append(out, o)
	}
	for n, i := range asked {
		op := &r.Ops[i]
		if op.Outcome != lab.OK {
			continue
		}
		gap(n, op.Return, false)
		last, next = op.Return, n+1
	}
	gap(len(asked), end, true)
	return out
}

// during finds the fault behind a gap. inside tells that it was injected, or
// healed, while the gap lasted, and not so late in it that the gap needs
// another cause.
func during(faults []lab.FaultReport, start, end, plain float64) (f *lab.FaultReport, inside bool) {
	for i := range faults {
		if at := faults[i].Start; at >= start && at < end && at-start <= plain {
			return &faults[i], true
		}
	}
	for i := range faults {
		if h := faults[i].Heal; h != nil && *h >= start && *h < end {
			inside = true
		}
	}
	var last *lab.FaultReport
	for i := range faults {
		if faults[i].Start > start {
			continue
		}
		last = &faults[i]
		if faults[i].Gone == nil || *faults[i].Gone >= start {
			f = last
		}
	}
	if f == nil {
		f = last
	}
	return f, inside
}

// Probed tells which kinds of outages were measured: a prober of that kind was
// at work.
func Probed(r *Record) (write, read bool) {
	for _, i := range r.clients {
		switch r.Ops[i].Client {
		case lab.ClientWriteProber:
			write = true
		case lab.ClientReadProber:
			read = true
		}
		if write && read {
			break
		}
	}
	return write, read
}

// Latencies sums up how long acknowledged operations of the clients took, from
// when they were due. Probes are left out: they wait for nothing and would
// count every outage a hundred times.
func Latencies(r *Record) map[string]lab.Latency {
	took := map[string][]int64{}
	for _, i := range r.clients {
		op := &r.Ops[i]
		if op.Client < 1 || op.Outcome != lab.OK {
			continue
		}
		kind := "write"
		if op.Kind == lab.OpGet {
			kind = "read"
		}
		from := op.Call
		if op.Due != 0 {
			from = op.Due
		}
		took[kind] = append(took[kind], op.Return-from)
	}
	out := map[string]lab.Latency{}
	for kind, t := range took {
		slices.Sort(t)
		at := func(q float64) float64 { return seconds(t[max(int(math.Ceil(q*float64(len(t))))-1, 0)]) }
		out[kind] = lab.Latency{Count: len(t), P50: at(0.5), P95: at(0.95), P99: at(0.99), Max: at(1)}
	}
	return out
}

// Reached is the rate of acknowledged client operations in the best second
// between the start of the load and a time in seconds: what the machine and
// the cluster can do before anything is broken.
func Reached(r *Record, until float64) float64 {
	const part = int64(100 * time.Millisecond)
	begin, limit := int64(math.MaxInt64), int64(math.MaxInt64)
	if until < math.MaxInt64/1e9 {
		limit = int64(until * 1e9)
	}
	end := int64(0)
	for _, i := range r.clients {
		if op := &r.Ops[i]; op.Client > 0 {
			begin, end = min(begin, op.Call), max(end, op.Return)
		}
	}
	if end = min(end, limit); end <= begin {
		return 0
	}
	counts := make([]int, (end-begin)/part+1)
	for _, i := range r.clients {
		if op := &r.Ops[i]; op.Client > 0 && op.Outcome == lab.OK && op.Return <= end {
			counts[(op.Return-begin)/part]++
		}
	}
	// The last part is not whole; nor is a first second that is shorter.
	if len(counts) <= 10 {
		n := 0
		for _, c := range counts {
			n += c
		}
		return float64(n) / seconds(end-begin)
	}
	best, sum := 0, 0
	for i, c := range counts[:len(counts)-1] {
		if sum += c; i >= 10 {
			sum -= counts[i-10]
		}
		best = max(best, sum)
	}
	return float64(best)
}

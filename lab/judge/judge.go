package judge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Options are the budgets of judging.
type Options struct {
	// Steps bounds the search for an order of the operations on one key, see
	// Linearizable. A key that takes more is unknown.
	Steps int
	// WholeStore judges histories of at most so many operations as one store
	// too; 0 never does. Its "no" counts like Linearizable's.
	WholeStore int
}

// Default are the budgets that Judge uses. With them the search for one key
// takes a second or two, and about a hundred megabytes, at the most.
func Default() Options { return Options{Steps: 1_000_000} }

// Judge computes the report of a saved run from dir/events.ndjson and
// dir/history.jsonl. The error says that one of them cannot be read; whatever
// they contain gives a report. A missing history is an empty one: a run that
// failed early has none.
func Judge(ctx context.Context, dir string) (*lab.Report, error) { return Default().Judge(ctx, dir) }

// Judge is like the function, with other budgets.
func (o Options) Judge(ctx context.Context, dir string) (*lab.Report, error) {
	events, err := lab.ReadEvents(filepath.Join(dir, "events.ndjson"))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	ops, err := lab.ReadHistory(filepath.Join(dir, "history.jsonl"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("history: %w", err)
	}
	return o.Report(ctx, events, ops), nil
}

// Report computes the report from what was recorded. When ctx ends, what was
// not yet decided is unknown.
func (o Options) Report(ctx context.Context, events []lab.Event, ops []lab.Op) *lab.Report {
	c := &court{opts: o, story: tell(events), rec: NewRecord(ops)}
	c.hear(ctx)
	return c.report()
}

// court holds what the judges say about one run.
type court struct {
	opts  Options
	story *story
	rec   *Record   // the whole history
	lives []*Record // the same, cut where the store was put back; see livesOf
	last  *Record   // of lives

	ran           bool // there was load
	writeProbed   bool
	readProbed    bool
	outages       []lab.Outage
	latency       map[string]lab.Latency
	losses        Losses
	orders        Orders
	watched       Watched
	linear        Linear
	whole         string
	acked, vague  int
	undone        int // acknowledged writes that a return of the store explains
	gate, reached float64
	gated         bool // there is a gate
}

func (c *court) hear(ctx context.Context) {
	s, r := c.story, c.rec
	load := s.load()
	c.lives = livesOf(r, s.returns)
	c.last = c.lives[len(c.lives)-1]
	c.ran = len(r.clients) > 0
	judges := []func(){
		func() { c.linear = linearLives(ctx, c.lives, c.opts.Steps) },
		func() { c.watched = watchLives(c.lives) },
		func() { c.orders = orderLives(c.lives) },
		func() { c.losses, c.undone = Lost(c.last), undone(r, s.returns) },
		func() {
			c.writeProbed, c.readProbed = Probed(r)
			for _, o := range Outages(r, s.faults, s.resolution()) {
				if o.Kind == "write" && c.writeProbed || o.Kind == "read" && c.readProbed {
					c.outages = append(c.outages, o)
				}
			}
			c.acked, c.vague, c.latency = AckedWrites(r), UnknownWrites(r), Latencies(r)
		},
	}
	each(len(judges), func(i int) { judges[i]() })
	if n := c.opts.WholeStore; n > 0 && c.ran && c.linear.Ops <= n {
		c.whole = WholeStore(ctx, c.last, c.opts.Steps)
	}
	if load != nil && c.ran {
		if c.gate = float64(load.Gate); c.gate == 0 {
			c.gate = float64(load.Rate) / 2
		}
		c.gated = c.gate > 0
		c.reached = Reached(r, s.firstBreak())
	}
}

// void tells that the machine was too slow to say anything about time.
func (c *court) void() bool { return c.gated && c.reached < c.gate }

func (c *court) report() *lab.Report {
	s := c.story
	rep := &lab.Report{
		SchemaVersion: lab.SchemaVersion,
		ID:            s.run.ID,
		Driver:        s.run.Driver,
		Seed:          s.run.Seed,
		Started:       s.started,
		Duration:      s.duration,
		Interrupted:   s.interrupted,
		Steps:         s.steps,
		Faults:        s.faults,
		Outages:       c.outages,
		Ops:           len(c.rec.clients),
		AckedWrites:   c.acked,
		UnknownWrites: c.vague,
		UndoneWrites:  c.undone,
		Linearizable:  "unknown",
		Latency:       c.latency,
		Members:       s.members,
		Environment:   s.run.Environment,
		Left:          s.left,
		Findings:      []lab.Finding{},
		Expect:        []lab.ExpectReport{},
	}
	if rep.Outages == nil {
		rep.Outages = []lab.Outage{}
	}
	if rep.Environment == nil {
		rep.Environment = map[string]string{}
	}
	var promises []lab.Expect
	if d := s.run.Drill; d != nil {
		rep.Drill, rep.Title, rep.Why, rep.Tags = d.Name, d.Title, d.Why, d.Tags
		promises = d.Promises()
		if len(s.returns) > 0 && c.ran && !slices.ContainsFunc(promises, func(e lab.Expect) bool { return e.Term == "undone" }) {
			// A drill that restores says how much that may cost.
			promises = append(promises, lab.Expect{Text: "undone == 0", Term: "undone", Op: "==", Standing: true})
		}
	}
	if c.writeProbed || c.readProbed {
		rep.Resolution = s.resolution().Seconds()
	}
	if c.writeProbed {
		v := c.longest("write", "")
		rep.RTO = &v.Duration
	}
	if c.ran {
		rep.Linearizable = c.answer()
		if c.losses.Looked {
			n := len(c.losses.Lost)
			rep.LostWrites = &n
			rep.Lost = c.losses.Lost[:min(n, maxFindings)]
		}
	}
	rep.Findings = append(rep.Findings, c.losses.Resurrected...)
	for _, key := range c.linear.Bad {
		rep.Findings = append(rep.Findings, c.badKey(key))
	}
	if c.whole == "no" && len(c.linear.Bad) == 0 {
		rep.Findings = append(rep.Findings, lab.Finding{Judge: "linearizable", What: "each key by itself has an order, all keys together have none in which revisions grow"})
	}
	rep.Findings = append(rep.Findings, c.orders.more("revisions")...)
	rep.Findings = append(rep.Findings, c.watched.more("watch")...)
	rep.Picture = c.picture()
	for _, e := range promises {
		rep.Expect = append(rep.Expect, c.weigh(e))
	}
	rep.Verdict, rep.Reason = c.verdict(rep)
	return rep
}

// answer is whether what clients saw is linearizable, all in all.
func (c *court) answer() string {
	if c.whole == "no" {
		return "no"
	}
	return c.linear.Answer
}

func (c *court) badKey(key string) lab.Finding {
	if p := c.linear.Picture; p != nil && p.Key == key {
		bad := p.Ops[p.Bad]
		return lab.Finding{Judge: "linearizable", Key: key, What: p.Text, At: seconds(bad.Return), Client: bad.Client}
	}
	return lab.Finding{Judge: "linearizable", Key: key, What: "no order explains what clients saw of this key"}
}

// longest finds the longest outage of a kind that began during a fault, of any
// fault when name is empty. Zero when there was none.
func (c *court) longest(kind, fault string) lab.Outage {
	var best lab.Outage
	for _, o := range c.outages {
		if o.Kind == kind && (fault == "" || o.During == fault) && o.Duration > best.Duration {
			best = o
		}
	}
	return best
}

// picture shows the first violation that can be shown.
func (c *court) picture() *lab.Picture {
	switch l := c.losses; {
	case l.First != nil:
		f := append(slices.Clone(l.Lost), l.Resurrected...)[0]
		return window(c.last, f, l.First, c.last.Rows[l.First.Key])
	case c.linear.Picture != nil:
		return c.linear.Picture
	case c.orders.Count > 0:
		return window(c.rec, c.orders.Findings[0], c.orders.Pair[0], c.orders.Pair[1])
	case c.watched.Count > 0:
		return window(c.rec, c.watched.Findings[0], c.watched.Pair[0], c.watched.Pair[1])
	}
	return nil
}

// maxPicture is how many operations a picture shows at the most.
const maxPicture = 12

// window shows two operations that do not go together, b the later one, and
// the writes of the same keys between them, the last ones when there are many.
func window(r *Record, f lab.Finding, a, b *lab.Op) *lab.Picture {
	if a == nil {
		a = b
	}
	if b == nil {
		b = a
	}
	if r.Final != nil && a == b && a.Kind != lab.OpEvent {
		b = r.Final
	}
	p := &lab.Picture{Judge: f.Judge, Key: f.Key, Text: f.What}
	var between []*lab.Op
	for _, k := range r.Keys {
		if k.Name != a.Key && k.Name != b.Key {
			continue
		}
		for _, i := range k.Ops {
			if op := &r.Ops[i]; op != a && op != b && writes(op) && op.Outcome != lab.Refused && op.Call <= b.Return && op.Return >= a.Call {
				between = append(between, op)
			}
		}
	}
	sort.SliceStable(between, func(i, j int) bool { return between[i].Call < between[j].Call })
	if extra := len(between) - (maxPicture - 2); extra > 0 {
		p.Cut, between = extra, between[extra:]
	}
	p.Ops = append(p.Ops, *a)
	for _, op := range between {
		p.Ops = append(p.Ops, *op)
	}
	if b != a {
		p.Ops = append(p.Ops, *b)
	}
	p.Bad = len(p.Ops) - 1
	return p
}

// verdict weighs everything and says why in a sentence.
func (c *court) verdict(rep *lab.Report) (lab.Verdict, string) {
	s := c.story
	if s.run.Drill == nil {
		return lab.Error, "the journal does not say which drill was run"
	}
	if s.ended && s.verdict == lab.Skip {
		return lab.Skip, orElse(oneLine(s.err), "not possible here")
	}
	because := map[lab.Verdict][]string{}
	say := func(v lab.Verdict, format string, args ...any) {
		if v != lab.Pass && v != lab.Skip && v != "" {
			because[v] = append(because[v], fmt.Sprintf(format, args...))
		}
	}
	if !s.ended {
		say(lab.Error, "the run was killed: its journal has no end")
	}
	if s.interrupted {
		say(lab.Error, "the run was interrupted")
	}
	if c.void() {
		say(lab.Error, "machine too slow: %.0f operations per second before the first break, the gate is %.0f", c.reached, c.gate)
	}
	told := s.ended && s.verdict != lab.Pass && s.verdict != ""
	if told {
		say(s.verdict, "%s", orElse(oneLine(s.err), "a step ended "+string(s.verdict)))
	}
	for _, st := range rep.Steps {
		if v := st.Verdict; v != lab.Pass && v != "" && (!told || lab.Worst(v, s.verdict) != s.verdict) {
			say(v, "step %s, %s %s: %s", st.Index, st.Word, st.Verb, oneLine(st.Reason))
		}
	}
	for _, f := range s.faults {
		switch {
		case !s.ended:
		case f.Bites == nil:
			say(lab.Error, "fault %s was not proved to bite", f.Name)
		case f.Gone == nil:
			say(lab.Error, "fault %s was not proved gone", f.Name)
		}
	}
	failed := len(because[lab.Error]) > 0
	for _, e := range rep.Expect {
		if e.Verdict == lab.Error && failed {
			continue // what kept us from measuring has been said
		}
		say(e.Verdict, "%s", c.complain(e))
	}
	worst := lab.Pass
	for v := range because {
		worst = lab.Worst(worst, v)
	}
	// On a machine that is too slow, findings about time and behaviour in time
	// say nothing about etcd; lost data does.
	if worst == lab.Fail && c.void() && !slices.ContainsFunc(rep.Expect, func(e lab.ExpectReport) bool { return e.Verdict == lab.Fail && safety(e.Text) }) {
		worst = lab.Error
	}
	// What is seen of a lab that broke under its drill says nothing about etcd.
	if s.halted {
		worst = lab.Error
	}
	if worst != lab.Pass {
		return worst, strings.Join(because[worst][:min(3, len(because[worst]))], "; ")
	}
	return lab.Pass, c.praise(rep)
}

// safety tells promises about data from promises about time.
func safety(text string) bool {
	term, _, _ := strings.Cut(strings.Fields(text + " ")[0], ".")
	return slices.Contains([]string{"lost", "undone", "resurrected", "linearizable", "revisions", "watch"}, term)
}

func (c *court) complain(e lab.ExpectReport) string {
	switch e.Verdict {
	case lab.Fail:
		return fmt.Sprintf("promised %s, measured %s", e.Text, e.Measured)
	case lab.Undecided:
		return fmt.Sprintf("could not decide %s: %s", e.Text, e.Measured)
	}
	return fmt.Sprintf("could not measure %s: %s", e.Text, e.Measured)
}

func (c *court) praise(rep *lab.Report) string {
	n := 0
	for _, st := range rep.Steps {
		if st.Word != "" {
			n++
		}
	}
	out := fmt.Sprintf("all %d steps went as they should", n)
	if rep.RTO != nil {
		out += fmt.Sprintf("; the longest time without an accepted write was %s", text(*rep.RTO))
	}
	if rep.LostWrites != nil {
		out += fmt.Sprintf("; %d of %d acknowledged writes lost", *rep.LostWrites, rep.AckedWrites)
		if rep.UndoneWrites > 0 {
			out += fmt.Sprintf(" beside %d that the restore took back", rep.UndoneWrites)
		}
	}
	return out
}

// text writes a time as people do.
func text(s float64) string {
	d := time.Duration(math.Round(s*1e4) * 1e5)
	return d.String()
}

func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + " …"
	}
	return s
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Package load keeps clients busy against a cluster while a drill breaks it,
// and writes down everything they see.
//
// Four kinds of clients run beside each other:
//
//   - clients do one operation at a time: linearizable reads, puts, deletes and
//     compare-and-puts on keys they share. They are what is judged for
//     linearizability, and they make the load;
//   - two probers, one that writes and one that reads, are open-loop: they send
//     one request per interval, whatever became of the ones before, to one
//     member after the other. Their answers give the length of an outage;
//   - one watcher per member follows everything through that member alone;
//   - the closer writes a last marker and reads everything back.
//
// Nothing here is ever sent twice. A request goes to one member over one
// connection, with no retry of the client library, of gRPC or of ours, so that
// every operation in the history happened at most once; see line for how that
// is made sure and how "refused" is told from "unknown".
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Start begins a load on a cluster that serves, and returns once the first
// operation can go out. Operations go to h, what happened to the load and its
// rate of every second to j. The same seed gives each client the same sequence
// of choices.
//
// ctx bounds Start alone: the load runs until Load.Stop. An error says that no
// member answered a linearizable read within half a minute, or that spec names
// a member the cluster does not have.
func Start(ctx context.Context, c *lab.Cluster, spec lab.LoadSpec, h *lab.History, j *lab.Journal, seed uint64) (lab.Load, error) {
	if err := spec.Valid(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	l := &load{
		cluster: c, spec: spec, history: h, journal: j, seed: seed,
		// A lab that stays may see several loads: each has keys of its own.
		prefix: "load/" + strconv.FormatInt(time.Now().UnixNano(), 36) + "/",
		stop:   make(chan struct{}),
		seen:   make([]atomic.Pointer[string], spec.Keys),
	}
	if c.Spec.Adopt != nil {
		l.prefix = lab.OwnKeys + l.prefix
	}
	through, err := throughOf(c, spec.Through)
	if err != nil {
		return nil, err
	}
	l.through = through
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for i := range spec.Keys {
		l.keys = append(l.keys, l.prefix+"k"+strconv.Itoa(i))
	}
	for _, m := range c.Seats {
		s, err := newSeat(c, m, spec)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("load: %s: %w", m.Name, err)
		}
		l.seats = append(l.seats, s)
	}
	// Spare hosts take part as soon as a voting member serves there; see scout.
	members := l.seats[:min(max(c.Spec.Members, 1), len(l.seats))]
	l.serving.Store(&members)
	if err := l.begin(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// throughOf lists the members that clients talk to, nil for all.
func throughOf(c *lab.Cluster, t lab.Target) ([]string, error) {
	if len(t.Names) > 0 {
		return t.Names, nil
	}
	if t.Role == "" || t.Role == "all" {
		return nil, nil
	}
	var look []lab.Status
	for _, n := range c.Names() {
		look = append(look, lab.Status{Name: n})
	}
	// A role that moves, such as the leader, has no meaning for clients that
	// are to stay where they are: only names remain.
	if _, role := lab.Roles[t.Role]; role {
		return nil, fmt.Errorf("load: through: %q: expected names of members, such as m1", t.Role)
	}
	return lab.Pick(t.Role, look, rand.New(rand.NewPCG(0, 0)))
}

type load struct {
	cluster *lab.Cluster
	spec    lab.LoadSpec
	history *lab.History
	journal *lab.Journal
	seed    uint64
	prefix  string
	keys    []string
	from    int64 // revision before the first write
	through []string

	ctx    context.Context // ends when the load is torn down
	cancel context.CancelFunc
	stop   chan struct{} // closed when no new operation may begin
	wg     sync.WaitGroup
	once   sync.Once
	err    error // of Stop

	seats   []*seat
	serving atomic.Pointer[[]*seat]
	seen    []atomic.Pointer[string] // per key, a value that stood there lately

	done     atomic.Int64 // acknowledged operations of the clients
	writes   atomic.Int64 // acknowledged writes of all
	probed   atomic.Int64 // the last probe write that was acknowledged
	rate     atomic.Int64 // operations of the last second
	watchers struct {
		sync.Mutex
		list []*watcher
		wg   sync.WaitGroup
	}
}

var _ lab.Load = (*load)(nil)

// Rate counts what the clients got answered, the probers left out.
func (l *load) Rate() float64 { return float64(l.rate.Load()) }

// Acked counts the probers' writes too: they are as good as any.
func (l *load) Acked() int { return int(l.writes.Load()) }

// begin finds where the store stands and starts everything.
func (l *load) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := lab.Until(ctx, "a linearizable read through any member", func(ctx context.Context) error {
		var errs []error
		for _, s := range *l.serving.Load() {
			ctx, cancel := context.WithTimeout(ctx, l.spec.Timeout)
			resp, err := s.closer.read(ctx, l.prefix, 0)
			cancel()
			if err == nil {
				l.from = resp.Header.Revision
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	l.journal.Add(lab.Event{Kind: lab.EventLoad, Text: fmt.Sprintf("%d clients on %d keys below %s, from revision %d", l.spec.Clients, l.spec.Keys, l.prefix, l.from)})
	if l.spec.Watch {
		for _, s := range *l.serving.Load() {
			l.watch(s)
		}
	}
	if l.cluster.Spec.Adopt == nil { // whose members stay who they are
		l.wg.Go(l.scout)
	}
	start := time.Now()
	for i := range l.spec.Clients {
		l.wg.Go(func() { l.client(i+1, start) })
	}
	if l.spec.Probe > 0 {
		l.wg.Go(func() { l.probe(start, l.probeWrite) })
		// Half an interval apart, so that the two do not wait for each other.
		l.wg.Go(func() { l.probe(start.Add(l.spec.Probe/2), l.probeRead) })
	}
	l.wg.Go(l.meter)
	return nil
}

// scout follows the membership, by the list that a quorum agrees on: hosts that
// have become voting members are talked to, members that were removed no more.
// One that is only down, or cut off, is still a member, and who votes and is not
// listed is of some other cluster: nothing is to be written there. Only when
// none of those that were talked to runs any more, since the whole cluster came
// up elsewhere, whoever votes is talked to.
func (l *load) scout() {
	for n := 0; l.sleep(250 * time.Millisecond); n++ {
		now := *l.serving.Load()
		ctx, cancel := context.WithTimeout(l.ctx, 500*time.Millisecond)
		voters, err := now[n%len(now)].closer.voters(ctx)
		cancel()
		var next []*seat
		for _, s := range l.seats {
			listed := slices.Contains(voters, s.name)
			switch {
			case slices.Contains(now, s):
				if err != nil || listed {
					next = append(next, s)
					continue
				}
				l.journal.Add(lab.Event{Kind: lab.EventLoad, Host: s.name, Text: "the load talks to this host no more: it is no voting member"})
			case (listed || err != nil && deserted(l.ctx, now)) && l.votes(s):
				next = append(next, s)
				l.journal.Add(lab.Event{Kind: lab.EventLoad, Host: s.name, Text: "the load talks to this member too from now on"})
				if l.spec.Watch {
					l.watch(s)
				}
			}
		}
		if len(next) > 0 {
			l.serving.Store(&next)
		}
	}
}

// deserted tells whether no process of the seats runs.
func deserted(ctx context.Context, seats []*seat) bool {
	return !slices.ContainsFunc(seats, func(s *seat) bool {
		st, err := s.proc.State(ctx)
		return err != nil || st.Running
	})
}

func (l *load) votes(s *seat) bool {
	ctx, cancel := context.WithTimeout(l.ctx, 500*time.Millisecond)
	defer cancel()
	return s.closer.votes(ctx)
}

// meter takes the rate ten times a second and journals it once.
func (l *load) meter() {
	const parts = 10
	var past [parts]int64
	for n := 0; l.sleep(time.Second / parts); n++ {
		done := l.done.Load()
		l.rate.Store(done - past[n%parts])
		past[n%parts] = done
		if n%parts == parts-1 {
			l.journal.Add(lab.Event{Kind: lab.EventLoad, Rate: l.Rate()})
		}
	}
}

// sleep waits; false when the load is to end.
func (l *load) sleep(d time.Duration) bool {
	if d <= 0 {
		return !l.stopping()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.stop:
		return false
	case <-t.C:
		return true
	}
}

func (l *load) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// record writes an operation down and counts it.
func (l *load) record(op *lab.Op) {
	if op.Outcome == lab.OK {
		if op.Client > 0 {
			l.done.Add(1)
		}
		if op.Kind == lab.OpPut || op.Kind == lab.OpDelete || op.Swapped {
			l.writes.Add(1)
		}
	}
	l.history.Add(*op)
}

func (l *load) close() {
	l.cancel()
	for _, s := range l.seats {
		s.close()
	}
}

// Stop ends the load, see [lab.Load]. It may be called twice; the second call
// returns what the first did.
func (l *load) Stop(ctx context.Context) error {
	l.once.Do(func() { l.err = l.end(ctx) })
	return l.err
}

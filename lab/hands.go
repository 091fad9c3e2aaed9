package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Hands performs single steps on a lab that is up: Run uses it for drills, the
// command line for a lab that stays. Faults are healed from the ledger alone,
// always, so that the way a killed run is cleaned up is the way every run goes.
type Hands struct {
	Cluster *Cluster
	Kit     Kit
	Journal *Journal
	Ledger  *Ledger
	Seed    uint64
	Held    *Held // nil on a lab that stays
	Load    Load  // nil without one
	// Trial is added to the names faults are owned by, so that a fault can be
	// made again under the same name.
	Trial string

	mu     sync.Mutex
	before []Status
}

// The deadlines of steps that name none.
const (
	deadlineDo    = 30 * time.Second // an action
	deadlineAim   = 10 * time.Second // until somebody has the role that is asked for
	deadlineBite  = 10 * time.Second // a fault proved to bite
	deadlineHeal  = 30 * time.Second // a fault healed, and again proved gone
	deadlineCheck = 15 * time.Second // one look of a check
)

// long is how long something may take on the hosts of the lab.
func (h *Hands) long(t time.Duration) time.Duration { return h.Cluster.Spec.Long(t) }

// Step performs one step. nil means it went as it should; *Failure is a
// finding; any other error means that we could not do it or could not tell.
func (h *Hands) Step(ctx context.Context, s *Step, index string) (err error) {
	if a := h.Cluster.Spec.Adopt; a != nil {
		if err := a.Refuses(s); err != nil {
			return err
		}
	}
	j := h.Journal.At(index, "")
	j.Add(Event{Kind: EventStep, Line: s.Line, Word: s.Word, Verb: s.Verb, Text: s.Why})
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in %s %s: %v\n%s", s.Word, s.Verb, p, debug.Stack())
		}
		e := Event{Kind: EventDone, Verdict: VerdictOf(err), Seconds: time.Since(start).Seconds()}
		if err != nil {
			e.Error = err.Error()
		}
		j.Add(e)
	}()
	switch s.Word {
	case "do":
		return h.do(ctx, s, index, j)
	case "break":
		return h.brk(ctx, s, index, j)
	case "check":
		return h.check(ctx, s, index, j)
	case "heal":
		return h.heal(ctx, s, j)
	case "repeat":
		for n := range s.Times {
			for i := range s.Steps {
				if err := h.Step(ctx, &s.Steps[i], fmt.Sprintf("%s.%d.%d", index, n+1, i+1)); err != nil {
					return wrapStep(&s.Steps[i], fmt.Sprintf("round %d of %d", n+1, s.Times), err)
				}
			}
		}
		return nil
	case "parallel":
		errs := make([]error, len(s.Steps))
		var wg sync.WaitGroup
		for i := range s.Steps {
			wg.Go(func() {
				if err := h.Step(ctx, &s.Steps[i], fmt.Sprintf("%s.%d", index, i+1)); err != nil {
					errs[i] = wrapStep(&s.Steps[i], "", err)
				}
			})
		}
		wg.Wait()
		return worstOf(errs)
	}
	return fmt.Errorf("step of line %d: unknown word %q", s.Line, s.Word)
}

// wrapStep says which inner step an error comes from, keeping a Failure one.
func wrapStep(s *Step, where string, err error) error {
	if where != "" {
		where += ", "
	}
	return fmt.Errorf("%sline %d: %w", where, s.Line, err)
}

// worstOf joins errors so that a finding stays a finding.
func worstOf(errs []error) error { return errors.Join(errs...) }

// VerdictOf turns what a verb returned into a verdict.
func VerdictOf(err error) Verdict {
	var f *Failure
	switch {
	case err == nil:
		return Pass
	case errors.As(err, &f):
		return Fail
	}
	return Error
}

// Before is how the cluster looked right before the last break.
func (h *Hands) lastLook() []Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.before
}

func (h *Hands) env(s *Step, owner string, j *Journal, r *rand.Rand) *Env {
	return &Env{Cluster: h.Cluster, Kit: h.Kit, Rand: r, Journal: j, Owner: owner, Before: h.lastLook(),
		Load: h.Load, Held: h.Held, For: s.For, Within: s.Within}
}

// rand is a source of its own for every step, so that the seed decides however
// steps interleave.
func (h *Hands) rand(index string) *rand.Rand {
	f := fnv.New64a()
	f.Write([]byte(index))
	return rand.New(rand.NewPCG(h.Seed, f.Sum64()))
}

// aim copies a verb and resolves its targets.
func (h *Hands) aim(ctx context.Context, verb any, index string, j *Journal) (any, *rand.Rand, error) {
	r := h.rand(index)
	v := reflect.New(reflect.TypeOf(verb).Elem())
	v.Elem().Set(reflect.ValueOf(verb).Elem())
	ctx, cancel := context.WithTimeout(ctx, h.long(deadlineAim))
	defer cancel()
	for _, t := range Targets(v.Interface()) {
		err := Until(ctx, "somebody to be "+t.Role, func(ctx context.Context) error {
			names, err := Pick(t.Role, h.look(ctx, t.Role), r)
			t.Names = names
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		j.Add(Event{Kind: EventAim, Target: t})
	}
	return v.Interface(), r, nil
}

// look asks the cluster, unless the target names hosts and no role.
func (h *Hands) look(ctx context.Context, role string) []Status {
	var named []Status
	for _, w := range strings.Split(role, ",") {
		if _, err := h.Cluster.Member(strings.TrimSpace(w)); err != nil {
			return h.Kit.Look(ctx, h.Cluster)
		}
		named = append(named, Status{Name: strings.TrimSpace(w)})
	}
	return named
}

func (h *Hands) do(ctx context.Context, s *Step, index string, j *Journal) error {
	v, r, err := h.aim(ctx, s.Args, index, j)
	if err != nil {
		return err
	}
	e := h.env(s, s.Verb+"-"+index, j, r)
	limit := h.long(deadlineDo) + s.For
	if s.Within > 0 {
		limit = s.Within
	}
	bound, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = v.(Action).Do(bound, e)
	if s.Refused == "" {
		if err != nil && bound.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: not done within %s: %w", s.Verb, limit, err)
		}
		return err
	}
	var exit *ExitError
	var fail *Failure
	switch {
	case err == nil:
		return &Failure{What: s.Verb, Want: fmt.Sprintf("a refusal that says %q", s.Refused), Got: "it was done"}
	case errors.As(err, &exit) && strings.Contains(exit.Text(), s.Refused),
		errors.As(err, &fail) && strings.Contains(fail.Error(), s.Refused):
		e.Note("", "refused as expected: %s", clip(err.Error(), 300))
		return nil
	case errors.As(err, &exit), errors.As(err, &fail):
		return &Failure{What: s.Verb, Want: fmt.Sprintf("a refusal that says %q", s.Refused), Got: err.Error()}
	}
	return err // it may not have run: that is no refusal
}

// allowed refuses a fault on a host whose owner does not want it there.
func (h *Hands) allowed(fault any, verb string) error {
	if h.Cluster.Forbids == nil {
		return nil
	}
	for _, t := range Targets(fault) {
		for _, name := range t.Names {
			if h.Cluster.Forbids(name, verb) {
				return fmt.Errorf("break %s: the inventory does not allow it on the host of %s: nothing was done", verb, name)
			}
		}
	}
	return nil
}

func (h *Hands) check(ctx context.Context, s *Step, index string, j *Journal) error {
	var e *Env
	look := func(ctx context.Context) error {
		v, r, err := h.aim(ctx, s.Args, index, j)
		if err != nil {
			return err
		}
		e = h.env(s, s.Verb+"-"+index, j, r)
		ctx, cancel := context.WithTimeout(ctx, h.long(deadlineCheck))
		defer cancel()
		return v.(Check).Holds(ctx, e)
	}
	if s.Within == 0 && s.For == 0 {
		return look(ctx)
	}
	if s.Within > 0 {
		var seen error // by the last look that was not cut short by our own deadline
		bound, cancel := context.WithTimeout(ctx, s.Within)
		err := Until(bound, s.Verb, func(c context.Context) error {
			err := look(c)
			if err == nil || c.Err() == nil || seen == nil {
				seen = err
			}
			return err
		})
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("within %s: %w", s.Within, seen)
		}
	}
	begin := time.Now()
	for time.Since(begin) < s.For {
		start := time.Now()
		if err := look(ctx); err != nil {
			return fmt.Errorf("%s into the %s for which it must hold: %w", start.Sub(begin).Round(time.Millisecond), s.For, err)
		}
		if err := pause(ctx, min(max(20*time.Millisecond-time.Since(start), 0), s.For)); err != nil {
			return err
		}
	}
	return nil
}

// brk injects a fault: book the cure, break, prove.
func (h *Hands) brk(ctx context.Context, s *Step, index string, j *Journal) error {
	if open, err := h.debt(s.As); err != nil {
		return err
	} else if open != nil {
		return fmt.Errorf("a fault named %q is in place already: heal it first, or give another name with `as`", s.As)
	}
	v, r, err := h.aim(ctx, s.Args, index, j)
	if err != nil {
		return err
	}
	if err := h.allowed(v, s.Verb); err != nil {
		return err
	}
	before := h.Kit.Look(ctx, h.Cluster)
	h.mu.Lock()
	h.before = before
	h.mu.Unlock()
	owner := s.As + "-" + index + h.Trial
	args, err := json.Marshal(v)
	if err != nil {
		return err
	}
	debt := Debt{Name: s.As, Owner: owner, Verb: s.Verb, Args: args, Before: before}
	if err := h.Ledger.Book(debt); err != nil {
		return err
	}
	j = h.Journal.At(index, s.As)
	var whom *Target
	if ts := Targets(v); len(ts) > 0 {
		whom = ts[0]
	}
	j.Add(Event{Kind: EventFault, Verb: s.Verb, Target: whom})
	start := time.Now()
	fault, e := v.(Fault), h.env(s, owner, j, r)
	e.Before = before
	err = within(ctx, max(h.long(deadlineDo), s.Within), func(ctx context.Context) error { return fault.Inject(ctx, e) })
	if err == nil {
		limit := h.long(deadlineBite)
		if s.Within > 0 {
			limit = s.Within
		}
		var p Proof
		p, err = h.proof(ctx, fault, e, Bites, limit)
		if err == nil {
			j.Add(Event{Kind: EventBites, Verb: s.Verb, Text: p.Evidence, Seconds: time.Since(start).Seconds()})
		}
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.long(deadlineHeal))
		defer cancel()
		return errors.Join(fmt.Errorf("break %s: %w", s.Verb, err), h.settle(clean, debt, 0, j))
	}
	if s.For > 0 {
		wait := pause(ctx, s.For)
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.long(deadlineHeal))
		defer cancel()
		return errors.Join(wait, h.settle(clean, debt, 0, j))
	}
	return nil
}

// proof asks a fault until it is in the wanted state.
func (h *Hands) proof(ctx context.Context, f Fault, e *Env, want ProofState, limit time.Duration) (Proof, error) {
	var p Proof
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := Until(ctx, "the fault to be "+want.String(), func(ctx context.Context) error {
		got, err := f.Prove(ctx, e)
		if err != nil {
			return err
		}
		p = got
		if got.State != want {
			return fmt.Errorf("%s: %s", got.State, got.Evidence)
		}
		return nil
	})
	return p, err
}

func (h *Hands) debt(name string) (*Debt, error) {
	open, err := h.Ledger.Open()
	if err != nil {
		return nil, err
	}
	for _, d := range open {
		if d.Name == name {
			return &d, nil
		}
	}
	return nil, nil
}

func (h *Hands) heal(ctx context.Context, s *Step, j *Journal) error {
	d, err := h.debt(s.Verb)
	if err != nil {
		return err
	}
	if d == nil {
		return fmt.Errorf("heal %s: no fault of that name is in place", s.Verb)
	}
	limit := 2 * h.long(deadlineHeal)
	if s.Within > 0 {
		limit = s.Within
	}
	return within(ctx, limit, func(ctx context.Context) error { return h.settle(ctx, *d, s.Within, j) })
}

// settle heals one debt, proves it and marks it paid. Healing and its proof may
// take limit each, and the usual time when that is longer.
func (h *Hands) settle(ctx context.Context, d Debt, limit time.Duration, j *Journal) error {
	limit = max(limit, h.long(deadlineHeal))
	j = &Journal{core: j.core, step: j.step, fault: d.Name}
	j.Add(Event{Kind: EventHeal, Verb: d.Verb})
	start := time.Now()
	err := func() error {
		make, ok := h.Kit.Verbs.Break[d.Verb]
		if !ok {
			return fmt.Errorf("the ledger names an unknown fault %q: another version of etcdrill wrote it", d.Verb)
		}
		fault := make()
		if err := json.Unmarshal(d.Args, fault); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		e := h.env(&Step{}, d.Owner, j, h.rand(d.Owner))
		e.Before = d.Before
		if err := within(ctx, limit, func(ctx context.Context) error { return fault.Heal(ctx, e) }); err != nil {
			return err
		}
		p, err := h.proof(ctx, fault, e, Gone, limit)
		if err != nil {
			return err
		}
		j.Add(Event{Kind: EventGone, Verb: d.Verb, Text: p.Evidence, Seconds: time.Since(start).Seconds()})
		return h.Ledger.Pay(d.Owner)
	}()
	if err != nil {
		j.Add(Event{Kind: EventStuck, Verb: d.Verb, Error: err.Error()})
		return fmt.Errorf("heal %s (%s): %w", d.Name, d.Verb, err)
	}
	return nil
}

// HealAll heals everything the ledger says is in place, the last one first. It
// goes on after errors and may be called again.
func (h *Hands) HealAll(ctx context.Context) error {
	open, err := h.Ledger.Open()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range open {
		errs = append(errs, h.settle(ctx, d, 0, h.Journal))
	}
	return errors.Join(errs...)
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

// pause waits, or returns ctx's error when it ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

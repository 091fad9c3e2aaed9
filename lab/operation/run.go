package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Options of Run, Resume and Rollback.
type Options struct {
	// BreakQuorum allows steps that are predicted to lose the quorum.
	BreakQuorum bool
	// Ahead is called when the operation has decided, before anything is written
	// down or touched: an error ends it there. nil: there is nothing to do ahead.
	Ahead func(ctx context.Context, e *lab.Env) error
	// Written is called after every record, with the number of records the
	// journal has. When it fails nothing more is done or written, as if the process had been
	// killed there; Cut makes such a function. nil: never.
	Written func(records int) error
}

// Cut ends an operation after n records as kill -9 would, for drills that show
// that this does no harm. The error matches WasCut.
func Cut(n int) func(records int) error {
	return func(records int) error {
		if records >= n {
			return fmt.Errorf("%w after %d records, as asked for", errCut, records)
		}
		return nil
	}
}

// WasCut tells whether an operation ended by Cut.
func WasCut(err error) bool { return errors.Is(err, errCut) }

// limit of a function of a step that names none.
const limit = time.Minute

// Run performs an operation. An error before the first step means that nothing
// was touched. Afterwards a step that failed has been undone together with all
// before it, and the error says whether that worked; when ctx ended, or the
// undo failed, the operation stays unfinished, for Resume or Rollback.
func Run(ctx context.Context, e *lab.Env, name string, op Operation, o Options) error {
	release, err := lock(e.Cluster)
	if err != nil {
		return err
	}
	defer release()
	if open, err := Unfinished(e.Cluster); err != nil {
		return err
	} else if open != nil {
		return &lab.Failure{What: "lab " + e.ID, Want: "no unfinished operation (`resume` or `rollback` ends it)", Got: open.String()}
	}
	if err := op.Decide(ctx, e); err != nil {
		return fmt.Errorf("%s: nothing was touched: %w", name, err)
	}
	steps, err := stepsOf(op, e)
	if err != nil {
		return fmt.Errorf("%s: nothing was touched: %w", name, err)
	}
	if !o.BreakQuorum {
		if err := keeps(steps); err != nil {
			return fmt.Errorf("%s: nothing was touched: %w", name, err)
		}
	}
	plan, err := json.Marshal(op)
	if err != nil {
		return err
	}
	if o.Ahead != nil {
		if err := o.Ahead(ctx, e); err != nil {
			return fmt.Errorf("%s: nothing was touched: %w", name, err)
		}
	}
	j, err := create(e.Cluster, name)
	if err != nil {
		return err
	}
	defer j.file.Close()
	j.written = o.Written
	if err := j.write(Record{Mark: markPlan, Name: name, Plan: plan}); err != nil {
		return err
	}
	return forward(ctx, e, j, steps)
}

// stepsOf computes the steps and refuses what cannot be told apart in a journal.
func stepsOf(op Operation, e *lab.Env) ([]Step, error) {
	steps, err := op.Steps(e)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range steps {
		if s.Name == "" || slices.Contains(names, s.Name) {
			return nil, fmt.Errorf("two steps named %q", s.Name)
		}
		names = append(names, s.Name)
	}
	return steps, nil
}

// Kinds makes an empty operation of a name, to be filled from a journal.
type Kinds func(name string) (Operation, bool)

// pick takes an unfinished operation up again.
func pick(e *lab.Env, kinds Kinds, o Options) (*journal, []Step, error) {
	s, err := Unfinished(e.Cluster)
	if err != nil {
		return nil, nil, err
	}
	if s == nil {
		return nil, nil, &lab.Failure{What: "lab " + e.ID, Want: "an unfinished operation", Got: "none"}
	}
	op, ok := kinds(s.Name)
	if !ok {
		return nil, nil, fmt.Errorf("operation %s: unknown kind %q: another version of etcdrill began it", s.ID, s.Name)
	}
	if err := json.Unmarshal(s.Plan, op); err != nil {
		return nil, nil, fmt.Errorf("operation %s: its plan: %w", s.ID, err)
	}
	steps, err := stepsOf(op, e)
	if err != nil {
		return nil, nil, err
	}
	// The plan is what was decided; the steps of another version may be others.
	for i, name := range s.Done {
		if i >= len(steps) || steps[i].Name != name {
			return nil, nil, fmt.Errorf("operation %s: step %d was %q, and is not in this plan: another version of etcdrill began it", s.ID, i+1, name)
		}
	}
	j, err := reopen(*s)
	if err != nil {
		return nil, nil, err
	}
	j.written = o.Written
	return j, steps, nil
}

// again does something with the unfinished operation of a lab while nobody else
// can.
func again(e *lab.Env, kinds Kinds, o Options, do func(*journal, []Step) error) error {
	release, err := lock(e.Cluster)
	if err != nil {
		return err
	}
	defer release()
	j, steps, err := pick(e, kinds, o)
	if err != nil {
		return err
	}
	defer j.file.Close()
	return do(j, steps)
}

// Resume goes on with the unfinished operation of a lab: forward, or backward
// when it was on its way back. The precondition of the step it was in must
// hold; when it does not, somebody has changed the world meanwhile: nothing is
// done and the error says what differs.
func Resume(ctx context.Context, e *lab.Env, kinds Kinds, o Options) error {
	return again(e, kinds, o, func(j *journal, steps []Step) error {
		e.Note("", "resume %s", j.state)
		if j.state.Back {
			return backward(ctx, e, j, steps, nil)
		}
		next := steps[len(j.state.Done):]
		if len(next) > 0 {
			if err := call(ctx, e, next[0], next[0].Before); err != nil {
				return fmt.Errorf("%s is not resumed: the world is not as it left it: step %q: %w", j.state.ID, next[0].Name, err)
			}
		}
		return forward(ctx, e, j, steps)
	})
}

// Rollback undoes the unfinished operation of a lab. It is refused after the
// point from which there is only the way forward.
func Rollback(ctx context.Context, e *lab.Env, kinds Kinds, o Options) error {
	return again(e, kinds, o, func(j *journal, steps []Step) error {
		e.Note("", "roll back %s", j.state)
		return backward(ctx, e, j, steps, nil)
	})
}

// forward does the steps that are not done.
func forward(ctx context.Context, e *lab.Env, j *journal, steps []Step) error {
	for i := len(j.state.Done); i < len(steps); i++ {
		s := steps[i]
		if err := j.write(Record{Mark: markBegin, Step: s.Name}); err != nil {
			return err
		}
		e.Note("", "%s, step %d of %d: %s", j.state.Name, i+1, len(steps), s.Name)
		if err := do(ctx, e, s); err != nil {
			err = fmt.Errorf("%s: step %d of %d, %s: %w", j.state.Name, i+1, len(steps), s.Name, err)
			if ctx.Err() != nil {
				return fmt.Errorf("%w: it is unfinished: `resume` goes on, `rollback` goes back", err)
			}
			return backward(context.WithoutCancel(ctx), e, j, steps, err)
		}
		if err := j.write(Record{Mark: markDone, Step: s.Name}); err != nil {
			return err
		}
	}
	return j.write(Record{Mark: markEnd})
}

func do(ctx context.Context, e *lab.Env, s Step) error {
	if err := call(ctx, e, s, s.Before); err != nil {
		return fmt.Errorf("before it: %w", err)
	}
	if err := call(ctx, e, s, s.Do); err != nil {
		return err
	}
	if err := call(ctx, e, s, s.Gate); err != nil {
		return fmt.Errorf("after it: %w", err)
	}
	return nil
}

func call(ctx context.Context, e *lab.Env, s Step, f func(context.Context, *lab.Env) error) error {
	if f == nil {
		return nil
	}
	d := s.Limit
	if d == 0 {
		d = limit
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx, e)
}

// backward undoes what was done and begun, the last step first. cause is the
// failure that led to it, nil when it was asked for; it is returned, together
// with what could not be undone.
func backward(ctx context.Context, e *lab.Env, j *journal, steps []Step, cause error) error {
	reason := ""
	if cause != nil {
		reason = cause.Error()
	}
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	from := len(j.state.Done) - 1
	if at := slices.Index(names, j.state.Begun); at >= 0 {
		from = at
	}
	for i := from; i >= 0; i-- {
		s := steps[i]
		if s.Point != "" && slices.Contains(j.state.Done, s.Name) {
			return errors.Join(cause, &lab.Failure{What: fmt.Sprintf("%s cannot go back behind step %d, %s (%s)", j.state.Name, i+1, s.Name, s.Point), Want: "`resume`, once what it met is mended"})
		}
	}
	for i := from; i >= 0; i-- {
		s := steps[i]
		if err := j.write(Record{Mark: markUndo, Step: s.Name, Error: reason}); err != nil {
			return errors.Join(cause, err)
		}
		if s.Undo != nil {
			e.Note("", "%s, undo step %d: %s", j.state.Name, i+1, s.Name)
			if err := call(ctx, e, s, s.Undo); err != nil {
				return errors.Join(cause, fmt.Errorf("%s: undo of step %d, %s: %w: it is unfinished: `resume` tries again", j.state.Name, i+1, s.Name, err))
			}
		}
		if err := j.write(Record{Mark: markUndone, Step: s.Name}); err != nil {
			return errors.Join(cause, err)
		}
	}
	if err := j.write(Record{Mark: markBack}); err != nil {
		return errors.Join(cause, err)
	}
	if cause == nil {
		return nil
	}
	return fmt.Errorf("%w; everything was undone", cause)
}

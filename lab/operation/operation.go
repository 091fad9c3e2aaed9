// Package operation performs changes of a cluster that survive the death of
// whoever makes them.
//
// An [Operation] first decides everything that must stay the same from then on
// (a token, a revision bump, who goes first) and is written down with it. Its
// [Step]s follow from what is written alone: so a killed operation is gone on
// with, or gone back on, by any other process that has the journal and reaches
// the hosts. Each step is
//
//	precondition → action → gate, and the undo of it
//
// and is written down before it is done and again when its gate held. A step
// whose precondition, action or gate fails ends the operation: what was done is
// undone, the last step first. A step that was begun and not finished may have
// been done in part or in full; actions and undos are idempotent, and
// preconditions hold in both cases.
//
// [Run], [Resume] and [Rollback] are the three ways through the steps, [Plan]
// shows them without doing anything. One operation at a time works on a lab:
// a second one is refused, and so is a new one while another is unfinished.
package operation

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Operation is a pointer to a struct whose exported fields are its arguments
// and what it has decided. They are written down as JSON and must be enough to
// compute the steps.
type Operation interface {
	// Decide looks at the cluster, refuses what must not be tried and fills the
	// exported fields. It changes nothing. A refusal is a *lab.Failure.
	Decide(ctx context.Context, e *lab.Env) error
	// Steps computes the steps from the exported fields and the lab's seats: the
	// same ones whenever it is asked, whatever the cluster looks like.
	Steps(e *lab.Env) ([]Step, error)
}

// Step is one step of an operation. All functions may be nil, and are called
// with a context that ends with the step's limit.
type Step struct {
	// Name says what is done, such as "restore m2". It is unique in its operation.
	Name string
	// Shell are the commands an operator would type, for the plan. Undo in
	// words or commands is ShellUndo.
	Shell, ShellUndo []string
	// Forecast is how the cluster stands after the step; nil when it does not serve
	// then by intention, as in the middle of a restore.
	Forecast *Forecast
	// Limit is how long each of the functions may take; a minute when 0.
	Limit time.Duration

	// Before is what must hold so that Do is right, also when Do was cut short
	// before. It notices that somebody else changed the world meanwhile.
	Before func(ctx context.Context, e *lab.Env) error
	// Do is the action. It may be called again after it did all or a part.
	Do func(ctx context.Context, e *lab.Env) error
	// Gate looks whether the effect is there. It changes nothing.
	Gate func(ctx context.Context, e *lab.Env) error
	// Undo takes the step back, whether Do did all, a part or nothing, and looks
	// that it is gone. nil: there is nothing to take back.
	Undo func(ctx context.Context, e *lab.Env) error
	// Point says that from the end of this step on there is only the way forward:
	// why, such as "writes were acknowledged by the new cluster". Empty: undoable.
	Point string
}

// Forecast is how a cluster is predicted to stand.
type Forecast struct {
	Voters   int // voting members that are listed
	Up       int // of them, those that run
	Learners int
}

// Quorate tells whether writes are accepted.
func (f Forecast) Quorate() bool { return f.Up >= lab.Quorum(f.Voters) }

// String says it as an operator would.
func (f Forecast) String() string {
	s := fmt.Sprintf("%d of %d voters up, quorum %d", f.Up, f.Voters, lab.Quorum(f.Voters))
	switch spare := f.Up - lab.Quorum(f.Voters); {
	case spare < 0:
		s += ": NO quorum"
	case spare == 0:
		s += ", none may fail"
	default:
		s += fmt.Sprintf(", %d may fail", spare)
	}
	if f.Learners > 0 {
		s += fmt.Sprintf(", %d learner", f.Learners)
	}
	return s
}

// keeps refuses steps that would lose the quorum by accident.
func keeps(steps []Step) error {
	for i, s := range steps {
		if s.Forecast != nil && !s.Forecast.Quorate() {
			return &lab.Failure{What: fmt.Sprintf("step %d, %s, would lose the quorum", i+1, s.Name), Want: "more than half of the voters up", Got: s.Forecast.String()}
		}
	}
	return nil
}

// Plan writes the steps of an operation that has decided.
func Plan(w io.Writer, name string, steps []Step) {
	fmt.Fprintf(w, "%s: %d steps\n", name, len(steps))
	for i, s := range steps {
		fmt.Fprintf(w, "%3d  %s\n", i+1, s.Name)
		for _, c := range s.Shell {
			fmt.Fprintf(w, "       $ %s\n", c)
		}
		for _, c := range s.ShellUndo {
			fmt.Fprintf(w, "       undo $ %s\n", c)
		}
		if s.Forecast != nil {
			fmt.Fprintf(w, "       then %s\n", s.Forecast)
		}
		if s.Point != "" {
			fmt.Fprintf(w, "       from here only forward: %s\n", s.Point)
		}
	}
}

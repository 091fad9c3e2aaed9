package judge

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// story is what the journal tells.
type story struct {
	run         lab.RunInfo
	started     time.Time
	duration    float64
	steps       []lab.StepReport
	faults      []lab.FaultReport
	members     []lab.MemberReport
	left        []string
	up          map[string]bool // whether a member served when it was last looked at
	elections   int             // terms with a leader, less one; -1 when none was seen
	ended       bool
	interrupted bool
	halted      bool
	verdict     lab.Verdict
	err         string
	returns     []lab.Return // of the store to earlier states, on purpose
}

// tell reads a journal. It takes whatever is there: a run may end anywhere.
func tell(events []lab.Event) *story {
	s := &story{steps: []lab.StepReport{}, faults: []lab.FaultReport{}, members: []lab.MemberReport{}, left: []string{}, up: map[string]bool{}, elections: -1}
	open := map[string]int{} // step to its place in steps
	led := map[uint64]bool{}
	look := func(st *lab.Status) {
		if st.Name == "" {
			return
		}
		s.up[st.Name] = st.Up && !st.Absent && st.Role != "learner"
		n := slices.IndexFunc(s.members, func(m lab.MemberReport) bool { return m.Name == st.Name })
		if n < 0 {
			if st.Absent {
				return
			}
			n = len(s.members)
			s.members = append(s.members, lab.MemberReport{Name: st.Name, Terms: []uint64{}})
		}
		m := &s.members[n]
		if st.ID != "" {
			m.ID = st.ID
		}
		if st.Version != "" {
			m.Version = st.Version
		}
		if st.Up && st.Role == "leader" {
			led[st.Term] = true
			if !slices.Contains(m.Terms, st.Term) {
				m.Terms = append(m.Terms, st.Term)
			}
		}
	}
	// The last fault of a name: in a repeat it is injected several times.
	fault := func(name string) *lab.FaultReport {
		for i := len(s.faults) - 1; i >= 0; i-- {
			if s.faults[i].Name == name {
				return &s.faults[i]
			}
		}
		return &lab.FaultReport{} // of a journal that lost its beginning
	}
	for i := range events {
		e := &events[i]
		s.duration = max(s.duration, e.T)
		at := e.T
		if s.started.IsZero() {
			s.started = e.Wall.Add(-time.Duration(e.T * float64(time.Second)))
		}
		switch e.Kind {
		case lab.EventRun:
			if e.Run != nil {
				s.run = *e.Run
			}
		case lab.EventUp:
			if e.Text != "" {
				if s.run.Environment = maps.Clone(s.run.Environment); s.run.Environment == nil {
					s.run.Environment = map[string]string{}
				}
				s.run.Environment["links"] = e.Text
			}
			for i := range e.Statuses {
				look(&e.Statuses[i])
			}
		case lab.EventStatus:
			if e.Status != nil {
				if e.Status.Name == "" {
					e.Status.Name = e.Host
				}
				look(e.Status)
			}
		case lab.EventStep:
			open[e.Step] = len(s.steps)
			st := lab.StepReport{Index: e.Step, Line: e.Line, Word: e.Word, Verb: e.Verb, Why: e.Text, Start: at,
				Verdict: lab.Error, Reason: "it did not end"}
			if e.Target != nil {
				st.Target = e.Target.String()
			}
			s.steps = append(s.steps, st)
		case lab.EventAim:
			if n, ok := open[e.Step]; ok && e.Target != nil {
				s.steps[n].Target = e.Target.String()
			}
		case lab.EventDone:
			if n, ok := open[e.Step]; ok {
				st := &s.steps[n]
				st.Verdict, st.Reason, st.Duration = e.Verdict, e.Error, at-st.Start
			}
		case lab.EventFault:
			f := lab.FaultReport{Name: e.Fault, Verb: e.Verb, Start: at, Targets: []string{}}
			if e.Target != nil {
				f.Targets = append(f.Targets, e.Target.Names...)
			}
			s.faults = append(s.faults, f)
		case lab.EventBites:
			f := fault(e.Fault)
			f.Bites, f.Proof = &at, e.Text
		case lab.EventHeal:
			fault(e.Fault).Heal = &at
		case lab.EventGone:
			f := fault(e.Fault)
			f.Gone, f.Cure = &at, e.Text
		case lab.EventReturn:
			// An operation that was taken up again says it again.
			if e.Return != nil && !slices.Contains(s.returns, *e.Return) {
				s.returns = append(s.returns, *e.Return)
			}
		case lab.EventLeft:
			s.left = append(s.left, e.Text)
		case lab.EventEnd:
			s.ended, s.verdict, s.err = true, e.Verdict, e.Error
			s.interrupted, s.halted = e.Text == lab.EndInterrupted, e.Text == lab.EndHalted
		}
	}
	for i := range s.members {
		slices.Sort(s.members[i].Terms)
	}
	s.elections = len(led) - 1
	return s
}

func (s *story) load() *lab.LoadSpec {
	if s.run.Drill == nil {
		return nil
	}
	return s.run.Drill.Load
}

// resolution is how finely outages are measured: the probers' interval and the
// pause before a client asks again.
func (s *story) resolution() time.Duration {
	l := s.load()
	if l == nil {
		return 20 * time.Millisecond
	}
	return l.Probe + l.Backoff
}

// firstBreak is when the first fault was injected.
func (s *story) firstBreak() float64 {
	if len(s.faults) == 0 {
		return math.MaxFloat64
	}
	return s.faults[0].Start
}

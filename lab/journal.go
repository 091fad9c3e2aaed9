package lab

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// The kinds of Event.
const (
	EventRun     = "run"     // a run began: Drill, Driver, Seed, Environment
	EventPhase   = "phase"   // Text: up, steady, load, steps, heal, end, down
	EventUp      = "up"      // the cluster is up: Statuses, Seconds it took, Text: what makes its links
	EventStep    = "step"    // a step began: Step, Line, Word, Verb, Target, Text (why)
	EventDone    = "done"    // a step ended: Step, Verdict, Error, Seconds
	EventAim     = "aim"     // a role was resolved: Target
	EventFault   = "fault"   // a fault was injected: Fault (its name), Verb, Target
	EventBites   = "bites"   // it was proved to bite: Fault, Text (evidence), Seconds since Inject
	EventHeal    = "heal"    // healing began: Fault
	EventGone    = "gone"    // it was proved gone: Fault, Text, Seconds since EventHeal
	EventStuck   = "stuck"   // it could not be healed: Fault, Error
	EventCommand = "command" // a command ran: Host, Argv, Exit, Output, Seconds
	EventStatus  = "status"  // a member's status changed: Host, Status
	EventLoad    = "load"    // load: Rate (ops/s), every second; Text for what happened to it
	EventNote    = "note"    // Text
	EventReturn  = "return"  // the store was put back to an earlier state on purpose: Return
	EventLeft    = "left"    // Text: something was left behind
	EventEnd     = "end"     // the run ended: Verdict (of the steps alone), Error, Text: EndInterrupted, EndHalted or empty
)

// Why a run may end before its drill does.
const (
	EndInterrupted = "interrupted" // by whoever started it
	EndHalted      = "halted"      // by the lab, which is of no more use: see Cluster.Halts
)

// Event is one line of events.ndjson. Which fields are set depends on Kind.
type Event struct {
	T        float64   `json:"t"` // seconds since the run began, monotonic
	Wall     time.Time `json:"wall"`
	Kind     string    `json:"kind"`
	Step     string    `json:"step,omitempty"` // "4", inside repeat or parallel "4.2"
	Line     int       `json:"line,omitempty"`
	Word     string    `json:"word,omitempty"` // do, break, check, heal, repeat, parallel
	Verb     string    `json:"verb,omitempty"`
	Fault    string    `json:"fault,omitempty"`
	Target   *Target   `json:"target,omitempty"`
	Host     string    `json:"host,omitempty"`
	Text     string    `json:"text,omitempty"`
	Verdict  Verdict   `json:"verdict,omitempty"`
	Error    string    `json:"error,omitempty"`
	Seconds  float64   `json:"seconds,omitempty"`
	Argv     []string  `json:"argv,omitempty"`
	Env      []string  `json:"env,omitempty"`
	Exit     int       `json:"exit,omitempty"`
	Output   string    `json:"output,omitempty"`
	Rate     float64   `json:"rate,omitempty"`
	Status   *Status   `json:"status,omitempty"`
	Statuses []Status  `json:"statuses,omitempty"`
	Run      *RunInfo  `json:"run,omitempty"`
	Return   *Return   `json:"return,omitempty"`
}

// Return says that the store went back to what it was at Revision, and goes on
// from revision From, which is above every revision it had given out before.
// So revisions tell what is gone by intention: what was acknowledged above
// Revision and below From. Everything else must still be there.
type Return struct {
	Revision int64 `json:"revision"`
	From     int64 `json:"from"`
}

// RunInfo opens a journal: everything needed to judge the run again.
type RunInfo struct {
	ID          string            `json:"id"`
	Drill       *Drill            `json:"drill"` // as parsed, variables filled in
	Driver      string            `json:"driver"`
	Seed        uint64            `json:"seed"`
	Command     []string          `json:"command,omitempty"` // how etcdrill was called
	Environment map[string]string `json:"environment"`
}

// Journal records events as they happen, as lines of JSON. It is safe for
// concurrent use. A nil *Journal swallows everything.
type Journal struct {
	core  *journalCore
	step  string
	fault string
}

type journalCore struct {
	mu    sync.Mutex
	start time.Time
	w     *bufio.Writer
	f     io.WriteCloser
	tell  func(Event)
	err   error
}

// NewJournal writes to w and calls tell (may be nil) with every event, one at
// a time. The first write error is returned by Close; events after it still
// reach tell.
func NewJournal(w io.WriteCloser, start time.Time, tell func(Event)) *Journal {
	return &Journal{core: &journalCore{start: start, f: w, w: bufio.NewWriter(w), tell: tell}}
}

// At returns a journal whose events carry a step and a fault.
func (j *Journal) At(step, fault string) *Journal {
	if j == nil {
		return nil
	}
	return &Journal{core: j.core, step: step, fault: fault}
}

// Start is when the run began.
func (j *Journal) Start() time.Time {
	if j == nil {
		return time.Time{}
	}
	return j.core.start
}

// Add records an event, now.
func (j *Journal) Add(e Event) {
	if j == nil {
		return
	}
	c := j.core
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	e.T, e.Wall = now.Sub(c.start).Seconds(), now.UTC()
	if e.Step == "" {
		e.Step = j.step
	}
	if e.Fault == "" {
		e.Fault = j.fault
	}
	line, err := json.Marshal(e)
	if err == nil {
		c.w.Write(line)
		c.w.WriteByte('\n')
		err = c.w.Flush()
	}
	if err != nil && c.err == nil {
		c.err = err
	}
	if c.tell != nil {
		c.tell(e)
	}
}

// Close flushes and returns the first error the journal met.
func (j *Journal) Close() error {
	c := j.core
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.err, c.w.Flush(), c.f.Close())
}

// ReadEvents reads events.ndjson. A torn last line, as a killed run leaves it,
// is dropped; any other broken line is an error with its number.
func ReadEvents(path string) ([]Event, error) { return readLines[Event](path) }

// readLines reads a file of JSON lines.
func readLines[T any](path string) ([]T, error) {
	return readLinesWith(path, func(line []byte, v *T) error { return json.Unmarshal(line, v) })
}

// readLinesWith decodes each line of a file into a zero value.
func readLinesWith[T any](path string, decode func(line []byte, v *T) error) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var zero T
	var out []T
	var long []byte // a line that is longer than the buffer
	r := bufio.NewReaderSize(f, 1<<18)
	for n, seen := 1, int64(0); ; n++ {
		line, err := r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			long = append(long[:0], line...)
			line, err = r.ReadBytes('\n')
			long = append(long, line...)
			line = long
		}
		if err == io.EOF {
			return out, nil // an unfinished line is no line
		}
		if err != nil {
			return nil, err
		}
		if seen += int64(len(line)); n == 1024 {
			// Growing by doubling would hold a long history twice.
			out = slices.Grow(out, int(info.Size()/(seen/1024))*21/20)
		}
		out = append(out, zero)
		if err := decode(line, &out[len(out)-1]); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
}

// Some names the first so many of all, and says how many more there are.
func Some(all []string, most int) string {
	if len(all) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return strings.Join(all, ", ")
}

func clip(s string, n int) string {
	s = strings.TrimRight(s, "\n")
	if len(s) > n {
		return s[:n] + " …"
	}
	return s
}

func asExit(err error, to **ExitError) bool { return errors.As(err, to) }

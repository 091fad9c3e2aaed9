package operation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// The marks of a Record.
const (
	markPlan   = "plan"   // the operation has decided: Name, Plan
	markBegin  = "begin"  // Step is about to be done
	markDone   = "done"   // its gate held
	markUndo   = "undo"   // Step is about to be undone
	markUndone = "undone" // it is
	markEnd    = "end"    // all is done
	markBack   = "back"   // all is undone
)

// Record is one line of an operation's journal. It is on disk before what it
// announces is done.
type Record struct {
	Mark  string          `json:"mark"`
	At    time.Time       `json:"at"`
	Name  string          `json:"name,omitempty"`  // the operation's
	Plan  json.RawMessage `json:"plan,omitempty"`  // the operation's exported fields
	Step  string          `json:"step,omitempty"`  // the step's name
	Error string          `json:"error,omitempty"` // why it is gone back
}

// State is an operation as its journal tells.
type State struct {
	ID      string    // name and time, such as restore-20261121-101500.123
	Name    string    // of the operation, such as restore
	Began   time.Time // when it had decided
	Plan    json.RawMessage
	Done    []string             // steps whose gate held and which are not undone, in order
	DoneAt  map[string]time.Time `json:",omitempty"` // when the gate of a step held last
	Begun   string               // the step that was begun or is being undone, empty between two
	Back    bool                 // it is on its way back
	Reason  string               // why it went back, or empty
	Over    bool                 // it ended, done or undone whole
	file    string
	records int
}

// String says which it is and where it stands.
func (s State) String() string { return s.ID + ": " + s.Where() }

// Where says where it stands.
func (s State) Where() string {
	where := fmt.Sprintf("%d steps done", len(s.Done))
	if s.Begun != "" {
		where += fmt.Sprintf(", in the middle of %q", s.Begun)
	}
	switch {
	case s.Over && s.Back:
		where = "went back"
	case s.Over:
		where = "done"
	case s.Back:
		where = "on its way back, " + where
	}
	return where
}

// dir is where a lab's operations are written down.
func dir(c *lab.Cluster) string { return filepath.Join(c.Dir, "operations") }

// List reads all operations of a lab, the oldest first.
func List(c *lab.Cluster) ([]State, error) {
	files, err := filepath.Glob(filepath.Join(dir(c), "*.ndjson"))
	if err != nil {
		return nil, err
	}
	var out []State
	for _, f := range files {
		s, err := read(f)
		if err != nil {
			return nil, err
		}
		if s.Name != "" { // killed before it had decided anything
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b State) int { return a.Began.Compare(b.Began) })
	return out, nil
}

// Unfinished finds the operation that is to be resumed or rolled back; nil when
// there is none.
func Unfinished(c *lab.Cluster) (*State, error) {
	all, err := List(c)
	if err != nil {
		return nil, err
	}
	for i := range slices.Backward(all) {
		if !all[i].Over {
			return &all[i], nil
		}
	}
	return nil, nil
}

// read replays a journal. A torn last line, as a killed process leaves it, is
// no record.
func read(file string) (State, error) {
	s := State{ID: strings.TrimSuffix(filepath.Base(file), ".ndjson"), file: file}
	f, err := os.Open(file)
	if err != nil {
		return s, err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return s, nil
		}
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			return s, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		s.apply(r)
	}
}

func (s *State) apply(r Record) {
	s.records++
	switch r.Mark {
	case markPlan:
		s.Name, s.Plan, s.Began = r.Name, r.Plan, r.At
	case markBegin:
		s.Begun = r.Step
	case markDone:
		s.Begun, s.Done = "", append(s.Done, r.Step)
		if s.DoneAt == nil {
			s.DoneAt = map[string]time.Time{}
		}
		s.DoneAt[r.Step] = r.At
	case markUndo:
		s.Begun, s.Back = r.Step, true
		s.Done = slices.DeleteFunc(s.Done, func(d string) bool { return d == r.Step })
		if r.Error != "" {
			s.Reason = r.Error
		}
	case markUndone:
		s.Begun = ""
	case markEnd:
		s.Over = true
	case markBack:
		s.Over, s.Back = true, true
	}
}

// journal appends to an operation's journal.
type journal struct {
	state   State
	file    *os.File
	written func(records int) error
}

// errCut says that an operation was ended on purpose, as if killed.
var errCut = errors.New("cut")

// write returns when the record is on disk.
func (j *journal) write(r Record) error {
	r.At = time.Now().UTC()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = j.file.Write(append(line, '\n'))
	if err := errors.Join(err, j.file.Sync()); err != nil {
		return fmt.Errorf("journal of the operation: %w", err)
	}
	j.state.apply(r)
	if j.written != nil {
		return j.written(j.state.records)
	}
	return nil
}

// lock makes sure that one operation at a time works on a lab, by whichever
// process. It ends with the process.
func lock(c *lab.Cluster) (release func(), err error) {
	if err := os.MkdirAll(dir(c), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir(c), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &lab.Failure{What: "operations on lab " + c.ID, Want: "one at a time", Got: "another process works on it"}
		}
		return nil, err
	}
	return func() {
		// Closing alone would leave it to a child that is just being forked.
		syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
		f.Close()
	}, nil
}

// create makes the journal of a new operation.
func create(c *lab.Cluster, name string) (*journal, error) {
	for {
		id := name + "-" + time.Now().UTC().Format("20060102-150405.000")
		file := filepath.Join(dir(c), id+".ndjson")
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		return &journal{file: f, state: State{ID: id, file: file}}, nil
	}
}

// reopen goes on with a journal, behind a torn last line.
func reopen(s State) (*journal, error) {
	data, err := os.ReadFile(s.file)
	if err != nil {
		return nil, err
	}
	if err := os.Truncate(s.file, int64(bytes.LastIndexByte(data, '\n')+1)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	return &journal{file: f, state: s}, nil
}

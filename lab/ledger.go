package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Ledger is what must be undone, written before it is done. It is a file of
// JSON lines in the lab's directory, synced line by line, so that another
// process can undo what a killed one has begun.
type Ledger struct {
	mu   sync.Mutex
	path string
}

// Debt is a fault that was booked and may be in place.
type Debt struct {
	Name   string          `json:"name"`  // the step's `as:`, unique in the lab
	Owner  string          `json:"owner"` // see Env.Owner
	Verb   string          `json:"verb"`
	Args   json.RawMessage `json:"args"` // the fault's struct, roles resolved
	Before []Status        `json:"before,omitempty"`
	Paid   bool            `json:"paid,omitempty"` // healed and proved gone
}

// OpenLedger opens the ledger in a lab's directory, made when absent.
func OpenLedger(dir string) *Ledger { return &Ledger{path: filepath.Join(dir, "ledger.ndjson")} }

// Book writes a debt down and returns when it is on disk.
func (l *Ledger) Book(d Debt) error { return l.append(d) }

// Pay marks the debt of that owner as undone.
func (l *Ledger) Pay(owner string) error { return l.append(Debt{Owner: owner, Paid: true}) }

func (l *Ledger) append(d Debt) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// Open lists the debts that are not paid, the last one first: the order in
// which they are to be healed.
func (l *Ledger) Open() ([]Debt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, err := readLines[Debt](l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var open []Debt
	for _, d := range all {
		if d.Paid {
			open = slices.DeleteFunc(open, func(o Debt) bool { return o.Owner == d.Owner })
		} else {
			open = append(open, d)
		}
	}
	slices.Reverse(open)
	return open, nil
}

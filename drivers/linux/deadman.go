package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/lab"
)

// switches are the dead man's switches of a lab's hosts, seen from the lab. It
// implements lab.DeadMan.
type switches struct {
	agents map[string]*control.Client
}

func (s switches) do(ctx context.Context, word, host string, a control.Ask) error {
	agent := s.agents[host]
	if agent == nil {
		return fmt.Errorf("no host %q in this lab", host)
	}
	return agent.Do(ctx, word, a, nil)
}

// Arm implements lab.DeadMan.
func (s switches) Arm(ctx context.Context, owner, host string, undo ...[]string) error {
	return s.do(ctx, control.WordArm, host, control.Ask{Owner: owner, Undo: undo})
}

// Disarm implements lab.DeadMan.
func (s switches) Disarm(ctx context.Context, owner, host string) error {
	return s.do(ctx, control.WordDisarm, host, control.Ask{Owner: owner})
}

// undos is what was armed on a host, seen by its agent: a file, so that an
// agent that was started again, or a host, knows it.
type undos struct {
	file string

	mu    sync.Mutex
	armed []undo
}

// undo is what one owner has armed.
type undo struct {
	Owner    string     `json:"owner"`
	Commands [][]string `json:"commands"`
}

func openUndos(file string) (*undos, error) {
	u := &undos{file: file}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &u.armed)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return u, nil
}

// arm returns when it is on disk.
func (u *undos) arm(owner string, commands [][]string) error {
	if owner == "" || len(commands) == 0 || slices.ContainsFunc(commands, func(argv []string) bool { return len(argv) == 0 }) {
		return errors.New("dead man's switch: expected an owner and commands")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.set(append(u.without(owner), undo{owner, commands}))
}

func (u *undos) disarm(owner string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.set(u.without(owner))
}

func (u *undos) without(owner string) []undo {
	return slices.DeleteFunc(slices.Clone(u.armed), func(a undo) bool { return a.Owner == owner })
}

func (u *undos) set(armed []undo) error {
	if len(armed) == 0 && len(u.armed) == 0 {
		return nil
	}
	data, err := json.Marshal(armed)
	if err != nil {
		return err
	}
	if err := replace(u.file, data); err != nil {
		return err
	}
	u.armed = armed
	return nil
}

// oneUndo is how long one command of an undo may take.
const oneUndo = 20 * time.Second

// run undoes everything, the last one first. What worked is forgotten.
func (u *undos) run(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, a := range slices.Backward(slices.Clone(u.armed)) {
		err := a.run(ctx)
		if err == nil {
			err = u.set(u.without(a.Owner))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a undo) run(ctx context.Context) error {
	for _, argv := range a.Commands {
		ctx, cancel := context.WithTimeout(ctx, oneUndo)
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("undo of %s: %s: %w: %s", a.Owner, lab.Quote(argv), err, strings.TrimSpace(string(out)))
		}
		fmt.Fprintf(os.Stderr, "undo of %s: %s\n", a.Owner, lab.Quote(argv))
	}
	return nil
}

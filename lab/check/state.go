package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// State asks about saved states of the lab.
type State struct {
	State  string   `doc:"name of one, a label that one has, or latest: all its parts must be whole, and of one epoch"`
	Live   string   `doc:"true: the lab has the data, the configuration and the members of that state; false: it has not"`
	Served string   `doc:"true: it was saved of a cluster that served; false: of one that did not"`
	Lacks  []string `doc:"words that stand in what the state says is missing, each in some line"`
	Before string   `doc:"the operation before which it was saved by itself"`
	Store  string   `doc:"directory on this machine where states are kept; absent: the lab's own"`
	Stored int      `default:"-1" doc:"how many states there are, of whatever name"`
}

// Valid implements the check of arguments.
func (s *State) Valid() error {
	_, live, lerr := asked(s.Live)
	_, served, serr := asked(s.Served)
	switch {
	case lerr != nil:
		return fmt.Errorf("live: %w", lerr)
	case serr != nil:
		return fmt.Errorf("served: %w", serr)
	case s.State == "" && s.Stored < 0:
		return errors.New("expected state or stored")
	case s.State == "" && (live || served || len(s.Lacks) > 0 || s.Before != ""):
		return errors.New("live, served, lacks, before: expected with state")
	}
	return nil
}

// Doc implements lab.Check.
func (*State) Doc() string {
	return "asks whether a saved state is sound, whether the lab is as it was then, what it lacks, and how many there are"
}

// Holds implements lab.Check.
func (s *State) Holds(ctx context.Context, e *lab.Env) error {
	store := vault.OpenStore(e.Cluster, s.Store)
	if s.Stored >= 0 {
		all, err := store.List()
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		var names []string
		for _, x := range all {
			names = append(names, x.Name)
		}
		if len(all) != s.Stored {
			return &lab.Failure{What: "saved states", Want: fmt.Sprint(s.Stored), Got: fmt.Sprintf("%d: %s", len(all), strings.Join(names, ", "))}
		}
	}
	if s.State == "" {
		return nil
	}
	found, err := store.Find(s.State)
	if err != nil {
		return err
	}
	if err := store.Sound(found); err != nil {
		return err
	}
	st := found.State
	if want, given, _ := asked(s.Served); given && st.Served != want {
		return &lab.Failure{What: "the cluster of state " + found.Name, Want: "served: " + s.Served, Got: fmt.Sprint(st.Served)}
	}
	if s.Before != "" && st.Before != s.Before {
		return &lab.Failure{What: "state " + found.Name, Want: "saved by itself before " + s.Before, Got: fmt.Sprintf("%q", st.Before)}
	}
	for _, word := range s.Lacks {
		if missing := strings.Join(st.Missing, "; "); !strings.Contains(missing, word) {
			return &lab.Failure{What: "what state " + found.Name + " lacks", Want: word, Got: missing}
		}
	}
	want, given, _ := asked(s.Live)
	if !given {
		return nil
	}
	d, err := vault.Compare(ctx, e, store, found.Name)
	if err != nil {
		return err
	}
	lines := d.Lines()
	if (len(lines) == 0) == want {
		return nil
	}
	f := &lab.Failure{What: "the lab and state " + found.Name, Want: "to be the same", Got: fmt.Sprintf("%d differences", len(lines))}
	if !want {
		f.Want, f.Got = "to differ", "no difference"
	} else {
		f.Got += ", the first is " + lines[0]
	}
	return f
}

package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Watch asks about a watch that `do: watch` opened.
type Watch struct {
	Name     string `need:"yes" doc:"its name"`
	Ends     string `doc:"it has ended, and this text says why, such as no leader or compacted"`
	Silent   bool   `doc:"it has not ended, and nothing arrived within the last second"`
	Events   int    `doc:"at least so many events arrived"`
	Complete bool   `doc:"it saw everything there was to see up to now, once, in order, by the store's own history"`
}

// Valid implements the check of arguments.
func (w *Watch) Valid() error {
	switch {
	case w.Ends != "" && (w.Silent || w.Complete):
		return fmt.Errorf("ends: expected without silent and complete")
	case w.Events < 0:
		return fmt.Errorf("events: %d: expected 1 or more", w.Events)
	case w.Ends == "" && !w.Silent && w.Events == 0 && !w.Complete:
		return fmt.Errorf("expected ends, silent, events or complete")
	}
	return nil
}

// Doc implements lab.Check.
func (*Watch) Doc() string {
	return "asks what became of a watch: ended, silent, events, complete"
}

// quiet is how long nothing must have arrived at a silent watch.
const quiet = time.Second

// Holds implements lab.Check.
func (w *Watch) Holds(ctx context.Context, e *lab.Env) error {
	if e.Held == nil {
		return fmt.Errorf("a watch cannot be kept between two commands: only a drill can have one")
	}
	watch, ok := e.Held.Get(etcd.WatchKey(w.Name)).(*etcd.Watch)
	if !ok {
		return fmt.Errorf("no watch named %q was opened: use `do: watch` before", w.Name)
	}
	ended := watch.Ended()
	switch {
	case w.Ends != "" && ended == nil:
		return &lab.Failure{What: "watch " + w.Name, Want: "ended: " + w.Ends, Got: "it goes on"}
	case w.Ends != "" && !strings.Contains(ended.Error(), w.Ends):
		return &lab.Failure{What: "end of watch " + w.Name, Want: w.Ends, Got: ended.Error()}
	case w.Silent && ended != nil:
		return &lab.Failure{What: "watch " + w.Name, Want: "silent", Got: "ended: " + ended.Error()}
	}
	if since := time.Since(watch.Last()); w.Silent && since < quiet {
		return &lab.Failure{What: "watch " + w.Name, Want: "silent for " + quiet.String(), Got: "something arrived " + since.Round(time.Millisecond).String() + " ago"}
	}
	if n := len(watch.Events()); n < w.Events {
		return &lab.Failure{What: "watch " + w.Name, Want: fmt.Sprintf("at least %d events", w.Events), Got: fmt.Sprint(n)}
	}
	if w.Complete {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := watch.Complete(ctx); err != nil {
			return fmt.Errorf("watch %s: %w", w.Name, err)
		}
	}
	return nil
}

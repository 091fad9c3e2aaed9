package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

func (a *app) gc() *cobra.Command {
	var all, dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "undo and remove what killed runs left behind",
		Long: `gc finds labs whose etcdrill is gone, heals what their ledger says is broken,
and removes them: processes (paused ones too), rules and files. Labs that stay
and labs of drills that are running are not touched. Running it again changes
nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			drv, err := a.open()
			if err != nil {
				return err
			}
			// What was found is removed, also when some hosts could not be looked at.
			left, err := drv.Left(ctx)
			errs := []error{err}
			n := 0
			for _, l := range left {
				if !all && (l.Keep || l.Owned) {
					a.unfinished(ctx, drv, l)
					continue
				}
				n++
				what := strings.Join(l.What, ", ")
				if dry {
					fmt.Fprintf(a.out, "would remove %s: %s\n", l.ID, what)
					continue
				}
				a.healFirst(ctx, drv, l.ID)
				if err := drv.Down(ctx, l.ID); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", l.ID, err))
					continue
				}
				fmt.Fprintf(a.out, "removed %s: %s\n", l.ID, what)
			}
			if n == 0 && err == nil {
				fmt.Fprintln(a.err, "nothing left behind")
			}
			if err := errors.Join(errs...); err != nil {
				return &exit{exitLeft, err.Error()}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also labs that stay, and labs of drills that are running")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be removed")
	return cmd
}

// unfinished tells of a lab that stays, and waits for somebody to go on with
// what was begun on it.
func (a *app) unfinished(ctx context.Context, drv lab.Driver, l lab.Left) {
	if l.Owned {
		return
	}
	c, err := drv.Open(ctx, l.ID)
	if err != nil {
		return // that it cannot be opened is told by who wants to
	}
	if s, err := operation.Unfinished(c); err != nil {
		fmt.Fprintf(a.err, "%s: %s\n", l.ID, err)
	} else if s != nil {
		fmt.Fprintf(a.err, "%s: unfinished operation: %s; etcdrill resume --lab %s, or rollback\n", l.ID, s, l.ID)
	}
}

// healFirst undoes the faults of a lab that can still be opened. It matters
// where faults outlive the lab. What it cannot heal Down has to remove, so its
// errors are only told.
func (a *app) healFirst(ctx context.Context, drv lab.Driver, id string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := drv.Open(ctx, id)
	if err != nil {
		return
	}
	h, done, err := a.hands(c, 0)
	if err != nil {
		return
	}
	defer done()
	if err := h.HealAll(ctx); err != nil {
		fmt.Fprintf(a.err, "%s: %s\n", id, err)
	}
}

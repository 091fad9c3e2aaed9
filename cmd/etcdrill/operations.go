package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// The commands that change a lab that stays by an operation: one that is
// written down before it is done, and can be gone on with or back on.

// operate makes the command of an operation: its flags are the operation's
// fields.
func (a *app) operate(use, name string, op interface {
	operation.Operation
	Doc() string
}) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: op.Doc(), Args: cobra.NoArgs}
	labName := labFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "show every step, with the commands it amounts to, and do nothing")
	brk := cmd.Flags().Bool("break-quorum", false, "although a step is predicted to lose the quorum")
	noState := true
	if slices.Contains(destructive, name) {
		noState = false
		noStateFlag(cmd, &noState)
	}
	fieldFlags(cmd, op)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, f := range lab.Fields(op) {
			if f.Need && !cmd.Flags().Changed(f.Key) {
				return usage("%s: --%s is missing: %s", use, f.Key, f.Doc)
			}
		}
		if c, ok := op.(interface{ Valid() error }); ok {
			if err := c.Valid(); err != nil {
				return usage("%s", err)
			}
		}
		return a.onLab(cmd.Context(), *labName, use, func(ctx context.Context, e *lab.Env) error {
			if !*dry {
				return operation.Run(ctx, e, name, op, a.operating(*brk, ahead(name, noState)))
			}
			if err := op.Decide(ctx, e); err != nil {
				return err
			}
			steps, err := op.Steps(e)
			if err == nil {
				operation.Plan(a.out, name, steps)
			}
			return err
		})
	}
	return cmd
}

// operating are the options of an operation that a command performs. ETCDRILL_DIE_AFTER is for
// tests: see TestKilledOperations.
func (a *app) operating(breakQuorum bool, ahead func(context.Context, *lab.Env) error) operation.Options {
	o := operation.Options{BreakQuorum: breakQuorum, Ahead: ahead}
	if n, err := strconv.Atoi(os.Getenv("ETCDRILL_DIE_AFTER")); err == nil {
		o.Written = func(records int) error {
			if records >= n {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		}
	}
	return o
}

// onLab opens a lab, does something to it, and turns how it ended into what a
// command says.
func (a *app) onLab(ctx context.Context, name, what string, do func(context.Context, *lab.Env) error) error {
	c, err := a.cluster(ctx, name)
	if err != nil {
		return err
	}
	if adopted := c.Spec.Adopt; adopted != nil {
		return usage("%s: %s was adopted: operations change members, data and configuration, and are for labs of etcdrill's own", what, adopted.Name)
	}
	h, done, err := a.hands(c, 0)
	if err != nil {
		return err
	}
	err = errors.Join(do(ctx, &lab.Env{Cluster: c, Kit: a.kit, Journal: h.Journal}), done())
	switch lab.VerdictOf(err) {
	case lab.Pass:
		return nil
	case lab.Fail:
		return &exit{exitFail, fmt.Sprintf("fail: %s: %s", what, err)}
	}
	if ctx.Err() != nil {
		return err
	}
	return &exit{exitError, fmt.Sprintf("error: %s: %s", what, err)}
}

func noStateFlag(cmd *cobra.Command, no *bool) {
	cmd.Flags().BoolVar(no, "no-state", false, "save no state before it, to which one could go back")
}

func (a *app) restore() *cobra.Command { return a.operate("restore", "restore", &recovery.Restore{}) }

// way makes a command that performs operations without arguments of their own.
func (a *app) way(use, short string, do func(context.Context, *lab.Env, operation.Options) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	labName := labFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.onLab(cmd.Context(), *labName, use, func(ctx context.Context, e *lab.Env) error { return do(ctx, e, a.operating(false, nil)) })
	}
	return cmd
}

func (a *app) recoverQuorum() *cobra.Command {
	var noState bool
	cmd := a.way("recover-quorum", "bring a cluster without quorum back, with the least loss there is: a majority of the original data, else the best survivor",
		func(ctx context.Context, e *lab.Env, o operation.Options) error {
			o.Ahead = ahead("recover-quorum", noState)
			return recovery.RecoverQuorum(ctx, e, o)
		})
	noStateFlag(cmd, &noState)
	return cmd
}

func (a *app) resume() *cobra.Command {
	return a.way("resume", "go on with the operation that did not end", func(ctx context.Context, e *lab.Env, o operation.Options) error {
		return operation.Resume(ctx, e, vault.Kinds, o)
	})
}

func (a *app) rollback() *cobra.Command {
	return a.way("rollback", "undo the operation that did not end", func(ctx context.Context, e *lab.Env, o operation.Options) error {
		return operation.Rollback(ctx, e, vault.Kinds, o)
	})
}

func (a *app) operations() *cobra.Command {
	var discard bool
	cmd := &cobra.Command{
		Use:   "operations",
		Short: "list the operations of a lab: what was done, undone, and did not end",
		Args:  cobra.NoArgs,
	}
	labName := labFlag(cmd)
	cmd.Flags().BoolVar(&discard, "discard", false, "remove the data that finished operations have put aside")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.onLab(cmd.Context(), *labName, "operations", func(ctx context.Context, e *lab.Env) error {
			if discard {
				return recovery.Discard(ctx, e)
			}
			all, err := operation.List(e.Cluster)
			if err != nil {
				return err
			}
			asJSON, err := a.json()
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(a.out).Encode(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(a.err, "no operations yet")
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "OPERATION\tSINCE\tSTATE")
			for _, s := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.ID, s.Began.Local().Format("2006-01-02 15:04:05"), s.Where())
			}
			return w.Flush()
		})
	}
	return cmd
}

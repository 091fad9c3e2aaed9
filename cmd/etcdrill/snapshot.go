package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func (a *app) snapshot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "take, verify, compare and keep snapshots of a lab that stays",
		Long: `Snapshots are kept in a store: --store, or the lab's own, which goes with the lab.

  DIRECTORY                         on this machine
  ssh://HOST/PATH                   on a host of --inventory
  s3://BUCKET/PREFIX?endpoint=URL   in an object store; its keys are those of
                                    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY

A snapshot is named by name, by label, as "latest", or by the path of a file, with
a slash in it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(a.snapshotSave(), a.snapshotVerify(), a.snapshotTrial(), a.snapshotList(), a.snapshotShow(), a.snapshotDiff(), a.snapshotPrune(), a.snapshotExport())
	return cmd
}

// labEnv opens a lab for what is no step of a drill. It tells on standard error
// what it does and keeps that in the lab's directory, as steps do.
func (a *app) labEnv(ctx context.Context, name string) (*lab.Env, func() error, error) {
	c, err := a.cluster(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	h, done, err := a.hands(c, 0)
	if err != nil {
		return nil, nil, err
	}
	return &lab.Env{Cluster: c, Kit: a.kit, Rand: rand.New(rand.NewPCG(anySeed(), 0)), Journal: h.Journal, Owner: "hand" + h.Trial}, done, nil
}

// judged gives what was found the exit codes of a step.
func judged(what string, err error) error {
	switch lab.VerdictOf(err) {
	case lab.Pass:
		return nil
	case lab.Fail:
		return &exit{exitFail, fmt.Sprintf("fail: %s: %s", what, err)}
	}
	return &exit{exitError, fmt.Sprintf("error: %s: %s", what, err)}
}

// valid refuses impossible flags.
func valid(v interface{ Valid() error }) error {
	if err := v.Valid(); err != nil {
		return usage("%s", err)
	}
	return nil
}

// print writes a result, as JSON where that is wanted.
func (a *app) print(v any, text func()) error {
	asJSON, err := a.json()
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(a.out).Encode(v)
	}
	text()
	return nil
}

func (a *app) snapshotSave() *cobra.Command {
	s := &snapshot.Save{}
	cmd := &cobra.Command{
		Use:   "save",
		Short: "save a snapshot, prove it by its bytes and by a throwaway member booted from it, and print its name",
		Args:  cobra.NoArgs,
	}
	name := labFlag(cmd)
	fieldFlags(cmd, s)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := valid(s); err != nil {
			return err
		}
		e, done, err := a.labEnv(cmd.Context(), *name)
		if err != nil {
			return err
		}
		if s.Member != "" { // a role is right too
			names, err := lab.Pick(s.Member, e.Look(cmd.Context()), e.Rand)
			if err != nil || len(names) != 1 {
				return errors.Join(done(), usage("--member %s: expected one member: %v", s.Member, errors.Join(err, fmt.Errorf("got %d", len(names)))))
			}
			s.Member = names[0]
		}
		saved, side, err := s.Do(cmd.Context(), e)
		if err := errors.Join(err, done()); err != nil {
			return judged("snapshot save", err)
		}
		return a.print(map[string]any{"name": saved, "sidecar": side}, func() { fmt.Fprintln(a.out, saved) })
	}
	return cmd
}

func (a *app) snapshotVerify() *cobra.Command {
	return a.verifying("verify", "say whether a snapshot can be restored, or why not", &snapshot.Verify{})
}

func (a *app) snapshotTrial() *cobra.Command {
	return a.verifying("trial", "verify a snapshot, restore it into a scratch directory and look what a throwaway member booted from it has", &snapshot.Verify{Trial: true})
}

func (a *app) verifying(word, short string, v *snapshot.Verify) *cobra.Command {
	cmd := &cobra.Command{Use: word + " NAME|FILE", Short: short, Args: cobra.ExactArgs(1)}
	name := labFlag(cmd)
	cmd.Flags().StringVar(&v.Store, "store", "", snapshot.StoreDoc)
	cmd.Flags().StringVar(&v.Member, "member", "", "FILE is on the host of this member, relative to the lab's directory there")
	cmd.Flags().StringVar(&v.Identity, "identity", "", identityDoc)
	cmd.Flags().BoolVar(&v.Foreign, "foreign", false, "one of another cluster is right too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v.Snapshot = args[0]
		e, done, err := a.labEnv(cmd.Context(), *name)
		if err != nil {
			return err
		}
		side, err := v.Do(cmd.Context(), e)
		if err := errors.Join(err, done()); err != nil {
			return judged("snapshot "+word, err)
		}
		return a.print(side, func() {
			fmt.Fprintf(a.out, "pass: %s: revision %d, %d keys\n", args[0], side.Revision, side.Keys)
			if v.Trial {
				fmt.Fprintln(a.out, side.Trial)
			}
		})
	}
	return cmd
}

const identityDoc = "file with age secret keys, for snapshots that are encrypted"

// storeCommand is a command that needs a lab only for where its store is.
func (a *app) storeCommand(use, short, doc string, args cobra.PositionalArgs, run func(ctx context.Context, e *lab.Env, ref string, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: args}
	name := labFlag(cmd)
	ref := cmd.Flags().String("store", "", doc)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, err := a.storeEnv(cmd.Context(), *name, *ref)
		if err != nil {
			return err
		}
		return run(cmd.Context(), e, *ref, args)
	}
	return cmd
}

func (a *app) snapshotStore(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, s snapshot.Store, args []string) error) *cobra.Command {
	return a.storeCommand(use, short, snapshot.StoreDoc, args, func(ctx context.Context, e *lab.Env, ref string, args []string) error {
		s, err := snapshot.OpenStore(e, ref)
		if err != nil {
			return usage("%s", err)
		}
		return run(ctx, s, args)
	})
}

// storeEnv opens a lab where the store is the lab's own, and nothing else.
func (a *app) storeEnv(ctx context.Context, name, ref string) (*lab.Env, error) {
	e := &lab.Env{Cluster: &lab.Cluster{}, Kit: a.kit}
	if ref != "" {
		return e, nil
	}
	var err error
	e.Cluster, err = a.cluster(ctx, name)
	return e, err
}

// stored is an entry of a store as JSON.
type stored struct {
	Name    string            `json:"name"`
	File    string            `json:"file"`
	Problem string            `json:"problem,omitempty"`
	Sidecar *snapshot.Sidecar `json:"sidecar,omitempty"`
}

func (a *app) snapshotList() *cobra.Command {
	return a.snapshotStore("list", "list the snapshots of a store, without looking into them", cobra.NoArgs, func(ctx context.Context, s snapshot.Store, _ []string) error {
		all, err := s.List(ctx)
		if err != nil {
			return err
		}
		out := []stored{}
		for _, e := range all {
			l := stored{Name: e.Name, File: e.File, Sidecar: e.Sidecar}
			if e.Problem != nil {
				l.Problem = e.Problem.Error()
			}
			out = append(out, l)
		}
		return a.print(out, func() {
			if len(all) == 0 {
				fmt.Fprintf(a.out, "no snapshots in %s\n", s.Where)
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tREVISION\tKEYS\tBYTES\tSOURCE\tTRIAL")
			for _, e := range all {
				if e.Sidecar == nil {
					fmt.Fprintf(w, "%s\t-\t-\t-\t-\t%s\n", e.Name, e.Problem)
					continue
				}
				trial := "no"
				if e.Sidecar.Trial != nil {
					trial = "yes"
				}
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", e.Name, e.Sidecar.Revision, e.Sidecar.Keys, e.Sidecar.Size, e.Sidecar.Source, trial)
			}
			w.Flush()
		})
	})
}

func (a *app) snapshotShow() *cobra.Command {
	return a.snapshotStore("show NAME", "print what is known about a snapshot", cobra.ExactArgs(1), func(ctx context.Context, s snapshot.Store, args []string) error {
		e, err := s.Find(ctx, args[0])
		if err == nil {
			err = e.Problem
		}
		if err != nil {
			return judged("snapshot show", err)
		}
		return a.print(e.Sidecar, func() { fmt.Fprint(a.out, e.Sidecar) })
	})
}

func (a *app) snapshotDiff() *cobra.Command {
	var max int
	var store, identity string
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "list the keys that were added (+), changed (~) and are gone (-) from one snapshot to another, or to the running cluster: live",
		Args:  cobra.ExactArgs(2),
	}
	name := labFlag(cmd)
	cmd.Flags().StringVar(&store, "store", "", snapshot.StoreDoc)
	cmd.Flags().StringVar(&identity, "identity", "", identityDoc)
	cmd.Flags().IntVar(&max, "max", 1000, "print so many lines at most; 0 prints all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, done, err := a.labEnv(cmd.Context(), *name)
		if err != nil {
			return err
		}
		var keys [2]etcd.Keys
		for i, ref := range args {
			k, _, err := snapshot.KeysOf(cmd.Context(), e, snapshot.Verify{Snapshot: ref, Store: store, Identity: identity})
			if err != nil {
				return judged("snapshot diff", errors.Join(err, done()))
			}
			keys[i] = k
		}
		if err := done(); err != nil {
			return err
		}
		changes := snapshot.Diff(keys[0], keys[1])
		return a.print(changes, func() {
			count := map[string]int{}
			for i, c := range changes {
				count[c.What]++
				if max == 0 || i < max {
					fmt.Fprintln(a.out, c)
				}
			}
			fmt.Fprintf(a.err, "%d added, %d changed, %d gone\n", count["added"], count["changed"], count["gone"])
		})
	}
	return cmd
}

func (a *app) snapshotPrune() *cobra.Command {
	p := &snapshot.Prune{}
	return a.pruning("delete old snapshots of a store, but never the last sound one, and print what goes", p,
		func() string { return p.Store }, func(ctx context.Context, e *lab.Env, dry bool) (stay, gone []string, err error) {
			s, g, err := p.Do(ctx, e, dry)
			return snapshotNames(s), snapshotNames(g), err
		})
}

func snapshotNames(entries []snapshot.Entry) []string {
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

// pruning makes the command that lets old things of a store go.
func (a *app) pruning(short string, p interface{ Valid() error }, store func() string, do func(ctx context.Context, e *lab.Env, dry bool) (stay, gone []string, err error)) *cobra.Command {
	cmd := &cobra.Command{Use: "prune", Short: short, Args: cobra.NoArgs}
	name := labFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "only say what would go")
	fieldFlags(cmd, p)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := valid(p); err != nil {
			return err
		}
		e, err := a.storeEnv(cmd.Context(), *name, store())
		if err != nil {
			return err
		}
		stay, gone, err := do(cmd.Context(), e, *dry)
		if err != nil {
			return judged("prune", err)
		}
		return a.print(gone, func() {
			for _, n := range gone {
				fmt.Fprintln(a.out, n)
			}
			fmt.Fprintf(a.err, "%d %s, %d stay\n", len(gone), map[bool]string{true: "would go", false: "are gone"}[*dry], len(stay))
		})
	}
	return cmd
}

func (a *app) snapshotExport() *cobra.Command {
	var identity string
	cmd := a.snapshotStore("export NAME FILE", "copy a sound snapshot out of a store, unpacked, its sidecar beside it", cobra.ExactArgs(2), func(ctx context.Context, s snapshot.Store, args []string) error {
		e, err := s.Find(ctx, args[0])
		if err == nil {
			err = e.Export(ctx, args[1], identity)
		}
		if err != nil {
			return judged("snapshot export", err)
		}
		fmt.Fprintln(a.out, args[1])
		return nil
	})
	cmd.Flags().StringVar(&identity, "identity", "", identityDoc)
	return cmd
}

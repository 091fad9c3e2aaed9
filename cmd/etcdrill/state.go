package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

func (a *app) state() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "save states of a lab that stays, data, configuration and members of one moment, and go back to them",
		Long: `States are kept in a store, a directory on this machine: --store, or the lab's
own, which goes with the lab. One is named by its whole name, by a label that it
alone has, or as "latest".`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(a.stateSave(), a.stateList(), a.stateShow(), a.stateDiff(), a.stateRestore(), a.stateExport(), a.stateImport(), a.stateDelete(), a.statePrune())
	return cmd
}

func (a *app) stateSave() *cobra.Command {
	s := &vault.Save{}
	cmd := &cobra.Command{Use: "save", Short: "save a state of all hosts, whether the cluster serves or not, and print its name", Args: cobra.NoArgs}
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
		saved, st, err := s.Do(cmd.Context(), e)
		if err := errors.Join(err, done()); err != nil {
			return judged("state save", err)
		}
		return a.print(map[string]any{"name": saved, "state": st}, func() { fmt.Fprintln(a.out, saved) })
	}
	return cmd
}

// vaultCommand is a command that needs a lab only for where its store is.
func (a *app) vaultCommand(use, short string, args cobra.PositionalArgs, run func(c *lab.Cluster, s vault.Store, args []string) error) *cobra.Command {
	return a.storeCommand(use, short, "directory of the store on this machine; absent: the lab's own", args, func(_ context.Context, e *lab.Env, dir string, args []string) error {
		return run(e.Cluster, vault.OpenStore(e.Cluster, dir), args)
	})
}

// stateEntry is an entry of a store as JSON.
type stateEntry struct {
	Name    string       `json:"name"`
	Problem string       `json:"problem,omitempty"`
	State   *vault.State `json:"state,omitempty"`
}

func (a *app) stateList() *cobra.Command {
	return a.vaultCommand("list", "list the states of a store, without looking into their parts", cobra.NoArgs, func(_ *lab.Cluster, s vault.Store, _ []string) error {
		all, err := s.List()
		if err != nil {
			return err
		}
		out := []stateEntry{}
		for _, e := range all {
			l := stateEntry{Name: e.Name, State: e.State}
			if e.Problem != nil {
				l.Problem = e.Problem.Error()
			}
			out = append(out, l)
		}
		return a.print(out, func() {
			if len(all) == 0 {
				fmt.Fprintf(a.out, "no states in %s\n", s.Dir)
				return
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tREVISION\tKEYS\tVOTERS\tOF")
			for _, e := range all {
				if e.State == nil {
					fmt.Fprintf(w, "%s\t-\t-\t-\t%s\n", e.Name, e.Problem)
					continue
				}
				keys, of := "-", "a cluster that served"
				if e.State.Data != nil {
					keys = fmt.Sprint(e.State.Data.Keys)
				}
				if !e.State.Served {
					of = "a cluster that did not serve"
				}
				if e.State.Before != "" {
					of += ", before " + e.State.Before
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", e.Name, e.State.Epoch.Revision, keys, strings.Join(e.State.Members(vault.Voter), ","), of)
			}
			w.Flush()
		})
	})
}

func (a *app) stateShow() *cobra.Command {
	return a.vaultCommand("show NAME", "look whether a state is sound, and print what is in it", cobra.ExactArgs(1), func(_ *lab.Cluster, s vault.Store, args []string) error {
		e, err := s.Find(args[0])
		if err == nil {
			err = s.Sound(e)
		}
		if err != nil {
			return judged("state show", err)
		}
		return a.print(e.State, func() { fmt.Fprint(a.out, e.State) })
	})
}

func (a *app) stateDiff() *cobra.Command {
	var max int
	var store string
	cmd := &cobra.Command{
		Use:   "diff BEFORE AFTER",
		Short: "list what was added (+), changed (~) and is gone (-) from one state to another, or to the lab as it stands: live",
		Args:  cobra.ExactArgs(2),
	}
	name := labFlag(cmd)
	cmd.Flags().StringVar(&store, "store", "", "directory on this machine where states are kept; absent: the lab's own")
	cmd.Flags().IntVar(&max, "max", 1000, "print so many lines at most; 0 prints all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		e, done, err := a.labEnv(cmd.Context(), *name)
		if err != nil {
			return err
		}
		d, err := vault.Diff(cmd.Context(), e, vault.OpenStore(e.Cluster, store), args[0], args[1])
		if err := errors.Join(err, done()); err != nil {
			return judged("state diff", err)
		}
		return a.print(d, func() {
			for i, l := range d.Lines() {
				if max == 0 || i < max {
					fmt.Fprintln(a.out, l)
				}
			}
			fmt.Fprintf(a.err, "%d of members, %d of configuration, %d keys\n", len(d.Topology), len(d.Configuration), len(d.Keys))
			if d.NoKeys != "" {
				fmt.Fprintf(a.err, "keys were not compared: %s\n", d.NoKeys)
			}
		})
	}
	return cmd
}

func (a *app) stateRestore() *cobra.Command {
	op := &vault.Restore{}
	cmd := a.operate("restore NAME", recovery.StateRestore, op)
	cmd.Args = cobra.ExactArgs(1)
	cmd.Flags().Lookup("state").Hidden = true // it is the argument
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := cmd.Flags().Set("state", args[0]); err != nil {
			return err
		}
		return run(cmd, nil)
	}
	return cmd
}

func (a *app) stateExport() *cobra.Command {
	var how snapshot.Packing
	cmd := a.vaultCommand("export NAME FILE", "write a sound state into one archive, with all its parts", cobra.ExactArgs(2), func(_ *lab.Cluster, s vault.Store, args []string) error {
		if err := valid(how); err != nil {
			return err
		}
		e, err := s.Find(args[0])
		if err == nil {
			err = vault.Export(s, e, args[1], how)
		}
		if err != nil {
			return judged("state export", err)
		}
		fmt.Fprintln(a.out, args[1])
		return nil
	})
	cmd.Flags().BoolVar(&how.Compress, "compress", false, "compressed (zstd); FILE ends with .tar.zst")
	cmd.Flags().StringSliceVar(&how.Recipients, "recipients", nil, "encrypted (age), for the owners of these public keys; FILE ends with .age")
	return cmd
}

func (a *app) stateImport() *cobra.Command {
	i := &vault.Import{}
	cmd := &cobra.Command{Use: "import FILE", Short: "take a state from an archive into the store, whole or not at all, and print its name", Args: cobra.ExactArgs(1)}
	name := labFlag(cmd)
	fieldFlags(cmd, i)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := &lab.Cluster{}
		if i.Store == "" {
			var err error
			if c, err = a.cluster(cmd.Context(), *name); err != nil {
				return err
			}
		}
		taken, err := i.Do(c, args[0])
		if err != nil {
			return judged("state import", err)
		}
		fmt.Fprintln(a.out, taken)
		return nil
	}
	return cmd
}

func (a *app) stateDelete() *cobra.Command {
	return a.vaultCommand("delete NAME", "delete a state, and the parts that no other state has", cobra.ExactArgs(1), func(_ *lab.Cluster, s vault.Store, args []string) error {
		e, err := s.Find(args[0])
		if err == nil {
			err = s.Remove(e)
		}
		if err != nil {
			return judged("state delete", err)
		}
		fmt.Fprintln(a.out, e.Name)
		return nil
	})
}

func (a *app) statePrune() *cobra.Command {
	p := &vault.Prune{}
	return a.pruning("delete old states of a store, but never the newest sound one, nor those that were saved by themselves, and print what goes", p,
		func() string { return p.Store }, func(_ context.Context, e *lab.Env, dry bool) (stay, gone []string, err error) {
			s, g, err := p.Do(e.Cluster, dry)
			return stateNames(s), stateNames(g), err
		})
}

func stateNames(entries []vault.Entry) []string {
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

// destructive are the operations before which a state is saved.
var destructive = []string{"restore", "recover-quorum", "switch", recovery.StateRestore}

// ahead is what an operation does before it: it saves a state, unless told not
// to, where what it replaces could be wanted again.
func ahead(op string, noState bool) func(context.Context, *lab.Env) error {
	if noState {
		return nil
	}
	return vault.Ahead(op)
}

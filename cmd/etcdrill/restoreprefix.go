package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func (a *app) restorePrefix() *cobra.Command {
	r := &snapshot.RestorePrefix{}
	cmd := &cobra.Command{
		Use:   "restore-prefix",
		Short: "make the keys below one prefix what they are in a snapshot, while the cluster serves, and print what changes",
		Long: `restore-prefix writes the keys below one prefix again as a snapshot has them, and
deletes those it has not. Nothing else is touched. What there is before is saved into
the lab's own store, under the label ` + snapshot.Before + `: the way back is to
restore the prefix from that.`,
		Args: cobra.NoArgs,
	}
	name := labFlag(cmd)
	dry := cmd.Flags().Bool("dry-run", false, "only say what would change")
	fieldFlags(cmd, r)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := valid(r); err != nil {
			return err
		}
		e, done, err := a.labEnv(cmd.Context(), *name)
		if err != nil {
			return err
		}
		changes, err := r.Do(cmd.Context(), e, *dry)
		if err := errors.Join(err, done()); err != nil {
			return judged("restore-prefix", err)
		}
		return a.print(changes, func() {
			for _, c := range changes {
				fmt.Fprintln(a.out, c)
			}
			fmt.Fprintf(a.err, "%d keys %s\n", len(changes), map[bool]string{true: "would change", false: "have changed"}[*dry])
		})
	}
	return cmd
}

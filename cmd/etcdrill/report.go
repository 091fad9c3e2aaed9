package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/reports"
)

func (a *app) report() *cobra.Command {
	return &cobra.Command{
		Use:   "report [RUN-DIRECTORY]",
		Short: "judge a saved run again and render its reports anew; etcdrill-runs/latest when no run is named",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := filepath.Join("etcdrill-runs", "latest")
			if len(args) == 1 {
				dir = args[0]
			}
			if _, err := os.Stat(filepath.Join(dir, "events.ndjson")); errors.Is(err, fs.ErrNotExist) {
				return usage("%s is no record of a run: it has no events.ndjson", dir)
			}
			r, err := a.kit.Judge(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if err := reports.Write(dir, r); err != nil {
				return err
			}
			asJSON, err := a.json()
			if err != nil {
				return err
			}
			if asJSON {
				if err := reports.JSON(a.out, []*lab.Report{r}); err != nil {
					return err
				}
			} else {
				if err := reports.Text(a.out, r, dir, reports.Terminal(os.Stdout, os.Getenv)); err != nil {
					return err
				}
			}
			if code := exitCode([]*lab.Report{r}); code != exitPass {
				return &exit{code: code}
			}
			return nil
		},
	}
}

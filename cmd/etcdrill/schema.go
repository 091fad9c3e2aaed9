package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
)

func (a *app) schema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON schema of drill files, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			e := json.NewEncoder(a.out)
			e.SetIndent("", "  ")
			return e.Encode(lab.Schema(a.kit.Verbs))
		},
	}
}

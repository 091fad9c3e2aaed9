package main

import (
	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab/recovery"
)

func (a *app) member() *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "change who the members are, or work through them one by one",
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	cmd.AddCommand(
		a.operate("replace", "replace", &recovery.Replace{}),
		a.operate("grow", "grow", &recovery.Grow{}),
		a.operate("shrink", "shrink", &recovery.Shrink{}),
		a.operate("restart", "rolling-restart", &recovery.RollingRestart{}),
		a.operate("defrag", "defrag-all", &recovery.Defrag{}),
		a.operate("free-space", "free-space", &recovery.FreeSpace{}),
		a.operate("repair", "repair", &recovery.Repair{}),
	)
	return cmd
}

func (a *app) switchTo() *cobra.Command { return a.operate("switch", "switch", &recovery.Switch{}) }

func (a *app) upgrade() *cobra.Command { return a.operate("upgrade", "upgrade", &recovery.Upgrade{}) }

func (a *app) rotate() *cobra.Command { return a.operate("rotate", "rotate", &recovery.Rotate{}) }

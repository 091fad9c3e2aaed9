// Package tools makes one executable be many: called as etcd, etcdctl or
// etcdutl, it is that tool of the etcd release this module is built with;
// called with a hidden word, it is the supervisor of a local lab, or the agent
// of a host.
//
// The local driver gives each host of a lab hard links of the running
// executable under those names, so a lab needs no installed etcd. Whoever uses
// the local driver, the etcdrill command as well as a test, begins with
//
//	if handled, code := tools.Main(os.Args); handled {
//		os.Exit(code)
//	}
package tools

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/etcdutl/v3/etcdutl"
	"go.etcd.io/etcd/pkg/v3/cobrautl"
	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/etcdrill/etcdrill/drivers/docker"
	"github.com/etcdrill/etcdrill/drivers/linux"
	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/drivers/names"
)

// Main looks at how the executable was called, args being os.Args, and does
// the work when it was called as one of the tools or as a supervisor. The
// tools of etcd mostly end the process themselves, with their own exit codes;
// when Main returns with handled, the caller ends it with code.
//
// When it was called as anything else Main returns false at once.
func Main(args []string) (handled bool, code int) {
	if len(args) == 0 {
		return false, 0
	}
	tool := filepath.Base(args[0])
	if tool == "etcd" || tool == "etcdctl" || tool == "etcdutl" {
		names.Use()
	}
	switch tool {
	case "etcd":
		etcdmain.Main(args)
		return true, 0
	case "etcdctl":
		ctlv3.MustStart()
		return true, 0
	case "etcdutl":
		if err := newEtcdutl().Execute(); err != nil {
			cobrautl.ExitWithError(cobrautl.ExitError, err)
		}
		return true, 0
	}
	// etcdctl's package makes every command line built with cobra in this
	// process accept unique prefixes of commands. Ours does not want that.
	cobra.EnablePrefixMatching = false
	if len(args) < 2 {
		return false, 0
	}
	switch args[1] {
	case local.SuperviseWord:
		return true, local.Supervise(args[2:])
	case docker.HostWord:
		return true, docker.Serve(args[2:])
	case linux.AgentWord:
		return true, linux.Agent(args[2:])
	}
	return false, 0
}

// newEtcdutl puts the root of etcdutl together again: its own lives in a
// package main, which nobody can import.
func newEtcdutl() *cobra.Command {
	root := &cobra.Command{Use: "etcdutl", Short: "An administrative command line tool for etcd3."}
	root.PersistentFlags().DurationVar(&etcdutl.FlockTimeout, "timeout", 10*time.Second, "time to wait to obtain a file lock on db file, 0 to block indefinitely")
	root.PersistentFlags().StringVarP(&etcdutl.OutputFormat, "write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	root.AddCommand(
		etcdutl.NewDefragCommand(),
		etcdutl.NewSnapshotCommand(),
		etcdutl.NewHashKVCommand(),
		etcdutl.NewVersionCommand(),
		etcdutl.NewCompletionCommand(),
		etcdutl.NewMigrateCommand(),
	)
	root.SetHelpTemplate(`{{.UsageString}}`) // help shows the usage and nothing else
	return root
}

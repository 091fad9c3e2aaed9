// Command etcdrill rehearses the worst day of etcd and of the control plane
// that stands on it. Started under the name etcd, etcdctl or etcdutl it is
// that tool.
//
// Here are flags and exit codes; what a drill is and does is in package lab.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/drivers/local/tools"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

func main() {
	if handled, code := tools.Main(os.Args); handled {
		os.Exit(code)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// The exit codes, a contract: see the README.
const (
	exitPass        = 0
	exitFail        = 1
	exitUsage       = 2
	exitError       = 3
	exitUnknown     = 4
	exitLeft        = 5
	exitInterrupted = 130
)

// exit is an error with its exit code. An empty text was said already.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

// usage is an error of whoever called us.
func usage(format string, args ...any) error { return &exit{exitUsage, fmt.Sprintf(format, args...)} }

// app is what the commands share.
type app struct {
	out, err  io.Writer // result, talk
	kit       lab.Kit
	driver    string
	inventory string
	acceptNew bool
	output    string
	root      *cobra.Command
}

func run(args []string, out, err io.Writer) int {
	a := &app{out: out, err: err, kit: verbs.Kit()}
	a.kit.Machine = a.machine
	ctx, stop := interruptible(context.Background(), err)
	defer stop()
	root := a.command()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(err)
	failed := root.ExecuteContext(ctx)
	if failed == nil {
		return exitPass
	}
	code := exitError
	var e *exit
	switch {
	case errors.As(failed, &e):
		code = e.code
	case ctx.Err() != nil:
		code = exitInterrupted
	}
	if failed.Error() != "" {
		fmt.Fprintln(err, "etcdrill:", failed)
	}
	return code
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "etcdrill",
		Short: "rehearse the worst day of etcd: break a real cluster, bring it back, prove what happened",
		Long: `etcdrill rehearses disasters of etcd. A drill brings up a real cluster, puts load
on it, breaks it, repairs it, and says with evidence from the clients' side how
long the outage was, which acknowledged writes were lost, and whether what
clients saw was linearizable.

Start with:  etcdrill run leader-kill`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%s: see `%s --help`", err, c.CommandPath())
	})
	root.PersistentFlags().StringVar(&a.driver, "driver", cmp.Or(os.Getenv("ETCDRILL_DRIVER"), "local"), "where the lab is made: local (processes on this machine), docker (containers that play hosts) or ssh (hosts of --inventory); the default can be set in ETCDRILL_DRIVER")
	root.PersistentFlags().StringVar(&a.inventory, "inventory", os.Getenv("ETCDRILL_INVENTORY"), "file with the hosts of the ssh driver; the default can be set in ETCDRILL_INVENTORY")
	root.PersistentFlags().BoolVar(&a.acceptNew, "accept-new-host-keys", false, "let the ssh driver meet hosts that known_hosts does not know, and add them to it; a changed key is refused all the same")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "text or json")
	a.root = root
	root.AddGroup(&cobra.Group{ID: "drill", Title: "Drills:"}, &cobra.Group{ID: "lab", Title: "A lab that stays, for hands:"},
		&cobra.Group{ID: "operation", Title: "Operations on a lab that stays, which survive the death of who does them:"})
	for _, c := range []*cobra.Command{a.run(), a.list(), a.show(), a.plan(), a.validate(), a.report(), a.rehearse()} {
		c.GroupID = "drill"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.up(), a.down(), a.status(), a.exec(), a.logs(), a.env(), a.do(), a.brk(), a.check(), a.heal(), a.snapshot(), a.state()} {
		c.GroupID = "lab"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.restore(), a.restorePrefix(), a.recoverQuorum(), a.member(), a.switchTo(), a.upgrade(), a.rotate(), a.resume(), a.rollback(), a.operations()} {
		c.GroupID = "operation"
		root.AddCommand(c)
	}
	root.AddCommand(a.gc(), a.doctor(), a.host(), a.vm(), a.schema(), a.version())
	wrapArgs(root)
	return root
}

// wrapArgs gives wrong arguments the exit code of wrong usage.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage("%s: see `%s --help`", err, c.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// json tells whether the result is to be JSON.
func (a *app) json() (bool, error) {
	switch a.output {
	case "json":
		return true, nil
	case "text":
		return false, nil
	}
	return false, usage("--output %s: expected text or json", a.output)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
)

// host is the commands about the machines of an inventory.
func (a *app) host() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "the machines of an inventory: say which of them etcdrill may break",
		Long: `host is about the machines that the ssh driver makes labs on. A machine is
touched only when it is in the inventory and carries a mark of its owner, the
file ` + ssh.MarkFile + `.

  etcdrill host list --inventory hosts.yaml
  etcdrill host mark rack1 rack2 --inventory hosts.yaml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var all bool
	each := func(use, short, done string, do func(context.Context, *ssh.Host) error) *cobra.Command {
		c := &cobra.Command{
			Use:   use + " NAME…",
			Short: short,
			RunE: func(cmd *cobra.Command, names []string) error {
				hosts, err := a.machines(names, all)
				if err != nil {
					return err
				}
				return ssh.Each(cmd.Context(), hosts, func(ctx context.Context, h *ssh.Host) error {
					if err := do(ctx, h); err != nil {
						return err
					}
					fmt.Fprintf(a.out, "%s: %s\n", h.Name(), done)
					return nil
				})
			},
		}
		c.Flags().BoolVar(&all, "all", false, "all machines of the inventory")
		return c
	}
	cmd.AddCommand(
		each("mark", "allow etcdrill to break machines", "marked", func(ctx context.Context, h *ssh.Host) error {
			who := "somebody"
			if u, err := user.Current(); err == nil {
				who = u.Username
			}
			return h.Mark(ctx, who)
		}),
		each("unmark", "take that back", "not marked", func(ctx context.Context, h *ssh.Host) error { return h.Unmark(ctx) }),
		&cobra.Command{
			Use:   "list",
			Short: "list the machines, whether they answer and whether they are marked",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return a.listHosts(cmd.Context()) },
		},
	)
	return cmd
}

// machine is one machine of the inventory, for lab.Kit.
func (a *app) machine(name string) (lab.Host, error) {
	hosts, err := a.machines([]string{name}, false)
	if err != nil {
		return nil, err
	}
	return hosts[0], nil
}

// machines finds machines of the inventory.
func (a *app) machines(names []string, all bool) ([]*ssh.Host, error) {
	if a.inventory == "" {
		return nil, usage("expected the file with the machines: --inventory FILE")
	}
	drv := ssh.New(ssh.Options{Inventory: a.inventory, AcceptNew: a.acceptNew})
	switch {
	case all && len(names) > 0:
		return nil, usage("expected names of machines or --all, not both")
	case all:
		hosts, err := drv.Machines()
		if err != nil {
			return nil, usage("%s", err)
		}
		return hosts, nil
	case len(names) == 0:
		return nil, usage("expected names of machines, or --all: `etcdrill host list --inventory %s` shows them", a.inventory)
	}
	var out []*ssh.Host
	for _, name := range names {
		h, err := drv.Host(name)
		if err != nil {
			return nil, usage("%s", err)
		}
		out = append(out, h)
	}
	return out, nil
}

func (a *app) listHosts(ctx context.Context) error {
	hosts, err := a.machines(nil, true)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	says := map[string]string{}
	failed := ssh.Each(ctx, hosts, func(ctx context.Context, h *ssh.Host) error {
		text, err := h.Marked(ctx)
		text, _, _ = strings.Cut(text, "\n")
		switch {
		case errors.Is(err, ssh.ErrUnmarked):
			text, err = "not marked", nil
		case err != nil:
			text = "cannot be asked"
		}
		mu.Lock()
		defer mu.Unlock()
		says[h.Name()] = text
		return err
	})
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tLOGIN\tMARK")
	for _, h := range hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\n", h.Name(), h.Machine().Login, says[h.Name()])
	}
	w.Flush()
	return failed
}

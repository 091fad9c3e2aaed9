package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/fixtures/vm"
	"github.com/etcdrill/etcdrill/lab"
)

func (a *app) vm() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "virtual machines as hosts for drills: kernels, clocks and power buttons of their own",
		Long: `vm makes throw-away Debian machines under QEMU that the ssh driver can use. It
needs no root. Machines stay until ` + "`etcdrill vm down`" + `; other processes find
them on disk.

  etcdrill vm up 3 --inventory hosts.yaml
  etcdrill run leader-kill --driver ssh --inventory hosts.yaml
  etcdrill vm down`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	dir := cmd.PersistentFlags().String("dir", "", "where images and machines are kept; etcdrill/vm in the user's cache directory when absent")
	v := &vmCommands{app: a, dir: dir}
	cmd.AddCommand(v.build(), v.up(), v.down(), v.list(), v.inventory(), v.power(), v.ssh())
	return cmd
}

// vmCommands are the commands about virtual machines.
type vmCommands struct {
	*app
	dir *string
}

func (v *vmCommands) where() (string, error) {
	if *v.dir != "" {
		return filepath.Abs(*v.dir)
	}
	return vm.DefaultDir()
}

// find returns one machine by name.
func (v *vmCommands) find(name string) (vm.Machine, error) {
	dir, err := v.where()
	if err != nil {
		return vm.Machine{}, err
	}
	m, err := vm.Find(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, v.absent(dir, name)
	}
	return m, err
}

// absent says that there is no such machine, and which there are.
func (v *vmCommands) absent(dir, name string) error {
	machines, err := vm.List(dir)
	if err != nil {
		return err
	}
	if len(machines) == 0 {
		return usage("there is no virtual machine in %s: `etcdrill vm up` makes some", dir)
	}
	var names []string
	for _, m := range machines {
		names = append(names, m.Name)
	}
	return usage("there is no virtual machine %q%s: there is %s", name, lab.Meant(name, names), strings.Join(names, ", "))
}

func (v *vmCommands) build() *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "make the image that machines boot from, unless it is there; `vm up` does it too",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := v.where()
			if err != nil {
				return err
			}
			im, err := vm.Build(cmd.Context(), dir, v.err)
			if err != nil {
				return err
			}
			fmt.Fprintln(v.out, im.Dir)
			return nil
		},
	}
}

func (v *vmCommands) up() *cobra.Command {
	var o vm.Options
	var inventory string
	cmd := &cobra.Command{
		Use:   "up N",
		Short: "start N machines and wait until they can be used",
		Args:  cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&inventory, "inventory", "", "file to write the ssh driver's inventory of the new machines to")
	cmd.Flags().StringVar(&o.Name, "name", "vm", "what the names begin with")
	cmd.Flags().IntVar(&o.Memory, "memory", 1024, "MiB for each")
	cmd.Flags().IntVar(&o.CPUs, "cpus", 1, "for each")
	cmd.Flags().BoolVar(&o.Internet, "internet", false, "let the machines connect to this machine's network and beyond")
	patience := cmd.Flags().Duration("within", 5*time.Minute, "how long the boot may take")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		var err error
		if o.N, err = strconv.Atoi(args[0]); err != nil {
			return usage("vm up %q: expected how many machines", args[0])
		}
		if err := o.Valid(); err != nil {
			return usage("%s", err)
		}
		if o.Dir, err = v.where(); err != nil {
			return err
		}
		if o.Image, err = vm.Build(ctx, o.Dir, v.err); err != nil {
			return err
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, *patience)
		defer cancel()
		machines, err := vm.Start(ctx, o)
		if err != nil {
			return err
		}
		fmt.Fprintf(v.err, "up after %s", time.Since(start).Round(100*time.Millisecond))
		if machines[0].Accel != "kvm" {
			fmt.Fprint(v.err, "; KVM does not work here, so they are emulated and slow")
		}
		fmt.Fprintf(v.err, "; try: etcdrill vm ssh %s; etcdrill vm down\n", machines[0].Name)
		if inventory != "" {
			text, err := v.describe(machines)
			if err != nil {
				return err
			}
			if err := os.WriteFile(inventory, text, 0o600); err != nil {
				return err
			}
		}
		return v.print(machines)
	}
	return cmd
}

func (v *vmCommands) down() *cobra.Command {
	return &cobra.Command{
		Use:   "down [NAME...]",
		Short: "switch machines off and remove them, all when none is named",
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := v.where()
			if err != nil {
				return err
			}
			gone, err := vm.Stop(cmd.Context(), dir, args...)
			for _, name := range gone {
				fmt.Fprintln(v.out, name)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return usage("%s", err)
			}
			if err == nil && len(gone) == 0 {
				fmt.Fprintln(v.err, "no virtual machine to remove")
			}
			return err
		},
	}
}

func (v *vmCommands) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "show the machines",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := v.where()
			if err != nil {
				return err
			}
			machines, err := vm.List(dir)
			if err != nil {
				return err
			}
			return v.print(machines)
		},
	}
}

func (v *vmCommands) print(machines []vm.Machine) error {
	if asJSON, err := v.json(); err != nil {
		return err
	} else if asJSON {
		type row struct {
			vm.Machine
			Running  bool   `json:"running"`
			Internal string `json:"internal"`
			Dir      string `json:"dir"`
		}
		rows := []row{}
		for _, m := range machines {
			rows = append(rows, row{m, m.Running(), m.Internal(), m.Dir()})
		}
		return json.NewEncoder(v.out).Encode(rows)
	}
	if len(machines) == 0 {
		fmt.Fprintln(v.out, "no virtual machines; `etcdrill vm up 3` makes three")
		return nil
	}
	w := tabwriter.NewWriter(v.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tPOWER\tSSH\tINTERNAL\tMEMORY\tRUNS BY")
	for _, m := range machines {
		power := "off"
		if m.Running() {
			power = "on"
		}
		fmt.Fprintf(w, "%s\t%s\t127.0.0.1:%d\t%s\t%d MiB\t%s\n", m.Name, power, m.Port, m.Internal(), m.Memory, m.Accel)
	}
	return w.Flush()
}

func (v *vmCommands) inventory() *cobra.Command {
	return &cobra.Command{
		Use:   "inventory [NAME...]",
		Short: "print the ssh driver's inventory of the machines, of all when none is named",
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := v.where()
			if err != nil {
				return err
			}
			machines, err := vm.List(dir)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				machines = nil
			}
			for _, name := range args {
				m, err := v.find(name)
				if err != nil {
					return err
				}
				machines = append(machines, m)
			}
			if len(machines) == 0 {
				return v.absent(dir, "")
			}
			text, err := v.describe(machines)
			v.out.Write(text)
			return err
		},
	}
}

// describe makes an inventory whose power buttons are this program.
func (v *vmCommands) describe(machines []vm.Machine) ([]byte, error) {
	dir, err := v.where()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return vm.Inventory(machines, func(m vm.Machine, word string) []string {
		return []string{self, "vm", "--dir", dir, "power", word, m.Name}
	})
}

func (v *vmCommands) power() *cobra.Command {
	cmd := &cobra.Command{
		Use:       "power on|off|reset NAME",
		Short:     "press a machine's button, or pull its plug: the guest is not asked",
		ValidArgs: []string{"on", "off", "reset"},
		Args:      cobra.ExactArgs(2),
	}
	wait := cmd.Flags().Bool("wait", false, "after on and reset, wait until the machine can be used")
	patience := cmd.Flags().Duration("within", 5*time.Minute, "how long it may take")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		press, ok := map[string]func(vm.Machine) error{
			"on":    func(m vm.Machine) error { return m.On(cmd.Context()) },
			"off":   func(m vm.Machine) error { return m.Off(cmd.Context()) },
			"reset": func(m vm.Machine) error { return m.Reset(cmd.Context()) },
		}[args[0]]
		if !ok {
			return usage("vm power %q: expected on, off or reset%s", args[0], lab.Meant(args[0], cmd.ValidArgs))
		}
		m, err := v.find(args[1])
		if err != nil {
			return err
		}
		if err := press(m); err != nil || !*wait || args[0] == "off" {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *patience)
		defer cancel()
		return m.Await(ctx)
	}
	return cmd
}

func (v *vmCommands) ssh() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh NAME [COMMAND...]",
		Short: "open a shell on a machine, or run a command there",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := v.find(args[0])
			if err != nil {
				return err
			}
			ssh, err := exec.LookPath("ssh")
			if err != nil {
				return fmt.Errorf("ssh not found: sudo apt-get install openssh-client")
			}
			return syscall.Exec(ssh, append(m.SSH(), args[1:]...), os.Environ())
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the name is the command's
	return cmd
}

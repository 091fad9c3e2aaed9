package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// The commands for a lab that stays. They take the lab's name as --lab, and
// need none when there is just one.

func (a *app) up() *cobra.Command {
	spec := lab.Spec{}
	var adopts adoption
	cmd := &cobra.Command{
		Use:   "up [NAME]",
		Short: "bring a lab up that stays until `etcdrill down`",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := "lab"
			if len(args) == 1 {
				id = args[0]
			}
			if err := adopts.spec(&spec); err != nil {
				return err
			}
			if err := spec.Valid(); err != nil {
				return usage("%s", err)
			}
			drv, err := a.openNew()
			if err != nil {
				return err
			}
			if lacks := drv.Caps(cmd.Context()).Lacks([]lab.Cap{lab.CapAdopt}); spec.Adopt != nil && lacks != nil {
				return usage("--driver %s: %s", drv.Name(), lacks[0])
			}
			if _, err := drv.Open(cmd.Context(), id); err == nil {
				return usage("a lab named %q is there already: `etcdrill status`, or give another name", id)
			} else if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("a lab named %q is there but cannot be opened (%w): `etcdrill down %s` removes it", id, err, id)
			}
			start := time.Now()
			c, err := drv.Up(cmd.Context(), id, spec)
			if err != nil {
				return err
			}
			if err := drv.Keep(cmd.Context(), id); err != nil {
				return errors.Join(err, drv.Down(context.WithoutCancel(cmd.Context()), id))
			}
			for _, line := range c.Found {
				fmt.Fprintln(a.err, line)
			}
			fmt.Fprintf(a.err, "lab %s is up after %s; try: etcdrill status; eval \"$(etcdrill env)\"; etcdrill break crash --member leader; etcdrill down %s\n", id, time.Since(start).Round(time.Millisecond), id)
			return a.printStatus(cmd.Context(), c)
		},
	}
	fieldFlags(cmd, &spec)
	adopts.flags(cmd)
	return cmd
}

func (a *app) down() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down [NAME]",
		Short: "remove a lab whole",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			drv, err := a.open()
			if err != nil {
				return err
			}
			left, err := drv.Left(cmd.Context())
			if err != nil {
				return err
			}
			var errs []error
			for _, l := range left {
				if all || len(args) == 1 && l.ID == args[0] || len(args) == 0 && len(left) == 1 {
					err := drv.Down(cmd.Context(), l.ID)
					errs = append(errs, err)
					if err == nil {
						fmt.Fprintln(a.out, l.ID)
					}
				}
			}
			if len(errs) == 0 && !all {
				return usage("%s", noLab(left, args))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every lab of this driver")
	return cmd
}

func noLab(left []lab.Left, args []string) string {
	var ids []string
	for _, l := range left {
		ids = append(ids, l.ID)
	}
	switch {
	case len(ids) == 0:
		return "there is no lab: `etcdrill up` makes one"
	case len(args) > 0:
		return fmt.Sprintf("there is no lab %q%s: there is %s", args[0], lab.Meant(args[0], ids), strings.Join(ids, ", "))
	}
	return fmt.Sprintf("which lab? there is %s: name one", strings.Join(ids, ", "))
}

// cluster opens the lab that is meant: by name, by $ETCDRILL_LAB, or the only
// one that stays, or the only one there is.
func (a *app) cluster(ctx context.Context, name string) (*lab.Cluster, error) {
	drv, err := a.open()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = os.Getenv("ETCDRILL_LAB")
	}
	if name == "" {
		// A host that does not answer hides no lab that is known here.
		left, err := drv.Left(ctx)
		if err != nil && len(left) == 0 {
			return nil, err
		}
		if stays := staying(left); len(stays) == 1 {
			left = stays
		}
		if len(left) != 1 {
			return nil, usage("%s", noLab(left, nil))
		}
		name = left[0].ID
	}
	c, err := drv.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		left, _ := drv.Left(ctx)
		return nil, usage("%s", noLab(left, []string{name}))
	}
	return c, err
}

// staying are the labs for hands, without those of drills that run.
func staying(left []lab.Left) []lab.Left {
	return slices.DeleteFunc(slices.Clone(left), func(l lab.Left) bool { return !l.Keep })
}

func labFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("lab", "", "name of the lab; $ETCDRILL_LAB, or the only one that stays, when absent")
}

func (a *app) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "show a lab: who is up, who leads, which faults are in place; without a lab, all labs",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		drv, err := a.open()
		if err != nil {
			return err
		}
		left, err := drv.Left(cmd.Context())
		if err != nil && len(left) == 0 {
			return err
		}
		if len(args) == 0 && len(left) != 1 && len(staying(left)) != 1 {
			return errors.Join(a.printLabs(left), err)
		}
		name := ""
		if len(args) == 1 {
			name = args[0]
		}
		c, err := a.cluster(cmd.Context(), name)
		if err != nil {
			return err
		}
		return a.printStatus(cmd.Context(), c)
	}
	return cmd
}

func (a *app) printLabs(left []lab.Left) error {
	if asJSON, err := a.json(); err != nil || asJSON {
		if err != nil {
			return err
		}
		return json.NewEncoder(a.out).Encode(left)
	}
	if len(left) == 0 {
		fmt.Fprintln(a.out, "no labs; `etcdrill up` makes one")
		return nil
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LAB\tSTATE\tSINCE\tWHAT")
	for _, l := range left {
		state := "left over: etcdrill gc"
		if l.Keep {
			state = "stays"
		} else if l.Owned {
			state = "in a drill"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.ID, state, l.Created.Local().Format("2006-01-02 15:04:05"), strings.Join(l.What, ", "))
	}
	return w.Flush()
}

func (a *app) printStatus(ctx context.Context, c *lab.Cluster) error {
	look := a.kit.Look(ctx, c)
	open, err := lab.OpenLedger(c.Dir).Open()
	if err != nil {
		return err
	}
	unfinished, err := operation.Unfinished(c)
	if err != nil {
		return err
	}
	if asJSON, err := a.json(); err != nil {
		return err
	} else if asJSON {
		return json.NewEncoder(a.out).Encode(map[string]any{"lab": c.ID, "driver": c.Driver, "members": look, "faults": open, "unfinished": unfinished})
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tSTATE\tROLE\tTERM\tINDEX\tREVISION\tVERSION\tENDPOINT")
	for i, s := range look {
		state := "up"
		switch {
		case s.Absent:
			state = "no member"
		case !s.Up:
			state = "down"
		}
		dash := func(v any) string {
			if t := fmt.Sprint(v); t != "" && t != "0" {
				return t
			}
			return "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, state, dash(s.Role), dash(s.Term), dash(s.Index), dash(s.Revision), dash(s.Version), c.Seats[i].ClientURL)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if adopted := c.Spec.Adopt; adopted != nil {
		fmt.Fprintf(a.out, "adopted: %s%s\n", adopted.Name, map[bool]string{true: ", to be looked at", false: ", and meant"}[adopted.ReadOnly()])
	}
	for _, d := range open {
		fmt.Fprintf(a.out, "fault in place: %s (%s); etcdrill heal %s\n", d.Name, d.Verb, d.Name)
	}
	if unfinished != nil {
		fmt.Fprintf(a.out, "unfinished operation: %s; etcdrill resume, or etcdrill rollback\n", unfinished)
	}
	return nil
}

func (a *app) exec() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec MEMBER -- COMMAND [ARG...]",
		Short: "run a command on a member's host, with the lab's etcdctl, etcdutl and certificates at hand",
		Args:  cobra.MinimumNArgs(2),
	}
	name := labFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.cluster(cmd.Context(), *name)
		if err != nil {
			return err
		}
		if adopted := c.Spec.Adopt; adopted != nil && adopted.ReadOnly() {
			return usage("exec: %s was adopted to be looked at, and nobody knows what a command does", adopted.Name)
		}
		m, err := c.Member(args[0])
		if err != nil {
			return usage("%s", err)
		}
		out, err := m.Host.Run(cmd.Context(), lab.Cmd{Argv: args[1:], Env: ctlEnv(m.LocalURL, m.PKI), Stdin: os.Stdin})
		a.out.Write(out.Stdout)
		a.err.Write(out.Stderr)
		var e *lab.ExitError
		if errors.As(err, &e) {
			return &exit{code: exitFail, text: fmt.Sprintf("%s ended with %d", lab.Quote(e.Argv), e.Code)}
		}
		return err
	}
	return cmd
}

// ctlEnv is what a stock etcdctl needs to talk to a lab, with the certificates
// in pki; none when that is empty.
func ctlEnv(endpoints, pki string) []string {
	env := []string{"ETCDCTL_ENDPOINTS=" + endpoints}
	if pki != "" {
		env = append(env, "ETCDCTL_CACERT="+path.Join(pki, "ca.crt"), "ETCDCTL_CERT="+path.Join(pki, "client.crt"), "ETCDCTL_KEY="+path.Join(pki, "client.key"))
	}
	return env
}

func (a *app) env() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "print shell exports with which a stock etcdctl works against the lab",
		Args:  cobra.NoArgs,
	}
	name := labFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.cluster(cmd.Context(), *name)
		if err != nil {
			return err
		}
		var urls []string
		for i, s := range a.kit.Look(cmd.Context(), c) {
			if !s.Absent {
				urls = append(urls, c.Seats[i].ClientURL)
			}
		}
		pki := ""
		if c.TLS != nil {
			pki = filepath.Join(c.Dir, "pki")
		}
		for _, e := range append(ctlEnv(strings.Join(urls, ","), pki), "ETCDRILL_DRIVER="+c.Driver, "ETCDRILL_LAB="+c.ID) {
			k, v, _ := strings.Cut(e, "=")
			fmt.Fprintf(a.out, "export %s=%s\n", k, lab.Quote([]string{v}))
		}
		return nil
	}
	return cmd
}

func (a *app) logs() *cobra.Command {
	var tail int
	cmd := &cobra.Command{
		Use:   "logs MEMBER",
		Short: "print the end of a member's log",
		Args:  cobra.ExactArgs(1),
	}
	name := labFlag(cmd)
	cmd.Flags().IntVar(&tail, "bytes", 64<<10, "how much of it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.cluster(cmd.Context(), *name)
		if err != nil {
			return err
		}
		m, err := c.Member(args[0])
		if err != nil {
			return usage("%s", err)
		}
		log, err := m.Proc.Log(cmd.Context(), tail)
		a.out.Write(log)
		return err
	}
	return cmd
}

func (a *app) do() *cobra.Command {
	return verbCommands(a, "do", "do one thing to a lab that stays, as a drill's `do` step", a.kit.Verbs.Do)
}

func (a *app) brk() *cobra.Command {
	return verbCommands(a, "break", "break something in a lab that stays, as a drill's `break` step; `etcdrill heal` undoes it", a.kit.Verbs.Break)
}

func (a *app) check() *cobra.Command {
	return verbCommands(a, "check", "check something about a lab that stays, as a drill's `check` step", a.kit.Verbs.Check)
}

// verbCommands makes a command per verb, its flags from the verb's fields.
func verbCommands[V interface{ Doc() string }](a *app, word, short string, table map[string]func() V) *cobra.Command {
	parent := &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	for name, make := range table {
		v := make()
		s := &lab.Step{Word: word, Verb: name, Args: v}
		cmd := &cobra.Command{Use: name, Short: v.Doc(), Args: cobra.NoArgs}
		labName := labFlag(cmd)
		seed := cmd.Flags().Uint64("seed", 0, "seed for roles such as random; drawn when absent")
		fieldFlags(cmd, v)
		if cmd.Flags().Lookup("for") == nil {
			cmd.Flags().DurationVar(&s.For, "for", 0, lab.StepKeys["for"])
		}
		cmd.Flags().DurationVar(&s.Within, "within", 0, lab.StepKeys["within"])
		if word == "break" {
			cmd.Flags().StringVar(&s.As, "as", name, lab.StepKeys["as"])
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			for _, f := range lab.Fields(v) {
				if f.Need && !cmd.Flags().Changed(f.Key) {
					return usage("%s %s: --%s is missing: %s", word, name, f.Key, f.Doc)
				}
			}
			if c, ok := any(v).(interface{ Valid() error }); ok {
				if err := c.Valid(); err != nil {
					return usage("%s", err)
				}
			}
			if !cmd.Flags().Changed("seed") {
				*seed = anySeed()
			}
			return a.step(cmd.Context(), *labName, s, *seed)
		}
		parent.AddCommand(cmd)
	}
	return parent
}

func (a *app) heal() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "heal [NAME]",
		Short: "undo a fault of `etcdrill break`, or all of them",
		Args:  cobra.MaximumNArgs(1),
	}
	name := labFlag(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "everything the ledger says is in place, the last one first")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all == (len(args) == 1) {
			return usage("heal what? give the fault's name, or --all; `etcdrill status` lists them")
		}
		if !all {
			return a.step(cmd.Context(), *name, &lab.Step{Word: "heal", Verb: args[0]}, 0)
		}
		c, err := a.cluster(cmd.Context(), *name)
		if err != nil {
			return err
		}
		h, done, err := a.hands(c, 0)
		if err != nil {
			return err
		}
		return errors.Join(h.HealAll(cmd.Context()), done())
	}
	return cmd
}

// hands opens a lab for single steps. What they do is told on standard error
// and kept in the lab's directory.
func (a *app) hands(c *lab.Cluster, seed uint64) (*lab.Hands, func() error, error) {
	f, err := os.OpenFile(filepath.Join(c.Dir, "hands.ndjson"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	j := lab.NewJournal(f, time.Now(), a.tell)
	return &lab.Hands{Cluster: c, Kit: a.kit, Journal: j, Ledger: lab.OpenLedger(c.Dir), Seed: seed,
		Trial: time.Now().UTC().Format("-150405.000")}, j.Close, nil
}

// tell says what a single step does.
func (a *app) tell(e lab.Event) {
	switch e.Kind {
	case lab.EventAim:
		fmt.Fprintf(a.err, "target  %s\n", e.Target)
	case lab.EventCommand:
		fmt.Fprintf(a.err, "%-7s $ %s  (exit %d, %.2fs)\n", e.Host, lab.Quote(e.Argv), e.Exit, e.Seconds)
	case lab.EventBites:
		fmt.Fprintf(a.err, "bites   %s  (%.2fs)\n", e.Text, e.Seconds)
	case lab.EventGone:
		fmt.Fprintf(a.err, "gone    %s  (%.2fs)\n", e.Text, e.Seconds)
	case lab.EventNote:
		fmt.Fprintf(a.err, "note    %s\n", strings.TrimSpace(e.Host+" "+e.Text))
	}
}

func (a *app) step(ctx context.Context, name string, s *lab.Step, seed uint64) error {
	c, err := a.cluster(ctx, name)
	if err != nil {
		return err
	}
	if adopted := c.Spec.Adopt; adopted != nil {
		if err := adopted.Refuses(s); err != nil {
			return usage("%s", err)
		}
	}
	h, done, err := a.hands(c, seed)
	if err != nil {
		return err
	}
	err = errors.Join(h.Step(ctx, s, "hand"), done())
	switch lab.VerdictOf(err) {
	case lab.Pass:
		fmt.Fprintf(a.out, "pass: %s %s\n", s.Word, s.Verb)
		return nil
	case lab.Fail:
		return &exit{exitFail, fmt.Sprintf("fail: %s %s: %s", s.Word, s.Verb, err)}
	}
	return &exit{exitError, fmt.Sprintf("error: %s %s: %s", s.Word, s.Verb, err)}
}

// fieldFlags makes a flag of every field of v and fills the defaults.
func fieldFlags(cmd *cobra.Command, v any) {
	lab.Defaults(v)
	for _, f := range lab.Fields(v) {
		if f.Type == "keys" {
			continue // has flags of its own
		}
		doc := f.Doc
		if f.Need {
			doc += " (needed)"
		}
		flag := cmd.Flags().VarPF(fieldValue{f}, f.Key, "", doc)
		if f.Type == "yes/no" {
			flag.NoOptDefVal = "true"
		}
		flag.DefValue = f.Default
		if f.Type == "whom" {
			cmd.RegisterFlagCompletionFunc(f.Key, cobra.FixedCompletions(lab.RoleNames(), cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// fieldValue makes a lab.Field a flag.
type fieldValue struct{ lab.Field }

func (f fieldValue) Type() string { return f.Field.Type }

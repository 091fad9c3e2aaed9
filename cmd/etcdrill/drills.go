package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/scenarios"
)

// choice is how drills are named on the command line.
type choice struct {
	tags []string
	all  bool
	set  map[string]string
}

func (c *choice) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&c.tags, "tag", nil, "all shipped drills with this tag; may be given several times. Drills tagged damage show the wrong way and end fail: they run only when named or by --tag damage")
	cmd.Flags().BoolVar(&c.all, "all", false, "all shipped drills, those tagged damage excepted")
	cmd.Flags().StringToStringVar(&c.set, "set", nil, "NAME=VALUE for ${var:NAME} in the drill")
	cmd.ValidArgsFunction = completeDrills
}

func completeDrills(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var out []string
	for _, f := range scenarios.All() {
		out = append(out, f.Name)
	}
	return out, cobra.ShellCompDirectiveDefault
}

// source is a drill file that was found, not yet parsed.
type source struct {
	file string // for messages
	text []byte
}

// find reads a drill by the name of a shipped one or by its file; "-" is
// standard input.
func find(name string) (source, error) {
	if name == "-" {
		text, err := io.ReadAll(os.Stdin)
		return source{"stdin", text}, err
	}
	isFile := strings.ContainsRune(name, filepath.Separator) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
	if f, err := scenarios.Find(name); err == nil && !isFile {
		return source{f.Path, f.Source}, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !isFile {
		var names []string
		for _, f := range scenarios.All() {
			names = append(names, f.Name)
		}
		return source{}, usage("no drill and no file is named %q%s: `etcdrill list` shows the drills", name, lab.Meant(name, names))
	}
	if err != nil {
		return source{}, usage("%s", err)
	}
	return source{name, text}, nil
}

// drills finds and parses what was chosen. Every problem of every file is in
// the error.
func (a *app) drills(c *choice, args []string) ([]*lab.Drill, error) {
	var out []*lab.Drill
	var bad []string
	add := func(s source, wanted func(*lab.Drill) bool) {
		d, err := lab.Parse(s.file, s.text, a.kit.Verbs, c.set)
		switch {
		case err != nil:
			bad = append(bad, err.Error())
		case wanted(d):
			out = append(out, d)
		}
	}
	for _, name := range args {
		s, err := find(name)
		if err != nil {
			return nil, err
		}
		add(s, func(*lab.Drill) bool { return true })
	}
	if c.all || len(c.tags) > 0 {
		for _, f := range scenarios.All() {
			if len(c.set) == 0 && strings.Contains(string(f.Source), "${var:") && !c.tagged(f.Source) {
				continue
			}
			add(source{f.Path, f.Source}, func(d *lab.Drill) bool {
				if d.Has("damage") && !slices.Contains(c.tags, "damage") {
					return false
				}
				return c.all || slices.ContainsFunc(c.tags, d.Has)
			})
		}
		if len(out) == 0 && len(bad) == 0 {
			return nil, usage("no shipped drill has the tag %s: `etcdrill list` shows tags", strings.Join(c.tags, " or "))
		}
	}
	if len(bad) > 0 {
		return nil, usage("%s", strings.Join(bad, "\n"))
	}
	if len(out) == 0 {
		return nil, usage("which drill? name one or more, give --tag or --all; `etcdrill list` shows them")
	}
	return out, nil
}

// tagged is a cheap look whether a drill with unset variables was asked for
// by one of its tags; if so the missing variable is worth an error.
func (c *choice) tagged(src []byte) bool {
	for _, l := range strings.Split(string(src), "\n") {
		if rest, ok := strings.CutPrefix(l, "tags:"); ok {
			for _, t := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" [],", r) }) {
				if slices.Contains(c.tags, t) {
					return true
				}
			}
		}
	}
	return false
}

func (a *app) validate() *cobra.Command {
	var c choice
	cmd := &cobra.Command{
		Use:   "validate NAME|FILE...",
		Short: "check drill files and say everything that is wrong with them",
		RunE: func(_ *cobra.Command, args []string) error {
			ds, err := a.drills(&c, args)
			if err != nil {
				return err
			}
			for _, d := range ds {
				fmt.Fprintf(a.out, "%s: ok: %s, %d steps\n", d.File, d.Name, len(d.Steps))
			}
			return nil
		},
	}
	c.flags(cmd)
	return cmd
}

func (a *app) show() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "print a shipped drill, to read it or to start your own from it",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDrills,
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := find(args[0])
			if err != nil {
				return err
			}
			_, err = a.out.Write(s.text)
			return err
		},
	}
}

func (a *app) plan() *cobra.Command {
	var c choice
	var adopts adoption
	cmd := &cobra.Command{
		Use:   "plan NAME|FILE...",
		Short: "say what a drill would do, each fault with its undo and the commands behind it; touches nothing",
		RunE: func(cmd *cobra.Command, args []string) error {
			ds, err := a.drills(&c, args)
			if err != nil {
				return err
			}
			if err := adopts.of(ds); err != nil {
				return err
			}
			drv, err := a.open()
			if err != nil {
				return err
			}
			for i, d := range ds {
				if i > 0 {
					fmt.Fprintln(a.out)
				}
				lab.Plan(a.out, d, drv.Name(), drv.Caps(cmd.Context()).Lacks(d.AllNeeds()))
			}
			return nil
		},
	}
	c.flags(cmd)
	adopts.flags(cmd)
	return cmd
}

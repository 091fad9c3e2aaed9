package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/drivers"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/scenarios"
)

func (a *app) list() *cobra.Command {
	var tags []string
	cmd := &cobra.Command{
		Use:       "list [drills|verbs]",
		Short:     "list the shipped drills and where each can run, or the words a drill can use",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"drills", "verbs"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] == "verbs" {
				return a.listVerbs()
			}
			return a.listDrills(cmd, tags)
		},
	}
	cmd.Flags().StringSliceVar(&tags, "tag", nil, "only drills with this tag")
	return cmd
}

// listed is a drill in `list -o json`.
type listed struct {
	Name    string            `json:"name"`
	Title   string            `json:"title"`
	Family  string            `json:"family"`
	Tags    []string          `json:"tags"`
	Drivers map[string]string `json:"drivers"` // "" = runs there, else why not
}

func (a *app) listDrills(cmd *cobra.Command, tags []string) error {
	asJSON, err := a.json()
	if err != nil {
		return err
	}
	var all []listed
	caps := map[string]lab.Caps{}
	for _, name := range drivers.Names() {
		drv, err := drivers.New(name, a.options())
		if err != nil {
			return err
		}
		caps[name] = drv.Caps(cmd.Context())
	}
	for _, f := range scenarios.All() {
		// Variables get their own name as value: the list needs no values.
		d, err := lab.Parse(f.Path, f.Source, a.kit.Verbs, lab.AnyVariables(f.Source))
		if err != nil {
			return err
		}
		if len(tags) > 0 && !hasAny(d, tags) {
			continue
		}
		l := listed{Name: d.Name, Title: d.Title, Family: f.Family, Tags: d.Tags, Drivers: map[string]string{}}
		for name, c := range caps {
			if l.Drivers[name] = unusable(c); l.Drivers[name] == "" {
				l.Drivers[name] = strings.Join(c.Lacks(d.AllNeeds()), "; ")
			}
		}
		all = append(all, l)
	}
	if asJSON {
		return json.NewEncoder(a.out).Encode(all)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "DRILL\t%s\tTAGS\tTITLE\n", strings.ToUpper(strings.Join(drivers.Names(), "\t")))
	type note struct{ driver, why string }
	var notes []note
	skipped := map[note][]string{}
	for _, l := range all {
		var cells []string
		for _, name := range drivers.Names() {
			cell := "runs"
			if why := l.Drivers[name]; why != "" {
				cell = "skip"
				n := note{name, why}
				if skipped[n] == nil {
					notes = append(notes, n)
				}
				skipped[n] = append(skipped[n], l.Name)
			}
			cells = append(cells, cell)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Name, strings.Join(cells, "\t"), strings.Join(l.Tags, ","), l.Title)
	}
	w.Flush()
	for _, n := range notes {
		names := strings.Join(skipped[n], ", ")
		if len(skipped[n]) == len(all) {
			names = "all drills"
		}
		fmt.Fprintf(a.out, "%s skips %s: %s\n", n.driver, names, n.why)
	}
	return nil
}

// unusable is why a driver can do nothing here: the one reason it gives for
// everything. It is empty when it can do something.
func unusable(c lab.Caps) string {
	why := ""
	for _, w := range c {
		if w == "" || why != "" && w != why {
			return ""
		}
		why = w
	}
	return why
}

func hasAny(d *lab.Drill, tags []string) bool {
	for _, t := range tags {
		if d.Has(t) {
			return true
		}
	}
	return false
}

func (a *app) listVerbs() error {
	for _, t := range []struct {
		word  string
		words [][2]string
		make  func(string) any
	}{
		{"do", lab.Words(a.kit.Verbs.Do), func(n string) any { return a.kit.Verbs.Do[n]() }},
		{"break", lab.Words(a.kit.Verbs.Break), func(n string) any { return a.kit.Verbs.Break[n]() }},
		{"check", lab.Words(a.kit.Verbs.Check), func(n string) any { return a.kit.Verbs.Check[n]() }},
	} {
		for _, w := range t.words {
			fmt.Fprintf(a.out, "%s: %s\n    %s\n", t.word, w[0], w[1])
			tw := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, f := range lab.Fields(t.make(w[0])) {
				note := f.Doc
				if f.Need {
					note += " (needed)"
				} else if f.Default != "" {
					note += " (" + f.Default + ")"
				}
				fmt.Fprintf(tw, "      %s\t%s\t%s\n", f.Key, f.Type, note)
			}
			tw.Flush()
		}
	}
	fmt.Fprintln(a.out, "whom: a role or names of members, resolved when the step begins:")
	tw := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range lab.RoleNames() {
		fmt.Fprintf(tw, "      %s\t%s\n", r, lab.Roles[r])
	}
	return tw.Flush()
}

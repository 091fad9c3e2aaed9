package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
)

// adoption is what the command line says about a cluster that is there already.
// Its flags are the fields of lab.Adopt.
type adoption struct {
	adopt lab.Adopt
	cmd   *cobra.Command
}

func (a *adoption) flags(cmd *cobra.Command) {
	a.cmd = cmd
	lab.Defaults(&a.adopt)
	for _, f := range lab.Fields(&a.adopt) {
		name := strings.TrimSuffix("adopt-"+f.Key, "-name")
		doc := f.Doc
		if name == "adopt" {
			doc = "no new cluster, but one that is there already, as `cluster: {adopt: {name: …}}` says; ssh driver only"
		}
		flag := cmd.Flags().VarPF(fieldValue{f}, name, "", doc)
		flag.DefValue = f.Default
	}
	cmd.Flags().StringVar(&a.adopt.Meant, "i-mean", "", "the name of the cluster that is adopted: break it. Without it that cluster is looked at and nothing else")
}

// spec makes a lab's spec that of the adopted cluster, when one is named.
func (a *adoption) spec(s *lab.Spec) error {
	if a.adopt.Name != "" {
		if s.Adopt != nil {
			return usage("--adopt %s: the drill adopts %q itself", a.adopt.Name, s.Adopt.Name)
		}
		adopt, fresh := a.adopt, lab.Spec{}
		lab.Defaults(&fresh)
		fresh.Members, fresh.Adopt = len(adopt.Hosts), &adopt
		*s = fresh
	}
	switch given := a.cmd.Flags().Changed("i-mean"); {
	case given && s.Adopt == nil:
		return usage("--i-mean %s: no cluster is adopted: name it by --adopt, or in the drill by `cluster: {adopt: {name: …}}`", a.adopt.Meant)
	case given && a.adopt.Meant == "":
		return usage("--i-mean: expected the name of the cluster that is adopted")
	case given:
		s.Adopt.Meant = a.adopt.Meant
	}
	if s.Adopt == nil {
		return nil
	}
	if err := s.Adopt.Valid(); err != nil {
		return usage("%s", err)
	}
	return nil
}

func (a *adoption) of(ds []*lab.Drill) error {
	for _, d := range ds {
		if err := a.spec(&d.Cluster); err != nil {
			return err
		}
	}
	return nil
}

// refused is a usage error with all that is not done to the clusters that
// drills adopt.
func refused(ds []*lab.Drill) error {
	var errs []error
	for _, d := range ds {
		errs = append(errs, d.Refused())
	}
	if err := errors.Join(errs...); err != nil {
		return usage("%s", err)
	}
	return nil
}

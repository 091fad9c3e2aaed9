package lab

import (
	"fmt"
	"path"
	"reflect"
	"regexp"
	"strings"
)

// Adopt says which cluster, that is there already, a drill is performed on. It
// is looked at and nothing else, unless Meant repeats its name; then it may be
// hit by faults that leave it as it was, and by nothing that does not.
type Adopt struct {
	Name  string   `yaml:"name" need:"yes" doc:"what you call the cluster; --i-mean has to repeat it before anything is broken"`
	Hosts []string `yaml:"hosts" doc:"hosts of the inventory that its members run on, m1 first; all of the inventory when absent"`
	Unit  string   `yaml:"unit" default:"etcd" doc:"systemd unit of a member on its host"`
	CA    string   `yaml:"ca" doc:"file on the hosts with who signed the members' certificates; the trusted-ca-file of the members when absent"`
	Cert  string   `yaml:"cert" doc:"file on the hosts with a certificate for clients; the cert-file of the members when absent"`
	Key   string   `yaml:"key" doc:"file on the hosts with its key; the key-file of the members when absent"`

	// Meant is the name that --i-mean gave.
	Meant string `yaml:"-"`
}

var (
	adoptedName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	unitName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@:-]*$`)
)

// Valid refuses what cannot be adopted.
func (a *Adopt) Valid() error {
	if a.Name != "" && !adoptedName.MatchString(a.Name) {
		return fmt.Errorf("adopt: name: %q: expected letters, digits, dots and dashes", a.Name)
	}
	if !unitName.MatchString(a.Unit) {
		return fmt.Errorf("adopt: unit: %q: expected the name of a systemd unit, such as etcd", a.Unit)
	}
	if (a.Cert == "") != (a.Key == "") {
		return fmt.Errorf("adopt: cert, key: expected both, or none")
	}
	for _, file := range []string{a.CA, a.Cert, a.Key} {
		if file != "" && !path.IsAbs(file) {
			return fmt.Errorf("adopt: %q: expected the absolute path of a file on the hosts", file)
		}
	}
	if a.Meant != "" && a.Meant != a.Name {
		return fmt.Errorf("--i-mean %s: the cluster that is adopted is called %q: nothing was done", a.Meant, a.Name)
	}
	return nil
}

// ReadOnly tells whether the cluster is looked at and nothing else.
func (a *Adopt) ReadOnly() bool { return a.Meant == "" || a.Meant != a.Name }

// FullUnit is the unit's name with its type.
func (a *Adopt) FullUnit() string { return strings.TrimSuffix(a.Unit, ".service") + ".service" }

// alone refuses a spec that says more of a cluster than that it is adopted.
func (s *Spec) alone() error {
	var plain Spec
	Defaults(&plain)
	plain.Members, plain.Adopt = s.Members, s.Adopt
	// Of a cluster that is up these say what was found.
	plain.Heartbeat, plain.Election, plain.TLS = s.Heartbeat, s.Election, s.TLS
	if !reflect.DeepEqual(plain, *s) {
		return fmt.Errorf("adopt: expected alone in `cluster`: a cluster that is there is as it is")
	}
	return s.Adopt.Valid()
}

// OwnKeys is the prefix of all keys that etcdrill writes into a cluster that it
// has adopted, and takes away again.
const OwnKeys = "etcdrill/"

// Touch is how much of a cluster that is not the lab's own a verb changes. A
// verb tells by a method Touches() Touch. An action or a fault that has none
// Lasts, a check that has none Looks.
type Touch int

const (
	// Lasts: data, members, configuration or history are others afterwards.
	Lasts Touch = iota
	// Passes: what it does is undone by healing and by Down, and of the data
	// only OwnKeys are written.
	Passes
	// Looks: nothing is changed.
	Looks
)

func touches(s *Step) Touch {
	if t, ok := s.Args.(interface{ Touches() Touch }); ok {
		return t.Touches()
	}
	if s.Word == "do" || s.Word == "break" {
		return Lasts
	}
	return Looks
}

// Refuses says why a step, or a step in it, is not done to the cluster, nil
// when it may be.
func (a *Adopt) Refuses(s *Step) error {
	for i := range s.Steps {
		if err := a.Refuses(&s.Steps[i]); err != nil {
			return err
		}
	}
	switch t := touches(s); {
	case t == Lasts:
		return fmt.Errorf("%s %s: never done to a cluster that was adopted: nobody could promise that %s is afterwards what it was before", s.Word, s.Verb, a.Name)
	case t == Passes && a.ReadOnly():
		return fmt.Errorf("%s %s: more than a look, and %s was adopted to be looked at: say that you mean it by --i-mean %s", s.Word, s.Verb, a.Name, a.Name)
	}
	return nil
}

// Refused lists everything in a drill that is not done to the cluster that it
// adopts, as Problems; nil when it may be performed.
func (d *Drill) Refused() error {
	a := d.Cluster.Adopt
	if a == nil {
		return nil
	}
	var out Problems
	add := func(line int, err error) {
		if err != nil {
			out = append(out, Problem{File: d.File, Line: line, Col: 1, What: err.Error()})
		}
	}
	add(1, a.Valid())
	if d.Load != nil && a.ReadOnly() {
		add(1, fmt.Errorf("load: writes keys, and %s was adopted to be looked at: say that you mean it by --i-mean %s", a.Name, a.Name))
	}
	for s := range d.Each {
		if len(s.Steps) == 0 { // what holds others is as good as they are
			add(s.Line, a.Refuses(s))
		}
	}
	if out == nil {
		return nil
	}
	return out
}

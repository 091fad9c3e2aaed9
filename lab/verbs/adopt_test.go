package verbs_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

// What may be done to a cluster that was adopted is listed here once more: a
// verb gets onto these lists by a decision, not by an oversight.
func TestAdoptedClustersAreSpared(t *testing.T) {
	looking, meaning := &lab.Adopt{Name: "prod", Unit: "etcd"}, &lab.Adopt{Name: "prod", Unit: "etcd", Meant: "prod"}
	var looks, passes []string
	for _, name := range slices.Sorted(maps.Keys(all())) {
		word, verb, _ := strings.Cut(name, " ")
		s := &lab.Step{Word: word, Verb: verb, Args: all()[name]}
		in := &lab.Step{Word: "repeat", Steps: []lab.Step{*s}}
		for _, a := range []*lab.Adopt{looking, meaning} {
			if (a.Refuses(s) == nil) != (a.Refuses(in) == nil) {
				t.Errorf("%s: inside of a repeat it is another thing", name)
			}
		}
		switch {
		case looking.Refuses(s) == nil:
			looks = append(looks, name)
		case meaning.Refuses(s) == nil:
			passes = append(passes, name)
			if err := looking.Refuses(s); !strings.Contains(err.Error(), "--i-mean prod") {
				t.Errorf("%s: %v", name, err)
			}
		case word == "check" && verb != "user" && verb != "wiretap":
			t.Errorf("%s is never done: %v", name, meaning.Refuses(s))
		}
	}
	if got := strings.Join(slices.DeleteFunc(looks, func(s string) bool { return strings.HasPrefix(s, "check ") }), ", "); got != "do snapshot-save, do snapshot-verify, do wait" {
		t.Errorf("without --i-mean: %s", got)
	}
	if got, want := strings.Join(passes, ", "), "break clock-step, break crash, break cut, break pause, break power-off, break slow, break slow-disk, break stop, break throttle, "+
		"check writes, do get, do move-leader, do restart, do start, do stop"; got != want {
		t.Errorf("with --i-mean:\n got %s\nwant %s", got, want)
	}
	put := func(key string) *lab.Step {
		d, err := lab.Parse("d.yaml", []byte(drill("{name: prod}", "[{do: put, key: "+key+", value: v}]")), verbs.All(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return &d.Steps[0]
	}
	if err := meaning.Refuses(put("etcdrill/x")); err != nil {
		t.Error(err)
	}
	if err := meaning.Refuses(put("/registry/x")); err == nil || !strings.Contains(err.Error(), "never done") {
		t.Errorf("a key of theirs: %v", err)
	}
}

func drill(adopt, steps string) string {
	return "apiVersion: etcdrill/v1\nkind: Drill\nname: d\ntitle: t\ncluster: {adopt: " + adopt + "}\nsteps: " + steps + "\n"
}

func TestAdoptInDrills(t *testing.T) {
	d, err := lab.Parse("d.yaml", []byte(drill("{name: prod, hosts: [a, b, c, d, e]}", "[{check: process, member: m5, running: true}]")), verbs.All(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := d.Cluster.Adopt
	if a.Unit != "etcd" || a.FullUnit() != "etcd.service" || !a.ReadOnly() || d.Cluster.Members != 5 || d.Refused() != nil {
		t.Errorf("%+v, %+v, %v", d.Cluster, a, d.Refused())
	}
	if !slices.Contains(d.AllNeeds(), lab.CapAdopt) {
		t.Errorf("needs %v", d.AllNeeds())
	}
	for text, says := range map[string]string{
		drill("{hosts: [a]}", "[{check: quorum}]"):                                                                      `"name" is missing`,
		drill("{name: prod, unit: 'a b'}", "[{check: quorum}]"):                                                         "unit",
		drill("{name: 'a b'}", "[{check: quorum}]"):                                                                     "name",
		drill("{name: prod, cert: /x}", "[{check: quorum}]"):                                                            "expected both",
		drill("{name: prod, ca: x}", "[{check: quorum}]"):                                                               "absolute",
		drill("{name: prod, hosts: [a]}", "[{check: process, member: m2, running: true}]"):                              "m2",
		strings.Replace(drill("{name: prod}", "[{check: quorum}]"), "cluster: {", "cluster: {spares: 1, ", 1):           "alone",
		strings.Replace(drill("{name: prod}", "[{check: quorum}]"), "cluster: {", "cluster: {flags: {max-txn: 1}, ", 1): "alone",
	} {
		if _, err := lab.Parse("d.yaml", []byte(text), verbs.All(), nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %q", text, err, says)
		}
	}
	d, err = lab.Parse("d.yaml", []byte(drill("{name: prod}", "[{break: crash, member: leader}, {break: wipe, member: leader}]")+"load: {}\n"), verbs.All(), nil)
	if err != nil {
		t.Fatal(err)
	}
	count := func(meant string, n int, says string) {
		t.Helper()
		d.Cluster.Adopt.Meant = meant
		err := d.Refused()
		if p, ok := err.(lab.Problems); !ok || len(p) != n || !strings.Contains(err.Error(), says) {
			t.Errorf("--i-mean %q: %v, want %d reasons, and %q", meant, err, n, says)
		}
	}
	count("", 3, "load: writes keys")
	count("prod", 1, "d.yaml:6:1: break wipe: never done")
	count("pro", 4, `is called "prod"`)
}

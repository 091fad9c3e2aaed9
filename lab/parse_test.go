package lab_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

const head = "apiVersion: etcdrill/v1\nkind: Drill\nname: d\ntitle: D\n" // four lines

func parse(t *testing.T, src string, vars map[string]string) (*lab.Drill, error) {
	t.Helper()
	return lab.Parse("d.yaml", []byte(src), newWorld(t).verbs(), vars)
}

func TestParse(t *testing.T) {
	d, err := parse(t, head+`
cluster: {members: 5, spares: 1, heartbeat: 10ms, election: 100ms, quota: 16MiB, flags: {a: 1, b: "x"}}
load: {clients: 2, rate: 200/s}
steps:
  - do: say
    say: ${var:WHAT} and ${var:REST:-the rest}
    within: 3s
  - break: hurt
    member: [m1, m6]
  - break: hurt
    for: 1s
  - heal: hurt
  - repeat: 3
    steps:
      - check: look
        after: 2
        within: 2s
expect:
  - outage.hurt-2 < 5s
  - lost > 0
end: {voters: 5}
`, map[string]string{"WHAT": "this"})
	if err != nil {
		t.Fatal(err)
	}
	if d.Cluster.Quota != 16<<20 || d.Cluster.Heartbeat != 10*time.Millisecond || d.Cluster.Flags["a"] != "1" || d.Cluster.TLS != "mutual" {
		t.Errorf("cluster: %+v", d.Cluster)
	}
	if d.Load.Clients != 2 || d.Load.Rate != 200 || d.Load.Probe != 10*time.Millisecond {
		t.Errorf("load: %+v", d.Load)
	}
	if s := d.Steps[0].Args.(*act).Say; s != "this and the rest" {
		t.Errorf("say: %q", s)
	}
	if got := d.Steps[1].Args.(*fault).Member.Role; got != "m1, m6" {
		t.Errorf("member: %q", got)
	}
	if d.Steps[1].As != "hurt" || d.Steps[2].As != "hurt-2" || d.Steps[2].Args.(*fault).Member.Role != "leader" {
		t.Errorf("names and defaults: %+v %+v", d.Steps[1], d.Steps[2])
	}
	if d.Steps[4].Times != 3 || d.Steps[4].Steps[0].Line != 19 {
		t.Errorf("repeat: %+v", d.Steps[4])
	}
	var texts []string
	for _, e := range d.Promises() {
		texts = append(texts, e.Text)
	}
	if got, want := strings.Join(texts, "; "), "outage.hurt-2 < 5s; lost > 0; resurrected == 0; linearizable; revisions; watch"; got != want {
		t.Errorf("promises: %s, want %s", got, want)
	}
	if needs := d.AllNeeds(); len(needs) != 1 || needs[0] != lab.CapSignal {
		t.Errorf("needs: %v", needs)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	steps := "steps:\n- do: say\n  say: x\n"
	for name, c := range map[string]struct {
		src  string
		want []string // a problem each
	}{
		"no YAML":            {"a: [", []string{"d.yaml:1:4: no valid YAML"}},
		"empty":              {"", []string{"expected one drill, found 0"}},
		"two documents":      {head + steps + "---\n" + head + steps, []string{"found 2 documents"}},
		"not a mapping":      {"- a\n", []string{"expected keys with values"}},
		"nothing in it":      {"why: because\n", []string{`"apiVersion" is missing`, `"kind" is missing`, `"name" is missing`, `"title" is missing`, `"steps" is missing`}},
		"version":            {strings.Replace(head, "v1", "v9", 1) + steps, []string{"d.yaml:1:13: apiVersion: \"etcdrill/v9\": expected etcdrill/v1"}},
		"name":               {strings.Replace(head, "name: d", "name: D!", 1) + steps, []string{"d.yaml:3:7: name:"}},
		"unknown key":        {head + "clustr: {}\n" + steps, []string{`d.yaml:5:1: unknown word "clustr" (did you mean "cluster"?)`}},
		"duplicate key":      {head + "title: again\n" + steps, []string{"title"}},
		"unknown verb":       {head + "steps:\n- do: sya\n", []string{`d.yaml:6:7: do: unknown verb "sya" (did you mean "say"?): expected one of say`}},
		"unknown argument":   {head + "steps:\n- do: say\n  say: x\n  lodu: yes\n", []string{`d.yaml:8:3: unknown word "lodu"`}},
		"missing argument":   {head + "steps:\n- do: say\n", []string{`d.yaml:6:3: "say" is missing: what to say`}},
		"wrong type":         {head + "steps:\n- check: look\n  after: soon\n", []string{`d.yaml:7:10: after: "soon": expected a whole number`}},
		"wrong time":         {head + "steps:\n- check: look\n  within: 5\n", []string{`d.yaml:7:11: within: "5": expected a time such as 5s`}},
		"no word":            {head + "steps:\n- brake: hurt\n", []string{`d.yaml:6:3: a step needs one of do, break, check, heal, repeat, parallel (did you mean "break"?)`}},
		"two words":          {head + "steps:\n- do: say\n  check: look\n", []string{"a step has one word"}},
		"key of another":     {head + "steps:\n- do: say\n  say: x\n  as: y\n", []string{`unknown word "as"`}},
		"unknown role":       {head + "steps:\n- break: hurt\n  member: leeder\n", []string{`unknown role or host "leeder" (did you mean "leader"?)`}},
		"no such member":     {head + "steps:\n- break: hurt\n  member: m4\n", []string{`unknown role or host "m4"`}},
		"heal without break": {head + "steps:\n- break: hurt\n  as: first\n- heal: frist\n", []string{`d.yaml:8:9: heal "frist": nothing before it breaks under that name (did you mean "first"?)`}},
		"name used twice":    {head + "steps:\n- break: hurt\n  as: a\n- break: hurt\n  as: a\n", []string{`"a" is the name of the fault of line 6`}},
		"unset variable":     {head + "steps:\n- do: say\n  say: ${var:NAME}\n", []string{"variable NAME is not set: give --set NAME=VALUE"}},
		"zero members":       {head + "cluster: {members: 0}\n" + steps, []string{"d.yaml:5:11: members: 0: expected 1 to 9"}},
		"election":           {head + "cluster: {election: 300ms}\n" + steps, []string{"expected at least five heartbeats (500ms)"}},
		"discovery":          {head + "cluster: {discovery: srv}\n" + steps, []string{"discovery: \"srv\": expected static or dns"}},
		"names of loopback":  {head + "cluster: {discovery: dns, members: 1, peers: loopback}\n" + steps, []string{"expected peers: lab"}},
		"names and binaries": {head + "cluster: {discovery: dns, etcd-of: {m1: /x}}\n" + steps, []string{"expected the embedded etcd"}},
		"fault without DNS":  {head + "steps:\n- break: rename\n", []string{"d.yaml:6:3: break rename: this lab has no DNS: set `discovery: dns` in `cluster`"}},
		"load":               {head + "load: {size: 3}\n" + steps, []string{"size: 3: expected at least 32"}},
		"expect":             {head + "load: {}\n" + steps + "expect: [lots == 0, outage.x < 5s, lost == few]\n", []string{`unknown promise "lots" (did you mean "lost"?)`, `no step breaks under the name "x"`, `"few": expected a number`}},
		"expect unmeasured":  {head + steps + "expect: [lost == 0]\n", []string{"needs a `load`"}},
		"repeat nothing":     {head + "steps:\n- repeat: 3\n", []string{"`steps` is missing"}},
		"repeat zero":        {head + "steps:\n- repeat: 0\n  steps:\n  - do: say\n    say: x\n", []string{"how many times"}},
		"no steps":           {head + "steps: []\n", []string{"steps: expected at least one"}},
		"steps no list":      {head + "steps: {do: say}\n", []string{"steps: expected a list"}},
		"all at once": {head + "cluster: {members: x}\nsteps:\n- do: sya\n- check: look\n  after: soon\n- heal: none\n",
			[]string{`"x": expected a whole number`, `unknown verb "sya"`, `"soon": expected a whole number`, `heal "none"`}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := parse(t, c.src, nil)
			var ps lab.Problems
			if d != nil || !errors.As(err, &ps) {
				t.Fatalf("got %v, %v; want problems", d, err)
			}
			if len(ps) != len(c.want) {
				t.Errorf("%d problems, want %d:\n%s", len(ps), len(c.want), ps)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("missing %q in:\n%s", want, err)
				}
			}
			for _, p := range ps {
				if p.Line < 1 || p.Col < 1 {
					t.Errorf("no position: %s", p)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head + "steps:\n- do: say\n  say: ${var:X:-y}\n- break: hurt\n  member: [m1]\n- heal: hurt\nexpect: [lost == 0]\n")
	f.Add(head + "load: {rate: 10/s}\nsteps:\n- repeat: 2\n  steps: [{check: look, within: 1s}]\n- parallel: [{do: say, say: 1}]\n")
	f.Add("a: &x [*x]\n")
	f.Add("? [a]\n: b\n")
	f.Add(head + "steps: !!binary x\ncluster: null\nload: ~\n")
	f.Fuzz(func(t *testing.T, src string) {
		d, err := parse(t, src, nil)
		if (d == nil) == (err == nil) {
			t.Errorf("drill %v, error %v", d, err)
		}
		if d != nil {
			d.AllNeeds()
			d.Promises()
		}
	})
}

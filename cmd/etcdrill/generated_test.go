package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
	"github.com/etcdrill/etcdrill/scenarios"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

// golden compares with a file that is made from the code, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: `make generate` writes it", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the code says: look at the difference after `make generate`", file)
	}
}

func shipped(t *testing.T) []*lab.Drill {
	t.Helper()
	var out []*lab.Drill
	for _, f := range scenarios.All() {
		d, err := lab.Parse(f.Path, f.Source, verbs.All(), lab.AnyVariables(f.Source))
		if err != nil {
			t.Errorf("%s", err)
			continue
		}
		if d.Name != f.Name {
			t.Errorf("%s: its name is %s: a drill is named as its file", f.Path, d.Name)
		}
		if d.Why == "" {
			t.Errorf("%s: says no why", f.Path)
		}
		out = append(out, d)
	}
	return out
}

func TestGeneratedSchema(t *testing.T) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(lab.Schema(verbs.All())); err != nil {
		t.Fatal(err)
	}
	golden(t, "../../scenarios/drill.schema.json", b.Bytes())
}

// Every shipped drill is valid by the published schema, and what Parse
// refuses for its words the schema refuses too.
func TestGeneratedSchemaAgreesWithParse(t *testing.T) {
	raw, err := json.Marshal(lab.Schema(verbs.All()))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("drill.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("drill.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(src []byte) error {
		j, err := yaml.YAMLToJSON(src)
		if err != nil {
			return err
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
		if err != nil {
			return err
		}
		return schema.Validate(v)
	}
	for _, f := range scenarios.All() {
		if err := valid(f.Source); err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	head := "apiVersion: etcdrill/v1\nkind: Drill\nname: d\ntitle: D\n"
	for _, bad := range []string{
		"steps:\n- do: sya\n", "steps:\n- do: put\n  key: a\n", "steps:\n- brake: crash\n", "steps:\n- do: put\n  key: a\n  value: b\n  lodu: c\n",
		"steps: []\n", "clustr: {}\nsteps:\n- do: put\n  key: a\n  value: b\n", "cluster: {membr: 3}\nsteps:\n- do: put\n  key: a\n  value: b\n",
	} {
		if _, err := lab.Parse("d.yaml", []byte(head+bad), verbs.All(), nil); err == nil {
			t.Errorf("parse accepts %q", bad)
		}
		if valid([]byte(head+bad)) == nil {
			t.Errorf("schema accepts %q", bad)
		}
	}
}

func TestGeneratedPlans(t *testing.T) {
	dir := "testdata/plan"
	var have []string
	for _, d := range shipped(t) {
		var b bytes.Buffer
		lab.Plan(&b, d, "local", nil)
		have = append(have, d.Name+".txt")
		golden(t, filepath.Join(dir, d.Name+".txt"), b.Bytes())
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if slices.Contains(have, f.Name()) {
			continue
		}
		if *update {
			os.Remove(filepath.Join(dir, f.Name()))
			continue
		}
		t.Errorf("%s: plan of a drill that is gone", f.Name())
	}
}

func TestGeneratedCatalogue(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`# The drills

Made from the drill files by ` + "`make generate`" + `; do not edit. Run one with ` + "`etcdrill run NAME`" + `, read it with
` + "`etcdrill show NAME`" + `, see what it would do with ` + "`etcdrill plan NAME`" + `. A drill tagged *damage* shows the wrong
way: it ends *fail*, with the damage in its report.
`)
	family := ""
	files := scenarios.All()
	for i, d := range shipped(t) {
		if f := files[i].Family; f != family {
			family = f
			fmt.Fprintf(&b, "\n## %s\n", family)
		}
		fmt.Fprintf(&b, "\n### [%s](%s)\n\n**%s.** %s\n\n", d.Name, files[i].Path, strings.TrimSuffix(d.Title, "."), strings.TrimSpace(d.Why))
		var faults []string
		for s := range d.Each {
			if s.Word == "break" {
				faults = append(faults, s.Verb)
			}
		}
		line := "Tags: " + strings.Join(d.Tags, ", ")
		if len(faults) > 0 {
			slices.Sort(faults)
			line += ". Breaks: " + strings.Join(slices.Compact(faults), ", ")
		}
		if len(d.Expect) > 0 {
			var texts []string
			for _, e := range d.Expect {
				texts = append(texts, "`"+e.Text+"`")
			}
			line += ". Promises: " + strings.Join(texts, ", ")
		}
		if needs := d.AllNeeds(); len(needs) > 0 {
			line += fmt.Sprintf(". Needs: %s", strings.Trim(fmt.Sprint(needs), "[]"))
		}
		b.WriteString(line + ".\n")
	}
	golden(t, "../../scenarios/README.md", b.Bytes())
}

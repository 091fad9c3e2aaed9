package lab_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/etcdrill/etcdrill/"

// May lists, for every folder, which of our own packages it may import, and
// why. A folder that is not listed takes the rule of the nearest one above.
var may = map[string]struct {
	imports []string
	why     string
}{
	"lab":           {nil, "the heart imports nothing of ours, so that everything can be built on it"},
	"lab/etcd":      {[]string{"lab", "fixtures"}, "etcd knowledge stands on hosts alone"},
	"lab/load":      {[]string{"lab", "lab/etcd"}, "clients know the cluster, not the drill"},
	"lab/operation": {[]string{"lab"}, "how operations survive, whatever they do"},
	"lab/recovery":  {[]string{"lab", "lab/etcd", "lab/operation", "lab/snapshot"}, "operations see hosts and cluster, not the drill"},
	"lab/snapshot":  {[]string{"lab", "lab/etcd"}, "a snapshot is taken of a cluster and kept, whoever asks for it"},
	"lab/vault":     {[]string{"lab", "lab/etcd", "lab/operation", "lab/snapshot", "lab/recovery"}, "a state is snapshot and hosts together, and going back to it is a recovery"},
	"lab/judge":     {[]string{"lab"}, "a judge sees the record and nothing else"},
	"lab/action":    {[]string{"lab", "lab/etcd", "lab/load", "lab/operation", "lab/recovery", "lab/snapshot", "lab/vault"}, "verbs never see a driver"},
	"lab/fault":     {[]string{"lab", "lab/etcd", "lab/load", "lab/snapshot", "lab/vault"}, "verbs never see a driver"},
	"lab/check":     {[]string{"lab", "lab/etcd", "lab/load", "lab/snapshot", "lab/vault"}, "verbs never see a driver"},
	"lab/verbs":     {[]string{"lab", "lab/etcd", "lab/load", "lab/judge", "lab/action", "lab/fault", "lab/check", "lab/operation", "lab/recovery"}, "the one table of all words"},
	"drivers":       {[]string{"lab", "lab/etcd", "drivers", "fixtures"}, "drivers never see a verb"},
	"fixtures":      {nil, "files for hosts"},
	"scenarios":     {nil, "files"},
	"reports":       {[]string{"lab", "lab/judge"}, "renderers see reports and records"},
	"cmd":           {[]string{"lab", "drivers", "scenarios", "reports", "fixtures"}, "commands put everything together"},
}

func TestLayers(t *testing.T) {
	root := ".."
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".") && file != root {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil // tests may bring layers together
		}
		rel, _ := filepath.Rel(root, file)
		dir := filepath.ToSlash(filepath.Dir(rel))
		rule := dir
		for may[rule].why == "" && rule != "." {
			rule = path.Dir(rule)
		}
		if rule == "." {
			t.Errorf("%s: no rule says what %s may import: add one to this test", rel, dir)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			ours, ok := strings.CutPrefix(p, module)
			if ok && !slices.ContainsFunc(may[rule].imports, func(a string) bool {
				return ours == a || strings.HasPrefix(ours, a+"/") && a != "lab" || a == "lab" && rule == "cmd" && strings.HasPrefix(ours, "lab/")
			}) {
				t.Errorf("%s imports %s: %s", rel, ours, may[rule].why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("looked at %d files only", files)
	}
}

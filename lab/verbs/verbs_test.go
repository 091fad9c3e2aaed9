package verbs_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/verbs"
)

// all lists every verb by word and name, such as "break crash".
func all() map[string]any {
	out := map[string]any{}
	v := verbs.All()
	for name, f := range v.Do {
		out["do "+name] = f()
	}
	for name, f := range v.Break {
		out["break "+name] = f()
	}
	for name, f := range v.Check {
		out["check "+name] = f()
	}
	return out
}

func TestTable(t *testing.T) {
	types := map[reflect.Type]string{}
	for _, name := range slices.Sorted(maps.Keys(all())) {
		v := all()[name]
		_, word, _ := strings.Cut(name, " ")
		typ := reflect.TypeOf(v).Elem()
		// The same word in type and table: member-add is MemberAdd.
		if want := strings.ReplaceAll(word, "-", ""); !strings.EqualFold(typ.Name(), want) {
			t.Errorf("%s is a %s: one word for one thing", name, typ)
		}
		if other := types[typ]; other != "" {
			t.Errorf("%s and %s are the same type", name, other)
		}
		types[typ] = name

		doc := v.(interface{ Doc() string }).Doc()
		if doc == "" || !unicode.IsLower(rune(doc[0])) || strings.HasSuffix(doc, ".") {
			t.Errorf("%s: doc %q: expected one sentence in lower case without a full stop", name, doc)
		}
		lab.Defaults(v) // panics on a default that does not fit its type
		for _, f := range lab.Fields(v) {
			if f.Doc == "" {
				t.Errorf("%s: %s has no doc", name, f.Key)
			}
			if f.Key != strings.ToLower(f.Key) || strings.Contains(f.Key, "_") {
				t.Errorf("%s: %s: expected lower case words with dashes", name, f.Key)
			}
			if _, taken := lab.StepKeys[f.Key]; taken && !(f.Key == "refused" && strings.HasPrefix(name, "check ")) {
				t.Errorf("%s: %s is a key of every step", name, f.Key)
			}
			if f.Need && f.Default != "" {
				t.Errorf("%s: %s must be given, so it needs no default", name, f.Key)
			}
		}
	}
}

// A fault is healed from the ledger: what it was told must survive there.
func TestFaultsSurviveTheLedger(t *testing.T) {
	for name, make := range verbs.All().Break {
		f := make()
		lab.Defaults(f)
		for _, target := range lab.Targets(f) {
			target.Names = []string{"m1"}
		}
		data, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		again := make()
		if err := json.Unmarshal(data, again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(f, again) {
			t.Errorf("%s: %+v became %+v", name, f, again)
		}
	}
}

func TestKit(t *testing.T) {
	kit := verbs.Kit()
	v := reflect.ValueOf(kit)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("the kit has no %s", v.Type().Field(i).Name)
		}
	}
}

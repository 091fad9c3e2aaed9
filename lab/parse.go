package lab

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Problem is one thing wrong with a drill file.
type Problem struct {
	File      string
	Line, Col int
	What      string // what is wrong, what was expected, what to do
	Source    string // the line it stands on
}

func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.What)
	if p.Source != "" {
		s += fmt.Sprintf("\n  %4d | %s\n       | %s^", p.Line, p.Source, strings.Repeat(" ", max(0, p.Col-1)))
	}
	return s
}

// Problems is everything wrong with a drill file, in order of line.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	for i, x := range p {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(x.String())
	}
	return b.String()
}

// Parse reads a drill and checks it against the table of verbs. file names
// it in errors. vars fills ${var:NAME}; a variable that is not set and has no
// default (${var:NAME:-default}) is a problem. The error is a Problems with
// everything found, or nil.
func Parse(file string, src []byte, verbs Verbs, vars map[string]string) (*Drill, error) {
	p := &parse{Reader: NewReader(file, src), verbs: verbs, vars: vars, names: map[string]int{}}
	d := &Drill{File: file}
	Defaults(d)
	if root := p.Root("drill"); root != nil {
		if _, ok := p.Pairs(root, "a drill: expected keys with values"); ok {
			p.fill(d, root, nil)
			p.finish(d, root)
		}
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	return d, nil
}

type parse struct {
	*Reader
	verbs Verbs
	vars  map[string]string
	names map[string]int // faults that are or were in place, with the line of their break
	depth int            // inside repeat or parallel
}

// fill sets v's fields from a mapping. Keys in skip are somebody else's.
func (p *parse) fill(v any, n ast.Node, skip map[string]string) {
	fields := Fields(v)
	given := map[string]bool{}
	entries, ok := p.Pairs(n, "here: expected keys with values")
	if !ok {
		return
	}
	for _, kv := range entries {
		key := KeyOf(kv)
		if given[key] {
			p.Bad(kv.Key, "%q is given twice", key)
		}
		given[key] = true
		if _, ok := skip[key]; ok {
			continue
		}
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Key == key })
		if i < 0 {
			var keys []string
			for _, f := range fields {
				keys = append(keys, f.Key)
			}
			for k := range skip {
				keys = append(keys, k)
			}
			sort.Strings(keys)
			p.Bad(kv.Key, "unknown word %q%s: expected one of %s", key, Meant(key, keys), strings.Join(keys, ", "))
			continue
		}
		p.set(fields[i].value, kv.Value, key)
	}
	for _, f := range fields {
		if f.Need && !given[f.Key] {
			p.Bad(n, "%q is missing: %s", f.Key, f.Doc)
		}
	}
	if c, ok := v.(interface{ Valid() error }); ok {
		if err := c.Valid(); err != nil {
			p.Bad(n, "%s", err)
		}
	}
}

// set fills one value from one node.
func (p *parse) set(v reflect.Value, n ast.Node, key string) {
	switch v.Type() {
	case reflect.TypeFor[[]Step]():
		v.Set(reflect.ValueOf(p.steps(n)))
		return
	case reflect.TypeFor[Target]():
		if s, ok := n.(*ast.SequenceNode); ok {
			var names []string
			for _, i := range s.Values {
				if text, ok := p.text(i); ok {
					names = append(names, text)
				}
			}
			v.Set(reflect.ValueOf(Target{Role: strings.Join(names, ", ")}))
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		Defaults(v.Interface())
		if n.Type() != ast.NullType {
			p.fill(v.Interface(), n, nil)
		}
		return
	case reflect.Struct:
		if typeName(v.Type()) == "keys" && v.Type() != reflect.TypeFor[Expect]() {
			p.fill(v.Addr().Interface(), n, nil)
			return
		}
	case reflect.Slice:
		items, _ := p.Items(n, key+": expected a list")
		s := reflect.MakeSlice(v.Type(), len(items), len(items))
		for i, item := range items {
			p.set(s.Index(i), item, key)
		}
		v.Set(s)
		return
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		entries, _ := p.Pairs(n, key+": expected keys with values")
		for _, kv := range entries {
			if m.MapIndex(reflect.ValueOf(KeyOf(kv))).IsValid() {
				p.Bad(kv.Key, "%q is given twice", KeyOf(kv))
			}
			if text, ok := p.text(kv.Value); ok {
				m.SetMapIndex(reflect.ValueOf(KeyOf(kv)), reflect.ValueOf(text))
			}
		}
		v.Set(m)
		return
	}
	if text, ok := p.text(n); ok {
		if err := setText(v, text); err != nil {
			p.Bad(n, "%s: %s", key, err)
		}
	}
}

var variable = regexp.MustCompile(`\$\{var:([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)

// text returns a scalar with its variables filled in.
func (p *parse) text(n ast.Node) (string, bool) {
	text, ok := p.Scalar(n)
	text = variable.ReplaceAllStringFunc(text, func(m string) string {
		g := variable.FindStringSubmatch(m)
		if v, set := p.vars[g[1]]; set {
			return v
		}
		if g[2] == "" {
			p.Bad(n, "variable %s is not set: give --set %s=VALUE, or a default with ${var:%s:-VALUE}", g[1], g[1], g[1])
			ok = false
		}
		return g[3]
	})
	return text, ok
}

var words = []string{"do", "break", "check", "heal", "repeat", "parallel"}

func (p *parse) steps(n ast.Node) []Step {
	items, ok := p.Items(n, "steps: expected a list")
	if ok && len(items) == 0 {
		p.Bad(n, "steps: expected at least one")
	}
	var out []Step
	for _, i := range items {
		out = append(out, p.step(i))
	}
	return out
}

// step reads one step: exactly one word, its common keys, and the arguments
// of its verb.
func (p *parse) step(n ast.Node) Step {
	s := Step{}
	if t := n.GetToken(); t != nil && t.Position != nil {
		s.Line = t.Position.Line
	}
	pairs, ok := p.Pairs(n, "step: expected keys with values")
	if !ok {
		return s
	}
	var word *ast.MappingValueNode
	for _, kv := range pairs {
		if slices.Contains(words, KeyOf(kv)) {
			if word != nil {
				p.Bad(kv.Key, "a step has one word, this one has %s and %s: make two steps", KeyOf(word), KeyOf(kv))
				return s
			}
			word = kv
		}
	}
	if word == nil {
		first := ""
		if len(pairs) > 0 {
			first = KeyOf(pairs[0])
		}
		p.Bad(n, "a step needs one of %s%s", strings.Join(words, ", "), Meant(first, words))
		return s
	}
	s.Word, s.Line = KeyOf(word), word.Key.GetToken().Position.Line
	common := map[string]string{s.Word: ""}
	allow := map[string][]string{
		"do": {"within", "for", "refused"}, "break": {"as", "for", "within"}, "check": {"within", "for"},
		"heal": {"within"}, "repeat": {"steps"}, "parallel": {},
	}[s.Word]
	for _, k := range append(allow, "why") {
		common[k] = StepKeys[k]
	}
	for _, kv := range pairs {
		k := KeyOf(kv)
		if _, ok := common[k]; !ok || k == s.Word {
			continue
		}
		switch k {
		case "as":
			p.set(reflect.ValueOf(&s.As).Elem(), kv.Value, k)
		case "why":
			p.set(reflect.ValueOf(&s.Why).Elem(), kv.Value, k)
		case "within":
			p.set(reflect.ValueOf(&s.Within).Elem(), kv.Value, k)
		case "for":
			p.set(reflect.ValueOf(&s.For).Elem(), kv.Value, k)
		case "refused":
			p.set(reflect.ValueOf(&s.Refused).Elem(), kv.Value, k)
		case "steps":
			p.depth++
			s.Steps = p.steps(kv.Value)
			p.depth--
		}
	}
	switch s.Word {
	case "do":
		s.Args = args(p, word, n, p.verbs.Do, common, &s.Verb)
	case "break":
		s.Args = args(p, word, n, p.verbs.Break, common, &s.Verb)
		p.book(&s, word)
	case "check":
		s.Args = args(p, word, n, p.verbs.Check, common, &s.Verb)
	case "heal":
		p.fill(&struct{}{}, n, common)
		s.Verb, _ = p.text(word.Value)
		if _, ok := p.names[s.Verb]; !ok {
			p.Bad(word.Value, "heal %q: nothing before it breaks under that name%s", s.Verb, Meant(s.Verb, sortedKeys(p.names)))
		}
	case "repeat":
		p.fill(&struct{}{}, n, common)
		p.set(reflect.ValueOf(&s.Times).Elem(), word.Value, "repeat")
		if s.Times < 1 || s.Times > 10000 {
			p.Bad(word.Value, "repeat: expected how many times, 1 to 10000")
		}
		if len(s.Steps) == 0 {
			p.Bad(word.Key, "repeat: `steps` is missing: what is to be repeated")
		}
	case "parallel":
		p.fill(&struct{}{}, n, common)
		p.depth++
		s.Steps = p.steps(word.Value)
		p.depth--
	}
	return s
}

// book names a fault and sees that names are used once.
func (p *parse) book(s *Step, word *ast.MappingValueNode) {
	if s.As == "" {
		s.As = s.Verb
		for i := 2; p.names[s.As] != 0; i++ {
			s.As = fmt.Sprintf("%s-%d", s.Verb, i)
		}
	} else if line := p.names[s.As]; line != 0 {
		p.Bad(word.Key, "as: %q is the name of the fault of line %d already", s.As, line)
	}
	p.names[s.As] = s.Line
}

// args makes the verb a step names and fills it.
func args[V any](p *parse, word *ast.MappingValueNode, n ast.Node, table map[string]func() V, common map[string]string, name *string) any {
	text, ok := p.text(word.Value)
	if !ok {
		return nil
	}
	*name = text
	make, ok := table[text]
	if !ok {
		p.Bad(word.Value, "%s: unknown verb %q%s: expected one of %s", KeyOf(word), text, Meant(text, sortedKeys(table)), strings.Join(sortedKeys(table), ", "))
		return nil
	}
	v := make()
	Defaults(v)
	own := map[string]string{}
	for k, doc := range common { // a verb's own argument of the same name wins
		if !slices.ContainsFunc(Fields(v), func(f Field) bool { return f.Key == k }) {
			own[k] = doc
		}
	}
	p.fill(v, n, own)
	return v
}

var drillName = regexp.MustCompile(`^[a-z0-9]+([-.][a-z0-9]+)*$`)

// finish checks what no single key can know.
func (p *parse) finish(d *Drill, root ast.Node) {
	node := func(key string) ast.Node {
		entries, _ := p.Pairs(root, "drill: expected keys with values")
		for _, kv := range entries {
			if KeyOf(kv) == key {
				return kv.Value
			}
		}
		return root
	}
	if d.APIVersion != "" && d.APIVersion != APIVersion {
		p.Bad(node("apiVersion"), "apiVersion: %q: expected %s", d.APIVersion, APIVersion)
	}
	if d.Kind != "" && d.Kind != Kind {
		p.Bad(node("kind"), "kind: %q: expected %s", d.Kind, Kind)
	}
	if d.Name != "" && !drillName.MatchString(d.Name) {
		p.Bad(node("name"), "name: %q: expected lower case words and numbers with dashes", d.Name)
	}
	known := map[string]bool{}
	seats := d.Cluster.Members + d.Cluster.Spares
	if a := d.Cluster.Adopt; a != nil {
		// How many there are is found out, where it is not said.
		d.Cluster.Members, seats = len(a.Hosts), cmp.Or(len(a.Hosts), 9)
	}
	for i := range seats {
		known[fmt.Sprintf("m%d", i+1)] = true
	}
	for name := range d.Cluster.EtcdOf {
		if !known[name] {
			p.Bad(node("cluster"), "etcd-of: there is no host %q: the lab has %s", name, strings.Join(sortedKeys(known), ", "))
		}
	}
	for s := range d.Each {
		if s.Args == nil || reflect.ValueOf(s.Args).IsNil() {
			continue
		}
		for _, t := range Targets(s.Args) {
			p.target(t, s.Line, known)
		}
		if n, ok := s.Args.(interface{ Needs() []Cap }); ok && slices.Contains(n.Needs(), CapDNS) && !d.Cluster.ByDNS() {
			p.At(s.Line, 3, fmt.Sprintf("%s %s: this lab has no DNS: set `discovery: dns` in `cluster`", s.Word, s.Verb))
		}
	}
	if d.Load != nil {
		if t := d.Load.Through; t.Role != "" {
			p.bad2(node("load"), p.whom(t.Role, known))
		}
	}
	for i, e := range d.Expect {
		n := node("expect")
		if seq, ok := n.(*ast.SequenceNode); ok && i < len(seq.Values) {
			n = seq.Values[i]
		}
		if e.Term == "" {
			continue // said already
		}
		if _, ok := p.names[e.Arg]; ExpectTerms[e.Term].Arg == "fault" && !ok {
			p.Bad(n, "%s: no step breaks under the name %q%s", e.Text, e.Arg, Meant(e.Arg, sortedKeys(p.names)))
		}
		if d.Load == nil {
			p.Bad(n, "%s: needs a `load`: promises about the whole run are judged by what clients saw", e.Text)
		}
	}
}

func (p *parse) bad2(n ast.Node, err error) {
	if err != nil {
		p.Bad(n, "%s", err)
	}
}

func (p *parse) target(t *Target, line int, known map[string]bool) {
	if err := p.whom(t.Role, known); err != nil {
		p.At(line, 3, err.Error())
	}
}

// whom checks the words of a target.
func (p *parse) whom(role string, known map[string]bool) error {
	if _, ok := Roles[role]; ok {
		return nil
	}
	for _, w := range strings.Split(role, ",") {
		w = strings.TrimSpace(w)
		if known[w] {
			continue
		}
		all := append(sortedKeys(Roles), sortedKeys(known)...)
		return fmt.Errorf("unknown role or host %q%s: expected one of %s", w, Meant(w, all), strings.Join(all, ", "))
	}
	return nil
}

// AnyVariables gives every variable of a drill file that has no default some
// value, for looking at a drill that is not to be run.
func AnyVariables(src []byte) map[string]string {
	vars := map[string]string{}
	for _, g := range variable.FindAllSubmatch(src, -1) {
		if len(g[2]) == 0 {
			vars[string(g[1])] = string(g[1])
		}
	}
	return vars
}

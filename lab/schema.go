package lab

import (
	"fmt"
	"reflect"
	"sort"
)

// Schema is the JSON schema (draft 2020-12) of a drill file, for editors. It
// is made from the same structs that Parse fills, so the two cannot differ in
// what words exist; Parse checks more.
func Schema(verbs Verbs) map[string]any {
	drill := object(&Drill{})
	drill["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	drill["title"] = "etcdrill drill"
	props := drill["properties"].(map[string]any)
	props["apiVersion"] = map[string]any{"const": APIVersion}
	props["kind"] = map[string]any{"const": Kind}
	drill["$defs"] = map[string]any{
		"step":   step(verbs),
		"steps":  map[string]any{"type": "array", "minItems": 1, "items": map[string]any{"$ref": "#/$defs/step"}},
		"scalar": map[string]any{"type": []string{"string", "number", "boolean"}},
	}
	return drill
}

// object is the schema of a struct.
func object(v any) map[string]any {
	props, need := map[string]any{}, []string{}
	for _, f := range Fields(v) {
		props[f.Key] = property(f)
		if f.Need {
			need = append(need, f.Key)
		}
	}
	o := map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	if len(need) > 0 {
		o["required"] = need
	}
	return o
}

// property is the schema of one field. A value may always be a string, since
// it may come from a variable.
func property(f Field) map[string]any {
	p := map[string]any{}
	t := f.value.Type()
	switch {
	case t == reflect.TypeFor[[]Step]():
		p["$ref"] = "#/$defs/steps"
	case t.Kind() == reflect.Pointer:
		p = object(reflect.New(t.Elem()).Interface())
	case f.Type == "keys" && t != reflect.TypeFor[Expect]():
		p = object(reflect.New(t).Interface())
	case f.Type == "list":
		p["type"], p["items"] = "array", map[string]any{"$ref": "#/$defs/scalar"}
	case f.Type == "map":
		p["type"], p["additionalProperties"] = "object", map[string]any{"$ref": "#/$defs/scalar"}
	case f.Type == "whom":
		p["anyOf"] = []any{
			map[string]any{"enum": sortedKeys(Roles)},
			map[string]any{"type": "string"},
			map[string]any{"type": "array", "items": map[string]any{"type": "string"}},
		}
	case f.Type == "yes/no":
		p["type"] = []string{"boolean", "string"}
	case f.Type == "number", f.Type == "size", f.Type == "rate":
		p["type"] = []string{"number", "string"}
	case f.Type == "time":
		p["anyOf"] = []any{map[string]any{"type": "string"}, map[string]any{"const": 0}}
	default:
		p["$ref"] = "#/$defs/scalar"
	}
	if f.Doc != "" {
		p["description"] = f.Doc
	}
	if f.Default != "" {
		p["default"] = f.Default
	}
	return p
}

// step is one of: each verb with its arguments, heal, repeat, parallel.
func step(verbs Verbs) map[string]any {
	var each []any
	add := func(word string, docs map[string]string, fields func(string) map[string]any, keys ...string) {
		var names []string
		for n := range docs {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			o := fields(n)
			props := o["properties"].(map[string]any)
			for _, k := range append(keys, "why") {
				if _, own := props[k]; !own {
					props[k] = map[string]any{"$ref": "#/$defs/scalar", "description": StepKeys[k]}
				}
			}
			props[word] = map[string]any{"const": n, "description": docs[n]}
			need, _ := o["required"].([]string)
			o["required"] = append([]string{word}, need...)
			each = append(each, o)
		}
	}
	add("do", docsOf(verbs.Do), func(n string) map[string]any { return object(verbs.Do[n]()) }, "within", "for", "refused")
	add("break", docsOf(verbs.Break), func(n string) map[string]any { return object(verbs.Break[n]()) }, "as", "within", "for")
	add("check", docsOf(verbs.Check), func(n string) map[string]any { return object(verbs.Check[n]()) }, "within", "for")
	scalar := map[string]any{"$ref": "#/$defs/scalar"}
	each = append(each,
		closed(map[string]any{"heal": scalar, "within": scalar, "why": scalar}, "heal"),
		closed(map[string]any{"repeat": scalar, "steps": map[string]any{"$ref": "#/$defs/steps"}, "why": scalar}, "repeat", "steps"),
		closed(map[string]any{"parallel": map[string]any{"$ref": "#/$defs/steps"}, "why": scalar}, "parallel"))
	return map[string]any{"oneOf": each}
}

func closed(props map[string]any, need ...string) map[string]any {
	return map[string]any{"type": "object", "properties": props, "required": need, "additionalProperties": false}
}

func docsOf[V interface{ Doc() string }](table map[string]func() V) map[string]string {
	out := map[string]string{}
	for n, make := range table {
		out[n] = make().Doc()
	}
	return out
}

// Words lists a table's verbs with their sentence, in order of name.
func Words[V interface{ Doc() string }](table map[string]func() V) [][2]string {
	var out [][2]string
	for n, doc := range docsOf(table) {
		out = append(out, [2]string{n, doc})
	}
	sort.Slice(out, func(i, j int) bool { return fmt.Sprint(out[i]) < fmt.Sprint(out[j]) })
	return out
}

package lab

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Field is an argument of a verb, or a key of another part of a drill.
type Field struct {
	Key     string
	Doc     string
	Default string
	Need    bool   // must be given
	Type    string // for people: text, number, time, size, rate, yes/no, whom, list, map
	value   reflect.Value
}

// Set fills the field from text, as written in a drill or behind a flag.
func (f Field) Set(text string) error { return setText(f.value, text) }

// Fields lists the arguments of a verb, in order of declaration. v is a
// pointer to a struct; setting a Field changes it. Those of an embedded struct
// are among them.
func Fields(v any) []Field {
	var out []Field
	rv := reflect.ValueOf(v).Elem()
	for i := range rv.NumField() {
		sf := rv.Type().Field(i)
		key := sf.Tag.Get("yaml")
		if key == "-" || !sf.IsExported() {
			continue
		}
		if sf.Anonymous { // its fields are ours, as in Go
			out = append(out, Fields(rv.Field(i).Addr().Interface())...)
			continue
		}
		if key == "" {
			key = strings.ToLower(sf.Name)
		}
		out = append(out, Field{
			Key: key, Doc: sf.Tag.Get("doc"), Default: sf.Tag.Get("default"), Need: sf.Tag.Get("need") != "",
			Type: typeName(sf.Type), value: rv.Field(i),
		})
	}
	return out
}

// Defaults fills every field of v that has a default, and of structs inside.
func Defaults(v any) {
	for _, f := range Fields(v) {
		if f.value.Kind() == reflect.Struct && f.Type == "keys" {
			Defaults(f.value.Addr().Interface())
			continue
		}
		if f.Default != "" {
			if err := f.Set(f.Default); err != nil {
				panic(fmt.Sprintf("%T: default of %s: %v", v, f.Key, err)) // a tag in our own source is wrong
			}
		}
	}
}

// Targets returns the fields of a verb that say whom, to be resolved in place.
func Targets(v any) []*Target {
	var out []*Target
	for _, f := range Fields(v) {
		if t, ok := f.value.Addr().Interface().(*Target); ok && t.Role != "" {
			out = append(out, t)
		}
	}
	return out
}

// typeName names a type for people.
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "time"
	case reflect.TypeFor[Bytes]():
		return "size"
	case reflect.TypeFor[Rate]():
		return "rate"
	case reflect.TypeFor[Target]():
		return "whom"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "yes/no"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "map"
	}
	return "keys"
}

// setText fills a value from one scalar. Errors say what was expected.
func setText(v reflect.Value, text string) error {
	text = strings.TrimSpace(text)
	switch p := v.Addr().Interface().(type) {
	case *Target:
		if text == "" {
			return fmt.Errorf("expected a role or the names of members, got nothing")
		}
		*p = Target{Role: text}
		return nil
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("%q: expected a time such as 5s or 300ms", text)
		}
		*p = d
		return nil
	case *Bytes:
		n, err := parseBytes(text)
		if err != nil {
			return err
		}
		*p = n
		return nil
	case *Rate:
		num, per, _ := strings.Cut(text, "/")
		r, err := strconv.ParseFloat(num, 64)
		if err != nil || r < 0 || per != "" && per != "s" {
			return fmt.Errorf("%q: expected a rate such as 200/s", text)
		}
		*p = Rate(r)
		return nil
	case *Expect:
		e, err := ParseExpect(text)
		*p = e
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q: expected true or false", text)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q: expected a whole number", text)
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
		if err != nil {
			return fmt.Errorf("%q: expected a number", text)
		}
		if strings.HasSuffix(text, "%") {
			n /= 100
		}
		v.SetFloat(n)
	case reflect.Slice: // on a command line: a,b,c
		parts := strings.Split(text, ",")
		s := reflect.MakeSlice(v.Type(), len(parts), len(parts))
		for i, p := range parts {
			if err := setText(s.Index(i), p); err != nil {
				return err
			}
		}
		v.Set(s)
	case reflect.Map: // on a command line: a=1,b=2
		m := reflect.MakeMap(v.Type())
		for _, p := range strings.Split(text, ",") {
			k, val, ok := strings.Cut(p, "=")
			if !ok {
				return fmt.Errorf("%q: expected name=value", p)
			}
			m.SetMapIndex(reflect.ValueOf(k), reflect.ValueOf(val))
		}
		v.Set(m)
	default:
		return fmt.Errorf("expected keys with values, got %q", text)
	}
	return nil
}

func parseBytes(text string) (Bytes, error) {
	units := []struct {
		name string
		n    float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1}}
	for _, u := range units {
		if num, ok := strings.CutSuffix(text, u.name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
			if err == nil && n >= 0 {
				return Bytes(n * u.n), nil
			}
			break
		}
	}
	return 0, fmt.Errorf("%q: expected a size such as 16MiB or 1000", text)
}

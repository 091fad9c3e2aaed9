package reports

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/etcdrill/etcdrill/lab"
)

// title is a step in one line, in the words of the drill file:
// "break crash leader (m1)".
func title(word, verb, target string) string {
	var parts []string
	for _, p := range []string{word, verb, target} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return oneLine(strings.Join(parts, " "))
}

// details are the other things a drill says about a step: the arguments of its
// verb and the keys around them. target is left out, the title has it.
func details(s *lab.Step, target string) string {
	if s == nil {
		return ""
	}
	var out []string
	for _, a := range arguments(s.Args) {
		if target != "" && a.value == target {
			continue
		}
		if a.value == "" {
			out = append(out, a.name)
		} else {
			out = append(out, a.name+" "+a.value)
		}
	}
	if s.Times > 0 {
		out = append(out, fmt.Sprintf("%d times", s.Times))
	}
	if s.As != "" {
		out = append(out, "as "+s.As)
	}
	if s.Refused != "" {
		out = append(out, fmt.Sprintf("must be refused with %q", s.Refused))
	}
	if s.For > 0 {
		out = append(out, "for "+s.For.String())
	}
	if s.Within > 0 {
		out = append(out, "within "+s.Within.String())
	}
	return oneLine(strings.Join(out, ", "))
}

type argument struct{ name, value string }

// arguments lists what was given to a verb. While a drill runs that is the
// verb's struct; read back from a journal it is a map, whose large numbers are
// left out because nobody can tell there whether they are times or counts.
func arguments(args any) []argument {
	var out []argument
	add := func(name, value string) { out = append(out, argument{name, value}) }
	if m, ok := args.(map[string]any); ok {
		names := make([]string, 0, len(m))
		for n := range m {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			switch v := m[n].(type) {
			case string:
				if v != "" {
					add(dashed(n), show(v))
				}
			case bool:
				if v {
					add(dashed(n), "")
				}
			case float64:
				if v > 0 && v < 1e6 { // below 0: not asked for
					add(dashed(n), strconv.FormatFloat(v, 'g', -1, 64))
				}
			case map[string]any:
				if role, _ := v["role"].(string); role != "" {
					add(dashed(n), role)
				}
			}
		}
		return out
	}
	v := reflect.ValueOf(args)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		f, x := v.Type().Field(i), v.Field(i)
		if !f.IsExported() || x.IsZero() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			name = dashed(f.Name)
		}
		switch x := x.Interface().(type) {
		case string:
			add(name, show(x))
		case bool:
			add(name, "")
		case lab.Target:
			add(name, x.Role)
		case time.Duration:
			add(name, x.String())
		case lab.Bytes:
			add(name, size(int64(x)))
		case int, int64, float64:
			if text := fmt.Sprint(x); !strings.HasPrefix(text, "-") { // below 0: not asked for
				add(name, text)
			}
		case []string:
			add(name, strings.Join(x, ", "))
		}
	}
	return out
}

// show quotes an argument where it would not be seen to be one.
func show(s string) string {
	if strings.ContainsAny(s, " ,\t\n") {
		return strconv.Quote(s)
	}
	return s
}

// dashed turns a field's name into the word of the drill file.
func dashed(s string) string {
	var b strings.Builder
	for i, r := range s {
		if unicode.IsUpper(r) && i > 0 && !unicode.IsUpper(rune(s[i-1])) {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// size shows bytes in the largest unit that is exact.
func size(n int64) string {
	for _, u := range []struct {
		n    int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.n && n%u.n == 0 {
			return fmt.Sprintf("%d%s", n/u.n, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// wrap breaks prose into lines of at most n characters.
func wrap(s string, n int) []string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(clean(s)) {
		if line != "" && len([]rune(line))+1+len([]rune(w)) > n {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// cutTo shortens a line for a narrow place.
func cutTo(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return strings.TrimRight(string(r[:n-1]), " ") + "…"
	}
	return s
}

package reports

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/etcdrill/etcdrill/lab"
)

// escapes are terminal control sequences: CSI, OSC and the other strings up to
// their terminator, and the two-byte rest. An unfinished string ends with its
// line, so that it cannot swallow what follows.
var escapes = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]` +
	`|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\|)` +
	`|\x1b[ -/]*[0-~]`)

// secrets are what must not leave the machine in a report. Each keeps the part
// that says what was there; what is put there is one word, so that cleaning
// twice changes nothing. A text, in lower case, without any of the hints cannot
// hold the secret: most texts hold none, and looking for words is quick.
var secrets = []struct {
	hints []string
	find  *regexp.Regexp
	put   string
}{
	{[]string{"private key"}, regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), "[redacted-private-key]"},
	{[]string{"ls0tls1crudjti"}, regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]{24,}`), "[redacted-pem]"},
	{[]string{"eyj"}, regexp.MustCompile(`\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*`), "[redacted-token]"},
	{[]string{"bearer", "basic"}, regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 [redacted]"},
	{[]string{"ghp_", "gho_", "ghu_", "ghs_", "ghr_"}, regexp.MustCompile(`\bgh[pousr]_\w{20,}`), "[redacted-token]"},
	{[]string{"akia"}, regexp.MustCompile(`\bAKIA[0-9A-Z]{16}\b`), "[redacted-key]"},
	// kubeadm's bootstrap tokens.
	{[]string{"."}, regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), "[redacted-token]"},
	// user:password in a URL.
	{[]string{"@"}, regexp.MustCompile(`(://[^/\s:@]+):[^/\s@]+@`), "$1:[redacted]@"},
	// etcdctl --user NAME:PASSWORD, also from the environment.
	{[]string{"user"}, regexp.MustCompile(`(--user[= ]'|'ETCDCTL_USER=)([^:\s']+):[^']*'`), "$1$2:[redacted]'"},
	{[]string{"user"}, regexp.MustCompile(`(--user[= ]|\bETCDCTL_USER=)([^:\s']+):[^\s']+`), "$1$2:[redacted]"},
	{[]string{"--"}, regexp.MustCompile(`(--(?:password|token|certificate-key|secret|passphrase|discovery-token|new-user-password)[= ])(?:'[^']*'|"[^"]*"|[^\s'"]+)`), "$1[redacted]"},
	// In the environment: alone, quoted, or within a line.
	{[]string{"password", "passwd", "secret"}, regexp.MustCompile(`(?i)^([A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET)[A-Z0-9_]*=)[^\n]+`), "$1[redacted]"},
	{[]string{"password", "passwd", "secret"}, regexp.MustCompile(`(?i)('[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET)[A-Z0-9_]*=)[^']+'`), "$1[redacted]'"},
	{[]string{"password", "passwd", "secret"}, regexp.MustCompile(`(?i)(\b[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET)[A-Z0-9_]*=)[^\s'"]+`), "$1[redacted]"},
	{[]string{"password", "passwd", "passphrase", "secret", "token", "client-key-data"},
		regexp.MustCompile(`(?i)((?:^|[^-\w.])"?(?:password|passwd|passphrase|secret|token|client-key-data)"?\s*[:=]\s*["']?)[^\s"',}]+`), "$1[redacted]"},
}

// clean makes foreign text harmless: no control sequence, no byte that a
// terminal, a browser or an XML parser would act on, no character that turns
// the direction of writing, and no secret. Newlines and tabs stay. What is
// taken out of the text but was no colour stays visible as an escape.
func clean(s string) string {
	if plain(s) {
		return redact(s)
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = escapes.ReplaceAllString(s, "")
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\r':
			b.WriteByte('\n') // a progress bar: each state on its own line
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case r == utf8.RuneError:
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			} else {
				b.WriteRune(r)
			}
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			fmt.Fprintf(&b, `\x%02x`, r)
		case unicode.Is(unicode.Cf, r) || r == 0x2028 || r == 0x2029 || r&0xfffe == 0xfffe:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return redact(b.String())
}

// plain spares the common case.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x7f || c < 0x20 && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

func redact(s string) string {
	if len(s) < 6 {
		return s
	}
	low := strings.ToLower(s)
	for _, x := range secrets {
		if slices.ContainsFunc(x.hints, func(h string) bool { return strings.Contains(low, h) }) {
			s = x.find.ReplaceAllString(s, x.put)
		}
	}
	return s
}

// oneLine cleans and folds white space, for places that hold one line.
func oneLine(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// command shows an argument vector as one would type it. Secrets are looked
// for in the whole line, because a flag and its value may be two arguments.
func command(argv []string) string { return oneLine(lab.Quote(argv)) }

// scrub returns a deep copy in which every string is clean. An argument vector
// stays in its parts, but a secret that a flag announces is blacked out.
func scrub[T any](v T) T {
	out := scrubValue(reflect.ValueOf(&v).Elem())
	return out.Interface().(T)
}

func scrubValue(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		out.SetString(clean(v.String()))
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(scrubValue(v.Elem()))
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		out.Set(scrubValue(v.Elem()))
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			e := scrubValue(v.Index(i))
			if e.Kind() == reflect.String && i > 0 {
				// "--password", "x": only together they are a secret.
				flag := v.Index(i - 1).String()
				if both := command([]string{flag, v.Index(i).String()}); strings.HasPrefix(flag, "--") && strings.Contains(both, "[redacted]") {
					e.SetString(strings.Trim(strings.TrimPrefix(both, command([]string{flag})+" "), "'"))
				}
			}
			out.Index(i).Set(e)
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
		for _, k := range v.MapKeys() {
			out.SetMapIndex(scrubValue(k), scrubSecret(k, v.MapIndex(k)))
		}
	case reflect.Struct:
		out.Set(v)
		if v.Type() == reflect.TypeFor[time.Time]() {
			return out
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(scrubValue(v.Field(i)))
			}
		}
	default:
		out.Set(v)
	}
	return out
}

// scrubSecret is the value of a map entry, which its key may name a secret.
func scrubSecret(k, v reflect.Value) reflect.Value {
	if k.Kind() == reflect.String && v.Kind() == reflect.String {
		if pair := k.String() + ": " + v.String(); strings.HasSuffix(redact(pair), ": [redacted]") {
			out := reflect.New(v.Type()).Elem()
			out.SetString("[redacted]")
			return out
		}
	}
	return scrubValue(v)
}

// tidy returns a clean deep copy of a report in which every list is there:
// report.json promises lists, never null.
func tidy(r *lab.Report) *lab.Report {
	c := scrub(*r)
	if c.SchemaVersion == 0 {
		c.SchemaVersion = lab.SchemaVersion
	}
	some(&c.Steps)
	some(&c.Faults)
	some(&c.Outages)
	some(&c.Findings)
	some(&c.Expect)
	some(&c.Members)
	some(&c.Left)
	for i := range c.Faults {
		some(&c.Faults[i].Targets)
	}
	for i := range c.Members {
		some(&c.Members[i].Terms)
	}
	if c.Environment == nil {
		c.Environment = map[string]string{}
	}
	if c.Linearizable == "" {
		c.Linearizable = string(lab.Undecided)
	}
	return &c
}

func some[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

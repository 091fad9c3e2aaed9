package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Drill is a drill file after Parse: everything it says, checked.
type Drill struct {
	APIVersion string    `yaml:"apiVersion" need:"yes" doc:"always etcdrill/v1"`
	Kind       string    `yaml:"kind" need:"yes" doc:"always Drill"`
	Name       string    `yaml:"name" need:"yes" doc:"lower case words with dashes"`
	Title      string    `yaml:"title" need:"yes" doc:"one line for lists"`
	Why        string    `yaml:"why" doc:"what one learns from it"`
	Tags       []string  `yaml:"tags" doc:"for --tag; a drill tagged damage shows the wrong way and ends fail"`
	Needs      []Cap     `yaml:"needs" doc:"abilities beyond those the faults need themselves"`
	Cluster    Spec      `yaml:"cluster" doc:"what to provision"`
	Load       *LoadSpec `yaml:"load" doc:"clients that write, read and watch during the whole drill"`
	Steps      []Step    `yaml:"steps" need:"yes" doc:"what happens, in order"`
	Expect     []Expect  `yaml:"expect" doc:"promises about the whole run"`
	End        End       `yaml:"end" doc:"how the cluster must stand at the end"`

	File string `yaml:"-" json:"file,omitempty"` // where it was read from
}

// APIVersion and Kind every drill file begins with.
const (
	APIVersion = "etcdrill/v1"
	Kind       = "Drill"
)

// Step is one step. Word says which of the other fields are used.
type Step struct {
	Word   string        `json:"word"`           // do, break, check, heal, repeat, parallel
	Verb   string        `json:"verb,omitempty"` // name of the action, fault or check; for heal the fault's name
	Line   int           `json:"line"`
	As     string        `json:"as,omitempty"` // break: its name, made up from the verb when absent
	Why    string        `json:"why,omitempty"`
	Within time.Duration `json:"within,omitempty"` // at the latest after
	For    time.Duration `json:"for,omitempty"`    // check: holds all that time; break: heal after it
	// Refused, on do: the tool must refuse, and its output contain this text.
	Refused string `json:"refused,omitempty"`
	Args    any    `json:"args,omitempty"` // Action, Fault or Check
	Times   int    `json:"times,omitempty"`
	Steps   []Step `json:"steps,omitempty"` // of repeat and parallel
}

// StepKeys documents the keys any step may carry beside its word and the
// arguments of its verb.
var StepKeys = map[string]string{
	"as":      "break: the fault's name, for heal and expect",
	"why":     "a sentence for people",
	"within":  "check: it must hold after this time at the latest; do: the deadline",
	"for":     "check: it must hold all that time; break: heal after that time",
	"refused": "do: the tool must refuse, and say this",
	"steps":   "repeat: what is repeated",
}

// LoadSpec is the `load:` part of a drill.
type LoadSpec struct {
	Clients int           `yaml:"clients" default:"4" doc:"clients that write and read, each one operation at a time; 1 to 1000"`
	Rate    Rate          `yaml:"rate" doc:"operations per second of all clients together, such as 200/s; as fast as they can when absent"`
	Keys    int           `yaml:"keys" default:"64" doc:"keys they share"`
	Size    Bytes         `yaml:"size" default:"64" doc:"bytes per value, at least 32; every value is unique"`
	Reads   float64       `yaml:"reads" default:"0.3" doc:"share of linearizable reads, 0 to 1"`
	Deletes float64       `yaml:"deletes" default:"0.02" doc:"share of deletes"`
	Txns    float64       `yaml:"txns" default:"0.05" doc:"share of compare-and-put transactions"`
	Watch   bool          `yaml:"watch" default:"true" doc:"one watcher per member that follows everything"`
	Timeout time.Duration `yaml:"timeout" default:"1s" doc:"a client gives an operation up after this time; it is then unknown"`
	Backoff time.Duration `yaml:"backoff" default:"10ms" doc:"pause after an operation that was not acknowledged; a lost connection is dialled again after 5ms to 20ms, and no later than after this"`
	Probe   time.Duration `yaml:"probe" default:"10ms" doc:"interval of the probers that measure outages, one for reads and one for writes; 0 = none"`
	Warmup  time.Duration `yaml:"warmup" default:"500ms" doc:"load before the first step"`
	Gate    Rate          `yaml:"gate" doc:"acknowledged operations per second that must be reached before the first break, half of rate when absent; below it the run is void"`
	Through Target        `yaml:"through" doc:"which members the clients talk to; all when absent"`
}

// Rate is a number of operations per second such as 200/s.
type Rate float64

// End is the `end:` part: how the cluster must stand when everything is
// healed. Absent means: as many voters as at the start.
type End struct {
	Voters   int    `yaml:"voters" doc:"voting members; as many as at the start when absent"`
	Learners int    `yaml:"learners" doc:"learners"`
	Skip     string `yaml:"skip" doc:"the reason why nothing is promised about the end"`
}

// Expect is a promise about the whole run: a term, and for most terms a
// comparison: "outage.first < 5s", "lost == 0", "linearizable".
type Expect struct {
	Text     string  `json:"text"`
	Term     string  `json:"term"`          // one of ExpectTerms
	Arg      string  `json:"arg,omitempty"` // what follows the dot
	Op       string  `json:"op,omitempty"`  // < <= == != >= >
	Value    float64 `json:"value"`         // seconds for times
	Standing bool    `json:"standing,omitempty"`
}

// ExpectTerm describes a word of the expect language.
type ExpectTerm struct {
	Doc  string
	Unit string // "s" time, "n" number, "" a bare promise
	Arg  string // what may follow a dot
}

// ExpectTerms is the whole language of `expect`.
var ExpectTerms = map[string]ExpectTerm{
	"rto":          {"longest time without an accepted write", "s", ""},
	"outage":       {"time without an accepted write that began during this fault", "s", "fault"},
	"read-outage":  {"time without an answered linearizable read that began during this fault", "s", "fault"},
	"lost":         {"acknowledged writes that are not there in the end", "n", ""},
	"undone":       {"acknowledged writes that a restore took back on purpose; 0 when nothing is said about it", "n", ""},
	"resurrected":  {"keys that are there though their deletion was acknowledged", "n", ""},
	"unknown":      {"writes of which no client knows whether they happened", "n", ""},
	"acked":        {"acknowledged writes", "n", ""},
	"elections":    {"terms in which a leader was seen, less one", "n", ""},
	"latency":      {"latency of acknowledged writes", "s", "p50, p95, p99 or max"},
	"linearizable": {"what clients saw is linearizable, key by key", "", ""},
	"revisions":    {"no client saw a revision go back", "", ""},
	"watch":        {"every watcher saw every event once, in order, or was told why not", "", ""},
}

// StandingPromises are asserted in every drill with load that says nothing
// else about the same term.
var StandingPromises = []string{"lost == 0", "resurrected == 0", "linearizable", "revisions", "watch"}

// Promises returns the drill's expectations and the standing ones.
func (d *Drill) Promises() []Expect {
	out := slices.Clone(d.Expect)
	if d.Load == nil {
		return out
	}
	for _, text := range StandingPromises {
		e, err := ParseExpect(text)
		if err != nil {
			panic(err) // a table in this file is wrong
		}
		if slices.ContainsFunc(out, func(o Expect) bool { return o.Term == e.Term }) {
			continue
		}
		e.Standing = true
		out = append(out, e)
	}
	return out
}

// AllNeeds lists the abilities a drill needs: its own and its faults'.
func (d *Drill) AllNeeds() []Cap {
	out := slices.Clone(d.Needs)
	if d.Cluster.Etcd != "" || len(d.Cluster.EtcdOf) > 0 {
		out = append(out, CapBinary)
	}
	if d.Cluster.Disk > 0 {
		out = append(out, CapSmall)
	}
	if d.Cluster.ByDNS() {
		out = append(out, CapDNS)
	}
	if d.Cluster.Adopt != nil {
		out = append(out, CapAdopt)
	}
	for s := range d.Each {
		if n, ok := s.Args.(interface{ Needs() []Cap }); ok {
			out = append(out, n.Needs()...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Each walks all steps, inner ones after the step that holds them.
func (d *Drill) Each(yield func(*Step) bool) { each(d.Steps, yield) }

func each(steps []Step, yield func(*Step) bool) bool {
	for i := range steps {
		if !yield(&steps[i]) || !each(steps[i].Steps, yield) {
			return false
		}
	}
	return true
}

// Has tells whether the drill carries a tag.
func (d *Drill) Has(tag string) bool { return slices.Contains(d.Tags, tag) }

// Valid refuses what cannot be provisioned.
func (s *Spec) Valid() error {
	if s.Adopt != nil {
		return s.alone()
	}
	switch {
	case s.Members < 1 || s.Members > 9:
		return fmt.Errorf("members: %d: expected 1 to 9", s.Members)
	case s.Spares < 0 || s.Spares > 9:
		return fmt.Errorf("spares: %d: expected 0 to 9", s.Spares)
	case s.TLS != "mutual" && s.TLS != "off":
		return fmt.Errorf("tls: %q: expected mutual or off", s.TLS)
	case s.Peers != "lab" && s.Peers != "loopback":
		return fmt.Errorf("peers: %q: expected lab or loopback", s.Peers)
	case s.Peers == "loopback" && s.Members > 1:
		return fmt.Errorf("peers: loopback: expected a cluster of one member, nobody else could reach it")
	case s.Discovery != "" && s.Discovery != "static" && s.Discovery != "dns":
		return fmt.Errorf("discovery: %q: expected static or dns", s.Discovery)
	case s.ByDNS() && s.Peers != "lab":
		return fmt.Errorf("discovery: dns: expected peers: lab, whose names the DNS knows")
	case s.ByDNS() && (s.Etcd != "" || len(s.EtcdOf) > 0):
		return fmt.Errorf("discovery: dns: expected the embedded etcd, without `etcd` and `etcd-of`: others ask the DNS of their machine, which does not know the lab")
	case s.Disk != 0 && s.Disk < 256<<20:
		return fmt.Errorf("disk: %s: expected at least 256MiB: etcd sets aside 64 MiB for each WAL file", s.Disk)
	case s.Heartbeat < time.Millisecond:
		return fmt.Errorf("heartbeat: %s: expected at least 1ms", s.Heartbeat)
	case s.Election < 5*s.Heartbeat:
		return fmt.Errorf("election: %s: expected at least five heartbeats (%s): etcd refuses less", s.Election, 5*s.Heartbeat)
	case s.Election > 50*time.Second:
		return fmt.Errorf("election: %s: expected at most 50s: etcd refuses more", s.Election)
	}
	return nil
}

// ByDNS tells whether members and clients find each other by DNS.
func (s *Spec) ByDNS() bool { return s.Discovery == "dns" }

// Valid refuses loads that cannot be.
func (l *LoadSpec) Valid() error {
	switch {
	case l.Clients < 1 || l.Clients > 1000:
		return fmt.Errorf("clients: %d: expected 1 to 1000", l.Clients)
	case l.Keys < 1:
		return fmt.Errorf("keys: %d: expected at least 1", l.Keys)
	case l.Size < 32:
		return fmt.Errorf("size: %d: expected at least 32, for a value that is unique", l.Size)
	case l.Reads < 0 || l.Deletes < 0 || l.Txns < 0 || l.Reads+l.Deletes+l.Txns > 1:
		return fmt.Errorf("reads, deletes, txns: expected shares that add up to at most 1; the rest are puts")
	case l.Timeout <= 0 || l.Backoff <= 0 || l.Probe < 0 || l.Warmup < 0 || l.Rate < 0 || l.Gate < 0:
		return fmt.Errorf("rate, gate, timeout, backoff, probe, warmup: expected no negative value, and timeout and backoff above 0")
	}
	return nil
}

// ParseExpect reads one promise.
func ParseExpect(text string) (Expect, error) {
	e := Expect{Text: text}
	f := strings.Fields(text)
	if len(f) == 0 {
		return e, fmt.Errorf("empty promise: expected one of %s", strings.Join(sortedKeys(ExpectTerms), ", "))
	}
	e.Term, e.Arg, _ = strings.Cut(f[0], ".")
	term, ok := ExpectTerms[e.Term]
	if !ok {
		return e, fmt.Errorf("unknown promise %q%s: expected one of %s", e.Term, Meant(e.Term, sortedKeys(ExpectTerms)), strings.Join(sortedKeys(ExpectTerms), ", "))
	}
	if (e.Arg != "") != (term.Arg != "") {
		if term.Arg == "" {
			return e, fmt.Errorf("%s: expected nothing after a dot, got %q", e.Term, e.Arg)
		}
		return e, fmt.Errorf("%s: expected %s.NAME with the name of a %s", e.Term, e.Term, term.Arg)
	}
	if term.Unit == "" {
		if len(f) != 1 {
			return e, fmt.Errorf("%s: expected the word alone", e.Term)
		}
		return e, nil
	}
	if len(f) != 3 || !slices.Contains([]string{"<", "<=", "==", "!=", ">=", ">"}, f[1]) {
		return e, fmt.Errorf("%q: expected %q, a comparison (< <= == != >= >) and a value, with spaces between", text, f[0])
	}
	e.Op = f[1]
	if term.Unit == "s" {
		d, err := time.ParseDuration(f[2])
		if err != nil {
			return e, fmt.Errorf("%q: expected a time such as 5s or 300ms", f[2])
		}
		e.Value = d.Seconds()
		return e, nil
	}
	if _, err := fmt.Sscanf(f[2]+"\n", "%g\n", &e.Value); err != nil {
		return e, fmt.Errorf("%q: expected a number", f[2])
	}
	return e, nil
}

// Met compares a measured value with the promise.
func (e Expect) Met(v float64) bool {
	switch e.Op {
	case "<":
		return v < e.Value
	case "<=":
		return v <= e.Value
	case "==":
		return v == e.Value
	case "!=":
		return v != e.Value
	case ">=":
		return v >= e.Value
	case ">":
		return v > e.Value
	}
	return false
}

// Meant is ` (did you mean "x"?)` when one of the words is near.
func Meant(word string, words []string) string {
	best, at := 3, ""
	for _, w := range words {
		if d := distance(strings.ToLower(word), w); d < best && d < len(w) {
			best, at = d, w
		}
	}
	if at == "" {
		for _, w := range words {
			if len(word) > 2 && (strings.Contains(w, word) || strings.Contains(word, w)) {
				at = w
				break
			}
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", at)
}

// distance is the number of letters to change, add, drop or swap.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

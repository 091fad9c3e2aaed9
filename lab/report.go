package lab

import "time"

// Verdict is how a drill, a step or an expectation ended.
type Verdict string

const (
	Pass      Verdict = "pass"
	Fail      Verdict = "fail"    // an explicit finding: something promised does not hold
	Error     Verdict = "error"   // could not provision, inject or look
	Undecided Verdict = "unknown" // looked, and cannot decide
	Skip      Verdict = "skip"    // not possible on this driver; nothing was started
)

// Worst returns the verdict that decides over several: a finding beats
// everything, then what we could not do, then what we could not decide. A skip
// never hides a pass.
func Worst(vs ...Verdict) Verdict {
	rank := map[Verdict]int{"": 0, Skip: 0, Pass: 1, Undecided: 2, Error: 3, Fail: 4}
	worst := Verdict("")
	for _, v := range vs {
		if rank[v] > rank[worst] || worst == "" {
			worst = v
		}
	}
	return worst
}

// SchemaVersion of report.json. It grows when a field changes its meaning;
// fields may be added without.
const SchemaVersion = 1

// Report is plain data, computed from a run's journal and history. Seconds are
// since the run began.
type Report struct {
	SchemaVersion int                `json:"schemaVersion"`
	ID            string             `json:"id"`
	Drill         string             `json:"drill"`
	Title         string             `json:"title"`
	Why           string             `json:"why,omitempty"`
	Tags          []string           `json:"tags,omitempty"`
	Driver        string             `json:"driver"`
	Verdict       Verdict            `json:"verdict"`
	Reason        string             `json:"reason"` // one sentence for people
	Seed          uint64             `json:"seed"`
	Started       time.Time          `json:"started"`
	Duration      float64            `json:"duration_s"`
	Interrupted   bool               `json:"interrupted,omitempty"`
	Steps         []StepReport       `json:"steps"`
	Faults        []FaultReport      `json:"faults"`
	Outages       []Outage           `json:"outages"`
	RTO           *float64           `json:"rto_s"`        // longest write outage; null when nobody measured
	Resolution    float64            `json:"resolution_s"` // how finely outages were measured: prober interval + back-off
	Ops           int                `json:"ops"`
	AckedWrites   int                `json:"acked_writes"`
	LostWrites    *int               `json:"lost_writes"` // null: could not be counted
	UnknownWrites int                `json:"unknown_writes"`
	UndoneWrites  int                `json:"undone_writes,omitempty"` // acknowledged, and taken back by a restore on purpose
	Lost          []Finding          `json:"lost,omitempty"`          // the first hundred
	Linearizable  string             `json:"linearizable"`            // yes, no, unknown
	Findings      []Finding          `json:"findings"`                // everything the judges found, lost writes excepted
	Expect        []ExpectReport     `json:"expect"`
	Latency       map[string]Latency `json:"latency,omitempty"` // by kind: write, read
	Members       []MemberReport     `json:"members"`
	Environment   map[string]string  `json:"environment"`
	Left          []string           `json:"left_behind"`
	Picture       *Picture           `json:"picture,omitempty"`
}

// StepReport is one step as it went.
type StepReport struct {
	Index    string  `json:"index"`
	Line     int     `json:"line"`
	Word     string  `json:"word"`
	Verb     string  `json:"verb"`
	Target   string  `json:"target,omitempty"`
	Why      string  `json:"why,omitempty"`
	Verdict  Verdict `json:"verdict"`
	Reason   string  `json:"reason,omitempty"`
	Start    float64 `json:"start_s"`
	Duration float64 `json:"duration_s"`
}

// FaultReport is a fault from its injection until it was proved gone.
type FaultReport struct {
	Name    string   `json:"name"`
	Verb    string   `json:"verb"`
	Targets []string `json:"targets"`
	Start   float64  `json:"start_s"`
	Bites   *float64 `json:"bites_s"` // null: never proved
	Heal    *float64 `json:"heal_s"`  // null: never healed
	Gone    *float64 `json:"gone_s"`  // null: never proved gone
	Proof   string   `json:"proof,omitempty"`
	Cure    string   `json:"cure,omitempty"`
}

// Outage is a time in which no client got an answer of a kind from any
// member, seen from the clients.
type Outage struct {
	Kind     string  `json:"kind"` // read (linearizable) or write
	Start    float64 `json:"start_s"`
	End      float64 `json:"end_s"`
	Duration float64 `json:"duration_s"`
	During   string  `json:"during"`         // name of the fault or heal it follows, empty = none
	Open     bool    `json:"open,omitempty"` // it had not ended when the load ended
}

// Finding is something a judge found.
type Finding struct {
	Judge  string  `json:"judge"` // lost, resurrected, revisions, watch, linearizable, divergence
	Key    string  `json:"key,omitempty"`
	What   string  `json:"what"`
	At     float64 `json:"at_s,omitempty"`
	Client int     `json:"client,omitempty"`
}

// ExpectReport is one promise about the whole run, with what was measured.
type ExpectReport struct {
	Text     string  `json:"text"`
	Measured string  `json:"measured"`
	Verdict  Verdict `json:"verdict"`
	Standing bool    `json:"standing,omitempty"` // promised in every drill
}

// MemberReport is one member over the run.
type MemberReport struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Version string   `json:"version"`
	Terms   []uint64 `json:"terms"` // in which it led
}

// Latency of acknowledged operations, in seconds.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_s"`
	P95   float64 `json:"p95_s"`
	P99   float64 `json:"p99_s"`
	Max   float64 `json:"max_s"`
}

// Picture is the smallest window of operations around a violation.
type Picture struct {
	Judge string `json:"judge"`
	Key   string `json:"key"`
	Text  string `json:"text"` // what is wrong, in a sentence
	Bad   int    `json:"bad"`  // index into Ops of the first operation that cannot be
	Ops   []Op   `json:"ops"`
	Cut   int    `json:"cut,omitempty"` // operations left out
}

package lab

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"
)

// Driver makes labs: hosts, and an etcd cluster on them. A driver knows
// nothing of verbs, and verbs nothing of drivers.
//
// A driver is whatever passes drivers/drivertest.
type Driver interface {
	// Name is the word for --driver.
	Name() string

	// Caps says what this driver can do here and now. It looks at the machine
	// and changes nothing that lasts. It never fails: what it could not find
	// out is a Cap it lacks, with the reason.
	Caps(ctx context.Context) Caps

	// Up makes a lab named id and starts its cluster; it returns when every
	// member was started and the cluster has a leader. On error everything it
	// had made is gone again, except what the error says. An id is used once.
	Up(ctx context.Context, id string, spec Spec) (*Cluster, error)

	// Open finds a lab again that Up made, also in another process. A lab
	// that does not exist gives an error that matches fs.ErrNotExist.
	Open(ctx context.Context, id string) (*Cluster, error)

	// Down removes a lab whole: processes (paused ones too), rules, files. It
	// may be called twice, for a lab that is half made, and for one that is
	// half gone; nil means that nothing of it is left.
	Down(ctx context.Context, id string) error

	// Keep makes a lab stay when the process that made it ends, until Down.
	Keep(ctx context.Context, id string) error

	// Left lists the labs that exist, half made and half gone ones included.
	// What could not be looked at is an error beside what was found.
	Left(ctx context.Context) ([]Left, error)
}

// Left is a lab found by Driver.Left.
type Left struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// Keep is true for a lab that was made to stay.
	Keep bool `json:"keep"`
	// Owned is true while the etcdrill process that made the lab lives.
	Owned bool `json:"owned"`
	// Drill names what the lab was made for.
	Drill string   `json:"drill,omitempty"`
	What  []string `json:"what"` // what there is, such as "process 4711 (m1)"
}

// Cap is an ability that a fault or an action needs and that not every driver
// has, or not on every machine.
type Cap string

// The abilities. Each is proved to bite by drivers/drivertest, the last one by
// the tests of package main, which need a cluster that nobody here made.
const (
	CapSignal Cap = "signal" // crash, stop and pause a member's process
	CapLinks  Cap = "links"  // cut and slow what hosts and clients say to each other
	CapTrace  Cap = "trace"  // syscall injection: slow and failing disks
	CapBinary Cap = "etcd"   // other etcd binaries than the embedded ones
	CapSmall  Cap = "disk"   // a filesystem of its own for each data directory, see Spec.Disk
	CapClock  Cap = "clock"  // each host owns its clock
	CapPower  Cap = "power"  // hosts can be switched off and on
	CapUnits  Cap = "hosts"  // hosts with systemd
	CapDNS    Cap = "dns"    // names of its own, see Spec.Discovery
	CapAdopt  Cap = "adopt"  // a cluster that is there already, see Spec.Adopt
)

// Caps maps each ability to "" (has it) or to the reason why not. An ability
// that is not in the map is lacking: "not offered by this driver".
type Caps map[Cap]string

// Lacks returns why the needs are not met, in a fixed order, nil when they are.
func (c Caps) Lacks(needs []Cap) []string {
	var out []string
	seen := map[Cap]bool{}
	for _, n := range needs {
		why, ok := c[n]
		if seen[n] || ok && why == "" {
			continue
		}
		seen[n] = true
		if !ok {
			why = "not offered by this driver"
		}
		out = append(out, fmt.Sprintf("%s: %s", n, why))
	}
	sort.Strings(out)
	return out
}

// String lists the abilities, those that are lacking with their reason.
func (c Caps) String() string {
	var out []string
	for n, why := range c {
		if why == "" {
			out = append(out, string(n))
		} else {
			out = append(out, fmt.Sprintf("no %s (%s)", n, why))
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// Links is the network of a lab. Ends are host names, and "client" for
// everybody who is not a host. A rule holds for one direction of one pair;
// rules of several owners on the same pair add up.
//
// Rules bite on connections that are open already. All methods may be called
// concurrently and again.
type Links interface {
	// Set puts owner's rule on what from sends to to, instead of an earlier
	// rule of the same owner there.
	Set(ctx context.Context, owner, from, to string, r Rule) error

	// Clear takes away all rules of owner. Connections that were held back
	// go on.
	Clear(ctx context.Context, owner string) error

	// Rules lists what is set.
	Rules(ctx context.Context) ([]LinkRule, error)

	// Probe sends a small message over a new connection from one end to the
	// other and back, and returns the round trip time. It fails when ctx ends
	// or the connection is refused.
	Probe(ctx context.Context, from, to string) (time.Duration, error)
}

// Rule is what befalls one direction of a link. The zero Rule lets all pass.
type Rule struct {
	Drop   bool          `json:"drop,omitempty"`   // silence: nothing arrives, nobody is told
	Reject bool          `json:"reject,omitempty"` // new connections are refused, open ones reset
	Delay  time.Duration `json:"delay,omitempty"`  // added to every message
	Jitter time.Duration `json:"jitter,omitempty"` // delay varies by up to ± Jitter, order is kept
	Loss   float64       `json:"loss,omitempty"`   // share of segments, 0 to 1, that arrive only when they are sent again
	Rate   int64         `json:"rate,omitempty"`   // bytes per second, 0 = unlimited
}

// LinkRule is a Rule in place, with what it did since it was set.
type LinkRule struct {
	Owner, From, To string
	Rule            Rule
	Held            int64 // bytes and connection attempts held back or delayed
}

// Tracer injects faults into the system calls a member's process makes on its
// files, with the machine's own tools; the binary stays stock.
type Tracer interface {
	// Inject starts an injection owned by owner on the process of host. It
	// returns when the tracer is attached.
	Inject(ctx context.Context, owner, host string, in Injection) error
	// Clear ends all injections of owner; the process goes on untraced.
	Clear(ctx context.Context, owner string) error
	// Hits counts the system calls that owner's injections have hit so far.
	Hits(ctx context.Context, owner string) (int, error)
}

// DNS is that of a lab whose cluster finds itself by it: one zone, served
// on every host by a server of its own, which is the only one that the host's
// etcd tools ask. Owners change the zone side by side, the first one first.
//
// All methods may be called concurrently and again.
type DNS interface {
	// Set puts owner's change, on all hosts, in place of an earlier one of the
	// same owner.
	Set(ctx context.Context, owner string, c ZoneChange) error

	// Clear takes owner's change away on all hosts.
	Clear(ctx context.Context, owner string) error

	// Zone is what the server of a host knows.
	Zone(ctx context.Context, host string) (Zone, error)

	// Lookup asks the server of a host, on that host and the way its etcd does,
	// and returns the data of the records it is told, sorted: none when there
	// are none. kind is "A" or "SRV". No answer is an error.
	Lookup(ctx context.Context, host, kind, name string) ([]string, error)
}

// Record is a record of a zone.
type Record struct {
	Name string `json:"name"` // whole, without the last dot
	Type string `json:"type"` // "A" or "SRV"
	Data string `json:"data"` // as in a zone file, names without the last dot: "192.0.2.1", "0 0 2380 m1.lab.test"
}

// ZoneChange is what an owner makes of a zone.
type ZoneChange struct {
	Without []Record `json:"without,omitempty"` // records that are not served
	With    []Record `json:"with,omitempty"`    // and those that are
	Silent  bool     `json:"silent,omitempty"`  // nobody is answered
}

// Zone is what a server knows.
type Zone struct {
	Made       []Record // as the lab was made
	Now        []Record // as it is served
	Owners     []string // of changes
	Silent     bool
	Unanswered int // questions so far that were left without an answer
}

// Power is the power switch of a lab's hosts. Both methods may be called again,
// and from another process.
type Power interface {
	// Off takes a host's power away: nothing on it is asked, told or synced. nil
	// when it is off already.
	Off(ctx context.Context, host string) error
	// On gives it back and returns when commands can be run on the host again.
	// nil when it is on already.
	On(ctx context.Context, host string) error
}

// DeadMan is what hosts do by themselves when the lab's owner is not heard of
// any more: they end the member, paused or not, clear rules and injections, and
// run what was armed. It is for faults that outlive a member's process.
type DeadMan interface {
	// Arm books commands that undo what owner is about to do to a host, instead
	// of what it booked there before. They run as root on the host, in order, the
	// last owner's first, and must do no harm when there is nothing to undo or
	// when the host has booted since.
	Arm(ctx context.Context, owner, host string, undo ...[]string) error
	// Disarm forgets what owner has booked on a host; nil when that is nothing.
	Disarm(ctx context.Context, owner, host string) error
}

// Injection describes what happens to which system calls.
type Injection struct {
	Calls []string      // names such as "write" or "fdatasync"
	Files string        // glob below the data directory, such as "member/wal/*.wal"
	Delay time.Duration // before the call runs
	Errno string        // such as "EIO": the call fails instead
	After int           // let this many calls pass first
}

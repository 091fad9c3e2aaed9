package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"
)

// Spec is the `cluster:` part of a drill: what to provision.
type Spec struct {
	Members   int               `yaml:"members" default:"3" doc:"number of voting members at the start, 1 to 9"`
	Spares    int               `yaml:"spares" doc:"hosts without etcd, named after the members, for growing and replacing; 0 to 9"`
	TLS       string            `yaml:"tls" default:"mutual" doc:"mutual (clients and peers show certificates) or off"`
	Heartbeat time.Duration     `yaml:"heartbeat" default:"100ms" doc:"raft heartbeat interval"`
	Election  time.Duration     `yaml:"election" default:"1s" doc:"raft election timeout, at least 5 heartbeats, at most 50s"`
	Quota     Bytes             `yaml:"quota" doc:"quota-backend-bytes, such as 16MiB; etcd's default when absent"`
	Disk      Bytes             `yaml:"disk" doc:"a filesystem of its own, of this size, for each data directory, such as 512MiB; absent: that of the host"`
	Snapshots int               `yaml:"snapshot-count" doc:"raft entries between two snapshots of a member; etcd's default when absent"`
	CatchUp   int               `yaml:"catch-up-entries" doc:"raft entries a member keeps for slow followers; etcd's default when absent"`
	Peers     string            `yaml:"peers" default:"lab" doc:"lab (peer URLs with the host's address) or loopback (http://127.0.0.1, a member that nobody can join)"`
	Discovery string            `yaml:"discovery" default:"static" doc:"static (each member is told all of them) or dns (the first members, and clients that want to, find them by SRV records; all URLs are names)"`
	Etcd      string            `yaml:"etcd" doc:"directory with etcd, etcdctl and etcdutl to run instead of the embedded ones"`
	EtcdOf    map[string]string `yaml:"etcd-of" doc:"the same for single members: name to directory"`
	Revive    bool              `yaml:"revive" doc:"the hosts' supervisors start a member that ended by itself again, a second later; faults and steps that stop one tell them"`
	Flags     map[string]string `yaml:"flags" doc:"further etcd settings, as in its configuration file"`
	Adopt     *Adopt            `yaml:"adopt" doc:"no new cluster: one that is there already; alone in cluster"`

	Slower int `yaml:"-" json:"slower,omitempty"` // how many times slower its machines are than most, see Drill.Slow; 0 when they are not
}

// Bytes is a size such as 16MiB; a bare number counts bytes.
type Bytes int64

// Cluster is a lab that is up: hosts, the members on them and how to reach
// both. It is made by a Driver and safe for concurrent use; Members changes
// only through Join and Retire.
type Cluster struct {
	ID     string
	Driver string
	Spec   Spec
	Hosts  []Host      // all hosts, spares included, in order of name
	Seats  []*Member   // one per host, in the same order: a member, or the place for one
	TLS    *tls.Config // for clients; nil without TLS. Never write to it
	Links  Links       // nil where the driver lacks CapLinks
	Tracer Tracer      // nil where the driver lacks CapTrace
	Power  Power       // nil where the driver lacks CapPower
	DNS    DNS         // nil unless Spec.ByDNS
	// LinksBy says what carries out the rules of Links, for the report: "proxy"
	// (etcdrill itself), "nft+netem" (the hosts' kernels), "nft, proxy for delays".
	LinksBy string
	// Forbids tells whether a fault must not befall a member's host; nil: all may.
	Forbids func(member, fault string) bool
	// DeadMan is nil where labs end with their owner, so that nothing is left to
	// undo.
	DeadMan DeadMan
	// Halts each wait for something that makes the lab useless to who drills on
	// it: a host that shows another key than before, an engine that went away, a
	// dead man's switch that fell. They return why, or nil when ctx ends.
	Halts []func(ctx context.Context) error
	Caps  Caps
	Dir   string // directory of the lab on this machine: ledger and, for the user, keys
	// Found says what an adopted cluster was found to be, a line for each member.
	Found []string
}

// Member is a place for an etcd member on a host: its process, addresses and
// directory. Whether it is a member just now is said by the cluster itself,
// not by this struct.
type Member struct {
	Name      string
	Host      Host
	Proc      Proc
	ClientURL string // for everybody outside the hosts
	LocalURL  string // for commands that run on the host itself: past the links
	PeerURL   string // for the other members; part of the member's identity
	PeerBind  string // URL it listens on for them, where that is not PeerURL; else empty
	Advertise string // URL for clients that it tells the cluster, where that is not ClientURL; else empty
	HealthURL string // plain http on loopback of the host: /livez, /readyz, /health, /metrics
	DataDir   string // absolute path on the host
	Config    string // absolute path on the host of etcd's configuration file; empty: an adopted one that has none
	PKI       string // absolute path on the host of its certificates; empty without TLS
	Bin       string // directory on the host with etcd, etcdctl and etcdutl; empty where nothing may be put on the host
	// HealthTLS is for HealthURL where that is https, as it may be of an adopted
	// member; else nil.
	HealthTLS *tls.Config
}

// Member finds a seat by name.
func (c *Cluster) Member(name string) (*Member, error) {
	for _, m := range c.Seats {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no member %q in this lab: it has %s", name, strings.Join(c.Names(), ", "))
}

// Names lists all seats.
func (c *Cluster) Names() []string {
	var out []string
	for _, m := range c.Seats {
		out = append(out, m.Name)
	}
	return out
}

// Status is what one look at one seat found.
type Status struct {
	Name     string   `json:"name"`
	Up       bool     `json:"up"`              // it answered a status request
	Error    string   `json:"error,omitempty"` // why it did not
	ID       string   `json:"id,omitempty"`    // member id, hexadecimal
	Cluster  string   `json:"cluster,omitempty"`
	Leader   string   `json:"leader,omitempty"` // member id of whom it follows; empty = none
	Role     string   `json:"role,omitempty"`   // "leader", "follower", "learner", "none" (up, knows no leader)
	Term     uint64   `json:"term,omitempty"`
	Index    uint64   `json:"index,omitempty"`
	Applied  uint64   `json:"applied,omitempty"`
	Revision int64    `json:"revision,omitempty"`
	DBSize   int64    `json:"db,omitempty"`
	Version  string   `json:"version,omitempty"`
	Alarms   []string `json:"alarms,omitempty"`
	// Absent: a seat that was never configured or whose member was removed.
	Absent bool `json:"absent,omitempty"`
}

// Target says whom: a role or names. In a drill it is a string such as
// "leader" or "m1, m3"; the engine replaces the role by names right before the
// verb runs, see Pick.
type Target struct {
	Role  string   `json:"role"`            // as written
	Names []string `json:"names,omitempty"` // as resolved
}

// Roles are the words a Target may use beside names of members.
var Roles = map[string]string{
	"leader":    "the current leader",
	"followers": "all voting members but the leader",
	"follower":  "one follower, by the seed",
	"minority":  "the most members that can be lost, the leader among them",
	"majority":  "the fewest members whose loss loses the quorum, the leader among them",
	"learner":   "the learners",
	"voters":    "all voting members",
	"all":       "all members, learners included",
	"random":    "one member, by the seed",
	"spare":     "the first host without a member",
	"down":      "members that do not answer",
	"up":        "members that answer",
}

func (t Target) String() string {
	if n := strings.Join(t.Names, ", "); n != "" && n != t.Role {
		return t.Role + " (" + n + ")"
	}
	return t.Role
}

// UnmarshalYAML reads a role, a name, or several with commas or as a list.
func (t *Target) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if err := unmarshal(&one); err == nil {
		t.Role = one
		return nil
	}
	var many []string
	if err := unmarshal(&many); err != nil {
		return fmt.Errorf("expected a role (%s) or names of members", strings.Join(sortedKeys(Roles), ", "))
	}
	t.Role = strings.Join(many, ", ")
	return nil
}

// Quorum is how many of n voting members must agree: more than half.
func Quorum(n int) int { return n/2 + 1 }

// Tolerates is how many of n voting members may be lost.
func Tolerates(n int) int { return n - Quorum(n) }

// Pick resolves a target against a look at the cluster. The same statuses and
// the same state of r give the same names. A role that nobody holds just now
// is an error, never an empty pick.
func Pick(role string, look []Status, r *rand.Rand) ([]string, error) {
	var voters, followers, learners, all, spare, down, up []string
	leader := ""
	for _, s := range look {
		if s.Absent {
			spare = append(spare, s.Name)
			continue
		}
		all = append(all, s.Name)
		if !s.Up {
			down = append(down, s.Name)
		} else {
			up = append(up, s.Name)
		}
		switch {
		case s.Role == "learner":
			learners = append(learners, s.Name)
			continue
		case s.Role == "leader" && s.Up && newest(look, s):
			leader = s.Name
		default:
			followers = append(followers, s.Name)
		}
		voters = append(voters, s.Name)
	}
	one := func(from []string) ([]string, error) {
		if len(from) == 0 {
			return nil, fmt.Errorf("nobody is %q just now", role)
		}
		return []string{from[r.IntN(len(from))]}, nil
	}
	some := func(from []string) ([]string, error) {
		if len(from) == 0 {
			return nil, fmt.Errorf("nobody is %q just now", role)
		}
		return slices.Clone(from), nil
	}
	// The leader first, then the others in an order drawn from the seed.
	lossy := func(n int) ([]string, error) {
		rest := slices.DeleteFunc(slices.Clone(voters), func(s string) bool { return s == leader })
		r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		if leader != "" {
			rest = append([]string{leader}, rest...)
		}
		if n < 1 || n > len(rest) {
			return nil, fmt.Errorf("no %s of %d voting members", role, len(voters))
		}
		pick := rest[:n]
		sort.Strings(pick)
		return pick, nil
	}
	switch role {
	case "leader":
		if leader == "" {
			return nil, fmt.Errorf("there is no leader just now")
		}
		return []string{leader}, nil
	case "followers":
		if leader == "" {
			return nil, fmt.Errorf("there is no leader just now, so nobody follows")
		}
		return some(followers)
	case "follower":
		if leader == "" {
			return nil, fmt.Errorf("there is no leader just now, so nobody follows")
		}
		return one(slices.DeleteFunc(slices.Clone(followers), func(s string) bool { return slices.Contains(down, s) }))
	case "minority":
		return lossy(Tolerates(len(voters)))
	case "majority":
		return lossy(Quorum(len(voters)))
	case "learner":
		return some(learners)
	case "voters":
		return some(voters)
	case "all":
		return some(all)
	case "random":
		return one(all)
	case "spare":
		if len(spare) == 0 {
			return nil, fmt.Errorf("no spare host is left: raise `cluster.spares`")
		}
		return spare[:1], nil
	case "down":
		return some(down)
	case "up":
		return some(up)
	}
	var names []string
	for _, n := range strings.Split(role, ",") {
		n = strings.TrimSpace(n)
		if !slices.ContainsFunc(look, func(s Status) bool { return s.Name == n }) {
			return nil, fmt.Errorf("%q is neither a role nor a member: roles are %s", n, strings.Join(sortedKeys(Roles), ", "))
		}
		names = append(names, n)
	}
	return names, nil
}

// newest tells a leader from a deposed one that does not know it yet.
func newest(look []Status, s Status) bool {
	for _, o := range look {
		if o.Role == "leader" && o.Term > s.Term {
			return false
		}
	}
	return true
}

// RoleNames lists the roles in order.
func RoleNames() []string { return sortedKeys(Roles) }

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

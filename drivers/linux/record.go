package linux

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/names"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// Record is lab.json, in the lab's directory on this machine: all that another
// process must know to use a lab, beside how its hosts are reached.
type Record struct {
	ID      string       `json:"id"`
	Driver  string       `json:"driver"`
	Created time.Time    `json:"created"`
	Keep    bool         `json:"keep"`
	Owner   process.Life `json:"owner"`
	Drill   string       `json:"drill,omitempty"`
	Spec    lab.Spec     `json:"spec"`
	Seats   []Seat       `json:"seats"`
	Tunnel  bool         `json:"tunnel"`
	Caps    lab.Caps     `json:"caps"`
	Token   string       `json:"token"` // of the agents
	Links   kernel.Means `json:"links"` // what the hosts' kernels do for the links
}

// Seat is a host with the ports of its member.
type Seat struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // under which the other hosts reach it
	Dir  string `json:"dir"`  // on the host
	Ports
	Found *Found `json:"found,omitempty"` // a member that was there already; nil: one of the lab's own
}

// agentless tells whether nothing of the lab is on its hosts.
func (r Record) agentless() bool { return r.Spec.Adopt != nil && r.Spec.Adopt.ReadOnly() }

// unit is the unit of a seat's member in lab id.
func (s Seat) unit(id string) *unit {
	if s.Found == nil {
		return &unit{name: etcdUnit(id)}
	}
	return &unit{name: s.Found.Unit, dropIn: path.Join(dropInDir, s.Found.Unit+".d", dropInName(id))}
}

// end is the seat's host as others see it.
func (s Seat) end() kernel.End {
	if f := s.Found; f != nil {
		return kernel.End{Name: s.Name, Addr: s.Addr, Ports: append(slices.Clone(f.Listens), s.Echo), Clients: append(slices.Clone(f.Clients), s.Echo)}
	}
	return kernel.End{Name: s.Name, Addr: s.Addr, Ports: []int{s.Front, s.Peer, s.Echo}, Clients: []int{s.Front, s.Echo}}
}

// Ports of one host. Clients and peers use those of etcd, unless they are
// taken by somebody else.
type Ports struct {
	Front  int `json:"front"`  // the agent's listener for clients, its member's client URL
	Peer   int `json:"peer"`   // etcd's listener for peers
	Client int `json:"client"` // etcd's own listener for clients
	Health int `json:"health"` // etcd's listener for health and metrics
	Agent  int `json:"agent"`
	Echo   int `json:"echo"`  // the agent's listener for probes of other hosts
	SOCKS  int `json:"socks"` // the agent's listener for what etcd says to other hosts, on loopback
	DNS    int `json:"dns"`   // the agent's server of names, where the lab has one, on loopback
}

// PortsAt are the usual ports, all moved by the same distance; 0 where the host
// is the lab's alone.
func PortsAt(by int) Ports {
	return Ports{Front: 2379 + by, Peer: 2380 + by, Client: 2382 + by, Health: 2383 + by, Agent: 2384 + by, Echo: 2385 + by, SOCKS: 2386 + by, DNS: 2387 + by}
}

func (p Ports) all() []int {
	return []int{p.Front, p.Peer, p.Client, p.Health, p.Agent, p.Echo, p.SOCKS, p.DNS}
}

// inner is the address of the host's own listeners, which are for the lab
// alone: loopback where the lab comes through a tunnel.
func (r Record) inner(s Seat) string {
	if r.Tunnel {
		return "127.0.0.1"
	}
	return s.Addr
}

// names is what tells the etcd tools of a seat which server of names to ask.
func (r Record) names(s Seat) []string {
	if !r.Spec.ByDNS() {
		return nil
	}
	return []string{names.Env + "=" + join("127.0.0.1", s.DNS)}
}

func join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func (s Seat) etcdLog() string { return path.Join(s.Dir, "etcd.log") }
func (s Seat) config() string  { return path.Join(s.Dir, "etcd.yaml") }
func (s Seat) pki() string     { return path.Join(s.Dir, "pki") }
func (s Seat) data() string {
	if s.Found != nil {
		return s.Found.DataDir
	}
	return path.Join(s.Dir, "data")
}
func (s Seat) bin() string   { return path.Join(s.Dir, "bin") }
func (s Seat) agent() string { return path.Join(s.Dir, "agent.json") }
func (s Seat) undos() string { return path.Join(s.Dir, "undo.json") }

// ReadRecord reads the record of a lab from its directory on this machine.
func ReadRecord(dir string) (Record, error) {
	var r Record
	data, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(dir, "lab.json"), err)
	}
	return r, nil
}

func (r Record) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "lab.json")
	if err := os.WriteFile(file+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func etcdUnit(id string) string  { return "etcdrill-" + id + "-etcd.service" }
func agentUnit(id string) string { return "etcdrill-" + id + "-agent.service" }

const unitDir = "/etc/systemd/system"

package ssh

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/etcdrill/etcdrill/lab"
)

// Inventory is the list of machines that labs may be made on.
type Inventory struct {
	File     string
	Machines []Machine // in the order of the file, with different names
}

// Machine is one of them, with how to log in. It holds no secret.
type Machine struct {
	Name     string            `json:"name"` // for people; in a lab it is m1, m2, …
	Login    Login             `json:"login"`
	Internal string            `json:"internal,omitempty"` // under which the others reach it, where that is not Login.Address
	Labels   map[string]string `json:"labels,omitempty"`
	Faults   []string          `json:"faults,omitempty"` // what may befall it; empty: everything
	Power    Power             `json:"power"`
	Sudo     Sudo              `json:"sudo"`
}

// Login says how to log in somewhere.
type Login struct {
	Address    string   `json:"address"` // name or IP
	Port       int      `json:"port"`
	User       string   `json:"user"`
	Identity   []string `json:"identity,omitempty"`   // files with private keys; none: the usual ones of the user
	Only       bool     `json:"only,omitempty"`       // of the agent's keys, only those of Identity
	Agent      string   `json:"agent,omitempty"`      // socket, or "none"; empty: $SSH_AUTH_SOCK
	KnownHosts []string `json:"knownHosts,omitempty"` // files; none: the usual ones. The first is added to
	Jump       []Login  `json:"jump,omitempty"`       // hosts on the way, the first one is next to us
}

// String is user@address:port.
func (l Login) String() string {
	return l.User + "@" + net.JoinHostPort(l.Address, strconv.Itoa(l.Port))
}

func (l Login) hostPort() string { return net.JoinHostPort(l.Address, strconv.Itoa(l.Port)) }

// Power holds the commands, run on this machine, that switch a host off and
// on. Both are empty where nobody knows how.
type Power struct {
	Off []string `json:"off,omitempty"`
	On  []string `json:"on,omitempty"`
}

// Sudo says whether commands go through sudo.
type Sudo string

// The three answers. SudoAuto: where the user is not root.
const (
	SudoAuto Sudo = "auto"
	SudoYes  Sudo = "true"
	SudoNo   Sudo = "false"
)

// Allows tells whether the inventory lets a fault befall the machine.
func (m Machine) Allows(fault string) bool {
	return len(m.Faults) == 0 || slices.Contains(m.Faults, fault)
}

// Machine finds a machine by its name.
func (i *Inventory) Machine(name string) (Machine, error) {
	var names []string
	for _, m := range i.Machines {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return Machine{}, fmt.Errorf("%s: no host %q%s: it has %s", i.File, name, lab.Meant(name, names), strings.Join(names, ", "))
}

// ReadInventory reads an inventory file:
//
//	ssh-config: FILE                # where aliases are looked up, as ssh -F; ~/.ssh/config and the system's when absent
//	defaults: {user: root, port: 22, identity: ~/.ssh/lab, jump: bastion, sudo: auto, …}
//	hosts:
//	  - address: 10.0.0.11          # name or IP to log in at
//	    internal: 192.168.1.11      # under which the other hosts reach it; address when absent
//	    name: rack1                 # address when absent
//	    labels: {zone: a}
//	    faults: [crash, cut]        # all when absent
//	    power: {off: [virsh, destroy, rack1], on: [virsh, start, rack1]}
//	  - ssh: rack2                  # an alias of ~/.ssh/config; what is given here beside it wins
//	  - rack3                       # the same, short
//
// The error is a lab.Problems with everything that is wrong.
func ReadInventory(file string) (*Inventory, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return ParseInventory(file, src)
}

// ParseInventory is ReadInventory with the text at hand. Relative paths in it
// are relative to file's directory.
func ParseInventory(file string, src []byte) (*Inventory, error) {
	r := &reader{Reader: lab.NewReader(file, src), file: file}
	entries, config := r.read()
	if err := r.Err(); err != nil {
		return nil, err
	}
	inv := r.resolve(entries, newAliases(config))
	if err := r.Err(); err != nil {
		return nil, err
	}
	return inv, nil
}

// entry is one host as written, before aliases are looked up.
type entry struct {
	node    ast.Node // to blame
	given   map[string]bool
	alias   string
	jump    string
	machine Machine
}

type reader struct {
	*lab.Reader
	file string
}

// read is the part of reading an inventory that looks at its text alone.
func (r *reader) read() (entries []entry, config string) {
	root := r.Root("inventory")
	if root == nil {
		return nil, ""
	}
	defaults := entry{machine: Machine{Login: Login{Port: 22}, Sudo: SudoAuto}, given: map[string]bool{}}
	var hosts ast.Node
	r.keys(root, map[string]func(ast.Node){
		"ssh-config": func(n ast.Node) { config = r.path(n) },
		"defaults": func(n ast.Node) {
			table := r.entryKeys(&defaults)
			for _, own := range []string{"name", "address", "internal", "ssh"} {
				delete(table, own)
			}
			r.keys(n, table)
		},
		"hosts": func(n ast.Node) { hosts = n },
	})
	if hosts == nil {
		r.Bad(root, "%q is missing: expected a list of hosts", "hosts")
		return nil, config
	}
	items, ok := r.Items(hosts, "expected a list")
	if ok && len(items) == 0 {
		r.Bad(hosts, "hosts: expected at least one")
	}
	for _, n := range items {
		entries = append(entries, r.entry(n, defaults))
	}
	return entries, config
}

// keys hands the values of a mapping to who knows the key.
func (r *reader) keys(n ast.Node, table map[string]func(ast.Node)) {
	entries, _ := r.Pairs(n, "expected keys with values: "+strings.Join(sortedKeys(table), ", "))
	seen := map[string]bool{}
	for _, kv := range entries {
		key := lab.KeyOf(kv)
		if seen[key] {
			r.Bad(kv.Key, "%q is given twice", key)
			continue
		}
		seen[key] = true
		read, ok := table[key]
		if !ok {
			r.Bad(kv.Key, "unknown word %q%s: expected one of %s", key, lab.Meant(key, sortedKeys(table)), strings.Join(sortedKeys(table), ", "))
			continue
		}
		read(kv.Value)
	}
}

// text reads one value that is not empty.
func (r *reader) text(n ast.Node) string {
	s, ok := r.Scalar(n)
	if !ok {
		return ""
	}
	if s = strings.TrimSpace(s); s == "" {
		r.Bad(n, "expected a value, got nothing")
	}
	return s
}

// texts reads a list, or one value that stands for a list of one.
func (r *reader) texts(n ast.Node) []string {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		return []string{r.text(n)}
	}
	var out []string
	for _, i := range s.Values {
		out = append(out, r.text(i))
	}
	return out
}

// path reads a file name: ~ is the user's home, and what is relative lies
// beside the inventory.
func (r *reader) path(n ast.Node) string { return r.absolute(r.text(n)) }

func (r *reader) absolute(s string) string {
	if s = tilde(s); s != "" && !filepath.IsAbs(s) {
		if abs, err := filepath.Abs(filepath.Join(filepath.Dir(r.file), s)); err == nil {
			return abs
		}
	}
	return s
}

func tilde(s string) string {
	if rest, ok := strings.CutPrefix(s, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return s
}

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]*$`)
	validAddress = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9_.:%-]*$`)
	validUser    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@\\-]*\$?$`)
	validFault   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

func (r *reader) match(n ast.Node, want *regexp.Regexp, what string) string {
	s := r.text(n)
	if s != "" && !want.MatchString(s) {
		r.Bad(n, "%q: expected %s", s, what)
	}
	return s
}

// entryKeys is the table of all that can be said of a host.
func (r *reader) entryKeys(e *entry) map[string]func(ast.Node) {
	m := &e.machine
	table := map[string]func(ast.Node){
		"name":     func(n ast.Node) { m.Name = r.match(n, validName, "letters, digits, dots and dashes") },
		"address":  func(n ast.Node) { m.Login.Address = r.match(n, validAddress, "a host name or an IP, without port") },
		"internal": func(n ast.Node) { m.Internal = r.match(n, validAddress, "a host name or an IP, without port") },
		"ssh":      func(n ast.Node) { e.alias = r.match(n, validAddress, "an alias of ~/.ssh/config") },
		"user":     func(n ast.Node) { m.Login.User = r.match(n, validUser, "a user name") },
		"port":     func(n ast.Node) { m.Login.Port = r.port(n) },
		"identity": func(n ast.Node) {
			m.Login.Identity = nil
			for _, s := range r.texts(n) {
				m.Login.Identity = append(m.Login.Identity, r.absolute(s))
			}
		},
		"known-hosts": func(n ast.Node) { m.Login.KnownHosts = []string{r.path(n)} },
		"jump": func(n ast.Node) {
			e.jump = r.text(n)
			if _, err := parseJump(e.jump); e.jump != "" && err != nil {
				r.Bad(n, "jump: %s", err)
			}
		},
		"labels": func(n ast.Node) { m.Labels = r.labels(n) },
		"faults": func(n ast.Node) {
			m.Faults = nil
			items, _ := r.Items(n, "expected a list")
			for _, i := range items {
				m.Faults = append(m.Faults, r.match(i, validFault, "the word of a fault, such as crash"))
			}
		},
		"power": func(n ast.Node) {
			m.Power = Power{}
			r.keys(n, map[string]func(ast.Node){
				"off": func(n ast.Node) { m.Power.Off = r.argv(n) },
				"on":  func(n ast.Node) { m.Power.On = r.argv(n) },
			})
			if (m.Power.Off == nil) != (m.Power.On == nil) {
				r.Bad(n, "power: expected both `off` and `on`: what is switched off must come back")
			}
		},
		"sudo": func(n ast.Node) {
			switch m.Sudo = Sudo(r.text(n)); m.Sudo {
			case SudoAuto, SudoYes, SudoNo, "":
			default:
				r.Bad(n, "sudo: %q: expected true, false or auto (where the user is not root)", m.Sudo)
			}
		},
	}
	for key, read := range table {
		table[key] = func(n ast.Node) { e.given[key] = true; read(n) }
	}
	return table
}

func (r *reader) port(n ast.Node) int {
	s := r.text(n)
	p, err := strconv.Atoi(s)
	if s != "" && (err != nil || p < 1 || p > 65535) {
		r.Bad(n, "port: %q: expected a number from 1 to 65535", s)
	}
	return p
}

func (r *reader) argv(n ast.Node) []string {
	items, ok := r.Items(n, "expected a list")
	if ok && len(items) == 0 {
		r.Bad(n, "expected a command, as a list of its words")
	}
	var out []string
	for _, i := range items {
		out = append(out, r.text(i))
	}
	return out
}

func (r *reader) labels(n ast.Node) map[string]string {
	out := map[string]string{}
	entries, _ := r.Pairs(n, "labels: expected names with values")
	for _, kv := range entries {
		if _, twice := out[lab.KeyOf(kv)]; twice {
			r.Bad(kv.Key, "%q is given twice", lab.KeyOf(kv))
		}
		out[lab.KeyOf(kv)] = r.text(kv.Value)
	}
	return out
}

// entry reads one host: an alias, or keys.
func (r *reader) entry(n ast.Node, defaults entry) entry {
	e := defaults
	e.node, e.given = n, map[string]bool{}
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		r.keys(n, r.entryKeys(&e))
		if !e.given["ssh"] && !e.given["address"] {
			r.Bad(n, "a host needs `address`, or `ssh` with an alias of ~/.ssh/config")
		}
	default:
		e.alias = r.match(n, validAddress, "an alias of ~/.ssh/config, or keys with values")
	}
	for key := range defaults.given {
		e.given[key] = true
	}
	return e
}

// resolve looks up what the entries refer to.
func (r *reader) resolve(entries []entry, a *aliases) *Inventory {
	inv := &Inventory{File: r.file}
	names, logins := map[string]bool{}, map[string]string{}
	for _, e := range entries {
		m := e.machine
		if err := e.login(&m.Login, a); err != nil {
			r.Bad(e.node, "%s", err)
			continue
		}
		if m.Name == "" {
			if m.Name = m.Login.Address; e.alias != "" {
				m.Name = e.alias
			}
		}
		if names[m.Name] {
			r.Bad(e.node, "%q is the name of another host already", m.Name)
		}
		// The way is part of it: two sites may use the same private addresses.
		key := fmt.Sprint(m.Login.hostPort(), m.Login.Jump)
		if by := logins[key]; by != "" {
			r.Bad(e.node, "%s is the host %q already: two members on one machine would fall together", m.Login.hostPort(), by)
		}
		names[m.Name], logins[key] = true, m.Name
		inv.Machines = append(inv.Machines, m)
	}
	return inv
}

// login completes a login by what the user's ssh would do.
func (e entry) login(l *Login, a *aliases) error {
	if e.alias != "" {
		from, err := a.login(e.alias)
		if err != nil {
			return err
		}
		if !e.given["address"] {
			l.Address = from.Address
		}
		if !e.given["port"] {
			l.Port = from.Port
		}
		if !e.given["user"] {
			l.User = from.User
		}
		if !e.given["identity"] {
			l.Identity = from.Identity
		}
		if !e.given["known-hosts"] {
			l.KnownHosts = from.KnownHosts
		}
		l.Only, l.Agent, l.Jump = from.Only, from.Agent, from.Jump
	}
	if l.User == "" {
		me, err := user.Current()
		if err != nil {
			return fmt.Errorf("`user` is missing, and who runs this cannot be found out: %w", err)
		}
		l.User = me.Username
	}
	if e.given["jump"] {
		var err error
		if l.Jump, err = a.jumps(e.jump, 0); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Found is a member that was there already: what it was told, by its process,
// and what the cluster says of it.
type Found struct {
	etcd.Told
	Unit    string `json:"unit"`
	PID     int    `json:"pid"` // when it was adopted
	ID      string `json:"id"`
	Cluster string `json:"cluster"`
	Version string `json:"version"`

	ClientURL string `json:"clientURL"` // of the member list
	LocalURL  string `json:"localURL"`  // the first at which it answers on its host
	PeerURL   string `json:"peerURL"`   // of the member list
	Listens   []int  `json:"listens"`   // ports at which others reach it
	Clients   []int  `json:"clients"`   // those for clients
}

// Adopt makes a lab of a cluster that is there already. Every host must run one
// member of it, under the unit that the spec names; together they must be all
// of its members. Unless the spec means it, hosts are read from and nothing is
// put there. If it does, they get an agent as in any lab, and the unit is not
// restarted behind the lab's back as long as the lab is there; its member goes
// on all the time. release and errors are those of Up.
func Adopt(ctx context.Context, o Options, hosts []lab.Host) (c *lab.Cluster, release func(), err error) {
	me, err := process.Self()
	if err != nil {
		return nil, nil, err
	}
	a := o.Spec.Adopt
	r := Record{ID: o.ID, Driver: o.Driver, Created: time.Now().UTC(), Owner: me, Drill: o.Drill, Spec: o.Spec, Tunnel: o.Tunnel, Caps: o.Caps}
	r.Seats = make([]Seat, len(hosts))
	err = each(ctx, hosts, func(ctx context.Context, i int, h lab.Host) error {
		f, err := find(ctx, h, a.FullUnit())
		r.Seats[i] = Seat{Name: h.Name(), Addr: h.Addr(), Dir: h.Dir(), Found: f}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := r.clientFiles(ctx, o.Dir, hosts); err != nil {
		return nil, nil, err
	}
	if err := r.meet(ctx, o.Dir, hosts); err != nil {
		return nil, nil, fmt.Errorf("%s cannot be adopted: %w", a.Name, err)
	}
	if a.ReadOnly() {
		for name := range r.Caps {
			r.Caps[name] = a.Name + " was adopted to be looked at"
		}
		r.Caps[lab.CapAdopt] = ""
		if err := r.write(o.Dir); err != nil {
			return nil, nil, err
		}
		l, err := assemble(o.Dir, r, hosts)
		if err != nil {
			return nil, nil, err
		}
		l.setCaps(r.Caps)
		return l.Cluster, func() {}, nil
	}
	if err := r.prepare(ctx, o, hosts); err != nil {
		return nil, nil, err
	}
	// Before there is a record: whoever takes the lab down takes its keys away.
	l, err := assemble(o.Dir, r, hosts)
	if err != nil {
		return nil, nil, err
	}
	n, err := etcd.CountOwn(ctx, l.Cluster)
	if err == nil && n > 0 {
		err = fmt.Errorf("%s has %d keys below %s, which are not of this lab: somebody drills on it, or a drill was killed (etcdrill gc). If they are nobody's, `etcdctl del --prefix %s`", a.Name, n, lab.OwnKeys, lab.OwnKeys)
	}
	if err != nil {
		return nil, nil, err
	}
	l, stop, err := man(ctx, o, r, hosts)
	if err != nil {
		return nil, nil, err
	}
	return l.Cluster, stop, nil
}

// find looks which etcd a unit of a host runs, by what really runs.
func find(ctx context.Context, h lab.Host, unit string) (*Found, error) {
	p, err := show(ctx, h, unit)
	if err != nil {
		return nil, err
	}
	pid, _ := strconv.Atoi(p["MainPID"])
	switch {
	case p["LoadState"] == "not-found":
		return nil, fmt.Errorf("%s: there is no unit %s: say by `unit` which one is the member's", h.Name(), unit)
	case pid == 0:
		return nil, fmt.Errorf("%s: unit %s is %s: a cluster is adopted while all of its members run", h.Name(), unit, p["ActiveState"])
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", `cat "$1comm" && readlink "$1cwd"`, "sh", proc}})
	if err != nil {
		return nil, err
	}
	comm, dir, _ := strings.Cut(strings.TrimSpace(string(out.Stdout)), "\n")
	if comm != "etcd" {
		return nil, fmt.Errorf("%s: the process %d of unit %s is %q: expected etcd itself, not something that starts it", h.Name(), pid, unit, comm)
	}
	words := map[string][]string{}
	for _, file := range []string{"cmdline", "environ"} {
		data, err := h.Get(ctx, proc+file)
		if err != nil {
			return nil, err
		}
		words[file] = strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	}
	told, err := etcd.ReadTold(words["cmdline"], words["environ"], dir, func(file string) ([]byte, error) { return h.Get(ctx, file) })
	if err != nil {
		return nil, fmt.Errorf("%s: etcd of unit %s: %w", h.Name(), unit, err)
	}
	return &Found{Told: told, Unit: unit, PID: pid}, nil
}

// show asks systemd of a host for a unit.
func show(ctx context.Context, h lab.Host, unit string) (map[string]string, error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"systemctl", "show", unit, "--timestamp=us+utc", "-p", "LoadState,ActiveState," + processProperties}})
	if err != nil {
		return nil, err
	}
	return properties(string(out.Stdout)), nil
}

// clientFiles copies what clients need, where members speak TLS, into the
// lab's directory on this machine.
func (r *Record) clientFiles(ctx context.Context, dir string, hosts []lab.Host) error {
	a := r.Spec.Adopt
	secure := func(f *Found) bool {
		return slices.ContainsFunc(f.ClientURLs, func(u string) bool { return strings.HasPrefix(u, "https:") })
	}
	var client etcd.Pair
	var trust [][]byte
	for i, h := range hosts {
		f := r.Seats[i].Found
		if !secure(f) {
			f.CA, f.Cert, f.Key = "", "", ""
			continue
		}
		for _, x := range []struct {
			file  *string
			given string
			what  string
			data  func([]byte)
		}{
			{&f.CA, a.CA, "ca", func(b []byte) { trust = append(trust, b) }},
			{&f.Cert, a.Cert, "cert", func(b []byte) { client.Cert = b }},
			{&f.Key, a.Key, "key", func(b []byte) { client.Key = b }},
		} {
			if x.given != "" {
				*x.file = x.given
			}
			if *x.file == "" {
				return fmt.Errorf("%s: etcd speaks TLS to clients, and was not told what to do with theirs: name files on the hosts by `ca`, `cert` and `key` (%s is missing)", h.Name(), x.what)
			}
			data, err := h.Get(ctx, *x.file)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", h.Name(), x.what, err)
			}
			x.data(data)
		}
	}
	r.Spec.TLS = "off"
	if len(trust) == 0 {
		return nil
	}
	r.Spec.TLS = "mutual"
	return etcd.SaveFound(filepath.Join(dir, "pki"), client, trust...)
}

// meet asks every member who it is and whom it knows, and refuses what is not
// one whole cluster.
func (r *Record) meet(ctx context.Context, dir string, hosts []lab.Host) error {
	l, err := assemble(dir, *r, hosts)
	if err != nil {
		return err
	}
	lists := make([]etcd.Membership, len(hosts))
	err = each(ctx, hosts, func(ctx context.Context, i int, h lab.Host) error {
		f, m := r.Seats[i].Found, l.Seats[i]
		var errs []error
		for _, u := range etcd.Near(f.ClientURLs, h.Addr()) {
			m.LocalURL = u
			var err error
			if lists[i], err = etcd.Members(ctx, l.Cluster, true, m); err == nil {
				f.LocalURL = u
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", u, err))
		}
		return fmt.Errorf("%s: its etcd answers at none of %s: %w", h, strings.Join(f.ClientURLs, ", "), errors.Join(errs...))
	})
	if err != nil {
		return err
	}
	var observer etcd.Observer
	defer observer.Close()
	look := observer.Look(ctx, l.Cluster)
	by := map[uint64]string{}
	for i, list := range lists {
		f, name := r.Seats[i].Found, r.Seats[i].Name
		if list.Cluster != lists[0].Cluster {
			return fmt.Errorf("the hosts disagree: %s is of cluster %s, %s of cluster %s", r.Seats[0].Name, etcd.HexID(lists[0].Cluster), name, etcd.HexID(list.Cluster))
		}
		listed, ok := list.ByID(list.From)
		if !ok {
			return fmt.Errorf("%s: member %s is not in its own list", name, etcd.HexID(list.From))
		}
		if other := by[list.From]; other != "" {
			return fmt.Errorf("%s and %s are both member %s: they are one machine, or one cluster was copied", other, name, etcd.HexID(list.From))
		}
		by[list.From] = name
		if len(listed.PeerURLs) == 0 || len(listed.ClientURLs) == 0 {
			return fmt.Errorf("%s: member %s lists no URL for peers, or none for clients", name, listed.HexID())
		}
		f.ID, f.Cluster, f.Version = listed.HexID(), etcd.HexID(list.Cluster), look[i].Version
		f.PeerURL, f.ClientURL = listed.PeerURLs[0], listed.ClientURLs[0]
		f.Clients = ports(append(slices.Clone(f.ClientURLs), listed.ClientURLs...))
		f.Listens = ports(slices.Concat(f.ClientURLs, listed.ClientURLs, f.PeerURLs, listed.PeerURLs))
		r.Spec.Heartbeat, r.Spec.Election = max(r.Spec.Heartbeat, f.Heartbeat), max(r.Spec.Election, f.Election)
		if i == 0 {
			r.Spec.Heartbeat, r.Spec.Election = f.Heartbeat, f.Election
		}
		if ip := net.ParseIP(hostOf(f.PeerURL)); ip != nil && !ip.IsLoopback() {
			r.Seats[i].Addr = ip.String()
		}
	}
	for i, list := range lists {
		for _, m := range list.Members {
			switch {
			case by[m.ID] == "":
				return fmt.Errorf("%s lists member %s (%s, %s), which is on none of the hosts: add its host, or remove it from the cluster", r.Seats[i].Name, m.HexID(), m.Name, strings.Join(m.PeerURLs, ", "))
			case m.Learner:
				return fmt.Errorf("member %s on %s is a learner: promote or remove it first", m.HexID(), by[m.ID])
			}
		}
	}
	r.Spec.Members = len(hosts)
	return nil
}

// ports of URLs.
func ports(urls []string) []int {
	var out []int
	for _, raw := range urls {
		if u, err := url.Parse(raw); err == nil {
			if p, err := strconv.Atoi(u.Port()); err == nil && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	slices.Sort(out)
	return out
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// prepare finds out what can be done to hosts that may be broken, and claims
// ports of the lab's own.
func (r *Record) prepare(ctx context.Context, o Options, hosts []lab.Host) error {
	why := ""
	err := each(ctx, hosts, func(ctx context.Context, i int, h lab.Host) error {
		s := &r.Seats[i]
		if there, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"find", path.Join(dropInDir, s.Found.Unit+".d"), "-name", "etcdrill-*.conf"}}); err == nil && len(there.Stdout) > 0 {
			return fmt.Errorf("%s: another lab has adopted it: %s", h.Name(), strings.TrimSpace(string(there.Stdout)))
		} else if exit := (*lab.ExitError)(nil); err != nil && !errors.As(err, &exit) { // no such directory
			return err
		}
		if name := hostOf(s.Found.PeerURL); net.ParseIP(name) == nil {
			out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"getent", "ahosts", name}})
			if err != nil {
				return err
			}
			s.Addr, _, _ = strings.Cut(strings.TrimSpace(string(out.Stdout)), " ")
		}
		taken, err := survey(ctx, h)
		if err != nil {
			return err
		}
		s.Ports, err = claim(ctx, h, claims, taken)
		return err
	})
	if err != nil {
		return err
	}
	var ends []lab.Host
	for i, h := range hosts {
		ends = append(ends, at{h, r.Seats[i].Addr})
		if ip := net.ParseIP(r.Seats[i].Addr); len(hosts) > 1 && (ip == nil || ip.IsLoopback()) {
			why = fmt.Sprintf("the peer URL of %s is %s", r.Seats[i].Name, r.Seats[i].Found.PeerURL)
		}
	}
	if why == "" {
		if r.Links, why, err = Links(ctx, r.ID, ends); err != nil {
			return err
		}
	}
	for _, name := range []lab.Cap{lab.CapBinary, lab.CapUnits, lab.CapDNS, lab.CapSmall} {
		r.Caps[name] = "its members are as they were found"
	}
	if r.Links.Filter == "" {
		r.Links = kernel.Means{}
		r.Caps[lab.CapLinks] = "what an adopted cluster says goes through no proxy, and the kernels of its hosts cannot cut it: " + why
	}
	return nil
}

// at is a host under the address that its peers know.
type at struct {
	lab.Host
	addr string
}

func (a at) Addr() string { return a.addr }

// dropInDir is where systemd finds what holds until the next boot.
const dropInDir = "/run/systemd/system"

// adoptedFile, in the lab's directory on a host, holds the name of the unit
// that was adopted there.
const adoptedFile = "adopted"

// dropIn keeps systemd from restarting a member that a fault has ended, and
// from giving a start up that waits for a quorum.
const dropIn = "# etcdrill lab %s has adopted this unit. It takes this file away again.\n[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=no\nTimeoutStartSec=infinity\n"

func dropInName(id string) string { return "etcdrill-" + id + ".conf" }

// hold puts the drop-in of an adopted unit in place.
func hold(ctx context.Context, h lab.Host, s Seat, id string) error {
	if err := h.Put(ctx, path.Join(s.Dir, adoptedFile), 0o600, []byte(s.Found.Unit+"\n")); err != nil {
		return err
	}
	script := `mkdir -p -- "$1" && printf %s "$3" >"$1/$2" && systemctl daemon-reload`
	_, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", script, "sh", path.Join(dropInDir, s.Found.Unit+".d"), dropInName(id), fmt.Sprintf(dropIn, id)}})
	return err
}

// giveBackScript takes a drop-in away and sees that the unit's process goes on.
//
//	$1 unit  $2 name of the drop-in
const giveBackScript = `
dir=` + dropInDir + `/$1.d
pid() { systemctl show -p MainPID --value "$1"; }
systemctl kill -s CONT "$1" 2>/dev/null
if [ -e "$dir/$2" ]; then
	rm -f -- "$dir/$2"
	rmdir -- "$dir" 2>/dev/null
	systemctl daemon-reload || exit
fi
[ "$(pid "$1")" = 0 ] || exit 0
systemctl reset-failed "$1" 2>/dev/null
systemctl start --no-block "$1" || exit
n=0
while [ "$(pid "$1")" = 0 ]; do
	n=$((n + 1))
	[ $n -lt 100 ] || { echo "$1 does not start" >&2; exit 1; }
	sleep 0.1
done
`

// GiveBack leaves an adopted member to itself: nothing holds its unit or its
// links any more, and its process runs. nil where none was adopted.
func GiveBack(ctx context.Context, h lab.Host, id string) error {
	unit, err := h.Get(ctx, path.Join(h.Dir(), adoptedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", giveBackScript, "sh", strings.TrimSpace(string(unit)), dropInName(id)}})
	return errors.Join(err, kernel.Remove(ctx, h, id))
}

// member is the seat of an adopted member.
func (f *Found) member(m *lab.Member, s Seat) *lab.Member {
	out := &lab.Member{Name: m.Name, Host: m.Host, Proc: m.Proc,
		ClientURL: f.ClientURL, LocalURL: f.LocalURL, PeerURL: f.PeerURL, HealthURL: f.LocalURL, DataDir: f.DataDir, Config: f.Config}
	if near := etcd.Near(f.MetricsURLs, s.Addr); len(near) > 0 {
		out.HealthURL = near[0]
	}
	return out
}

// String tells what was found, for people.
func (s Seat) String() string {
	f := s.Found
	return fmt.Sprintf("%s is member %s %q of cluster %s, etcd %s: clients %s, peers %s, data %s, unit %s, process %d", s.Name, f.ID, f.Name, f.Cluster, f.Version, f.ClientURL, f.PeerURL, f.DataDir, f.Unit, f.PID)
}

// looked is the process of an adopted member that is looked at and nothing
// else.
type looked struct {
	host lab.Host
	unit string
}

var errLooked = errors.New("the cluster was adopted to be looked at: say that you mean it by --i-mean")

func (p *looked) Start(context.Context) error          { return errLooked }
func (p *looked) Stop(context.Context) error           { return errLooked }
func (p *looked) Signal(context.Context, string) error { return errLooked }

func (p *looked) State(ctx context.Context) (lab.ProcState, error) {
	shown, err := show(ctx, p.host, p.unit)
	if err != nil {
		return lab.ProcState{}, err
	}
	st, err := stateOf(shown)
	if err != nil || !st.Running {
		return st, err
	}
	data, err := p.host.Get(ctx, fmt.Sprintf("/proc/%d/stat", st.PID))
	if err != nil {
		return st, err
	}
	var letter byte
	if st.Started, letter, err = process.ParseStat(data); err != nil {
		return st, fmt.Errorf("%s: process %d: %w", p.host.Name(), st.PID, err)
	}
	st.Paused = letter == 'T'
	return st, nil
}

func (p *looked) Log(ctx context.Context, n int) ([]byte, error) {
	return journal(ctx, p.host, p.unit, n)
}

// journal returns the last n bytes of what a unit printed.
func journal(ctx context.Context, h lab.Host, unit string, n int) ([]byte, error) {
	// No line of etcd is shorter than fifty letters.
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", `journalctl -q --no-pager -o cat -u "$1" -n "$2" | tail -c "$3"`, "sh", unit, strconv.Itoa(n/50 + 1), strconv.Itoa(n)}})
	return out.Stdout, err
}

package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/version"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Upgrade brings another release of etcd to all members, one after the other,
// the leader last. Known traps are refused before anything is touched (FE49,
// FE50): a minor release that is skipped, members of different minors, a 3.5
// whose membership does not survive 3.6, a log of 3.6 with entries that only 3.5
// wrote and 3.7 cannot read, learners, alarms, members that are down.
//
// While one member is of the old minor release, the binary of before brings
// each of the others back. Once none is, the cluster's version rises, and from
// there the way back is a downgrade: etcd is told first, and writes its data
// directories in the old format, before any binary is exchanged.
type Upgrade struct {
	Dir  string `yaml:"to-dir" doc:"directory on this machine with the etcd, etcdctl and etcdutl to run; those inside etcdrill when absent"`
	Down bool   `doc:"to the minor release before, by etcd's own downgrade"`

	Decided UpgradePlan `yaml:"-"`
}

// UpgradePlan is what an upgrade has decided.
type UpgradePlan struct {
	Was      Standing
	Order    []string // seats that get other binaries, who leads last
	From, To string   // releases, such as 3.6.16; From that of who leads
	Tools    []Binary
}

// Binary is one of etcd's tools on this machine.
type Binary struct {
	Name   string // on the hosts
	File   string
	SHA256 string
}

// Doc is one sentence for lists and help.
func (*Upgrade) Doc() string {
	return "brings another release of etcd to all members, one after the other, the leader last; known traps are refused beforehand"
}

// safe35 is the first 3.5 whose members all survive the upgrade to 3.6: older
// ones kept promotions and removals in the store that 3.6 reads no more (FE49).
const safe35 = "3.5.32"

// Decide implements operation.Operation.
func (u *Upgrade) Decide(ctx context.Context, e *lab.Env) error {
	was, err := calm(ctx, e)
	if err != nil {
		return err
	}
	d := UpgradePlan{Was: was, From: was.Version}
	if d.To, err = u.release(ctx); err != nil {
		return err
	}
	var size int64
	if d.Tools, size, err = u.tools(); err != nil {
		return err
	}
	members, err := seats(e.Cluster, was.Members.names())
	if err != nil {
		return err
	}
	releases := map[string]string{}
	for _, s := range e.Look(ctx) {
		releases[s.Name] = s.Version
	}
	for _, x := range was.Members {
		switch have := releases[x.Name]; {
		case x.Down || have == "":
			return &lab.Failure{What: "member " + x.Name, Want: "answering, as all members must before an upgrade", Got: "no answer: bring it back or replace it first"}
		case etcd.Minor(have) != etcd.Minor(d.From):
			return &lab.Failure{What: "releases of the members", Want: "one minor release", Got: fmt.Sprintf("%s is %s, %s is %s: bring that one back with its binary of before, or go on with what began it", was.Leader, d.From, x.Name, have)}
		default:
			if err := u.permitted(have, d.To); err != nil {
				return err
			}
		}
	}
	for _, m := range members {
		// Each by itself: what a member of 3.5 knows is what it will be in 3.6.
		l, err := etcd.Members(ctx, e.Cluster, true, m)
		if err != nil {
			return err
		}
		if !was.Members.is(l) {
			return &lab.Failure{What: "members known to " + m.Name, Want: was.Members.String(), Got: listed(l)}
		}
		v, err := etcd.VersionsOf(ctx, e.Cluster, m)
		if err != nil {
			return err
		}
		if etcd.Minor(v.Cluster) != etcd.Minor(d.From) {
			return &lab.Failure{What: "version of the cluster", Want: etcd.Minor(d.From) + ", as its members are", Got: v.Cluster + ": a downgrade is on its way, or members have just been upgraded: `etcdctl downgrade cancel`, or wait"}
		}
		out, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sha256sum", path.Join(m.Bin, "etcd")}})
		if err != nil {
			return err
		}
		if etcd.Minor(d.From) == "3.6" && etcd.Minor(d.To) == "3.7" {
			log, err := ReadLog(ctx, m)
			if err != nil {
				return err
			}
			if log.Old > 0 {
				return &lab.Failure{What: "log of " + m.Name + " behind its last snapshot", Want: "no entry that etcd 3.5 wrote, or 3.7 panics when it starts: raft's next snapshot does away with them, after snapshot-count entries (fewer with a lower one and a rolling restart)", Got: fmt.Sprintf("one at index %d of %d", log.Old, log.End.Index)}
			}
		}
		if sum, _, _ := strings.Cut(string(out.Stdout), " "); sum != d.Tools[0].SHA256 {
			d.Order = append(d.Order, m.Name)
			if err := roomFor(ctx, m, m.Bin, size); err != nil {
				return err
			}
		}
	}
	if err := same(ctx, e, was.Members); err != nil {
		return err
	}
	if len(d.Order) == 0 {
		e.Note("", "all members run this etcd %s: nothing to do", d.To)
		return nil
	}
	was.line(d.Order)
	u.Decided = d
	return nil
}

// permitted refuses ways from one release to another that etcd does not go, or
// not safely.
func (u *Upgrade) permitted(from, to string) error {
	refuse := func(want string) error {
		return &lab.Failure{What: fmt.Sprintf("etcd from %s to %s", from, to), Want: want}
	}
	a, aerr := numbers(from)
	b, berr := numbers(to)
	if err := errors.Join(aerr, berr); err != nil {
		return err
	}
	step := b[1] - a[1]
	switch {
	case a[0] != b[0]:
		return refuse("the same major release")
	case u.Down && step != -1:
		return refuse("one minor release down: etcd goes back one at a time")
	case u.Down:
		return nil
	case step < 0:
		return refuse("`down`: an older minor release does not read this data before etcd has written it in its format")
	case step > 1:
		return refuse(fmt.Sprintf("no minor release skipped: %d.%d first", a[0], a[1]+1))
	case step == 1 && a[0] == 3 && a[1] == 5:
		if floor, _ := numbers(safe35); a[2] < floor[2] {
			return refuse("members of " + safe35 + " or later: what older ones know of promotions and removals is lost in 3.6. The newest 3.5 on all members first")
		}
	}
	return nil
}

// numbers are the three numbers of a release; what comes behind them, as in
// 3.7.0-rc.0, counts for nothing.
func numbers(release string) (n [3]int, err error) {
	core, _, _ := strings.Cut(release, "-")
	parts := strings.Split(core, ".")
	for i := range n {
		if len(parts) != len(n) {
			err = errors.New("not three numbers")
		} else if err == nil {
			n[i], err = strconv.Atoi(parts[i])
		}
	}
	if err != nil {
		err = fmt.Errorf("release %q: expected one such as 3.7.3: %w", release, err)
	}
	return n, err
}

// release asks the new etcd which one it is.
func (u *Upgrade) release(ctx context.Context) (string, error) {
	if u.Dir == "" {
		return version.Version, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	file := filepath.Join(u.Dir, "etcd")
	out, err := exec.CommandContext(ctx, file, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("to-dir: %s: expected an etcd that runs on this machine: %w", file, err)
	}
	return etcd.ReleaseIn(out)
}

// tools are the binaries that go to the hosts, etcd first, and their size.
func (u *Upgrade) tools() (out []Binary, size int64, err error) {
	for _, name := range []string{"etcd", "etcdctl", "etcdutl"} {
		file, err := os.Executable() // it is all three, by its name
		if u.Dir != "" {
			file, err = filepath.Abs(filepath.Join(u.Dir, name))
		}
		if err != nil {
			return nil, 0, err
		}
		if len(out) > 0 && file == out[0].File {
			out = append(out, Binary{Name: name, File: file, SHA256: out[0].SHA256})
			continue // a link on the hosts too
		}
		sum, n, err := summed(file)
		if err != nil {
			return nil, 0, fmt.Errorf("to-dir: expected etcd, etcdctl and etcdutl in it: %w", err)
		}
		out = append(out, Binary{Name: name, File: file, SHA256: sum})
		size += n
	}
	return out, size, nil
}

// Steps implements operation.Operation.
func (u *Upgrade) Steps(e *lab.Env) ([]operation.Step, error) {
	d := u.Decided
	if len(d.Order) == 0 {
		return nil, nil
	}
	c := begin(e, d.Was, 0)
	hosts, err := seats(e.Cluster, d.Order)
	if err != nil {
		return nil, err
	}
	c.bring(d, hosts)
	if u.Down {
		c.enable(etcd.Minor(d.From), etcd.Minor(d.To))
	}
	for i, name := range d.Order {
		if heir, ok := d.Was.heir(); ok && name == d.Was.Leader {
			c.handOver(name, heir)
		}
		c.halt(name, "")
		c.exchange(name, d.To)
		start := operation.Step{
			Name:      "start " + name + " with etcd " + d.To,
			ShellUndo: []string{at(c.seat(name), "systemctl", "stop", "etcd")},
			Gate:      func(ctx context.Context, e *lab.Env) error { return runs(ctx, e, c.seat(name), d.To) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return etcd.Stop(ctx, e, c.seat(name)) },
		}
		if !u.Down && i == len(d.Order)-1 && etcd.Minor(d.From) != etcd.Minor(d.To) {
			start.Point = "no member is of " + etcd.Minor(d.From) + " any more, so the cluster becomes one of " + etcd.Minor(d.To) + ": the way back is a downgrade"
		}
		c.launch(name, start)
	}
	members, err := seats(e.Cluster, d.Was.Members.names())
	if err != nil {
		return nil, err
	}
	c.add(operation.Step{
		Name:  "look at the versions",
		Shell: []string{"curl URL/version  # of each: etcdcluster and storage " + etcd.Minor(d.To)},
		Limit: monitored,
		Gate: func(ctx context.Context, e *lab.Env) error {
			if err := versioned(ctx, e, members, etcd.Minor(d.To)); err != nil {
				return err
			}
			return ended(ctx, e, members)
		},
	})
	steps, err := c.done()
	if err != nil {
		return nil, err
	}
	steps[len(steps)-1].Point = "the binaries of before are deleted next: the way back is another upgrade, or a downgrade"
	return append(steps, operation.Step{
		Name: "clear up",
		Shell: ssh(hosts, func(m *lab.Member) string {
			return lab.Quote([]string{"rm", "-r", c.binaries(m, before), c.binaries(m, coming)})
		}),
		Forecast: c.now.forecast(),
		Do:       func(ctx context.Context, e *lab.Env) error { return c.clear(ctx, e, hosts) },
	}), nil
}

// coming is the name of binaries that wait for their exchange; those of before
// lie aside under before.
const coming = "coming"

func (c *course) binaries(m *lab.Member, why string) string {
	return path.Join(m.Bin, why+"-"+c.was.Token)
}

func (c *course) clear(ctx context.Context, e *lab.Env, hosts []*lab.Member) error {
	return errors.Join(remove(ctx, e, hosts, func(m *lab.Member) string { return c.binaries(m, coming) }),
		remove(ctx, e, hosts, func(m *lab.Member) string { return c.binaries(m, before) }))
}

// bring puts the new binaries beside the old, on all hosts, and tries them.
func (c *course) bring(d UpgradePlan, hosts []*lab.Member) {
	now := c.now
	c.add(operation.Step{
		Name: "bring etcd " + d.To + " to " + names(hosts),
		Shell: ssh(hosts, func(m *lab.Member) string {
			return "mkdir " + c.binaries(m, coming) + "; scp " + d.Tools[0].File + " … there; ./etcd --version"
		}),
		ShellUndo: ssh(hosts, func(m *lab.Member) string { return "rm -r " + c.binaries(m, coming) }),
		Limit:     patience,
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, now) },
		Do: func(ctx context.Context, e *lab.Env) error {
			for _, t := range d.Tools {
				sum, size, err := summed(t.File)
				if err != nil {
					return err
				}
				if sum != t.SHA256 {
					return &lab.Failure{What: "sha256 of " + t.File, Want: t.SHA256 + ", as when it was decided", Got: sum}
				}
				err = etcd.Each(hosts, func(_ int, m *lab.Member) error {
					to := path.Join(c.binaries(m, coming), t.Name)
					if first := d.Tools[0]; t.Name != first.Name && t.SHA256 == first.SHA256 {
						_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"ln", "-f", "--", path.Join(c.binaries(m, coming), first.Name), to}})
						return err
					}
					e.Note(m.Name, "gets %s %s, %d bytes", t.Name, d.To, size)
					return lab.Upload(ctx, m.Host, to, 0o755, t.File)
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
		Gate: func(ctx context.Context, e *lab.Env) error {
			return etcd.Each(hosts, func(_ int, m *lab.Member) error {
				got, err := etcd.Release(ctx, e, m, c.binaries(m, coming))
				if err == nil && got != d.To {
					err = &lab.Failure{What: "release of the etcd that was brought to " + m.Name, Want: d.To, Got: got}
				}
				return err
			})
		},
		Undo: func(ctx context.Context, e *lab.Env) error { return c.clear(ctx, e, hosts) },
	})
}

// swap moves each tool of a host to another directory and that of a third one
// into its place, by rename alone: from any moment of it, it can be done again
// and backwards.
const swap = `set -e
bin=$1 in=$2 out=$3
mkdir -p -m 0700 -- "$out"
for t in etcd etcdctl etcdutl; do
  if [ -e "$in/$t" ]; then
    if [ -e "$bin/$t" ]; then mv -- "$bin/$t" "$out/$t"; fi
    mv -- "$in/$t" "$bin/$t"
  fi
done`

// exchange exchanges the binaries of a member that was halted.
func (c *course) exchange(name, to string) {
	m := c.seat(name)
	do := func(in, out string) func(ctx context.Context, e *lab.Env) error {
		return func(ctx context.Context, e *lab.Env) error {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", swap, "sh", m.Bin, c.binaries(m, in), c.binaries(m, out)}})
			return err
		}
	}
	c.add(operation.Step{
		Name:      "exchange the binaries of " + name,
		Shell:     []string{at(m, "mv", "--", path.Join(m.Bin, "etcd"), c.binaries(m, before)), at(m, "mv", "--", path.Join(c.binaries(m, coming), "etcd"), m.Bin)},
		ShellUndo: []string{at(m, "mv", "--", path.Join(c.binaries(m, before), "etcd"), m.Bin)},
		Before: func(ctx context.Context, _ *lab.Env) error {
			st, err := m.Proc.State(ctx)
			if err == nil && st.Running {
				err = &lab.Failure{What: "etcd on " + name, Want: "stopped", Got: fmt.Sprintf("pid %d runs", st.PID)}
			}
			return err
		},
		Do: do(coming, before),
		Gate: func(ctx context.Context, e *lab.Env) error {
			got, err := etcd.Release(ctx, e, m, m.Bin)
			if err == nil && got != to {
				err = &lab.Failure{What: "release of etcd on " + name, Want: to, Got: got}
			}
			return err
		},
		Undo: do(before, coming),
	})
}

// runs wants a member to say that it is of a release.
func runs(ctx context.Context, e *lab.Env, m *lab.Member, want string) error {
	v, err := etcd.VersionsOf(ctx, e.Cluster, m)
	if err == nil && v.Server != want {
		err = &lab.Failure{What: "release of " + m.Name, Want: want, Got: v.Server}
	}
	return err
}

// monitored is how long members may take to agree on a version: they look every
// few seconds, and write their data anew.
const monitored = 3 * time.Minute

// versioned waits until cluster and data of all members are of a minor release.
func versioned(ctx context.Context, e *lab.Env, members []*lab.Member, want string) error {
	var seen error
	err := lab.Until(ctx, "the versions to be those of "+want, func(ctx context.Context) error {
		for _, m := range members {
			v, err := etcd.VersionsOf(ctx, e.Cluster, m)
			if err != nil {
				return err
			}
			if etcd.Minor(v.Cluster) != want || v.Storage != "" && etcd.Minor(v.Storage) != want {
				seen = &lab.Failure{What: "versions told by " + m.Name, Want: "cluster and storage of " + want, Got: fmt.Sprintf("cluster %s, storage %s", v.Cluster, v.Storage)}
				return seen
			}
		}
		seen = nil
		return nil
	})
	if err != nil && seen != nil {
		return seen
	}
	return err
}

// ended waits until the cluster has ended a downgrade, which it does by itself
// some seconds after its last member. Until then it stays at the older version,
// whatever its members are: an upgrade that began before would never end.
func ended(ctx context.Context, e *lab.Env, members []*lab.Member) error {
	return lab.Until(ctx, "the end of the downgrade", func(ctx context.Context) error {
		for _, m := range members {
			enabled, err := etcd.Downgrading(ctx, e.Cluster, m)
			if err != nil {
				return err
			}
			if enabled {
				return &lab.Failure{What: "downgrade, as " + m.Name + " tells", Want: "ended", Got: "enabled"}
			}
		}
		return nil
	})
}

// enable lets etcd write its data in the format of the minor release before, and
// waits until all members have: then the older binaries read it.
func (c *course) enable(from, minor string) {
	now := c.now
	ctl := func(ctx context.Context, e *lab.Env, settled string, args ...string) error {
		up, _, err := agreed(ctx, e)
		if err != nil {
			return err
		}
		_, err = etcd.Tool(ctx, e, up[0], "etcdctl", append([]string{"downgrade"}, args...)...)
		var exit *lab.ExitError
		if errors.As(err, &exit) && settled != "" && strings.Contains(exit.Text(), settled) {
			return nil // it was done before
		}
		return err
	}
	are := func(ctx context.Context, e *lab.Env, minor string) error {
		members, err := seats(e.Cluster, c.was.Members.names())
		if err != nil {
			return err
		}
		return versioned(ctx, e, members, minor)
	}
	c.add(operation.Step{
		Name:      "let the data become that of " + minor,
		Shell:     []string{"etcdctl downgrade validate " + minor, "etcdctl downgrade enable " + minor, "curl URL/version  # of each: etcdcluster and storage " + minor},
		ShellUndo: []string{"etcdctl downgrade cancel"},
		Limit:     monitored,
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, now) },
		Do: func(ctx context.Context, e *lab.Env) error {
			if err := ctl(ctx, e, underWay, "validate", minor); err != nil {
				return err
			}
			return ctl(ctx, e, underWay, "enable", minor)
		},
		Gate: func(ctx context.Context, e *lab.Env) error { return are(ctx, e, minor) },
		Undo: func(ctx context.Context, e *lab.Env) error {
			if err := ctl(ctx, e, "no inflight downgrade", "cancel"); err != nil {
				return err
			}
			return are(ctx, e, from)
		},
	})
}

// underWay is what etcd says when a downgrade was enabled before.
const underWay = "downgrade job in progress"

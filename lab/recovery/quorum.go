package recovery

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// RecoverQuorum brings a cluster back that has lost its quorum, with the least
// loss there is (facts 2e). A majority of the original directories, started
// again, loses nothing. Only when there is none, or it does not come up, the
// survivor whose log goes furthest is salvaged and restored as a new cluster.
// Each of the three is an operation of its own; killed between two of them it
// is run again.
func RecoverQuorum(ctx context.Context, e *lab.Env, o operation.Options) error {
	places, err := lookAround(ctx, e)
	if err != nil {
		return err
	}
	have, of, err := majority(ctx, e, places)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		e.Note("", "%s have the data of the cluster, a majority of %d members: nothing need be lost", strings.Join(have, ", "), of)
		err := operation.Run(ctx, e, "start-majority", &StartMajority{}, o)
		var f *lab.Failure
		if err == nil || ctx.Err() != nil || operation.WasCut(err) {
			return err
		}
		if open, oerr := operation.Unfinished(e.Cluster); oerr != nil || open != nil {
			return errors.Join(err, oerr)
		}
		if errors.As(err, &f) && f.What == alreadyServes {
			return err
		}
		e.Note("", "the majority cannot be brought back, so the best survivor is salvaged: %s", err)
	}
	s := &Salvage{}
	if err := operation.Run(ctx, e, "salvage", s, o); err != nil {
		return err
	}
	return operation.Run(ctx, e, "restore", &Restore{From: s.Decided.Survivor, File: s.Decided.File, Anyway: true}, o)
}

const alreadyServes = "recovery of the quorum refused: the cluster"

// lookAround looks at all hosts that can be looked at. What they have and must
// not have is a *lab.Failure.
func lookAround(ctx context.Context, e *lab.Env) ([]Place, error) {
	places := make([]Place, len(e.Seats))
	err := etcd.Each(e.Seats, func(i int, m *lab.Member) error {
		p, err := found(ctx, m)
		if lab.VerdictOf(err) == lab.Fail {
			return err
		}
		if err != nil {
			e.Note(p.Name, "cannot be looked at: %s", err)
			p.Away = true
		}
		places[i] = p
		return nil
	})
	return places, errors.Join(err, ctx.Err())
}

// majority names the hosts that have the data of voters of one cluster, when
// they are more than half of them; of is how many voters there are. Who votes
// is what the log says that goes furthest: a configuration tells only whom a
// member met when it joined.
func majority(ctx context.Context, e *lab.Env, places []Place) (have []string, of int, err error) {
	logs := make([]etcd.Log, len(places))
	etcd.Each(e.Seats, func(i int, m *lab.Member) (err error) {
		if places[i].Old == "" {
			return nil
		}
		if logs[i], err = ReadLog(ctx, m); err != nil {
			e.Note(m.Name, "its log cannot be read: %s", err)
		}
		return nil
	})
	groups, last := map[string][]string{}, map[string]etcd.Log{}
	for i, p := range places {
		if _, cluster, ok := etcd.ParseIdentity(p.Old); ok && (last[cluster].End == etcd.Position{} || last[cluster].End.Behind(logs[i].End)) {
			last[cluster] = logs[i]
		}
	}
	for i, p := range places {
		member, cluster, _ := etcd.ParseIdentity(p.Old)
		for _, id := range last[cluster].Voters {
			if etcd.HexID(id) == member && len(logs[i].Voters) > 0 {
				groups[cluster] = append(groups[cluster], p.Name)
			}
		}
	}
	for cluster, names := range groups {
		voters := len(last[cluster].Voters)
		if of = max(of, voters); len(names) >= lab.Quorum(voters) && len(names) > len(have) {
			have, of = names, voters
		}
	}
	return have, of, ctx.Err()
}

// StartMajority starts the members that still have their data, when they are a
// majority: they lose nothing (FE18).
type StartMajority struct {
	Decided MajorityPlan `yaml:"-" json:",omitzero"`
}

// MajorityPlan is what StartMajority has decided.
type MajorityPlan struct {
	Places []Place // of those that are started
}

// Decide implements operation.Operation.
func (s *StartMajority) Decide(ctx context.Context, e *lab.Env) error {
	quick, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if etcd.Serves(quick, e.Cluster) == nil {
		return &lab.Failure{What: alreadyServes, Want: "not to serve", Got: "it serves"}
	}
	places, err := lookAround(ctx, e)
	if err != nil {
		return err
	}
	have, of, err := majority(ctx, e, places)
	if err != nil {
		return err
	}
	if len(have) == 0 {
		return &lab.Failure{What: "original data", Want: "that of a majority", Got: fmt.Sprintf("less than that, of %d members", of)}
	}
	for _, p := range places {
		if slices.Contains(have, p.Name) {
			s.Decided.Places = append(s.Decided.Places, p)
		}
	}
	return nil
}

// Steps implements operation.Operation.
func (s *StartMajority) Steps(e *lab.Env) ([]operation.Step, error) {
	var all, down []string
	for _, p := range s.Decided.Places {
		if all = append(all, p.Name); !p.Ran {
			down = append(down, p.Name)
		}
	}
	have, err := seats(e.Cluster, all)
	if err != nil {
		return nil, err
	}
	asleep, err := seats(e.Cluster, down)
	if err != nil {
		return nil, err
	}
	same := func(ctx context.Context, e *lab.Env) error {
		return etcd.Each(have, func(_ int, m *lab.Member) error {
			is, err := Contents(ctx, m, m.DataDir)
			if err != nil {
				return err
			}
			for _, p := range s.Decided.Places {
				if p.Name == m.Name && p.Old != is[0] {
					return &lab.Failure{What: "data directory of " + m.Name, Want: p.Old, Got: named(is[0])}
				}
			}
			return nil
		})
	}
	return []operation.Step{{
		Name:      "start " + names(asleep),
		Shell:     []string{"ssh " + names(asleep) + " systemctl start etcd  # all at once"},
		ShellUndo: []string{"ssh " + names(asleep) + " systemctl stop etcd"},
		Forecast:  &operation.Forecast{Voters: len(have), Up: len(have)},
		Before:    same,
		Do:        func(ctx context.Context, e *lab.Env) error { return start(ctx, e, asleep) },
		Gate: func(ctx context.Context, e *lab.Env) error {
			// One that does not come up is no reason to fail as long as the others serve.
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			return lab.Until(ctx, "a majority that serves", func(ctx context.Context) error {
				quick, cancel := context.WithTimeout(ctx, 2*time.Second)
				defer cancel()
				return etcd.Serves(quick, e.Cluster, have...)
			})
		},
		Undo: func(ctx context.Context, e *lab.Env) error { return stop(ctx, e, asleep) },
	}}, nil
}

// Salvage makes a snapshot of the survivor whose log goes furthest, of members
// that are no majority any more.
//
// One that runs still tells what it knows (FE31) and is asked. The data of one
// that does not run is copied, and the copy started in quarantine: alone, as a
// cluster of its own, on sockets in its directory, so that nobody finds it and
// it finds nobody, although it has the identity of the survivor (FE18). The
// survivor's own directory is only read.
type Salvage struct {
	Decided SalvagePlan `yaml:"-" json:",omitzero"`
}

// SalvagePlan is what Salvage has decided.
type SalvagePlan struct {
	Survivor string // its seat
	Old      string // whose its data is
	Live     bool   // it answers
	End      etcd.Position
	Token    string
	File     string // the snapshot, below the lab's directory on the survivor's host
}

// Decide implements operation.Operation. Logs are compared as raft does.
func (s *Salvage) Decide(ctx context.Context, e *lab.Env) error {
	quick, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if etcd.Serves(quick, e.Cluster) == nil {
		return &lab.Failure{What: "salvage refused: the cluster", Want: "not to serve: a snapshot is taken of one that does", Got: "it serves"}
	}
	places, err := lookAround(ctx, e)
	if err != nil {
		return err
	}
	look := e.Look(ctx)
	var said []string
	for i, p := range places {
		if p.Old == "" {
			continue
		}
		log, err := ReadLog(ctx, e.Seats[i])
		end := log.End
		if err != nil {
			e.Note(p.Name, "its log cannot be read: %s", err)
			continue
		}
		said = append(said, fmt.Sprintf("%s ends at %s", p.Name, end))
		if s.Decided.Survivor == "" || s.Decided.End.Behind(end) {
			s.Decided = SalvagePlan{Survivor: p.Name, Old: p.Old, Live: look[i].Up, End: end}
		}
	}
	if s.Decided.Survivor == "" {
		return &lab.Failure{What: "data to salvage", Want: "that of one member at least; else `restore` a backup", Got: "none"}
	}
	s.Decided.Token = etcd.NewToken()
	s.Decided.File = "salvage-" + s.Decided.Token + ".snapshot"
	e.Note(s.Decided.Survivor, "is the survivor to salvage: %s", strings.Join(said, "; "))
	return nil
}

// ReadLog reads the end of a member's log and who votes, from its files.
func ReadLog(ctx context.Context, m *lab.Member) (etcd.Log, error) {
	dir := path.Join(m.DataDir, "member", "wal")
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"ls", "-1", dir}})
	if err != nil {
		return etcd.Log{}, err
	}
	names := strings.Fields(string(out.Stdout))
	slices.Sort(names) // they count upwards
	var files [][]byte
	for _, name := range slices.Backward(names) {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		// Most of it is zeros, set aside for what is to come.
		packed, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"gzip", "-1", "-c", path.Join(dir, name)}})
		if err != nil {
			return etcd.Log{}, err
		}
		z, err := gzip.NewReader(bytes.NewReader(packed.Stdout))
		if err != nil {
			return etcd.Log{}, err
		}
		file, err := io.ReadAll(z)
		if err != nil {
			return etcd.Log{}, err
		}
		files = slices.Insert(files, 0, file)
		if log, ok, err := etcd.ReadLog(files...); err != nil || ok {
			return log, err
		}
	}
	return etcd.Log{}, fmt.Errorf("%s: no file in %s tells who votes", m.Name, dir)
}

// quarantine copies a data directory, starts the copy as a cluster of its own
// and saves a snapshot of it. Every run has a directory of its own, so that one
// that was left alone disturbs no later one; it ends by itself.
const quarantine = `set -e
umask 077
etcd=$1 ctl=$2 data=$3 out=$4 name=$5 limit=$6
scratch=$(mktemp -d "$out.quarantine.XXXXXX")
pid=
trap 'if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || :; wait "$pid" 2>/dev/null || :; fi; rm -rf -- "$scratch"' EXIT
mkdir "$scratch/data"
cp -a -- "$data/member" "$scratch/data/member"
cd "$scratch"
timeout "$limit" "$etcd" --name "$name" --data-dir data --force-new-cluster \
  --listen-client-urls unix://client --advertise-client-urls unix://client \
  --listen-peer-urls unix://peer --initial-advertise-peer-urls unix://peer \
  --initial-cluster "$name=unix://peer" --log-outputs=stderr --log-level=warn 2>log &
pid=$!
until [ -S client ]; do
  kill -0 "$pid" 2>/dev/null || { tail -n 5 log >&2; exit 1; }
  sleep 0.05
done
"$ctl" --endpoints=unix://client --dial-timeout=30s --command-timeout="${limit}s" snapshot save saved || { tail -n 5 log >&2; exit 1; }
mv -- saved "$out"`

// Steps implements operation.Operation.
func (s *Salvage) Steps(e *lab.Env) ([]operation.Step, error) {
	d := s.Decided
	m, err := e.Member(d.Survivor)
	if err != nil {
		return nil, err
	}
	file := path.Join(m.Host.Dir(), d.File)
	limit := 10 * time.Minute
	shell := []string{"ssh " + m.Name + " cp -a " + m.DataDir + " QUARANTINE", "ssh " + m.Name + " etcd --force-new-cluster --data-dir QUARANTINE  # on sockets, no peers",
		"ssh " + m.Name + " etcdctl snapshot save " + d.File, "ssh " + m.Name + " rm -r QUARANTINE"}
	if d.Live {
		shell = []string{"ssh " + m.Name + " etcdctl snapshot save " + d.File}
	}
	return []operation.Step{{
		Name:      "save what " + m.Name + " has",
		Shell:     shell,
		ShellUndo: []string{"ssh " + m.Name + " rm " + d.File},
		Limit:     limit,
		Before: func(ctx context.Context, e *lab.Env) error {
			is, err := Contents(ctx, m, m.DataDir)
			if err == nil && is[0] != d.Old {
				err = &lab.Failure{What: "data directory of " + m.Name, Want: d.Old, Got: named(is[0])}
			}
			return err
		},
		Do: func(ctx context.Context, e *lab.Env) error {
			if d.Live {
				_, err := etcd.Tool(ctx, e, m, "etcdctl", "snapshot", "save", file, "--command-timeout="+limit.String())
				return err
			}
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", quarantine, "sh", path.Join(m.Bin, "etcd"), path.Join(m.Bin, "etcdctl"),
				m.DataDir, file, m.Name, fmt.Sprint(int(limit.Seconds()))}})
			return err
		},
		Gate: func(ctx context.Context, e *lab.Env) error {
			c, err := contentOn(ctx, m.Host, file, d.File)
			if err == nil {
				e.Note(m.Name, "salvaged: %d keys at revision %d, in %s", c.Keys, c.Revision, d.File)
			}
			return err
		},
		Undo: func(ctx context.Context, e *lab.Env) error {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `rm -rf -- "$1" "$1".quarantine.*`, "sh", file}})
			return err
		},
	}}, nil
}

package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Restore puts one snapshot on all members at once, as a new cluster (facts 2b).
//
// The new cluster has a token nobody had before, so that a stale directory
// cannot join it (FE1, FE3), and goes on above every revision the old one can
// have given out, with everything before marked as compacted, so that a client
// which remembers the old one is told (FE16, FE17). The old data stays aside on
// every host until it is discarded. Until the new cluster serves, everything
// can be undone, on all hosts together; from then on it cannot, since writes
// may have been acknowledged.
type Restore struct {
	File    string   `need:"yes" doc:"the snapshot: a file on this machine, or with from a path below the lab's directory on that host"`
	From    string   `doc:"the host on which the file lies; this machine when absent"`
	Hosts   []string `doc:"hosts that become the members, all voting; those that are members now when absent. All others are put out of service"`
	Token   string   `doc:"cluster token, one that no cluster of this lab had; drawn when absent"`
	Anyway  bool     `doc:"although the cluster serves, or could serve again with the data it has"`
	Foreign bool     `doc:"although the snapshot is of another cluster than the data on the hosts"`
	Discard bool     `yaml:"discard-old" doc:"remove the data that was replaced, once the new cluster serves; else it stays aside"`

	Decided RestorePlan `yaml:"-"`
}

// RestorePlan is what a restore has decided.
type RestorePlan struct {
	Token    string // cluster token of the new cluster; names what lies aside too
	SHA256   string // of the snapshot file
	Size     int64
	Revision int64    // of the snapshot
	Keys     int64    // in it
	IDs      []string // of the members it lists, hexadecimal
	Bump     int64    // added to Revision on every member
	Highest  int64    // revision that anybody was seen at
	Cluster  string   // id of the new cluster, hexadecimal
	Served   bool     // the old cluster did
	Places   []Place  // all seats
}

// Doc is one sentence for lists and help.
func (*Restore) Doc() string {
	return "restores one snapshot on all members at once, as a new cluster above all old revisions; the old data stays aside"
}

// Valid refuses arguments that cannot be.
func (r *Restore) Valid() error {
	if r.From != "" && !filepath.IsLocal(r.File) {
		return fmt.Errorf("file: %q: expected a path below the lab's directory on %s", r.File, r.From)
	}
	if strings.ContainsFunc(r.Token, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}) {
		return fmt.Errorf("token: %q: expected letters, digits, - and _", r.Token)
	}
	return nil
}

// read gets the snapshot.
func (r *Restore) read(ctx context.Context, e *lab.Env) ([]byte, error) {
	if r.From == "" {
		data, err := os.ReadFile(r.File)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("snapshot %s: there is no such file on this machine; `from` names the host on which it lies", r.File)
		}
		return data, err
	}
	m, err := e.Member(r.From)
	if err != nil {
		return nil, err
	}
	data, err := m.Host.Get(ctx, path.Join(m.Host.Dir(), r.File))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("snapshot %s: there is no such file in the lab's directory on %s", r.File, r.From)
	}
	return data, err
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Decide implements operation.Operation.
func (r *Restore) Decide(ctx context.Context, e *lab.Env) error {
	data, err := r.read(ctx, e)
	if err != nil {
		return err
	}
	if err := etcd.VerifySnapshot(r.File, data); err != nil {
		return err
	}
	content, err := etcd.ReadSnapshot(data)
	if err != nil {
		return &lab.Failure{What: "snapshot " + r.File, Want: "a database of etcd", Got: err.Error()}
	}
	d := &r.Decided
	d.SHA256, d.Size, d.Revision, d.Keys = checksum(data), int64(len(data)), content.Revision, content.Keys
	for _, m := range content.Members {
		d.IDs = append(d.IDs, m.HexID())
	}
	if d.Places, err = r.places(ctx, e); err != nil {
		return err
	}
	look := e.Look(ctx)
	if err := r.needed(ctx, e, look); err != nil {
		return err
	}
	known, err := knownOf(ctx, e, d.Places, look)
	if err != nil {
		return err
	}
	if err := r.ours(known, content); err != nil {
		return err
	}
	if d.Token = r.Token; d.Token == "" {
		d.Token = etcd.NewToken()
	}
	if slices.Contains(known.tokens, d.Token) {
		return &lab.Failure{What: "token of the restored cluster", Want: "one that no cluster had before (FE3)", Got: d.Token + ", which was used"}
	}
	ids, err := r.join(e).Identities()
	if err != nil {
		return err
	}
	for i, p := range d.Places {
		if !p.Target {
			continue
		}
		id := ids[p.Name]
		d.Places[i].New, d.Cluster = id.String(), etcd.HexID(id.Cluster)
		if slices.Contains(known.ids, d.Cluster) {
			return &lab.Failure{What: "cluster id after the restore", Want: "one that was never seen in this lab (FE3)", Got: d.Cluster}
		}
	}
	// What was seen is not all there was: whoever saw more may be gone. A
	// billion is a week of 1,500 writes a second (FE17).
	d.Highest = max(known.highest, d.Revision)
	d.Bump = 1_000_000_000 + (d.Highest-d.Revision)*6/5
	return r.room(ctx, e)
}

// places looks at all seats and decides who is a target.
func (r *Restore) places(ctx context.Context, e *lab.Env) ([]Place, error) {
	places := make([]Place, len(e.Seats))
	index := map[*lab.Member]int{}
	for i, m := range e.Seats {
		index[m] = i
	}
	if _, err := seats(e.Cluster, r.Hosts); err != nil {
		return nil, err
	}
	err := on(e.Seats, func(m *lab.Member) error {
		p, err := found(ctx, m)
		if err != nil && len(r.Hosts) > 0 && !slices.Contains(r.Hosts, m.Name) {
			// The dead need not answer. Should it come back, it is of another cluster.
			e.Note(m.Name, "cannot be looked at, and is left out: keep it from coming back with its old data: %s", err)
			p, err = Place{Name: m.Name, Away: true}, nil
		}
		p.Target = slices.Contains(r.Hosts, m.Name) || len(r.Hosts) == 0 && (p.Config || p.Old != "")
		places[index[m]] = p
		return err
	})
	if err != nil {
		return nil, err
	}
	n := 0
	for i, p := range places {
		if !p.Target {
			continue
		}
		n++
		if !p.Config {
			continue
		}
		s, err := etcd.ReadSettings(ctx, e.Seats[i])
		if err != nil {
			return nil, err
		}
		if name := fmt.Sprint(s.Get("name")); name != p.Name {
			return nil, &lab.Failure{What: "configuration of " + p.Name, Want: "the name " + p.Name, Got: name}
		}
	}
	if n == 0 {
		return nil, &lab.Failure{What: "hosts to restore on", Want: "members, or `hosts`", Got: "no host has a configuration or data"}
	}
	return places, nil
}

// needed refuses a restore that loses what need not be lost (FE18): of a
// cluster that serves, or of which a majority of the directories is there.
func (r *Restore) needed(ctx context.Context, e *lab.Env, look []lab.Status) error {
	for _, s := range look {
		if s.Up && s.Leader != "" && !s.Absent {
			quick, cancel := context.WithTimeout(ctx, 2*time.Second)
			r.Decided.Served = etcd.Serves(quick, e.Cluster) == nil
			cancel()
			break
		}
	}
	if r.Anyway {
		return nil
	}
	if r.Decided.Served {
		return &lab.Failure{What: "restore refused: the cluster", Want: "not to serve, or `anyway`: everything after the snapshot would be lost", Got: "it serves"}
	}
	have, of, err := majority(ctx, e, r.Decided.Places)
	if err != nil {
		return err
	}
	if len(have) > 0 {
		return &lab.Failure{What: "restore refused: original data", Want: "less than a majority, or `anyway`: started again they lose nothing (`recover-quorum`)",
			Got: fmt.Sprintf("%s have theirs, of %d members", strings.Join(have, ", "), of)}
	}
	return nil
}

// known is what is known of the clusters that were in this lab.
type known struct {
	ids     []string // of clusters and members, hexadecimal
	tokens  []string
	highest int64 // revision
}

// knownOf gathers it: from whoever answers, from configurations and data on the
// hosts, and from earlier operations.
func knownOf(ctx context.Context, e *lab.Env, places []Place, look []lab.Status) (known, error) {
	var k known
	for _, s := range look {
		if s.Up {
			k.ids = append(k.ids, s.ID, s.Cluster)
			k.highest = max(k.highest, s.Revision)
		}
	}
	// A recorder's file, if there is one: the highest revision as a number.
	if text, err := os.ReadFile(filepath.Join(e.Dir, "highest-revision")); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return k, fmt.Errorf("highest-revision of the lab: %w", err)
		}
		k.highest = max(k.highest, n)
	}
	for i, p := range places {
		if p.Old != "" {
			f := strings.Fields(p.Old)
			if len(f) == 5 { // member M of cluster C
				k.ids = append(k.ids, f[1], f[4])
			}
			if !p.Ran { // a process holds its database
				if rev, err := storedRevision(ctx, e, e.Seats[i]); err == nil {
					k.highest = max(k.highest, rev)
				} else {
					e.Note(p.Name, "the revision of its database cannot be read: %s", err)
				}
			}
		}
		if !p.Config {
			continue
		}
		s, err := etcd.ReadSettings(ctx, e.Seats[i])
		if err != nil {
			return k, err
		}
		j := etcd.Join{Token: fmt.Sprint(s.Get("initial-cluster-token")), Cluster: map[string]string{}}
		for _, pair := range strings.Split(fmt.Sprint(s.Get("initial-cluster")), ",") {
			if name, url, ok := strings.Cut(pair, "="); ok {
				j.Cluster[name] = url
			}
		}
		k.tokens = append(k.tokens, j.Token)
		if ids, err := j.Identities(); err == nil {
			for _, id := range ids {
				k.ids = append(k.ids, etcd.HexID(id.Member), etcd.HexID(id.Cluster))
			}
		}
	}
	past, err := operation.List(e.Cluster)
	if err != nil {
		return k, err
	}
	for _, s := range past {
		if s.Name != "restore" {
			continue
		}
		var before Restore
		if err := json.Unmarshal(s.Plan, &before); err != nil {
			return k, fmt.Errorf("operation %s: %w", s.ID, err)
		}
		d := before.Decided
		k.ids = append(append(k.ids, d.IDs...), d.Cluster)
		k.tokens = append(k.tokens, d.Token)
		k.highest = max(k.highest, d.Highest, d.Revision+d.Bump)
	}
	return k, nil
}

// storedRevision reads the revision of a member's database; its process must
// not run.
func storedRevision(ctx context.Context, e *lab.Env, m *lab.Member) (int64, error) {
	s, err := statusOf(ctx, e, m, path.Join(m.DataDir, "member", "snap", "db"))
	return s.Revision, err
}

// dbStatus is what etcdutl says of a database.
type dbStatus struct {
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"totalKey"`
}

func statusOf(ctx context.Context, e *lab.Env, m *lab.Member, db string) (dbStatus, error) {
	var s dbStatus
	out, err := etcd.Tool(ctx, e, m, "etcdutl", "snapshot", "status", db, "--write-out=json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out.Stdout, &s); err != nil || s.Revision == 0 {
		return s, fmt.Errorf("%s: etcdutl snapshot status exited 0 without an answer that has a revision: %.200q", m.Name, out.Stdout)
	}
	return s, nil
}

// ours refuses a snapshot of another cluster. A snapshot names its members, and
// one of them must be known here; where nothing is known, all are welcome.
func (r *Restore) ours(k known, c etcd.Content) error {
	if r.Foreign || len(k.ids) == 0 || len(c.Members) == 0 {
		return nil
	}
	var names []string
	for _, m := range c.Members {
		if slices.Contains(k.ids, m.HexID()) {
			return nil
		}
		names = append(names, m.Name+" "+m.HexID())
	}
	return &lab.Failure{What: "snapshot " + r.File, Want: "of this cluster, or `foreign`", Got: "one whose members are " + strings.Join(names, ", ")}
}

// room refuses hosts that have too little space left for the copy, the
// restored database and a WAL.
func (r *Restore) room(ctx context.Context, e *lab.Env) error {
	const wal = 64 << 20
	return on(r.targets(e), func(m *lab.Member) error {
		for at, need := range map[string]int64{m.DataDir: 2*r.Decided.Size + wal, m.Host.Dir(): r.Decided.Size} {
			have, err := free(ctx, m, at)
			if err != nil {
				return err
			}
			if have < need {
				return &lab.Failure{What: "room on " + m.Name + " for " + at, Want: fmt.Sprintf("%d MiB", need>>20), Got: fmt.Sprintf("%d MiB", have>>20)}
			}
		}
		return nil
	})
}

// join is how the restored members begin.
func (r *Restore) join(e *lab.Env) etcd.Join {
	j := etcd.Join{Cluster: map[string]string{}, State: etcd.StateNew, Token: r.Decided.Token}
	targets := r.targets(e)
	for _, m := range targets {
		j.Cluster[m.Name] = r.peerURL(e, m)
	}
	return j
}

// peerURL is the URL a restored member has. One that is to stay alone in a lab
// of its own keeps the URL nobody else can reach.
func (r *Restore) peerURL(e *lab.Env, m *lab.Member) string {
	if len(r.targets(e)) == 1 {
		return etcd.AdvertisedPeerURL(e.Spec, m)
	}
	return m.PeerURL
}

func (r *Restore) targets(e *lab.Env) []*lab.Member {
	return r.those(e, func(p Place) bool { return p.Target })
}

// all are the seats on which something is done.
func (r *Restore) all(e *lab.Env) []*lab.Member {
	return r.those(e, func(p Place) bool { return !p.Away && (p.Target || p.Config || p.Old != "") })
}

func (r *Restore) those(e *lab.Env, which func(Place) bool) []*lab.Member {
	var out []*lab.Member
	for i, p := range r.Decided.Places {
		if which(p) {
			out = append(out, e.Seats[i])
		}
	}
	return out
}

func (r *Restore) place(m *lab.Member) Place {
	for _, p := range r.Decided.Places {
		if p.Name == m.Name {
			return p
		}
	}
	return Place{}
}

func (r *Restore) upload(m *lab.Member) string {
	return path.Join(m.Host.Dir(), "restore-"+r.Decided.Token+".snapshot")
}

// Steps implements operation.Operation.
func (r *Restore) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	if len(d.Places) != len(e.Seats) {
		return nil, fmt.Errorf("restore: it was decided for %d hosts, the lab has %d", len(d.Places), len(e.Seats))
	}
	for i, p := range d.Places {
		if p.Name != e.Seats[i].Name {
			return nil, fmt.Errorf("restore: it was decided for host %s, the lab has %s in its place", p.Name, e.Seats[i].Name)
		}
	}
	all, targets := r.all(e), r.targets(e)
	ran := r.those(e, func(p Place) bool { return p.Ran })
	limit := sized(d.Size)
	step := func(s operation.Step) operation.Step {
		s.Limit = limit
		return s
	}
	here := names(targets)
	return []operation.Step{
		step(operation.Step{
			Name:      "stop " + names(all),
			Shell:     []string{"ssh " + names(all) + " systemctl stop etcd"},
			ShellUndo: []string{"ssh " + names(ran) + " systemctl start etcd"},
			Before:    func(ctx context.Context, e *lab.Env) error { return r.stands(ctx, e, untouched) },
			Do:        func(ctx context.Context, e *lab.Env) error { return stop(ctx, e, all) },
			Gate:      func(ctx context.Context, e *lab.Env) error { return silent(ctx, all) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.startOld(ctx, e, ran) },
		}),
		step(operation.Step{
			Name:      "copy the snapshot to " + here,
			Shell:     []string{"scp " + r.File + " " + here + ":restore-" + d.Token + ".snapshot", "ssh " + here + " sha256sum restore-" + d.Token + ".snapshot  # " + d.SHA256},
			ShellUndo: []string{"ssh " + here + " rm restore-" + d.Token + ".snapshot"},
			Before:    r.still(all, untouched),
			Do:        func(ctx context.Context, e *lab.Env) error { return r.copy(ctx, e, targets) },
			Gate:      func(ctx context.Context, e *lab.Env) error { return r.sameFile(ctx, e, targets) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return remove(ctx, e, targets, r.upload) },
		}),
		step(operation.Step{
			Name:      "restore beside the old data on " + here,
			Shell:     []string{"ssh " + here + " " + lab.Quote(append([]string{"etcdutl"}, r.etcdutl(e, targets[0])...))},
			ShellUndo: []string{"ssh " + here + " rm -r " + dirsOf(targets[0], d.Token).fresh},
			Before: func(ctx context.Context, e *lab.Env) error {
				return errors.Join(r.still(all, restoring)(ctx, e), r.sameFile(ctx, e, targets))
			},
			Do:   func(ctx context.Context, e *lab.Env) error { return r.restore(ctx, e, targets) },
			Gate: func(ctx context.Context, e *lab.Env) error { return r.alike(ctx, e, targets) },
			Undo: func(ctx context.Context, e *lab.Env) error {
				return remove(ctx, e, targets, func(m *lab.Member) string { return dirsOf(m, d.Token).fresh })
			},
		}),
		step(operation.Step{
			Name: "put the old data of " + names(all) + " aside and the restored in its place",
			Shell: []string{"ssh " + names(all) + " mv " + path.Join(all[0].DataDir, "member") + " " + dirsOf(all[0], d.Token).before,
				"ssh " + here + " mv " + path.Join(dirsOf(targets[0], d.Token).fresh, "member") + " " + targets[0].DataDir},
			ShellUndo: []string{"the same backwards, on all of them"},
			Before:    r.still(all, swapping),
			Do:        func(ctx context.Context, e *lab.Env) error { return r.swap(ctx, e, all) },
			Gate:      r.still(all, swapped),
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.swapBack(ctx, e, all) },
		}),
		step(operation.Step{
			Name:      "configure " + names(all),
			Shell:     []string{"ssh " + here + ": initial-cluster-token: " + d.Token + " in etcd.yaml, no force-new-cluster"},
			ShellUndo: []string{"the old etcd.yaml back, on all of them"},
			Before:    r.still(all, swapped),
			Do:        func(ctx context.Context, e *lab.Env) error { return r.configure(ctx, e, all) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.configureBack(ctx, e, all) },
		}),
		step(operation.Step{
			Name:      "start " + here,
			Shell:     []string{"ssh " + here + " systemctl start etcd  # all at once", etcdctl + "endpoint status", etcdctl + fmt.Sprintf("get --rev=%d x  # compacted", d.Revision)},
			ShellUndo: []string{"ssh " + here + " systemctl stop etcd"},
			Forecast:  &operation.Forecast{Voters: len(targets), Up: len(targets)},
			Before:    func(ctx context.Context, e *lab.Env) error { return r.stands(ctx, e, swapped) },
			Do:        func(ctx context.Context, e *lab.Env) error { return start(ctx, e, targets) },
			Gate:      func(ctx context.Context, e *lab.Env) error { return r.serves(ctx, e, targets) },
			Undo: func(ctx context.Context, e *lab.Env) error {
				return errors.Join(stop(ctx, e, targets), silent(ctx, targets))
			},
			Point: "the new cluster serves: going back would lose what it has acknowledged",
		}),
		step(operation.Step{
			Name:  "clear up",
			Shell: r.clearing(e),
			Do: func(ctx context.Context, e *lab.Env) error {
				err := remove(ctx, e, targets, r.upload)
				if r.Discard {
					err = errors.Join(err, remove(ctx, e, all, func(m *lab.Member) string { return dirsOf(m, d.Token).before }))
				} else {
					e.Note("", "the old data and configuration of %s lie in before-%s of their data directories: `etcdrill operations --discard` removes them", names(all), d.Token)
				}
				return err
			},
		}),
	}, nil
}

const etcdctl = "etcdctl "

func names(seats []*lab.Member) string {
	var out []string
	for _, m := range seats {
		out = append(out, m.Name)
	}
	return strings.Join(out, ", ")
}

func (r *Restore) clearing(e *lab.Env) []string {
	out := []string{"ssh " + names(r.targets(e)) + " rm restore-" + r.Decided.Token + ".snapshot"}
	if r.Discard {
		out = append(out, "ssh "+names(r.all(e))+" rm -r DATA/before-"+r.Decided.Token)
	}
	return out
}

// stage is how far the directories are.
type stage int

const (
	untouched stage = iota // the old data is in its place, and nothing beside it
	restoring              // the same, and perhaps a part of the restored data beside it
	swapping               // the restored data is whole; one or the other is in place
	swapped                // the restored data is in its place, the old aside
)

// still wants the processes down and the directories as a stage has them.
func (r *Restore) still(all []*lab.Member, s stage) func(context.Context, *lab.Env) error {
	return func(ctx context.Context, e *lab.Env) error {
		return errors.Join(silent(ctx, all), r.stands(ctx, e, s))
	}
}

// stands compares whose data lies where with the plan, on all hosts: also those
// that have nothing to do with it, since a member that came up there meanwhile
// would not be stopped.
func (r *Restore) stands(ctx context.Context, e *lab.Env, s stage) error {
	return on(r.those(e, func(p Place) bool { return !p.Away }), func(m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		is, err := contents(ctx, m, d.data, d.fresh, d.before)
		if err != nil {
			return err
		}
		data, fresh, before := is[0], is[1], is[2]
		ok := false
		switch s {
		case untouched:
			ok = data == p.Old && fresh == "" && before == ""
		case restoring:
			ok = data == p.Old && before == "" // what is beside it is ours, whatever it is
		case swapping:
			ok = data == p.Old && fresh == p.New && before == "" || data == "" && fresh == p.New && before == p.Old || data == p.New && fresh == "" && before == p.Old
		case swapped:
			ok = data == p.New && fresh == "" && before == p.Old
		}
		if !p.Target && p.Old == "" {
			ok = data == "" && fresh == "" && before == ""
		}
		if ok {
			return nil
		}
		want := [...]string{
			untouched: named(p.Old),
			restoring: named(p.Old),
			swapping:  named(p.Old) + ", or aside and " + named(p.New) + " in its place",
			swapped:   named(p.New) + ", and aside " + named(p.Old),
		}[s]
		return &lab.Failure{What: "data directory of " + m.Name, Want: want, Got: fmt.Sprintf("%s, beside it %s, aside %s", named(data), named(fresh), named(before))}
	})
}

// copy puts the snapshot on all hosts.
func (r *Restore) copy(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	data, err := r.read(ctx, e)
	if err != nil {
		return err
	}
	if sum := checksum(data); sum != r.Decided.SHA256 {
		return &lab.Failure{What: "sha256 of " + r.File, Want: r.Decided.SHA256 + ", as when it was decided", Got: sum}
	}
	return on(targets, func(m *lab.Member) error {
		e.Note(m.Name, "gets the snapshot, %d bytes", len(data))
		return m.Host.Put(ctx, r.upload(m), 0o600, data)
	})
}

// sameFile wants the very same snapshot on every host: three different ones
// make a cluster that serves and disagrees (N22).
func (r *Restore) sameFile(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	return on(targets, func(m *lab.Member) error {
		out, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sha256sum", r.upload(m)}})
		if err != nil {
			return err
		}
		sum, _, _ := strings.Cut(string(out.Stdout), " ")
		if sum != r.Decided.SHA256 {
			return &lab.Failure{What: "sha256 of the snapshot on " + m.Name, Want: r.Decided.SHA256, Got: sum}
		}
		return nil
	})
}

// etcdutl are the arguments of the restore of one member. The revision bump
// and the mark go together or not at all (FE15).
func (r *Restore) etcdutl(e *lab.Env, m *lab.Member) []string {
	j := r.join(e)
	return []string{"snapshot", "restore", r.upload(m), "--data-dir=" + dirsOf(m, r.Decided.Token).fresh, "--name=" + m.Name,
		"--initial-cluster=" + j.String(), "--initial-cluster-token=" + j.Token, "--initial-advertise-peer-urls=" + r.peerURL(e, m),
		"--bump-revision=" + strconv.FormatInt(r.Decided.Bump, 10), "--mark-compacted"}
}

// restore makes the new data beside the old. A refused restore leaves a part
// behind, into which etcdutl does not restore again (FE13): so it begins with
// nothing.
func (r *Restore) restore(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	return on(targets, func(m *lab.Member) error {
		d := dirsOf(m, r.Decided.Token)
		for _, argv := range [][]string{{"mkdir", "-p", "-m", "0700", d.data}, {"rm", "-rf", "--", d.fresh}} {
			if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: argv}); err != nil {
				return err
			}
		}
		if _, err := etcd.Tool(ctx, e, m, "etcdutl", r.etcdutl(e, m)...); err != nil {
			return err
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"chmod", "-R", "go=", d.fresh}})
		return err
	})
}

// alike looks at what was restored, before anything old is touched: it must be
// whose the plan says, and the same on all hosts, at the planned revision.
func (r *Restore) alike(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	if err := r.stands(ctx, e, swapping); err != nil {
		return err
	}
	all := make([]dbStatus, len(targets))
	var index []int
	for i := range targets {
		index = append(index, i)
	}
	err := on(index, func(i int) (err error) {
		m := targets[i]
		all[i], err = statusOf(ctx, e, m, path.Join(dirsOf(m, r.Decided.Token).fresh, "member", "snap", "db"))
		return err
	})
	if err != nil {
		return err
	}
	for i, s := range all {
		if want := r.Decided.Revision + r.Decided.Bump; s.Revision != want {
			return &lab.Failure{What: "revision restored on " + targets[i].Name, Want: fmt.Sprint(want), Got: fmt.Sprint(s.Revision)}
		}
		if s != all[0] {
			return &lab.Failure{What: "database restored on " + targets[i].Name, Want: fmt.Sprintf("%+v, as on %s", all[0], targets[0].Name), Got: fmt.Sprintf("%+v", s)}
		}
	}
	return nil
}

// swap moves by rename alone, so that every moment of it can be told from the
// directories.
func (r *Restore) swap(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return on(all, func(m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `set -e
data=$1 fresh=$2 before=$3 target=$4
mkdir -p -m 0700 "$before"
if [ "$target" = no ] || [ -e "$fresh/member" ]; then
  if [ -e "$data/member" ] && [ ! -e "$before/member" ]; then mv -- "$data/member" "$before/member"; fi
fi
if [ "$target" = yes ] && [ -e "$fresh/member" ]; then
  if [ -e "$data/member" ]; then echo "$before/member and $data/member are both there" >&2; exit 1; fi
  mv -- "$fresh/member" "$data/member"
fi
if [ -e "$fresh" ]; then rmdir -- "$fresh"; fi
sync "$data"`, "sh", d.data, d.fresh, d.before, yes(p.Target)}})
		return err
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// swapBack moves back, from any moment of swap.
func (r *Restore) swapBack(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return on(all, func(m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		// With the restored data neither in its place nor beside it swap has not
		// begun, or it is undone already.
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `set -e
data=$1 fresh=$2 before=$3 target=$4
if [ ! -d "$before" ]; then exit 0; fi
if [ "$target" = yes ] && [ ! -e "$fresh/member" ] && [ -e "$data/member" ]; then
  mkdir -p -m 0700 "$fresh"
  mv -- "$data/member" "$fresh/member"
fi
if [ -e "$before/member" ]; then
  if [ -e "$data/member" ]; then echo "$before/member and $data/member are both there" >&2; exit 1; fi
  mv -- "$before/member" "$data/member"
fi
rmdir -- "$before"
sync "$data"`, "sh", d.data, d.fresh, d.before, yes(p.Target)}})
		if err != nil {
			return err
		}
		is, err := contents(ctx, m, d.data)
		if err == nil && is[0] != p.Old {
			err = &lab.Failure{What: "data directory of " + m.Name + " after the way back", Want: named(p.Old), Got: named(is[0])}
		}
		return err
	})
}

// configure writes the new configurations; the old one goes aside first. A
// host that is not to be a member any more has none afterwards.
func (r *Restore) configure(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	j := r.join(e)
	return on(all, func(m *lab.Member) error {
		p, kept := r.place(m), path.Join(dirsOf(m, r.Decided.Token).before, "etcd.yaml")
		if p.Config {
			there, err := exists(ctx, m, kept)
			if err != nil {
				return err
			}
			if !there {
				if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"cp", "-p", "--", m.Config, kept + ".part"}}); err != nil {
					return err
				}
				if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"mv", "--", kept + ".part", kept}}); err != nil {
					return err
				}
			}
		}
		if !p.Target {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", m.Config}})
			return err
		}
		s := etcd.NewSettings(e.Spec, m, j)
		if p.Config {
			var err error
			if s, err = etcd.ReadSettings(ctx, m); err != nil {
				return err
			}
		}
		s.Set("initial-cluster", j.String())
		s.Set("initial-cluster-state", j.State)
		s.Set("initial-cluster-token", j.Token)
		s.Set("initial-advertise-peer-urls", r.peerURL(e, m))
		s.Delete("force-new-cluster") // it would do it again at every start (FE19)
		e.Note(m.Name, "configuration: initial-cluster %s, token %s", j, j.Token)
		return etcd.WriteSettings(ctx, m, s)
	})
}

func (r *Restore) configureBack(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return on(all, func(m *lab.Member) error {
		p, kept := r.place(m), path.Join(dirsOf(m, r.Decided.Token).before, "etcd.yaml")
		if !p.Config {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", m.Config}})
			return err
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `rm -f -- "$1.part"; if [ -e "$1" ]; then mv -- "$1" "$2"; fi`, "sh", kept, m.Config}})
		return err
	})
}

// startOld brings back what ran before, of one epoch.
func (r *Restore) startOld(ctx context.Context, e *lab.Env, ran []*lab.Member) error {
	if err := on(r.all(e), func(m *lab.Member) error { // made where there was none
		if r.place(m).Dir {
			return nil
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `if [ -d "$1" ]; then rmdir -- "$1"; fi`, "sh", m.DataDir}})
		return err
	}); err != nil {
		return err
	}
	if err := r.stands(ctx, e, untouched); err != nil {
		return err
	}
	if err := start(ctx, e, ran); err != nil {
		return err
	}
	if r.Decided.Served {
		return etcd.WaitReady(ctx, e.Cluster, ran...)
	}
	return nil
}

// remove deletes what an operation has made.
func remove(ctx context.Context, e *lab.Env, seats []*lab.Member, what func(*lab.Member) string) error {
	return on(seats, func(m *lab.Member) error {
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-rf", "--", what(m)}})
		return err
	})
}

// serves is the gate: the new cluster is one, it is the planned one, its
// members agree, it has everything that is in the snapshot, and whoever
// remembers the old one is told so.
func (r *Restore) serves(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	d := r.Decided
	if err := etcd.WaitReady(ctx, e.Cluster, targets...); err != nil {
		return err
	}
	for _, m := range targets {
		l, err := etcd.Members(ctx, e.Cluster, false, m)
		if err != nil {
			return err
		}
		if got := etcd.HexID(l.Cluster); got != d.Cluster {
			return &lab.Failure{What: "cluster id of " + m.Name, Want: d.Cluster, Got: got}
		}
		if l.Voters() != len(targets) || l.Learners() != 0 {
			return &lab.Failure{What: "members known to " + m.Name, Want: fmt.Sprintf("%d voters", len(targets)), Got: fmt.Sprintf("%d voters, %d learners", l.Voters(), l.Learners())}
		}
	}
	err := lab.Until(ctx, "hashes that can be compared", func(ctx context.Context) error {
		hashes, err := etcd.Hashes(ctx, e.Cluster, targets...)
		if err == nil && !etcd.Equal(hashes) {
			err = &lab.Failure{What: "data of the restored members", Want: "equal", Got: etcd.Describe(hashes)}
		}
		return err
	})
	if err != nil {
		return err
	}
	cli, err := etcd.Client(e.Cluster, targets...)
	if err != nil {
		return err
	}
	defer cli.Close()
	from := d.Revision + d.Bump
	got, err := cli.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithRev(from))
	if err != nil {
		return fmt.Errorf("keys at revision %d: %w", from, err)
	}
	if got.Count != d.Keys {
		return &lab.Failure{What: fmt.Sprintf("keys at revision %d", from), Want: fmt.Sprintf("%d, as in the snapshot", d.Keys), Got: fmt.Sprint(got.Count)}
	}
	if _, err := cli.Get(ctx, "\x00", clientv3.WithRev(d.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		return &lab.Failure{What: fmt.Sprintf("a read at the old revision %d", d.Revision), Want: "told that it is compacted", Got: fmt.Sprint(err)}
	}
	w, err := etcd.OpenWatch(ctx, e.Cluster, etcd.WatchSpec{Key: "\x00", From: d.Highest + 1}, targets...)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := lab.Until(ctx, "an old watch to end", func(context.Context) error {
		if w.Ended() == nil {
			return &lab.Failure{What: fmt.Sprintf("a watch from the old revision %d", d.Highest+1), Want: "ended as compacted", Got: "it goes on"}
		}
		return nil
	}); err != nil {
		return err
	}
	if end := w.Ended(); !errors.Is(end, rpctypes.ErrCompacted) {
		return &lab.Failure{What: fmt.Sprintf("a watch from the old revision %d", d.Highest+1), Want: "ended as compacted", Got: end.Error()}
	}
	e.Journal.Add(lab.Event{Kind: lab.EventReturn, Return: &lab.Return{Revision: d.Revision, From: from}})
	lost := "nothing above it was seen"
	if n := d.Highest - d.Revision; n > 0 {
		lost = fmt.Sprintf("the last that was seen is %d, so %d revisions at least are lost", d.Highest, n)
	}
	e.Note("", "cluster %s serves with %d keys of revision %d and goes on from revision %d; %s", d.Cluster, d.Keys, d.Revision, from, lost)
	return nil
}

// Discard removes the data that finished restores of a lab have put aside. It
// is refused while an operation is unfinished, which may need it.
func Discard(ctx context.Context, e *lab.Env) error {
	all, err := operation.List(e.Cluster)
	if err != nil {
		return err
	}
	for _, s := range all {
		if !s.Over {
			return &lab.Failure{What: "discarding what lies aside", Want: "no unfinished operation (`resume` or `rollback` ends it)", Got: s.String()}
		}
	}
	for _, s := range all {
		if s.Name != "restore" || s.Back {
			continue
		}
		var r Restore
		if err := json.Unmarshal(s.Plan, &r); err != nil {
			return fmt.Errorf("operation %s: %w", s.ID, err)
		}
		if len(r.Decided.Places) != len(e.Seats) {
			return fmt.Errorf("operation %s: it was of %d hosts, the lab has %d", s.ID, len(r.Decided.Places), len(e.Seats))
		}
		if err := remove(ctx, e, r.all(e), func(m *lab.Member) string { return dirsOf(m, r.Decided.Token).before }); err != nil {
			return err
		}
	}
	return nil
}

package recovery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/snapshot"
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
	File    string   `need:"yes" doc:"the snapshot: a file on this machine, or name or label of one in the lab's own store, or latest; with from a path below the lab's directory on that host"`
	From    string   `doc:"the host on which the file lies; this machine when absent"`
	Hosts   []string `doc:"hosts that become the members, all voting; those that vote now when absent. All others are put out of service"`
	Token   string   `doc:"cluster token, one that no cluster of this lab had; drawn when absent"`
	Anyway  bool     `doc:"although the cluster serves, or could serve again with the data it has"`
	Copy    bool     `yaml:"db-copy" doc:"the file is a copy of a stopped member's database (member/snap/db), which has no checksum: the last resort. What stood only in that member's log is lost"`
	Foreign bool     `doc:"although the snapshot is of another cluster than the data on the hosts"`
	Discard bool     `yaml:"discard-old" doc:"remove the data that was replaced, once the new cluster serves; else it stays aside"`

	// Files are those that hosts are to have in the end beside their data, by
	// host: of a saved state, which Source reads. Of a member's configuration
	// everything is taken but who the members are, and the token.
	Files  map[string][]File                 `yaml:"-" json:",omitempty"`
	Source func(blob string) ([]byte, error) `yaml:"-" json:"-"`

	Decided RestorePlan `yaml:"-" json:",omitzero"`
}

// File is a file of a host, as a restore is to make it.
type File struct {
	Path string      // absolute, on the host
	Blob string      // what Source reads; empty: there is no such file in the end
	Mode fs.FileMode // of one that is there
}

// RestorePlan is what a restore has decided.
type RestorePlan struct {
	Content
	Token   string  // cluster token of the new cluster; names what lies aside too
	Bump    int64   // added to Revision on every member; 0: nothing is lost, and revisions go on
	Highest int64   // revision that anybody was seen at
	Cluster string  // id of the new cluster, hexadecimal
	Served  bool    // the old cluster did
	Places  []Place // all seats
}

// Content is what is in a snapshot.
type Content struct {
	SHA256   string // of the file
	Size     int64
	Revision int64
	Keys     int64
	IDs      []string // of the members it lists, hexadecimal
	// HashKV of all members at Revision while they stood still, and where they
	// were compacted; 0 when they did not.
	Hash      uint32 `json:",omitempty"`
	Compacted int64  `json:",omitempty"`
}

// contentOf reads a snapshot, or the copy of a database, that lies in a file of
// this machine, once it is found to be whole.
func contentOf(name, file string, asCopy bool) (c Content, db *etcd.Database, err error) {
	if asCopy {
		if err = etcd.VerifyCopy(name, file); err == nil {
			c.SHA256, c.Size, err = summed(file)
		}
	} else {
		c.SHA256, c.Size, err = etcd.VerifyFile(name, file)
	}
	if err != nil {
		return Content{}, nil, err
	}
	if db, err = etcd.ReadDatabase(file); err != nil {
		return Content{}, nil, &lab.Failure{What: "snapshot " + name, Want: "a database of etcd", Got: err.Error()}
	}
	c.Revision, c.Keys = db.Revision, int64(len(db.Keys))
	for _, m := range db.Members {
		c.IDs = append(c.IDs, m.HexID())
	}
	return c, db, nil
}

// contentOn is contentOf a snapshot that lies on a host.
func contentOn(ctx context.Context, h lab.Host, path, name string) (Content, error) {
	file, err := snapshot.Fetch(ctx, h, path, os.TempDir())
	if err != nil {
		return Content{}, err
	}
	c, _, err := contentOf(name, file, false)
	return c, errors.Join(err, os.Remove(file))
}

// summed is the SHA-256 of a file, and how many bytes it has.
func summed(file string) (sum string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
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

// with calls do with the snapshot as a file of this machine, which is a copy for
// the while when it lies on a host.
func (r *Restore) with(ctx context.Context, e *lab.Env, do func(file string) error) error {
	if r.From == "" {
		if _, err := os.Stat(r.File); errors.Is(err, fs.ErrNotExist) {
			return r.stored(ctx, e, do)
		}
		return do(r.File)
	}
	m, err := e.Member(r.From)
	if err != nil {
		return err
	}
	file, err := snapshot.Fetch(ctx, m.Host, path.Join(m.Host.Dir(), r.File), os.TempDir())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("snapshot %s: there is no such file in the lab's directory on %s", r.File, r.From)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(file), os.Remove(file))
}

// stored calls do with it as the lab's own store has it.
func (r *Restore) stored(ctx context.Context, e *lab.Env, do func(file string) error) error {
	store, err := snapshot.OpenStore(e, "")
	if err != nil {
		return err
	}
	entry, err := store.Find(ctx, r.File)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		return fmt.Errorf("snapshot %s: there is no such file on this machine (`from` names the host on which it lies), and in the lab's store: %s", r.File, err)
	case entry.Problem != nil:
		return entry.Problem
	}
	r.File = entry.Name // latest, or the last one with a label, may be another by the time it is resumed
	file, done, err := entry.Open(ctx, "")
	if err != nil {
		return err
	}
	return errors.Join(do(file), done())
}

// Decide implements operation.Operation.
func (r *Restore) Decide(ctx context.Context, e *lab.Env) error {
	d := &r.Decided
	var content *etcd.Database
	err := r.with(ctx, e, func(file string) (err error) {
		d.Content, content, err = contentOf(r.File, file, r.Copy)
		return err
	})
	if err != nil {
		return err
	}
	look := e.Look(ctx)
	if d.Places, err = r.places(ctx, e, learners(content, look)); err != nil {
		return err
	}
	if err := snapshot.NotNewer(ctx, e, look, r.targets(e)[0], r.File, content.Storage); err != nil {
		return err
	}
	if r.Copy {
		e.Note("", "%s is a copy of a database: whether its values are those that were written nobody can say, and what stood only in the log is lost", r.File)
	}
	if len(content.Leases) > 0 {
		e.Note("", "leases begin anew, with their keys, whether or not anybody holds them any more: %s", anew(content.Leases))
	}
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
	if err := r.identify(e, known); err != nil {
		return err
	}
	// What was seen is not all there was: whoever saw more may be gone. A
	// billion is a week of 1,500 writes a second (FE17).
	d.Highest = max(known.highest, d.Revision)
	d.Bump = leap + (d.Highest-d.Revision)*6/5
	return r.room(ctx, e)
}

// anew lists leases that come back with their full time: locks of holders that
// are gone, and keys that had expired.
func anew(leases []etcd.Lease) string {
	var out []string
	for _, l := range leases {
		out = append(out, fmt.Sprintf("%s of %s with %s", etcd.HexID(uint64(l.ID)), l.TTL, cmp.Or(lab.Some(l.Keys, 3), "nothing")))
	}
	return lab.Some(out, 10)
}

// leap is how far above everything that was seen a restored cluster goes on.
const leap = 1_000_000_000

// identify decides who the new cluster and its members are, and refuses ids
// that anybody had before.
func (r *Restore) identify(e *lab.Env, known known) error {
	d := &r.Decided
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
	return nil
}

// learners are the ids of those that do not vote: as who answers says, else as
// the snapshot does.
func learners(content *etcd.Database, look []lab.Status) map[string]bool {
	out := map[string]bool{}
	for _, m := range content.Members {
		out[m.HexID()] = m.Learner
	}
	for _, s := range look {
		if s.Up && s.Role != "" {
			out[s.ID] = s.Role == "learner"
		}
	}
	return out
}

// places looks at all seats and decides who is a target. A restored member
// always votes (FE14), so a learner becomes one only when it is named.
func (r *Restore) places(ctx context.Context, e *lab.Env, learners map[string]bool) ([]Place, error) {
	places := make([]Place, len(e.Seats))
	if _, err := seats(e.Cluster, r.Hosts); err != nil {
		return nil, err
	}
	err := etcd.Each(e.Seats, func(i int, m *lab.Member) error {
		p, err := found(ctx, m)
		if err != nil && len(r.Hosts) > 0 && !slices.Contains(r.Hosts, m.Name) {
			// The dead need not answer. Should it come back, it is of another cluster.
			e.Note(m.Name, "cannot be looked at, and is left out: keep it from coming back with its old data: %s", err)
			p, err = Place{Name: m.Name, Away: true}, nil
		}
		p.Target = slices.Contains(r.Hosts, m.Name) || len(r.Hosts) == 0 && (p.Config || p.Old != "")
		if member, _, ok := etcd.ParseIdentity(p.Old); p.Target && len(r.Hosts) == 0 && ok && learners[member] {
			e.Note(m.Name, "is a learner, and restored it would vote: it is put out of service; add it again afterwards")
			p.Target = false
		}
		places[i] = p
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
	recorded, err := snapshot.Highest(e.Cluster)
	if err != nil {
		return k, err
	}
	k.highest = max(k.highest, recorded)
	for i, p := range places {
		if p.Old != "" {
			if member, cluster, ok := etcd.ParseIdentity(p.Old); ok {
				k.ids = append(k.ids, member, cluster)
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
	past, err := restores(e.Cluster)
	if err != nil {
		return k, err
	}
	for _, before := range past {
		d := before.Decided
		k.ids = append(append(k.ids, d.IDs...), d.Cluster)
		k.tokens = append(k.tokens, d.Token)
		k.highest = max(k.highest, d.Highest, d.Revision+d.Bump)
	}
	return k, nil
}

// StateRestore is the name of the operation that goes back to a state, see
// package vault. Its plan has all that a Restore has.
const StateRestore = "state-restore"

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
func (r *Restore) ours(k known, c *etcd.Database) error {
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
	return etcd.Each(r.targets(e), func(_ int, m *lab.Member) error {
		for at, need := range map[string]int64{m.DataDir: 2*r.Decided.Size + wal, m.Host.Dir(): r.Decided.Size} {
			if err := roomFor(ctx, m, at, need); err != nil {
				return err
			}
		}
		return nil
	})
}

// roomFor refuses a host that has fewer bytes left for a path.
func roomFor(ctx context.Context, m *lab.Member, at string, need int64) error {
	have, err := free(ctx, m, at)
	if err == nil && have < need {
		err = &lab.Failure{What: "room on " + m.Name + " for " + at, Want: fmt.Sprintf("%d MiB", need>>20), Got: fmt.Sprintf("%d MiB", have>>20)}
	}
	return err
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
	return r.those(e, func(p Place) bool {
		return !p.Away && (p.Target || p.Config || p.Old != "" || len(r.Files[p.Name]) > 0)
	})
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

// restored is a restore of the past, and what became of it.
type restored struct {
	*Restore
	State operation.State
}

// restores are all restores that a lab's operations have decided on, those that
// are a part of a switch or of the way back to a state too.
func restores(c *lab.Cluster) ([]restored, error) {
	all, err := operation.List(c)
	if err != nil {
		return nil, err
	}
	var out []restored
	for _, s := range all {
		op, ok := Kinds(s.Name)
		switch {
		case s.Name == StateRestore:
			op = &Restore{}
		case !ok:
			continue
		}
		if err := json.Unmarshal(s.Plan, op); err != nil {
			return nil, fmt.Errorf("operation %s: %w", s.ID, err)
		}
		switch op := op.(type) {
		case *Restore:
			out = append(out, restored{op, s})
		case *Switch:
			if r := op.restore(); r != nil {
				out = append(out, restored{r, s})
			}
		}
	}
	return out, nil
}

// Discard removes the data that finished restores of a lab have put aside. It
// is refused while an operation is unfinished, which may need it.
func Discard(ctx context.Context, e *lab.Env) error {
	open, err := operation.Unfinished(e.Cluster)
	if err != nil {
		return err
	}
	if open != nil {
		return &lab.Failure{What: "discarding what lies aside", Want: "no unfinished operation (`resume` or `rollback` ends it)", Got: open.String()}
	}
	past, err := restores(e.Cluster)
	if err != nil {
		return err
	}
	for _, r := range past {
		if r.State.Back {
			continue
		}
		if len(r.Decided.Places) != len(e.Seats) {
			return fmt.Errorf("operation %s: it was of %d hosts, the lab has %d", r.State.ID, len(r.Decided.Places), len(e.Seats))
		}
		if err := remove(ctx, e, r.all(e), func(m *lab.Member) string { return dirsOf(m, r.Decided.Token).before }); err != nil {
			return err
		}
	}
	return nil
}

package snapshot

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Save takes a snapshot of a lab that one can trust, and keeps it in a store.
type Save struct {
	Member   string        `doc:"whose state; absent: a voter that is not behind, and not the leader where there is another"`
	Label    string        `doc:"a name for people, part of the snapshot's"`
	Store    string        `doc:"where to keep it: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Survivor bool          `doc:"without a quorum too: what the named member knows, which nobody can say is all"`
	NoTrial  bool          `yaml:"no-trial" doc:"do not restore it and boot a throwaway member from it"`
	Timeout  time.Duration `doc:"for the transfer; absent: by the size of the database"`

	Compress   bool     `doc:"keep it compressed (zstd)"`
	Recipients []string `doc:"keep it encrypted (age), for the owners of these public keys; its sidecar is not"`
}

func (s *Save) packing() Packing { return Packing{Compress: s.Compress, Recipients: s.Recipients} }

// Valid refuses impossible arguments.
func (s *Save) Valid() error {
	if s.Survivor && s.Member == "" {
		return fmt.Errorf("survivor: expected with member: only you know who has stayed up")
	}
	if err := s.packing().Valid(); err != nil {
		return err
	}
	if err := ValidStore(s.Store); err != nil || s.Label == "" {
		return err
	}
	return ValidLabel(s.Label)
}

// slowest is the rate that saving is given time for: a tenth of what a small
// machine does (facts 7.2).
const slowest = 10 << 20

// patience is how long one may take to catch up with a revision, and how long
// hashes may be in flux.
const patience = 5 * time.Second

// Do performs it, and returns the name of the new snapshot. Before: the members
// that answer are one cluster with one leader, no alarm says CORRUPT; the source
// votes and has every revision that was there a moment ago. Afterwards: the file
// is verified here, byte by byte and page by page, its revision is not less than
// that one, the members' hashes are equal, there where they can be compared, and
// a throwaway member booted from it has the same keys and the same hash. What is
// refused, or turns out wrong, is a *lab.Failure, and then there is no snapshot,
// under no name.
func (s *Save) Do(ctx context.Context, e *lab.Env) (name string, side *Sidecar, err error) {
	temp, side, err := s.Take(ctx, e)
	if err != nil {
		return "", nil, err
	}
	defer remove(temp)
	store, err := OpenStore(e, s.Store)
	if err != nil {
		return "", nil, err
	}
	if name, err = store.add(ctx, temp, side, s.packing()); err != nil {
		return "", nil, err
	}
	e.Note(side.Source, "snapshot %s: %d bytes, revision %d, %d keys, verified", name, side.Size, side.Revision, side.Keys)
	return name, side, nil
}

// Take is Do for those who keep it themselves: the snapshot is a file in the
// store's directory that has no name there yet, and that they delete.
func (s *Save) Take(ctx context.Context, e *lab.Env) (file string, side *Sidecar, err error) {
	store, err := OpenStore(e, s.Store)
	if err != nil {
		return "", nil, err
	}
	look := e.Look(ctx)
	if !s.Survivor {
		look = led(ctx, e, look)
	}
	src, side, err := s.source(ctx, e, look)
	if err != nil {
		return "", nil, err
	}
	limit := s.Timeout
	if limit == 0 {
		limit = 30*time.Second + time.Duration(status(look, src.Name).DBSize/slowest)*time.Second
	}
	if src.Bin == "" && !s.NoTrial { // nothing may be put on its host
		return "", nil, &lab.Failure{What: "snapshot refused", Want: "no-trial, for a cluster that is only looked at", Got: "a trial, which boots a member on its host"}
	}
	temp, err := Fill(store.scratch(), func(f *os.File) error { return s.receive(ctx, e, look, src, side, f, limit) })
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(temp))
		}
	}()
	if !s.NoTrial {
		if side.Trial, err = trial(ctx, e, src, temp, side); err != nil {
			return "", nil, err
		}
	}
	if side.Highest, err = Record(e.Cluster, look, side.Revision); err != nil {
		return "", nil, err
	}
	if side.CAs, err = fingerprints(e.Cluster); err != nil {
		return "", nil, err
	}
	return temp, side, nil
}

// receive fills a file with the snapshot of a member, and looks whether it is
// one that can be trusted.
func (s *Save) receive(ctx context.Context, e *lab.Env, look []lab.Status, src *lab.Member, side *Sidecar, f *os.File, limit time.Duration) error {
	name := "of " + src.Name
	ctx, cancel := context.WithTimeout(ctx, limit+4*patience)
	defer cancel()
	to := &early{File: f}
	var sum string
	var size int64
	sending, over := context.WithTimeout(ctx, limit)
	defer over()
	err := etcd.ReceiveSnapshot(sending, e.Cluster, src, func(r io.Reader) (err error) {
		sum, size, err = etcd.VerifySnapshot(name, io.TeeReader(r, to))
		return err
	})
	if err != nil && sending.Err() != nil && ctx.Err() == nil {
		return &lab.Failure{What: "snapshot " + name, Want: fmt.Sprintf("its transfer within %s", limit), Got: err.Error()}
	}
	if err != nil {
		return err
	}
	revision, err := etcd.FileRevision(f.Name())
	if err != nil {
		return &lab.Failure{What: "snapshot " + name, Want: "a database of etcd", Got: err.Error()}
	}
	if revision < side.Floor {
		return &lab.Failure{What: "revision of the snapshot " + name, Want: fmt.Sprintf("at least %d, where the cluster was before", side.Floor), Got: fmt.Sprint(revision)}
	}
	// Side by side: one waits for the disk, one for the members. Hashes as soon
	// as may be: a compaction makes them unreadable.
	var d *etcd.Database
	var h etcd.Hash
	all, ctx := errgroup.WithContext(ctx)
	all.Go(to.Sync)
	all.Go(func() (err error) { d, err = sound(name, f.Name()); return err })
	all.Go(func() (err error) { h, err = s.hash(ctx, e, look, src, revision); return err })
	if err := all.Wait(); err != nil {
		return err
	}
	side.fill(d, sum, size)
	side.Hash, side.HashedAt = h.Hash, h.Compact
	return nil
}

// early is a file whose bytes go to the disk while more come, so that little is
// left to wait for at its end.
type early struct {
	*os.File
	written int
	syncing chan error // gets what became of the Sync that runs; nil when none does
}

// Write implements io.Writer.
func (w *early) Write(p []byte) (int, error) {
	const much = 16 << 20
	select {
	case err := <-w.syncing:
		if w.syncing = nil; err != nil {
			return 0, err // the system tells it once
		}
	default:
	}
	n, err := w.File.Write(p)
	if w.written += n; w.written >= much && w.syncing == nil {
		done := make(chan error, 1)
		w.written, w.syncing = 0, done
		go func() { done <- w.File.Sync() }()
	}
	return n, err
}

// Sync has all of it on disk.
func (w *early) Sync() error {
	var err error
	if w.syncing != nil {
		err = <-w.syncing
	}
	return errors.Join(err, w.File.Sync())
}

// source refuses a cluster that is not one whole, and finds whom to save from.
// The sidecar says what was seen of it.
func (s *Save) source(ctx context.Context, e *lab.Env, look []lab.Status) (*lab.Member, *Sidecar, error) {
	up := answering(look)
	if s.Member != "" {
		if _, err := e.Member(s.Member); err != nil {
			return nil, nil, err
		}
		switch st := status(look, s.Member); {
		case st.Absent:
			return nil, nil, refused(s.Member, "a member", "none")
		case !st.Up:
			return nil, nil, refused(s.Member, "a member that answers", "no answer: "+st.Error)
		case st.Role == "learner":
			return nil, nil, refused(s.Member, "a voting member", "a learner, which may be anywhere behind")
		}
	}
	if len(up) == 0 {
		return nil, nil, fmt.Errorf("no member answers")
	}
	for _, st := range up {
		if st.Cluster != up[0].Cluster {
			return nil, nil, &lab.Failure{What: "snapshot refused: cluster id of " + st.Name, Want: up[0].Cluster + ", as " + up[0].Name + " has", Got: st.Cluster}
		}
		if slices.Contains(st.Alarms, "CORRUPT") {
			return nil, nil, &lab.Failure{What: "snapshot refused: alarms of " + st.Name, Want: "no CORRUPT", Got: "CORRUPT: first find out who is right"}
		}
	}
	if s.Survivor {
		m, err := e.Member(s.Member)
		if err != nil {
			return nil, nil, err
		}
		e.Note(m.Name, "saved as a survivor: nobody can say whether it has all that was acknowledged")
		return m, s.about(e, look, m, 0), nil
	}
	leader := leaderOf(look)
	if leader == "" {
		return nil, nil, &lab.Failure{What: "snapshot refused: leader", Want: "one (or `survivor` with the member that stayed up)", Got: "none"}
	}
	floor, err := linearizable(ctx, e, leader)
	if err != nil {
		return nil, nil, fmt.Errorf("where the cluster is could not be read, so nobody can say whether a snapshot would be behind: %w", err)
	}
	var last error
	for _, m := range s.candidates(e, look, up, leader) {
		last = reaches(ctx, e, m, floor, s.Member != "")
		if last == nil && status(look, m.Name).Leader == "" {
			last = refused(m.Name, "a member that follows the leader", "one that knows none: it is cut off")
		}
		if last == nil {
			return m, s.about(e, look, m, floor), nil
		}
		if s.Member == "" {
			e.Note(m.Name, "not taken for the snapshot: %s", last)
		}
	}
	return nil, nil, last
}

// led looks again while there is no leader: an election takes a moment.
func led(ctx context.Context, e *lab.Env, look []lab.Status) []lab.Status {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lab.Until(ctx, "a leader", func(ctx context.Context) error { // the caller sees whether there is one
		if leaderOf(look) != "" {
			return nil
		}
		if now := e.Look(ctx); ctx.Err() == nil { // one that our deadline cut short has seen nobody
			look = now
		}
		return errors.New("there is none")
	})
	return look
}

// leaderOf names who leads, in the newest term that anybody leads in.
func leaderOf(look []lab.Status) string {
	leader := lab.Status{}
	for _, st := range look {
		if st.Up && !st.Absent && st.Role == "leader" && st.Term > leader.Term {
			leader = st
		}
	}
	return leader.Name
}

func refused(member, want, got string) error {
	return &lab.Failure{What: "snapshot of " + member + " refused", Want: want, Got: got}
}

// status is what a look saw of a seat.
func status(look []lab.Status, name string) lab.Status {
	for _, s := range look {
		if s.Name == name {
			return s
		}
	}
	return lab.Status{}
}

// candidates are whom to save from, the best first: who is least behind, and
// the leader, who has other work to do, last.
func (s *Save) candidates(e *lab.Env, look, up []lab.Status, leader string) []*lab.Member {
	var voters []lab.Status
	for _, st := range up {
		if st.Role != "learner" && (s.Member == "" || st.Name == s.Member) {
			voters = append(voters, st)
		}
	}
	slices.SortStableFunc(voters, func(a, b lab.Status) int {
		if (a.Name == leader) != (b.Name == leader) {
			return map[bool]int{true: 1, false: -1}[a.Name == leader]
		}
		x, _ := etcd.Lag(look, a.Name)
		y, _ := etcd.Lag(look, b.Name)
		return x - y
	})
	var out []*lab.Member
	for _, st := range voters {
		if m, err := e.Member(st.Name); err == nil {
			out = append(out, m)
		}
	}
	return out
}

// linearizable reads where the cluster is, through its leader.
func linearizable(ctx context.Context, e *lab.Env, leader string) (int64, error) {
	m, err := e.Member(leader)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var rev int64
	err = lab.Until(ctx, "a linearizable read", func(ctx context.Context) (err error) {
		rev, err = etcd.RevisionOf(ctx, e.Cluster, m, false)
		return err
	})
	return rev, err
}

// answering are those who do.
func answering(look []lab.Status) []lab.Status {
	return slices.DeleteFunc(slices.Clone(look), func(st lab.Status) bool { return !st.Up || st.Absent })
}

// hash is that of the source at the revision of the snapshot, zero when it
// cannot be read. But for a survivor it is compared with those of all members
// that answer, there or, where not all can tell it, at a revision they have. One
// that is cut off is at another revision and cannot be compared; then the others
// are. A learner tells no hash.
func (s *Save) hash(ctx context.Context, e *lab.Env, look []lab.Status, src *lab.Member, revision int64) (etcd.Hash, error) {
	var seats []*lab.Member
	for _, st := range answering(look) {
		if st.Leader != "" && st.Role != "learner" && !s.Survivor {
			if m, err := e.Member(st.Name); err == nil {
				seats = append(seats, m)
			}
		}
	}
	if len(seats) > 0 {
		var hashes []etcd.Hash
		err := lab.Until(ctx, "hashes that can be compared", func(ctx context.Context) (err error) {
			hashes, err = etcd.HashesAt(ctx, e.Cluster, revision, seats...)
			if errors.Is(err, etcd.ErrNotComparable) {
				hashes, err = etcd.Hashes(ctx, e.Cluster, seats...)
			}
			return err
		})
		if err != nil {
			return etcd.Hash{}, err
		}
		if !etcd.Equal(hashes) {
			return etcd.Hash{}, &lab.Failure{What: "snapshot refused: data of the members", Want: "equal: first find out who is right", Got: etcd.Describe(hashes)}
		}
		for _, h := range hashes {
			if h.Seat == src && h.Revision == revision {
				return h, nil
			}
		}
	}
	h, err := etcd.HashAt(ctx, e.Cluster, src, revision)
	if err != nil && ctx.Err() == nil {
		e.Note(src.Name, "its hash at revision %d could not be read: %s", revision, err)
		return etcd.Hash{}, nil
	}
	return h, err
}

// reaches looks that a member has a revision, or has it soon. A snapshot is
// what one member knows (FE8).
func reaches(ctx context.Context, e *lab.Env, m *lab.Member, floor int64, wait bool) error {
	limit := patience / 5
	if wait {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var got int64
	err := lab.Until(ctx, m.Name+" to catch up", func(ctx context.Context) error {
		rev, err := etcd.RevisionOf(ctx, e.Cluster, m, true)
		if err == nil {
			got = rev
			if rev < floor {
				err = errors.New("behind")
			}
		}
		return err
	})
	if err != nil && got > 0 {
		return refused(m.Name, fmt.Sprintf("revision %d, where the cluster is", floor), fmt.Sprintf("%d: it is behind", got))
	}
	return err
}

// about is what is known of a snapshot before it is there.
func (s *Save) about(e *lab.Env, look []lab.Status, m *lab.Member, floor int64) *Sidecar {
	st := status(look, m.Name)
	lag, err := etcd.Lag(look, m.Name)
	if err != nil {
		lag = -1
	}
	return &Sidecar{Version: 1, Time: time.Now().UTC(), Lab: e.ID, Label: s.Label, Cluster: st.Cluster, Source: m.Name, SourceID: st.ID,
		Led: st.Role == "leader", Lag: lag, Floor: floor, Etcd: st.Version}
}

// Inspect verifies a file on this machine, byte by byte and page by page, and
// tells what it has. name is what it is called in a *lab.Failure.
func Inspect(name, file string) (*Sidecar, error) {
	s := &Sidecar{}
	return s, s.read(name, file)
}

// read verifies a file on this machine, byte by byte and page by page, and
// fills in what it has.
func (s *Sidecar) read(name, file string) error {
	_, err := s.load(name, file)
	return err
}

// load is read, for those who want the keys too.
func (s *Sidecar) load(name, file string) (*etcd.Database, error) {
	sum, size, err := etcd.VerifyFile(name, file)
	if err != nil {
		return nil, err
	}
	d, err := sound(name, file)
	if err != nil {
		return nil, err
	}
	s.fill(d, sum, size)
	return d, nil
}

// sound reads a database whose pages are.
func sound(name, file string) (*etcd.Database, error) {
	var wrong error
	var pages sync.WaitGroup
	pages.Go(func() { wrong = etcd.CheckPages(file) })
	d, err := etcd.ReadDatabase(file)
	pages.Wait()
	if wrong != nil {
		return nil, &lab.Failure{What: "snapshot " + name, Want: "a database whose pages are sound", Got: wrong.Error()}
	}
	if err != nil {
		return nil, &lab.Failure{What: "snapshot " + name, Want: "a database of etcd", Got: err.Error()}
	}
	return d, nil
}

// fingerprints are the SHA-256 of the certificates that a lab's clients trust;
// none without TLS.
func fingerprints(c *lab.Cluster) ([]string, error) {
	if c.TLS == nil {
		return nil, nil
	}
	rest, err := os.ReadFile(filepath.Join(etcd.PKIDir(c), "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			sum := sha256.Sum256(block.Bytes)
			out = append(out, hex.EncodeToString(sum[:]))
		}
	}
}

package snapshot

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Sidecar is what is known about a snapshot from when it was taken. It lies
// beside the snapshot, as JSON.
type Sidecar struct {
	Version int       `json:"version"` // of this format, 1
	Time    time.Time `json:"time"`    // when it was saved
	Lab     string    `json:"lab"`
	Label   string    `json:"label,omitempty"` // a name that people gave it

	// The file, unpacked, with its trailer.
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`

	// What is in it.
	Revision  int64            `json:"revision"`
	Compacted int64            `json:"compacted,omitempty"` // up to which it is compacted
	Keys      int64            `json:"keys"`
	Prefixes  map[string]int64 `json:"prefixes"` // keys by etcd.Keys.Prefixes
	Leases    int64            `json:"leases,omitempty"`
	Storage   string           `json:"storage,omitempty"`
	Members   []Member         `json:"members"`

	// Where it comes from.
	Cluster  string `json:"cluster"` // cluster id, hexadecimal
	Source   string `json:"source"`  // member whose state it is
	SourceID string `json:"sourceId"`
	Led      bool   `json:"led"`     // the source was the leader
	Lag      int    `json:"lag"`     // raft entries it was behind the leader, -1 when there was none
	Floor    int64  `json:"floor"`   // revision of a linearizable read right before; 0 without a quorum
	Highest  int64  `json:"highest"` // highest revision ever seen in this lab; a bump must pass it (FE17)
	Etcd     string `json:"etcd"`    // the source's version

	// HashKV of the source at Revision, and up to where the source was compacted
	// then; Hash 0 when it could not be read.
	Hash     uint32 `json:"hash"`
	HashedAt int64  `json:"hashedAt"`

	CAs   []string `json:"cas,omitempty"` // SHA-256 of the certificates that clients of the lab trust
	Trial *Outcome `json:"trial,omitempty"`
}

// Member is a member that the snapshot lists.
type Member struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Learner bool   `json:"learner,omitempty"`
}

// fill writes down what a file has in it.
func (s *Sidecar) fill(d *etcd.Database, sum string, size int64) {
	s.SHA256, s.Size = sum, size
	s.Revision, s.Compacted, s.Storage = d.Revision, d.Compacted, d.Storage
	s.Keys, s.Prefixes, s.Leases = int64(len(d.Keys)), d.Keys.Prefixes(), int64(len(d.Leases))
	s.Members = nil
	for _, m := range d.Members {
		s.Members = append(s.Members, Member{ID: m.HexID(), Name: m.Name, Learner: m.Learner})
	}
}

// Same compares what is in a file, see Inspect, with what is written about it.
func (s *Sidecar) Same(name string, now *Sidecar) error {
	for _, c := range []struct {
		what      string
		want, got any
	}{
		{"size", s.Size, now.Size},
		{"SHA-256", s.SHA256, now.SHA256},
		{"revision", s.Revision, now.Revision},
		{"storage version", s.Storage, now.Storage},
		{"keys", s.Keys, now.Keys},
	} {
		if c.want != c.got {
			return &lab.Failure{What: fmt.Sprintf("snapshot %s is not the one its sidecar tells of: %s", name, c.what), Want: fmt.Sprint(c.want), Got: fmt.Sprint(c.got)}
		}
	}
	return sameCounts("snapshot "+name+": its sidecar", s.Prefixes, now.Prefixes)
}

// sameCounts compares keys per prefix and names the first that differs.
func sameCounts(what string, want, got map[string]int64) error {
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		if want[p] != got[p] {
			return &lab.Failure{What: fmt.Sprintf("%s: keys that begin with %q", what, p), Want: fmt.Sprint(want[p]), Got: fmt.Sprint(got[p])}
		}
	}
	return nil
}

// readSidecar reads a sidecar. One that cannot be used is a *lab.Failure.
func readSidecar(file string, r io.Reader) (*Sidecar, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s := &Sidecar{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, &lab.Failure{What: "sidecar " + file, Want: "JSON, as written beside the snapshot", Got: err.Error()}
	}
	if s.Version != 1 || s.SHA256 == "" || s.Cluster == "" {
		return nil, &lab.Failure{What: "sidecar " + file, Want: "version 1, with sha256 and cluster", Got: fmt.Sprintf("version %d: another version of etcdrill, or something else, wrote it", s.Version)}
	}
	return s, nil
}

// String is the sidecar for people.
func (s *Sidecar) String() string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", key, fmt.Sprintf(format, args...))
	}
	line("saved", "%s, lab %s", s.Time.Local().Format("2006-01-02 15:04:05"), s.Lab)
	if s.Label != "" {
		line("label", "%s", s.Label)
	}
	line("file", "%d bytes, SHA-256 %s", s.Size, s.SHA256)
	line("revision", "%d, compacted up to %d, %d right before, %d the highest ever seen", s.Revision, s.Compacted, s.Floor, s.Highest)
	line("keys", "%d", s.Keys)
	for _, p := range slices.Sorted(maps.Keys(s.Prefixes)) {
		line("", "%8d %s", s.Prefixes[p], p)
	}
	if s.Leases > 0 {
		line("leases", "%d, which begin anew where it is restored", s.Leases)
	}
	role := "follower"
	switch {
	case s.Led:
		role = "leader"
	case s.Lag < 0:
		role = "survivor without a leader"
	}
	line("source", "%s (%s), %s, etcd %s, storage version %s", s.Source, s.SourceID, role, s.Etcd, s.Storage)
	line("cluster", "%s", s.Cluster)
	for _, m := range s.Members {
		line("", "%s %s%s", m.ID, m.Name, map[bool]string{true: " (learner)"}[m.Learner])
	}
	line("hash", "%08x", s.Hash)
	for _, ca := range s.CAs {
		line("trusts", "%s", ca)
	}
	if s.Trial == nil {
		line("trial", "none")
	} else {
		line("trial", "%s", s.Trial)
	}
	return b.String()
}

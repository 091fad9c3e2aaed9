package vault

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// State is what is known of a lab at one moment: the manifest of all its parts.
type State struct {
	Version int       `json:"version"` // of this format, 1
	Time    time.Time `json:"time"`    // when it was saved
	Lab     string    `json:"lab"`
	Label   string    `json:"label,omitempty"`  // a name that people gave it
	Before  string    `json:"before,omitempty"` // the operation before which it was saved by itself
	Epoch   Epoch     `json:"epoch"`
	Served  bool      `json:"served"` // the cluster did
	Seats   []string  `json:"seats"`  // all hosts, each of which has a part
	Hosts   []Host    `json:"hosts"`  // the parts, in the same order

	// Data tells of the snapshot, the blob of its SHA256. nil: none could be had.
	Data *snapshot.Sidecar `json:"data,omitempty"`
	// Salvaged: the cluster did not serve, and Data is what one survivor knew.
	Salvaged bool     `json:"salvaged,omitempty"`
	Highest  int64    `json:"highest"`           // revision that was ever seen in the lab
	Missing  []string `json:"missing,omitempty"` // what could not be saved, and why
}

// Epoch is what all parts of a state have in common, and no part of another
// state has.
type Epoch struct {
	ID       string `json:"id"`       // of the state, drawn when it was saved
	Cluster  string `json:"cluster"`  // id, hexadecimal; empty when nobody could tell
	Token    string `json:"token"`    // of the cluster, as its members are configured
	Revision int64  `json:"revision"` // of the data; 0 without any
}

// String is one line for people.
func (e Epoch) String() string {
	return fmt.Sprintf("epoch %s: cluster %s, token %s, revision %d", e.ID, cmp.Or(e.Cluster, "unknown"), cmp.Or(e.Token, "unknown"), e.Revision)
}

// The roles of a host.
const (
	Voter   = "voter"
	Learner = "learner"
)

// Host is the part of a state that is of one host.
type Host struct {
	Name    string `json:"name"`
	Epoch   Epoch  `json:"epoch"`
	Role    string `json:"role,omitempty"`   // Voter, Learner, or empty: no member
	Member  string `json:"member,omitempty"` // id, hexadecimal; empty when unknown
	Peer    string `json:"peer"`             // URLs
	Client  string `json:"client"`
	Running bool   `json:"running"`
	Version string `json:"version,omitempty"` // of its etcd, when it answered
	Token   string `json:"token,omitempty"`   // as it is configured, where that is not the epoch's
	Holds   string `json:"holds,omitempty"`   // whose the data in its directory was
	Hash    uint32 `json:"hash,omitempty"`    // HashKV at the revision of the data, when it could be read
	Files   []File `json:"files,omitempty"`
	// Dir is its data directory, a tar.gz; only of a stopped member of a cluster
	// that did not serve.
	Dir     *File  `json:"dir,omitempty"`
	Problem string `json:"problem,omitempty"` // why it could not be looked at
}

// The kinds of a File.
const (
	Config = "config" // etcd's configuration file
	Beside = "beside" // other configuration in the directory of that
	Unit   = "unit"   // of systemd
	PKI    = "pki"    // certificates and keys
)

// File is a file of a host.
type File struct {
	Path   string `json:"path"` // absolute, on the host
	Kind   string `json:"kind"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // of its content
	// Blob names the content in the store: SHA256, or that of the encrypted
	// content. Empty: the file is known by its checksum alone.
	Blob string `json:"blob,omitempty"`

	content []byte // while it is looked at
}

// Sealed tells whether the blob is encrypted.
func (f File) Sealed() bool { return f.Blob != "" && f.Blob != f.SHA256 }

// mode is what a file of a host gets.
func (f File) mode() fs.FileMode {
	if f.Kind == Unit || f.Kind == PKI && path.Ext(f.Path) != ".key" {
		return 0o644
	}
	return 0o600
}

// Host finds the part of a host, nil when there is none.
func (s *State) Host(name string) *Host {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return &s.Hosts[i]
		}
	}
	return nil
}

// Members lists the hosts of a role.
func (s *State) Members(role string) []string {
	var out []string
	for _, h := range s.Hosts {
		if h.Role == role {
			out = append(out, h.Name)
		}
	}
	return out
}

// file finds a file of a host, nil when there is none.
func (h *Host) file(path string) *File {
	for i := range h.Files {
		if h.Files[i].Path == path {
			return &h.Files[i]
		}
	}
	return nil
}

// blobs lists the blobs of a state, with how many bytes each has when that is
// known, else -1.
func (s *State) blobs() map[string]int64 {
	out := map[string]int64{}
	if s.Data != nil {
		out[s.Data.SHA256] = s.Data.Size
	}
	for _, h := range s.Hosts {
		files := h.Files
		if h.Dir != nil {
			files = append(files[:len(files):len(files)], *h.Dir)
		}
		for _, f := range files {
			switch {
			case f.Sealed():
				out[f.Blob] = -1
			case f.Blob != "":
				out[f.Blob] = f.Size
			}
		}
	}
	return out
}

// String is the state for people.
func (s *State) String() string {
	var b strings.Builder
	line := func(key, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", key, fmt.Sprintf(format, args...))
	}
	line("saved", "%s, lab %s", s.Time.Local().Format("2006-01-02 15:04:05"), s.Lab)
	if s.Label != "" {
		line("label", "%s", s.Label)
	}
	if s.Before != "" {
		line("before", "%s", s.Before)
	}
	line("epoch", "%s: cluster %s, token %s", s.Epoch.ID, cmp.Or(s.Epoch.Cluster, "unknown"), cmp.Or(s.Epoch.Token, "unknown"))
	switch {
	case s.Data == nil:
		line("data", "none that could be restored")
	case s.Salvaged:
		line("data", "revision %d, %d keys, salvaged from %s: the cluster did not serve", s.Data.Revision, s.Data.Keys, s.Data.Source)
	default:
		line("data", "revision %d, %d keys, from %s; %d the highest revision ever seen", s.Data.Revision, s.Data.Keys, s.Data.Source, s.Highest)
	}
	for _, h := range s.Hosts {
		line("host", "%s", h)
		for _, f := range h.Files {
			how := map[bool]string{true: "encrypted", false: "kept"}[f.Sealed()]
			if f.Blob == "" {
				how = "checksum only"
			}
			line("", "  %-6s %s  %.12s  %s", f.Kind, f.Path, f.SHA256, how)
		}
		if h.Dir != nil {
			line("", "  data   %s  %.12s  archived, %d bytes", h.Dir.Path, h.Dir.SHA256, h.Dir.Size)
		}
	}
	for _, m := range s.Missing {
		line("missing", "%s", m)
	}
	return b.String()
}

// String is one line for people.
func (h Host) String() string {
	role := cmp.Or(h.Role, "no member")
	if h.Member != "" {
		role += " " + h.Member
	}
	switch {
	case h.Problem != "":
		return fmt.Sprintf("%s: could not be looked at: %s", h.Name, h.Problem)
	case h.Running && h.Version != "":
		role += ", etcd " + h.Version
	case h.Running:
		role += ", running without an answer"
	case h.Role != "":
		role += ", stopped"
	}
	if h.Hash != 0 {
		role += fmt.Sprintf(", hash %08x", h.Hash)
	}
	return h.Name + ": " + role
}

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/recovery"
)

// quick is how long a cluster that serves may take for one small answer.
const quick = 2 * time.Second

// patience is how long a host may take to tell what it has: some are gone and
// never answer.
const patience = 30 * time.Second

// Now is the state of a lab as it stands, without its data. It changes nothing,
// and keeps nothing. A host that cannot be looked at says so in its part.
func Now(ctx context.Context, e *lab.Env) (*State, error) {
	st := &State{Version: 1, Time: time.Now().UTC(), Lab: e.ID, Hosts: make([]Host, len(e.Seats))}
	look := e.Look(ctx)
	list, known := membership(ctx, e, st)
	etcd.Each(e.Seats, func(i int, m *lab.Member) error {
		h := Host{Name: m.Name, Peer: m.PeerURL, Client: m.ClientURL}
		bound, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := h.look(bound, m); err != nil {
			h.Problem = err.Error()
		}
		if s := look[i]; s.Up {
			h.Version, h.Member = s.Version, s.ID
		}
		st.Hosts[i] = h
		return nil
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, h := range st.Hosts {
		st.Seats = append(st.Seats, h.Name)
	}
	if known {
		st.Epoch.Cluster = etcd.HexID(list.Cluster)
		for _, l := range list.Members {
			if l.Seat == nil {
				st.Missing = append(st.Missing, fmt.Sprintf("member %s, %s: no host of this lab has its URLs: %s", l.Name, l.HexID(), strings.Join(l.PeerURLs, ", ")))
				continue
			}
			h := st.Host(l.Seat.Name)
			h.Role, h.Member = Voter, l.HexID()
			if l.Learner {
				h.Role = Learner
			}
		}
	} else {
		st.guess(ctx, e)
	}
	for _, h := range st.Hosts {
		if h.Problem != "" {
			st.Missing = append(st.Missing, fmt.Sprintf("host %s: %s", h.Name, h.Problem))
		}
	}
	return st, st.tokens(e)
}

// membership is the member list of the cluster, as a quorum has it where there
// is one: then it serves. Without one it is what any member knows.
func membership(ctx context.Context, e *lab.Env, st *State) (etcd.Membership, bool) {
	soon, cancel := context.WithTimeout(ctx, quick)
	defer cancel()
	if etcd.Serves(soon, e.Cluster) == nil {
		if l, err := etcd.Members(ctx, e.Cluster, false); err == nil {
			st.Served = true
			return l, true
		}
	}
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return etcd.Membership{}, false
	}
	l, err := etcd.Members(ctx, e.Cluster, true, up...)
	return l, err == nil
}

// guess says who the members were when nobody answers: those with data of the
// cluster whose log goes furthest, by who votes there, and those that are
// configured as members although their data is lost.
func (s *State) guess(ctx context.Context, e *lab.Env) {
	logs := make([]etcd.Log, len(e.Seats))
	etcd.Each(e.Seats, func(i int, m *lab.Member) (err error) {
		if s.Hosts[i].Holds != "" {
			logs[i], err = recovery.ReadLog(ctx, m)
		}
		return err
	})
	var last etcd.Log
	for i, h := range s.Hosts {
		_, cluster, ok := etcd.ParseIdentity(h.Holds)
		if ok && (s.Epoch.Cluster == "" || last.End.Behind(logs[i].End)) {
			last, s.Epoch.Cluster = logs[i], cluster
		}
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		member, cluster, ok := etcd.ParseIdentity(h.Holds)
		configured := slices.ContainsFunc(h.Files, func(f File) bool { return f.Kind == Config })
		switch {
		case ok && cluster == s.Epoch.Cluster:
			h.Member, h.Role = member, Learner
			if len(last.Voters) == 0 || slices.ContainsFunc(last.Voters, func(id uint64) bool { return etcd.HexID(id) == member }) {
				h.Role = Voter
			}
		case configured:
			h.Role = Voter
		}
	}
}

// tokens reads the token of the cluster from the configurations, and notes who
// has another one: a member that joined later may.
func (s *State) tokens(e *lab.Env) error {
	for i := range s.Hosts {
		h := &s.Hosts[i]
		for _, f := range h.Files {
			if f.Kind != Config || h.Role == "" {
				continue
			}
			c, err := etcd.ParseSettings(e.Seats[i], f.content)
			if err != nil {
				return err
			}
			token := fmt.Sprint(c.Get("initial-cluster-token"))
			if s.Epoch.Token == "" {
				s.Epoch.Token = token
			}
			if token != s.Epoch.Token {
				h.Token = token
			}
		}
	}
	return nil
}

// list names the files of a host that are part of a state, with their kinds: the
// configuration and what else is configured in its directory, certificates and
// keys, and the unit that starts etcd with this configuration.
const list = `for f in "$1"/*.yaml "$1"/*.yml "$1"/*.conf "$1"/*.env; do if [ -f "$f" ]; then echo "beside $f"; fi; done
if [ -n "$2" ]; then for f in "$2"/*.crt "$2"/*.key "$2"/*.pem; do if [ -f "$f" ]; then echo "pki $f"; fi; done; fi
grep -lsF -- "$3" /etc/systemd/system/*.service | sed 's/^/unit /'
:`

// look fills in what the host itself tells.
func (h *Host) look(ctx context.Context, m *lab.Member) error {
	st, err := m.Proc.State(ctx)
	if err != nil {
		return fmt.Errorf("process: %w", err)
	}
	h.Running = st.Running
	if err := etcd.LogInside(ctx, m); err != nil {
		return err
	}
	holds, err := recovery.Contents(ctx, m, m.DataDir)
	if err != nil {
		return err
	}
	h.Holds = holds[0]
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"sh", "-c", list, "sh", path.Dir(m.Config), m.PKI, m.Config}})
	if err != nil {
		return fmt.Errorf("its files: %w", err)
	}
	for _, line := range strings.FieldsFunc(string(out.Stdout), func(r rune) bool { return r == '\n' }) {
		kind, file, ok := strings.Cut(line, " ")
		if !ok {
			return fmt.Errorf("its files: %q", line)
		}
		if file == m.Config {
			kind = Config
		}
		data, err := m.Host.Get(ctx, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since it was listed
		}
		if err != nil {
			return err
		}
		h.Files = append(h.Files, File{Path: file, Kind: kind, Size: int64(len(data)), SHA256: checksum(data), content: data})
	}
	return nil
}

package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// What files say about who they belong to. It holds for etcd 3.0 to 3.7.

// Identity is who a member is: what its WAL says, and what follows from names,
// peer URLs and token.
type Identity struct {
	Member  uint64
	Cluster uint64
}

// String writes both ids as etcdctl does.
func (i Identity) String() string {
	return "member " + HexID(i.Member) + " of cluster " + HexID(i.Cluster)
}

// ParseIdentity is the inverse of String: the ids as hexadecimal numbers. ok is
// false for what is no identity.
func ParseIdentity(text string) (member, cluster string, ok bool) {
	rest, named := strings.CutPrefix(text, "member ")
	member, cluster, ok = strings.Cut(rest, " of cluster ")
	return member, cluster, named && ok
}

// Identities computes who the members of a new cluster will be (FE1).
func (j Join) Identities() (map[string]Identity, error) {
	c, err := j.founded()
	if err != nil {
		return nil, err
	}
	out := map[string]Identity{}
	for _, m := range c.Members() {
		out[m.Name] = Identity{Member: uint64(m.ID), Cluster: uint64(c.ID())}
	}
	return out, nil
}

// founded is the cluster that begins like this, with the ids that etcd gives.
func (j Join) founded() (*membership.RaftCluster, error) {
	urls, err := types.NewURLsMap(j.String())
	if err != nil {
		return nil, err
	}
	return membership.NewClusterFromURLsMap(nil, j.Token, urls)
}

// WALHead is how many bytes of a WAL file are enough for WALIdentity.
const WALHead = 512

// WALIdentity reads from the first bytes of any file of a WAL whose it is.
func WALIdentity(head []byte) (Identity, error) {
	var id Identity
	found := false
	err := eachRecord(head, func(r *walpb.Record) (bool, error) {
		if r.GetType() != wal.MetadataType {
			return true, nil
		}
		var m pb.Metadata
		if err := proto.Unmarshal(r.Data, &m); err != nil {
			return false, err
		}
		id, found = Identity{Member: m.GetNodeID(), Cluster: m.GetClusterID()}, true
		return false, nil
	})
	if err == nil && !found {
		err = errors.New("it does not say whose it is")
	}
	if err != nil {
		return id, fmt.Errorf("WAL: %w", err)
	}
	return id, nil
}

// Position is a place in the raft log.
type Position struct{ Term, Index uint64 }

// Behind tells whether a log that ends here is less up to date than one that
// ends at other, as raft compares logs.
func (p Position) Behind(other Position) bool {
	return p.Term < other.Term || p.Term == other.Term && p.Index < other.Index
}

// String is how people write it.
func (p Position) String() string { return fmt.Sprintf("index %d of term %d", p.Index, p.Term) }

// Log is what the WAL of a member tells of its raft log.
type Log struct {
	End    Position
	Voters []uint64 // the ids of who votes, ascending, as far as the member knew it to be committed
	// Old is the index of the last entry behind the last snapshot that is written
	// as etcd 3.5 and older did; 0 when there is none. Since 3.7 etcd cannot read
	// it, and a member that finds it in its log panics when it starts.
	Old uint64
}

// ReadLog reads a log from whole files of a WAL, the oldest first. ok is false
// when the files before them are needed too: no snapshot and no beginning is
// among these. A file that ends in the middle of a record, as a power cut
// leaves it, ends there.
func ReadLog(files ...[]byte) (log Log, ok bool, err error) {
	var base, commit uint64
	var members map[uint64]bool // as of base: votes
	changes := map[uint64][]*raftpb.ConfChangeSingle{}
	var old []uint64 // indexes of entries as 3.5 wrote them
	for _, file := range files {
		err = errors.Join(err, eachRecord(file, func(r *walpb.Record) (bool, error) {
			switch r.GetType() {
			case wal.EntryType:
				var e raftpb.Entry
				if err := proto.Unmarshal(r.Data, &e); err != nil {
					return false, err
				}
				log.End = Position{Term: e.GetTerm(), Index: e.GetIndex()}
				// A later one overrules: raft cuts its log.
				old = slices.DeleteFunc(old, func(at uint64) bool { return at >= e.GetIndex() })
				if e.GetType() == raftpb.EntryNormal && proto.Unmarshal(e.Data, &pb.InternalRaftRequest{}) != nil {
					old = append(old, e.GetIndex())
				}
				maps.DeleteFunc(changes, func(at uint64, _ []*raftpb.ConfChangeSingle) bool { return at >= e.GetIndex() })
				change, err := changeOf(&e)
				if len(change) > 0 {
					changes[e.GetIndex()] = change
				}
				return true, err
			case wal.SnapshotType:
				var s walpb.Snapshot
				if err := proto.Unmarshal(r.Data, &s); err != nil {
					return false, err
				}
				if at := (Position{Term: s.GetTerm(), Index: s.GetIndex()}); log.End.Behind(at) {
					log.End = at
				}
				if s.GetIndex() == 0 || s.ConfState != nil {
					base, members = s.GetIndex(), map[uint64]bool{}
					for _, id := range slices.Concat(s.ConfState.GetVoters(), s.ConfState.GetVotersOutgoing()) {
						members[id] = true
					}
				}
			case wal.StateType:
				var s raftpb.HardState
				if err := proto.Unmarshal(r.Data, &s); err != nil {
					return false, err
				}
				commit = s.GetCommit()
			}
			return true, nil
		}))
	}
	if err != nil {
		return log, false, fmt.Errorf("WAL: %w", err)
	}
	for _, at := range slices.Sorted(maps.Keys(changes)) {
		if at <= base || at > commit {
			continue
		}
		for _, c := range changes[at] {
			switch c.GetType() {
			case raftpb.ConfChangeAddNode:
				members[c.GetNodeId()] = true
			case raftpb.ConfChangeRemoveNode, raftpb.ConfChangeAddLearnerNode:
				delete(members, c.GetNodeId())
			}
		}
	}
	for _, at := range old {
		if at > base {
			log.Old = at
		}
	}
	log.Voters = slices.Sorted(maps.Keys(members))
	return log, members != nil, nil
}

// changeOf is how an entry of the log changes the membership; mostly not at all.
func changeOf(e *raftpb.Entry) ([]*raftpb.ConfChangeSingle, error) {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		var c raftpb.ConfChange
		err := proto.Unmarshal(e.Data, &c)
		return []*raftpb.ConfChangeSingle{{Type: c.Type, NodeId: c.NodeId}}, err
	case raftpb.EntryConfChangeV2:
		var c raftpb.ConfChangeV2
		err := proto.Unmarshal(e.Data, &c)
		return c.Changes, err
	}
	return nil, nil
}

// eachRecord calls do with the records of a WAL file until it says false. The
// file may be cut short, and is followed by zeros.
func eachRecord(data []byte, do func(r *walpb.Record) (more bool, err error)) error {
	for len(data) >= 8 {
		length := binary.LittleEndian.Uint64(data)
		pad := 0
		if length>>63 == 1 {
			pad = int(length>>56) & 7
			length &= 1<<56 - 1
		}
		if length == 0 || length > uint64(len(data)-8) {
			return nil
		}
		var r walpb.Record
		if err := proto.Unmarshal(data[8:8+length], &r); err != nil {
			return err
		}
		if more, err := do(&r); err != nil || !more {
			return err
		}
		data = data[min(len(data), 8+int(length)+pad):]
	}
	return nil
}

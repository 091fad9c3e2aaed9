package etcd

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FirstWAL is the name of the first file of a WAL, below the data directory.
const FirstWAL = "member/wal/0000000000000000-0000000000000000.wal"

// SeedWAL makes, for every member of a new cluster, the WAL that it would have
// written itself when it first bootstrapped: who it is, and the members as the
// first entries of the log. A member that starts with this one small file
// knows the others at once and does not pay for the bootstrap and its redials
// of about a second (FE40). It is a young log, not a restored one: members
// that are added later get it entry by entry and not as a snapshot.
//
// The format is that of all etcd releases since 3.0.
func SeedWAL(j Join) (map[string][]byte, error) {
	cluster, err := j.founded()
	if err != nil {
		return nil, err
	}
	ids := cluster.MemberIDs()
	var entries []*raftpb.Entry
	for i, id := range ids {
		context, err := json.Marshal(cluster.Member(id))
		if err != nil {
			return nil, err
		}
		change, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(id)), Context: context})
		if err != nil {
			return nil, err
		}
		entries = append(entries, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)), Data: change})
	}
	out := map[string][]byte{}
	for _, id := range ids {
		var w journal
		w.add(wal.CrcType, nil)
		w.add(wal.MetadataType, &pb.Metadata{NodeID: new(uint64(id)), ClusterID: new(uint64(cluster.ID()))})
		w.add(wal.SnapshotType, &walpb.Snapshot{Index: new(uint64(0)), Term: new(uint64(0))})
		for _, e := range entries {
			w.add(wal.EntryType, e)
		}
		// All of it is committed: there was nobody to disagree.
		w.add(wal.StateType, &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(len(entries)))})
		if w.err != nil {
			return nil, w.err
		}
		out[cluster.Member(id).Name] = w.data
	}
	return out, nil
}

// journal encodes a WAL file: records, each behind its length, padded to eight
// bytes, with a checksum that goes on from record to record.
type journal struct {
	data []byte
	crc  uint32
	err  error
}

func (w *journal) add(kind int64, m proto.Message) {
	rec := &walpb.Record{Type: new(kind)}
	if m != nil {
		if rec.Data, w.err = proto.Marshal(m); w.err != nil {
			return
		}
	}
	w.crc = crc32.Update(w.crc, crc32.MakeTable(crc32.Castagnoli), rec.Data)
	rec.Crc = new(w.crc)
	body, err := proto.Marshal(rec)
	if err != nil {
		w.err = err
		return
	}
	// The uppermost byte of the length says how much of it is padding.
	length, pad := uint64(len(body)), (8-len(body)%8)%8
	if pad > 0 {
		length |= uint64(0x80|pad) << 56
	}
	w.data = binary.LittleEndian.AppendUint64(w.data, length)
	w.data = append(append(w.data, body...), make([]byte, pad)...)
}

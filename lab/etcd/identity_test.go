package etcd

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func TestWALIdentity(t *testing.T) {
	j := Join{Cluster: map[string]string{"m1": "http://192.0.2.1:2380", "m2": "http://192.0.2.2:2380"}, Token: "t", State: StateNew}
	ids, err := j.Identities()
	if err != nil {
		t.Fatal(err)
	}
	logs, err := SeedWAL(j)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		member, cluster, ok := ParseIdentity(id.String())
		if !ok || member != HexID(id.Member) || cluster != HexID(id.Cluster) {
			t.Errorf("%s is read as %s, %s, %v", id, member, cluster, ok)
		}
	}
	for _, bad := range []string{"", "unknown: WAL: it does not say whose it is", "member 2a", "2a of cluster 2b"} {
		if _, _, ok := ParseIdentity(bad); ok {
			t.Errorf("%q is an identity", bad)
		}
	}
	for name, log := range logs {
		got, err := WALIdentity(log[:min(len(log), WALHead)])
		if err != nil || got != ids[name] || got.Member == 0 || got.Cluster == 0 {
			t.Errorf("%s: %v, %v, want %v", name, got, err, ids[name])
		}
	}
	other := j
	other.Token = "u"
	if o, err := other.Identities(); err != nil || o["m1"].Cluster == ids["m1"].Cluster || o["m1"].Member == ids["m1"].Member {
		t.Errorf("another token gives %v, %v", o, err)
	}
	for _, bad := range [][]byte{nil, make([]byte, WALHead), logs["m1"][:20], []byte("this is no log of anybody at all")} {
		if id, err := WALIdentity(bad); err == nil {
			t.Errorf("%.20q is of %v", bad, id)
		}
	}
}

func TestReadLog(t *testing.T) {
	var w journal
	entry := func(term, index uint64) {
		w.add(wal.EntryType, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index), Data: []byte("x")})
	}
	change := func(term, index uint64, kind raftpb.ConfChangeType, id uint64) {
		data, err := proto.Marshal(&raftpb.ConfChange{Type: kind.Enum(), NodeId: new(id)})
		if err != nil {
			t.Fatal(err)
		}
		w.add(wal.EntryType, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: new(term), Index: new(index), Data: data})
	}
	committed := func(term, index uint64) {
		w.add(wal.StateType, &raftpb.HardState{Term: new(term), Vote: new(uint64(0)), Commit: new(index)})
	}
	w.add(wal.CrcType, nil)
	w.add(wal.MetadataType, &pb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(2))})
	head := len(w.data)
	w.add(wal.SnapshotType, &walpb.Snapshot{Index: new(uint64(5)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{3, 1, 2}, Learners: []uint64{9}}})
	entry(2, 6)
	change(2, 7, raftpb.ConfChangeAddNode, 9)
	committed(2, 6)
	seven := len(w.data)
	committed(2, 7)
	promoted := len(w.data)
	change(2, 8, raftpb.ConfChangeRemoveNode, 1)
	change(2, 9, raftpb.ConfChangeAddLearnerNode, 8)
	committed(2, 9)
	nine := len(w.data)
	change(2, 10, raftpb.ConfChangeRemoveNode, 2)
	entry(3, 10) // another leader overrules
	committed(3, 10)
	if w.err != nil {
		t.Fatal(w.err)
	}
	for _, c := range []struct {
		files  [][]byte
		end    Position
		voters []uint64
		ok     bool
	}{
		{[][]byte{w.data[:head]}, Position{}, nil, false},
		{[][]byte{w.data[:head], w.data[head:]}, Position{3, 10}, []uint64{2, 3, 9}, true},
		{[][]byte{w.data[:seven]}, Position{2, 7}, []uint64{1, 2, 3}, true},
		{[][]byte{w.data[:promoted]}, Position{2, 7}, []uint64{1, 2, 3, 9}, true},
		{[][]byte{w.data[:nine]}, Position{2, 9}, []uint64{2, 3, 9}, true},
		{[][]byte{w.data[promoted:]}, Position{3, 10}, nil, false},                                                       // who there was before?
		{[][]byte{append(append([]byte{}, w.data...), make([]byte, 4096)...)}, Position{3, 10}, []uint64{2, 3, 9}, true}, // set aside
		{[][]byte{w.data[:promoted+20]}, Position{2, 7}, []uint64{1, 2, 3, 9}, true},                                     // torn
	} {
		got, ok, err := ReadLog(c.files...)
		if err != nil || ok != c.ok || got.End != c.end || !slices.Equal(got.Voters, c.voters) {
			t.Errorf("%d files, %d bytes: %v, %v, %v, want %v of %v", len(c.files), len(c.files[0]), got, ok, err, c.end, c.voters)
		}
	}
	if !(Position{1, 9}).Behind(Position{2, 3}) || (Position{2, 3}).Behind(Position{2, 3}) {
		t.Error("positions are compared wrongly")
	}
}

// Entries of 3.5 matter as long as raft has no later snapshot, and when they are
// not overruled.
func TestReadOldLog(t *testing.T) {
	var w journal
	entry := func(term, index uint64, data []byte) {
		w.add(wal.EntryType, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index), Data: data})
	}
	snapshot := func(index uint64) {
		w.add(wal.SnapshotType, &walpb.Snapshot{Index: new(index), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1}}})
	}
	now, err := proto.Marshal(&pb.InternalRaftRequest{ID: 7, Put: &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}})
	if err != nil {
		t.Fatal(err)
	}
	old := []byte("\x08\x01\x12\x03PUT\x1a\x08/0/ident") // a request of the old interface: id, method, path
	wants := func(what string, want uint64) {
		t.Helper()
		if w.err != nil {
			t.Fatal(w.err)
		}
		if log, ok, err := ReadLog(w.data); err != nil || !ok || log.Old != want {
			t.Errorf("%s: the last old entry is %d, %v, %v; want %d", what, log.Old, ok, err, want)
		}
	}
	snapshot(0)
	entry(2, 1, now)
	entry(2, 2, nil) // a new leader
	wants("none", 0)
	entry(2, 3, old)
	entry(2, 4, now)
	wants("one", 3)
	entry(2, 5, old)
	entry(3, 5, now) // another leader overrules
	wants("one is overruled", 3)
	snapshot(4)
	wants("behind a snapshot", 0)
	entry(3, 6, old)
	wants("and one more", 6)
}

// A cluster that begins knows its voters from the first entries of its log.
func TestReadYoungLog(t *testing.T) {
	j := Join{Cluster: map[string]string{"m1": "http://192.0.2.1:2380", "m2": "http://192.0.2.2:2380"}, Token: "t", State: StateNew}
	logs, err := SeedWAL(j)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := j.Identities()
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values([]uint64{ids["m1"].Member, ids["m2"].Member}))
	if log, ok, err := ReadLog(logs["m1"]); err != nil || !ok || !slices.Equal(log.Voters, want) {
		t.Errorf("%v, %v, %v, want the voters %v", log, ok, err, want)
	}
}

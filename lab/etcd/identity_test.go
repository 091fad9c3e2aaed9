package etcd

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
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

func TestWALEnd(t *testing.T) {
	var w journal
	w.add(wal.CrcType, nil)
	w.add(wal.MetadataType, &pb.Metadata{NodeID: new(uint64(1)), ClusterID: new(uint64(2))})
	head := len(w.data)
	w.add(wal.SnapshotType, &walpb.Snapshot{Index: new(uint64(5)), Term: new(uint64(2))})
	entry := func(term, index uint64) {
		w.add(wal.EntryType, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index), Data: []byte("x")})
	}
	entry(2, 6)
	entry(2, 7)
	seven := len(w.data)
	entry(3, 7) // another leader overrules
	if w.err != nil {
		t.Fatal(w.err)
	}
	for _, c := range []struct {
		file []byte
		want Position
		ok   bool
	}{
		{w.data[:head], Position{}, false},
		{w.data[:seven], Position{2, 7}, true},
		{w.data, Position{3, 7}, true},
		{append(append([]byte{}, w.data...), make([]byte, 4096)...), Position{3, 7}, true}, // set aside
		{w.data[:len(w.data)-20], Position{2, 7}, true},                                    // torn
	} {
		if got, ok, err := WALEnd(c.file); err != nil || ok != c.ok || got != c.want {
			t.Errorf("%d bytes end at %v, %v, %v, want %v", len(c.file), got, ok, err, c.want)
		}
	}
	if !(Position{1, 9}).Behind(Position{2, 3}) || (Position{2, 3}).Behind(Position{2, 3}) {
		t.Error("positions are compared wrongly")
	}
}

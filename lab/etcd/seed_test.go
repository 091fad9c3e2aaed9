package etcd_test

import (
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/etcdrill/etcdrill/lab/etcd"
)

// What SeedWAL writes is read by etcd's own reader, checksums and all.
func TestSeedWAL(t *testing.T) {
	j := etcd.Join{Cluster: map[string]string{"m1": "https://10.0.0.1:2380", "m2": "https://10.0.0.2:2380", "m3": "https://10.0.0.3:2380"}, Token: "t"}
	files, err := etcd.SeedWAL(j)
	if err != nil || len(files) != 3 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	nodes := map[uint64]bool{}
	var cluster uint64
	for name, data := range files {
		dir := t.TempDir()
		file := filepath.Join(dir, etcd.FirstWAL)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := wal.OpenForRead(zap.NewNop(), filepath.Dir(file), &walpb.Snapshot{Index: new(uint64(0)), Term: new(uint64(0))})
		if err != nil {
			t.Fatal(err)
		}
		metadata, state, entries, err := w.ReadAll()
		w.Close()
		if err != nil || len(entries) != 3 || state.GetCommit() != 3 || state.GetTerm() != 1 {
			t.Fatalf("%s: %v, %d entries, %v", name, state, len(entries), err)
		}
		var m pb.Metadata
		if err := proto.Unmarshal(metadata, &m); err != nil {
			t.Fatal(err)
		}
		nodes[m.GetNodeID()] = true
		if cluster != 0 && cluster != m.GetClusterID() {
			t.Errorf("%s is of another cluster", name)
		}
		cluster = m.GetClusterID()
	}
	if len(nodes) != 3 {
		t.Errorf("%d members, want 3", len(nodes))
	}
	j.Token = "u"
	again, err := etcd.SeedWAL(j)
	if err != nil || string(again["m1"]) == string(files["m1"]) {
		t.Errorf("another token, and the same ids: %v", err)
	}
	j.Cluster["m1"] = "no URL"
	if _, err := etcd.SeedWAL(j); err == nil {
		t.Error("a member without a URL")
	}
}

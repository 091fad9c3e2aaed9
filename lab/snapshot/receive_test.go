package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	wire "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcdrill/etcdrill/lab"
)

// sender is a member that sends what it is told to as its snapshot, and ends
// with an error or none. It tells no hash.
type sender struct {
	pb.UnimplementedMaintenanceServer
	data []byte
	err  error
}

func (s *sender) Snapshot(_ *pb.SnapshotRequest, to pb.Maintenance_SnapshotServer) error {
	for rest := s.data; len(rest) > 0; {
		n := min(len(rest), 10_000)
		if err := to.Send(&pb.SnapshotResponse{Blob: rest[:n], RemainingBytes: uint64(len(rest) - n)}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return s.err
}

// Dial makes this machine the host of such a member.
func (h localhost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// whole is a snapshot of two keys, the last at revision 3.
func whole(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("key"))
		for i, key := range []string{"Gabon", "Togo"} {
			record, _ := proto.Marshal(&mvccpb.KeyValue{Key: []byte(key), Value: make([]byte, 20_000)})
			rev := make([]byte, 17)
			binary.BigEndian.PutUint64(rev, uint64(i+2))
			if err == nil {
				err = b.Put(rev, record)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// What a member sends is a snapshot when it is whole, sound and not behind;
// else there is no file.
func TestReceive(t *testing.T) {
	good := whole(t)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 1
	torn := append([]byte(nil), good[:len(good)-sha256.Size]...)
	for i := 2 * os.Getpagesize(); i < len(torn); i++ {
		torn[i] = 0xff
	}
	sum := sha256.Sum256(torn)
	torn = append(torn, sum[:]...)
	for name, c := range map[string]struct {
		sender
		floor int64
		says  string // empty: it is taken
	}{
		"good":           {sender: sender{data: good}, floor: 3},
		"behind":         {sender{data: good}, 4, "want at least 4"},
		"nothing":        {sender{}, 0, "an empty file"},
		"something else": {sender{data: []byte("broken")}, 0, "cut off, or something else"},
		"no trailer":     {sender{data: good[:len(good)-sha256.Size]}, 0, "trailer is cut off"},
		"cut off":        {sender{data: good[:20_000]}, 0, "it is cut off"},
		"flipped":        {sender{data: flipped}, 0, "damaged"},
		"torn":           {sender{data: torn}, 0, "make no sense"},
		"broken off":     {sender{data: good[:len(good)/2], err: wire.Error(codes.Unavailable, "the member is gone")}, 0, "the member is gone"},
		"refused":        {sender{err: wire.Error(codes.PermissionDenied, "not for you")}, 0, "not for you"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			srv := grpc.NewServer()
			pb.RegisterMaintenanceServer(srv, &c.sender)
			go srv.Serve(l)
			defer srv.Stop()
			m := &lab.Member{Name: "m1", Host: localhost{dir: t.TempDir()}, LocalURL: "http://" + l.Addr().String()}
			e := &lab.Env{Cluster: &lab.Cluster{}, Journal: lab.NewJournal(nothing{}, time.Now(), func(lab.Event) {})}
			dir, side := t.TempDir(), &Sidecar{Floor: c.floor}
			file, err := Fill(dir, func(f *os.File) error {
				return (&Save{}).receive(t.Context(), e, nil, m, side, f, time.Minute)
			})
			left, lerr := os.ReadDir(dir)
			if lerr != nil {
				t.Fatal(lerr)
			}
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want %q", err, c.says)
				}
				if len(left) > 0 || side.SHA256 != "" {
					t.Errorf("left: %v, %+v", left, side)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			now, err := Inspect("again", file)
			if err != nil {
				t.Fatal(err)
			}
			if now.Floor = c.floor; now.Revision != 3 || now.Keys != 2 || now.SHA256 != side.SHA256 || now.Size != int64(len(good)) || side.Keys != 2 || side.Size != now.Size || side.Revision != 3 {
				t.Errorf("received %+v, in the file %+v", side, now)
			}
		})
	}
}

package etcd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
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

// Identities computes who the members of a new cluster will be (FE1).
func (j Join) Identities() (map[string]Identity, error) {
	urls, err := types.NewURLsMap(j.String())
	if err != nil {
		return nil, err
	}
	c, err := membership.NewClusterFromURLsMap(nil, j.Token, urls)
	if err != nil {
		return nil, err
	}
	out := map[string]Identity{}
	for _, m := range c.Members() {
		out[m.Name] = Identity{Member: uint64(m.ID), Cluster: uint64(c.ID())}
	}
	return out, nil
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

// WALEnd reads from a whole file of a WAL where the log ends. ok is false when
// no entry and no snapshot is in this file: then the file before it says. A
// file that ends in the middle of a record, as a power cut leaves it, ends
// there.
func WALEnd(file []byte) (end Position, ok bool, err error) {
	err = eachRecord(file, func(r *walpb.Record) (bool, error) {
		switch r.GetType() {
		case wal.EntryType:
			var e raftpb.Entry
			if err := proto.Unmarshal(r.Data, &e); err != nil {
				return false, err
			}
			end, ok = Position{Term: e.GetTerm(), Index: e.GetIndex()}, true // a later one overrules: raft cuts its log
		case wal.SnapshotType:
			var s walpb.Snapshot
			if err := proto.Unmarshal(r.Data, &s); err != nil {
				return false, err
			}
			if at := (Position{Term: s.GetTerm(), Index: s.GetIndex()}); end.Behind(at) {
				end, ok = at, true
			}
		}
		return true, nil
	})
	if err != nil {
		return end, ok, fmt.Errorf("WAL: %w", err)
	}
	return end, ok, nil
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

// Content is what a snapshot file contains.
type Content struct {
	Revision int64 // the latest
	Keys     int64 // that are not deleted
	Members  []Listed
}

// ReadSnapshot reads what a snapshot contains. It says nothing about whether
// the file is whole: see VerifySnapshot. Its database is written to a file of
// its own for that, in the directory for temporary files.
func ReadSnapshot(data []byte) (Content, error) {
	f, err := os.CreateTemp("", "etcdrill-snapshot-")
	if err != nil {
		return Content{}, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data[:len(data)/512*512]) // without the trailer
	if err := errors.Join(err, f.Close()); err != nil {
		return Content{}, err
	}
	db, err := bbolt.Open(f.Name(), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return Content{}, err
	}
	defer db.Close()
	c := Content{Revision: 1}
	err = db.View(func(tx *bbolt.Tx) error {
		keys := tx.Bucket([]byte("key"))
		if keys == nil {
			return errors.New("it has no bucket of keys")
		}
		alive := map[string]struct{}{}
		err := keys.ForEach(func(k, v []byte) error {
			// A key is its revision: eight bytes, big endian, '_', the sub-revision,
			// and 't' when it is a deletion.
			if len(k) < 17 {
				return fmt.Errorf("a revision of %d bytes", len(k))
			}
			c.Revision = int64(binary.BigEndian.Uint64(k))
			if len(v) == 0 {
				return nil // what a revision bump leaves (FE14): no key
			}
			name, err := keyOf(v)
			if err != nil {
				return err
			}
			if len(k) > 17 && k[17] == 't' {
				delete(alive, string(name))
			} else {
				alive[string(name)] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.Keys = int64(len(alive))
		members := tx.Bucket([]byte("members"))
		if members == nil {
			return nil
		}
		return members.ForEach(func(_, v []byte) error {
			var m membership.Member
			if err := json.Unmarshal(v, &m); err != nil {
				return err
			}
			c.Members = append(c.Members, Listed{ID: uint64(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner})
			return nil
		})
	})
	if err != nil {
		return c, fmt.Errorf("database of the snapshot: %w", err)
	}
	return c, nil
}

// keyOf reads the first field of a stored mvccpb.KeyValue, its key, without
// decoding the value.
func keyOf(v []byte) ([]byte, error) {
	num, typ, n := protowire.ConsumeTag(v)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil, errors.New("an entry that is no key with a value")
	}
	key, n := protowire.ConsumeBytes(v[n:])
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	return key, nil
}

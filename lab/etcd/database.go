package etcd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Database is what a snapshot file, or a copy of a stopped member's database,
// says about itself. It is read from the file alone, without etcd.
type Database struct {
	Revision  int64  // the highest one in its bucket of keys, 1 when that is empty
	Compacted int64  // up to which it is compacted, 0 when never
	Storage   string // storage version, such as 3.6; empty before 3.6, which wrote none down (FE6)
	Members   []Listed
	Keys      Keys    // those that are there at Revision
	Leases    []Lease // by id
}

// Lease is a lease as a database has it: with the time it was granted for, and
// not what is left of it, so that it begins anew where the database is restored.
type Lease struct {
	ID   int64
	TTL  time.Duration
	Keys []string // that die with it, sorted
}

// Keys are the keys of a store at one revision.
type Keys map[string]Value

// Value is what a key has, as far as one needs it to tell two apart.
type Value struct {
	Revision int64  // of its last change
	Sum      uint64 // of its value
}

// Sum is a checksum by which values are told apart. It is no protection from
// somebody who wants two to look alike.
func Sum(value []byte) uint64 { return xxhash.Sum64(value) }

// ReadDatabase reads a database file. Keys cost about 100 bytes of memory each
// beside their names; values are not kept. A file that is no database, or whose
// pages are not sound, is an error. It changes nothing, and waits for nobody
// who has the file open: what a member still writes cannot be read.
func ReadDatabase(file string) (*Database, error) {
	d := &Database{Keys: Keys{}}
	err := inDatabase(file, func(tx *bbolt.Tx) error {
		var err error
		leased := map[string]int64{}
		if d.Revision, err = d.Keys.read(tx, leased); err != nil {
			return err
		}
		if d.Leases, err = leases(tx, leased); err != nil {
			return err
		}
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			d.Compacted = revisionOf(meta.Get([]byte("finishedCompactRev")))
			d.Storage = string(meta.Get([]byte("storageVersion")))
			if parts := strings.Split(d.Storage, "."); len(parts) > 2 {
				d.Storage = strings.Join(parts[:2], ".") // as etcd compares them
			}
		}
		d.Members, err = listed(tx)
		return err
	})
	return d, err
}

// FileRevision reads only the revision of a database file, or of a snapshot,
// which is quick: the highest one in its bucket of keys, 1 when that is empty.
func FileRevision(file string) (rev int64, err error) {
	err = inDatabase(file, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return fmt.Errorf("it has no bucket of keys")
		}
		k, _ := b.Cursor().Last()
		rev = max(1, revisionOf(k))
		return nil
	})
	return rev, err
}

// CheckPages looks whether every page of a database file is reached, and
// reached once, as `etcdutl snapshot status` does.
func CheckPages(file string) error {
	return inDatabase(file, func(tx *bbolt.Tx) error {
		// bbolt looks at pages in a goroutine of its own, where nobody catches its
		// panic on one that makes no sense: so each is read here first.
		err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
		if err != nil {
			return err
		}
		var first error
		for err := range tx.Check() { // to the end: a goroutine writes it
			if first == nil {
				first = err
			}
		}
		return first
	})
}

// inDatabase calls do with a database file. bbolt panics on pages that make no
// sense, and reads beside the file where they lead there.
func inDatabase(file string, do func(tx *bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: its pages make no sense: %v", file, p)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	defer db.Close()
	if err := db.View(do); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// revisionOf is the revision a key of the bucket of keys begins with: eight
// bytes, big endian. 0: it has none.
func revisionOf(key []byte) int64 {
	if len(key) < 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(key))
}

// deleted tells a deletion, which is marked behind its 17 bytes of revision.
func deleted(key []byte) bool { return len(key) == 18 && key[17] == 't' }

// read takes all keys from a database, in order of their revisions, so that the
// last one of each stays; leased gets the leases of those that have one.
func (k Keys) read(tx *bbolt.Tx, leased map[string]int64) (revision int64, err error) {
	b := tx.Bucket([]byte("key"))
	if b == nil {
		return 0, fmt.Errorf("it has no bucket of keys")
	}
	revision = 1
	err = b.ForEach(func(rev, record []byte) error {
		revision = revisionOf(rev)
		if len(record) == 0 {
			return nil // what a revision bump leaves (FE14): no key
		}
		key, value, lease, ok := keyValue(record)
		switch {
		case !ok:
			return fmt.Errorf("revision %d: its record cannot be read", revision)
		case deleted(rev):
			delete(k, string(key))
			lease = 0
		default:
			k[string(key)] = Value{Revision: revision, Sum: Sum(value)}
		}
		if lease != 0 {
			leased[string(key)] = lease
		} else if len(leased) > 0 {
			delete(leased, string(key))
		}
		return nil
	})
	return revision, err
}

// leases reads those that the database has.
func leases(tx *bbolt.Tx, leased map[string]int64) ([]Lease, error) {
	b := tx.Bucket([]byte("lease"))
	if b == nil {
		return nil, nil
	}
	keys := map[int64][]string{}
	for _, key := range slices.Sorted(maps.Keys(leased)) {
		keys[leased[key]] = append(keys[leased[key]], key)
	}
	var out []Lease
	err := b.ForEach(func(_, record []byte) error {
		var l leasepb.Lease
		if err := proto.Unmarshal(record, &l); err != nil {
			return fmt.Errorf("its leases: %w", err)
		}
		out = append(out, Lease{ID: l.ID, TTL: time.Duration(l.TTL) * time.Second, Keys: keys[l.ID]})
		return nil
	})
	return out, err
}

// Record is what a database holds of a key, to write it again.
type Record struct {
	Value []byte
	Lease int64 // 0: none
}

// ReadRecords reads from a database file the keys that begin with a prefix,
// with their values.
func ReadRecords(file, prefix string) (map[string]Record, error) {
	out := map[string]Record{}
	err := inDatabase(file, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return fmt.Errorf("it has no bucket of keys")
		}
		return b.ForEach(func(rev, record []byte) error {
			if len(record) == 0 {
				return nil // what a revision bump leaves (FE14): no key
			}
			key, value, lease, ok := keyValue(record)
			switch {
			case !ok:
				return fmt.Errorf("revision %d: its record cannot be read", revisionOf(rev))
			case !strings.HasPrefix(string(key), prefix):
				return nil
			case deleted(rev):
				delete(out, string(key))
				return nil
			}
			out[string(key)] = Record{Value: bytes.Clone(value), Lease: lease}
			return nil
		})
	})
	return out, err
}

// keyValue finds key, value and lease in a record as etcd stores it, the
// message KeyValue of its API, without a copy of either.
func keyValue(record []byte) (key, value []byte, lease int64, ok bool) {
	whole := fields(record, func(field protowire.Number, typ protowire.Type, body []byte) {
		switch {
		case field == 1 && typ == protowire.BytesType:
			key, _ = protowire.ConsumeBytes(body)
		case field == 5 && typ == protowire.BytesType:
			value, _ = protowire.ConsumeBytes(body)
		case field == 6 && typ == protowire.VarintType:
			id, _ := protowire.ConsumeVarint(body)
			lease = int64(id)
		}
	})
	return key, value, lease, whole && len(key) > 0
}

// fields calls do with each field of a message as protocol buffers write it,
// and says whether it is one to its end.
func fields(message []byte, do func(field protowire.Number, typ protowire.Type, body []byte)) bool {
	for len(message) > 0 {
		field, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false
		}
		body := message[n:]
		if n = protowire.ConsumeFieldValue(field, typ, body); n < 0 {
			return false
		}
		do(field, typ, body[:n])
		message = body[n:]
	}
	return true
}

// listed reads the members that the database knows. The cluster's id is not
// in it.
func listed(tx *bbolt.Tx) ([]Listed, error) {
	b := tx.Bucket([]byte("members"))
	if b == nil {
		return nil, nil
	}
	var out []Listed
	err := b.ForEach(func(_, data []byte) error {
		var m struct {
			ID         uint64   `json:"id"`
			PeerURLs   []string `json:"peerURLs"`
			Learner    bool     `json:"isLearner"`
			Name       string   `json:"name"`
			ClientURLs []string `json:"clientURLs"`
		}
		if err := json.Unmarshal(data, &m); err != nil {
			return fmt.Errorf("its list of members: %w", err)
		}
		out = append(out, Listed{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.Learner})
		return nil
	})
	slices.SortFunc(out, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// maxPrefixes is how many groups of keys are told apart.
const maxPrefixes = 1000

// Prefixes counts keys by how they begin: their first two path elements, such
// as /registry/pods/, or seed/ of seed/0001. Of keys that have no slash all are
// one group, "". When that makes more than a thousand groups only the first
// element counts, and when that does too, all keys are one group: so the same
// keys always give the same counts, and never too many.
func (k Keys) Prefixes() map[string]int64 {
	for depth := 2; depth > 0; depth-- {
		out := map[string]int64{}
		for key := range k {
			out[prefix(key, depth)]++
		}
		if len(out) <= maxPrefixes {
			return out
		}
	}
	return map[string]int64{"": int64(len(k))}
}

// prefix is a key up to its depth-th slash, or up to its last one when it has
// fewer; one in front does not count.
func prefix(key string, depth int) string {
	end := 0
	for at := 1; depth > 0 && at < len(key); depth-- {
		i := strings.IndexByte(key[at:], '/')
		if i < 0 {
			break
		}
		at += i + 1
		end = at
	}
	return key[:end]
}

// ValueAt finds where in a database file the last byte of a value stands, of
// the named key or of the first that has one. bolt leaves old copies of pages
// behind, so there may be several places. For those who want to damage it.
func ValueAt(file string, key string, data []byte) (name string, places []int64, err error) {
	var record []byte
	var back int // the value's last byte, from the record's end
	err = inDatabase(file, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return fmt.Errorf("it has no bucket of keys")
		}
		return b.ForEach(func(rev, r []byte) error {
			k, v, _, ok := keyValue(r)
			if ok && len(v) > 0 && !deleted(rev) && (key == string(k) || key == "" && record == nil) {
				record, name = bytes.Clone(r), string(k)
				back = len(r) - bytes.LastIndex(r, v) - len(v) + 1
			}
			return nil
		})
	})
	if err != nil {
		return "", nil, err
	}
	if record == nil {
		return "", nil, fmt.Errorf("%s: no value of %q that could be damaged", file, key)
	}
	for from := 0; ; {
		i := bytes.Index(data[from:], record)
		if i < 0 {
			return name, places, nil
		}
		from += i + len(record)
		places = append(places, int64(from-back))
	}
}

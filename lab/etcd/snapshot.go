package etcd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// VerifySnapshot checks a snapshot the way `etcdutl snapshot status` does not:
// that it is a database, whole, and that the trailer is the SHA-256 of the rest
// (FE9). It reads name's bytes once, front to end, and keeps none of them. What
// it finds wrong is a *lab.Failure that says what the file looks like; any
// other error is one of reading. The only full proof is a trial restore.
func VerifySnapshot(name string, r io.Reader) error {
	refuse := func(want, format string, args ...any) error {
		return &lab.Failure{What: "snapshot " + name, Want: want, Got: fmt.Sprintf(format, args...)}
	}
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	head = head[:n]
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return refuse("a database", "an empty file")
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("snapshot %s: %w", name, err)
	}
	for _, f := range wrapped {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return refuse("a database", "%s", f.what)
		}
	}
	size, known := databaseSize(head)
	if n == headSize && !known {
		return refuse("a database", "a file whose first page is damaged, or something else altogether")
	}
	sum, total, trailer, err := sumBefore(io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", name, err)
	}
	switch {
	case !known:
		return refuse("a database", "%d bytes, fewer than a database has: it is cut off, or something else", total)
	case total < size:
		return refuse(fmt.Sprintf("%d bytes of database and a trailer", size), "%d bytes: it is cut off", total)
	case total%512 != sha256.Size:
		return refuse("a SHA-256 trailer behind the database (size mod 512 = 32)", "%d bytes: a copy of a member's database file, or the trailer is cut off", total)
	case !bytes.Equal(sum, trailer):
		return refuse("its SHA-256 trailer to be right", "another sum: the file is damaged")
	}
	return nil
}

// VerifyCopy checks a copy of a member's database file, which has no trailer to
// compare: only that its pages are sound. Nobody can say whether a value in it
// is the one that was written, nor what stood only in the member's log (FE10).
// What it finds wrong is a *lab.Failure.
func VerifyCopy(name string, data []byte) error {
	refuse := func(want, format string, args ...any) error {
		return &lab.Failure{What: "copy of a database " + name, Want: want, Got: fmt.Sprintf(format, args...)}
	}
	size, known := databaseSize(data)
	switch {
	case !known:
		return refuse("a database", "%d bytes that do not begin as one", len(data))
	case int64(len(data)) < size:
		return refuse(fmt.Sprintf("%d bytes of database", size), "%d bytes: it is cut off", len(data))
	case VerifySnapshot(name, bytes.NewReader(data)) == nil:
		return refuse("a file without a trailer", "a snapshot, whose SHA-256 trailer is right: restore it as one")
	}
	return asFile(data, func(file string) error {
		if err := CheckPages(file); err != nil {
			return refuse("a database whose pages are sound", "%s", strings.ReplaceAll(err.Error(), file, name))
		}
		return nil
	})
}

// wrapped are files that have a snapshot in them, perhaps, and are none.
var wrapped = []struct{ magic, what string }{
	{"\x1f\x8b", "a gzip file: unpack it first"},
	{"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"},
	{"age-encryption.org/", "an encrypted file (age): decrypt it first"},
	{"BZh", "a bzip2 file: unpack it first"},
	{"\xfd7zXZ", "an xz file: unpack it first"},
}

// Of bolt's first page: a head of 16 bytes, then the meta record, whose fields
// are magic, version, page size, flags (4 bytes each), root and its sequence,
// free list, number of pages, transaction, and the FNV-1a of all that (8 each).
const (
	metaAt    = 16
	metaPages = metaAt + 16 + 3*8
	metaSum   = metaPages + 2*8
	headSize  = metaSum + 8
	boltMagic = 0xED0CDAED
)

// databaseSize reads from the beginning of a database how many bytes it has.
// False: it is no database, or damaged there.
func databaseSize(head []byte) (int64, bool) {
	if len(head) < headSize || binary.LittleEndian.Uint32(head[metaAt:]) != boltMagic {
		return 0, false
	}
	h := fnv.New64a()
	h.Write(head[metaAt:metaSum])
	if h.Sum64() != binary.LittleEndian.Uint64(head[metaSum:]) {
		return 0, false
	}
	page, pages := binary.LittleEndian.Uint32(head[metaAt+8:]), binary.LittleEndian.Uint64(head[metaPages:])
	return int64(page) * int64(pages), true
}

// sumBefore sums a stream but for its last 32 bytes, which it returns.
func sumBefore(r io.Reader) (sum []byte, total int64, last []byte, err error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	kept := 0 // bytes at the front of buf that may be the last ones
	for {
		n, err := r.Read(buf[kept:])
		total += int64(n)
		n += kept
		if n > sha256.Size {
			h.Write(buf[:n-sha256.Size])
			copy(buf, buf[n-sha256.Size:n])
			n = sha256.Size
		}
		kept = n
		if errors.Is(err, io.EOF) {
			return h.Sum(nil), total, buf[:kept], nil
		}
		if err != nil {
			return nil, total, nil, err
		}
	}
}

// SnapshotRevision reads the revision of a snapshot: the highest one in its
// bucket of keys, 1 when that is empty.
func SnapshotRevision(data []byte) (rev int64, err error) {
	err = asFile(data, func(file string) (err error) {
		rev, err = FileRevision(file)
		return err
	})
	return rev, err
}

// ReadSnapshot is ReadDatabase of a snapshot in memory. It says nothing about
// whether the snapshot is whole: see VerifySnapshot.
func ReadSnapshot(data []byte) (d *Database, err error) {
	err = asFile(data, func(file string) (err error) {
		d, err = ReadDatabase(file)
		return err
	})
	return d, err
}

// asFile calls do with a file for the while, in the directory for temporary
// files: a database is mapped into memory from a file.
func asFile(data []byte, do func(file string) error) error {
	f, err := os.CreateTemp("", "etcdrill-snapshot-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return do(f.Name())
}

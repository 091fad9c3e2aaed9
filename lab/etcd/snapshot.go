package etcd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"os"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// VerifySnapshot checks a snapshot the way `etcdutl snapshot status` does not:
// that it is a database, whole, and that the trailer is the SHA-256 of the rest
// (FE9). It reads name's bytes once, front to end, and keeps none of them; sum
// is the SHA-256 of all of them, hexadecimal, and size how many they are. What
// it finds wrong is a *lab.Failure that says what the file looks like; any
// other error is one of reading. The only full proof is a trial restore.
func VerifySnapshot(name string, r io.Reader) (sum string, size int64, err error) {
	refuse := func(want, format string, args ...any) (string, int64, error) {
		return "", 0, &lab.Failure{What: "snapshot " + name, Want: want, Got: fmt.Sprintf(format, args...)}
	}
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	head = head[:n]
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return refuse("a database", "an empty file")
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return "", 0, fmt.Errorf("snapshot %s: %w", name, err)
	}
	for _, f := range wrapped {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return refuse("a database", "%s", f.what)
		}
	}
	need, known := databaseSize(head)
	if n == headSize && !known {
		return refuse("a database", "a file whose first page is damaged, or something else altogether")
	}
	h, total, trailer, err := sumBefore(io.MultiReader(bytes.NewReader(head), r))
	if err != nil {
		return "", 0, fmt.Errorf("snapshot %s: %w", name, err)
	}
	switch {
	case !known:
		return refuse("a database", "%d bytes, fewer than a database has: it is cut off, or something else", total)
	case total < need:
		return refuse(fmt.Sprintf("%d bytes of database and a trailer", need), "%d bytes: it is cut off", total)
	case total%512 != sha256.Size:
		return refuse("a SHA-256 trailer behind the database (size mod 512 = 32)", "%d bytes: a copy of a member's database file, or the trailer is cut off", total)
	case !bytes.Equal(h.Sum(nil), trailer):
		return refuse("its SHA-256 trailer to be right", "another sum: the file is damaged")
	}
	h.Write(trailer)
	return hex.EncodeToString(h.Sum(nil)), total, nil
}

// VerifyFile is VerifySnapshot of a file of this machine.
func VerifyFile(name, file string) (sum string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return VerifySnapshot(name, f)
}

// VerifyCopy checks a copy of a member's database file, which has no trailer to
// compare: only that its pages are sound. Nobody can say whether a value in it
// is the one that was written, nor what stood only in the member's log (FE10).
// What it finds wrong is a *lab.Failure.
func VerifyCopy(name, file string) error {
	refuse := func(want, format string, args ...any) error {
		return &lab.Failure{What: "copy of a database " + name, Want: want, Got: fmt.Sprintf(format, args...)}
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headSize)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	size, known := databaseSize(head)
	switch {
	case !known:
		return refuse("a database", "%d bytes that do not begin as one", info.Size())
	case info.Size() < size:
		return refuse(fmt.Sprintf("%d bytes of database", size), "%d bytes: it is cut off", info.Size())
	}
	if _, _, err := VerifySnapshot(name, f); err == nil {
		return refuse("a file without a trailer", "a snapshot, whose SHA-256 trailer is right: restore it as one")
	}
	if err := CheckPages(file); err != nil {
		return refuse("a database whose pages are sound", "%s", strings.ReplaceAll(err.Error(), file, name))
	}
	return nil
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

// sumBefore hashes a stream but for its last 32 bytes, which it returns.
func sumBefore(r io.Reader) (h hash.Hash, total int64, last []byte, err error) {
	h = sha256.New()
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
			return h, total, buf[:kept], nil
		}
		if err != nil {
			return nil, total, nil, err
		}
	}
}

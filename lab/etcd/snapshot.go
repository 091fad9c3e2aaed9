package etcd

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/etcdrill/etcdrill/lab"
)

// VerifySnapshot checks a snapshot file the way `etcdutl snapshot status` does
// not: that it is not empty, that its size says there is a trailer (size mod
// 512 = 32), and that the trailer is the SHA-256 of the rest (FE9). What it
// finds wrong is a *lab.Failure. The only full proof is a trial restore.
func VerifySnapshot(name string, data []byte) error {
	n := len(data)
	if n == 0 {
		return &lab.Failure{What: "snapshot " + name, Want: "a database", Got: "an empty file"}
	}
	if n%512 != sha256.Size {
		return &lab.Failure{What: "snapshot " + name, Want: "a SHA-256 trailer (size mod 512 = 32)", Got: fmt.Sprintf("%d bytes", n)}
	}
	sum := sha256.Sum256(data[:n-sha256.Size])
	if !bytes.Equal(sum[:], data[n-sha256.Size:]) {
		return &lab.Failure{What: "snapshot " + name, Want: "its SHA-256 trailer to be right", Got: "another sum: the file is damaged"}
	}
	return nil
}

// SnapshotRevision reads the revision of a snapshot: the highest one in its
// bucket of keys, 1 when that is empty.
func SnapshotRevision(data []byte) (int64, error) {
	f, err := os.CreateTemp("", "etcdrill-snapshot-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data[:len(data)/512*512]) // without the trailer
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	db, err := bbolt.Open(f.Name(), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	rev := int64(1)
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return fmt.Errorf("it has no bucket of keys")
		}
		// A key is its revision: eight bytes, big endian, then the sub-revision.
		if k, _ := b.Cursor().Last(); len(k) >= 8 {
			rev = int64(binary.BigEndian.Uint64(k))
		}
		return nil
	})
	return rev, err
}

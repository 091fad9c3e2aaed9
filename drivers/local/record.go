package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/etcdrill/etcdrill/drivers/names"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// record is lab.json: all that another process must know to use a lab.
type record struct {
	ID      string       `json:"id"`
	Created time.Time    `json:"created"`
	Keep    bool         `json:"keep"`
	Owner   process.Life `json:"owner"`
	Drill   string       `json:"drill,omitempty"`
	Spec    lab.Spec     `json:"spec"`
	Seats   []seat       `json:"seats"`
}

// seat is a host with the addresses of its member.
type seat struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
	Ports
}

// names is what tells the etcd tools of a seat which server of names to ask.
func (r record) names(s seat) []string {
	if !r.Spec.ByDNS() {
		return nil
	}
	return []string{names.Env + "=" + loopback(s.DNS)}
}

// dir is the directory of a lab and what is where in it.
type dir string

func (d dir) join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}
func (d dir) record() string          { return d.join("lab.json") }
func (d dir) host(name string) string { return d.join("hosts", name) }
func (d dir) log(name string) string  { return d.join("hosts", name, "etcd.log") }
func (d dir) life(name string) string { return d.join("hosts", name, "process.json") }
func (d dir) binary() string          { return d.join("bin", "etcdrill") }

// socketDir is where the supervisor's socket lies when the lab's own directory
// has too long a name for one.
func (d dir) socketDir() string {
	sum := sha256.Sum256([]byte(d))
	return filepath.Join("/tmp", "etcdrill-"+strconv.Itoa(os.Getuid())+"-"+hex.EncodeToString(sum[:8]))
}

// socket is the supervisor's socket. Kernels allow about a hundred bytes.
func (d dir) socket() string {
	if s := d.join("control"); len(s) <= 100 {
		return s
	}
	return filepath.Join(d.socketDir(), "control")
}

func readRecord(d dir) (record, error) {
	var r record
	return r, readJSON(d.record(), &r)
}

func (r record) write(d dir) error { return writeJSON(d.record(), r) }

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, 0o600, bytes.NewReader(append(data, '\n')))
}

// writeFile writes a file whole or not at all. It is not synced to disk: a
// lab does not outlive the machine it runs on.
func writeFile(path string, mode fs.FileMode, data io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	if cerr := f.Chmod(mode); err == nil {
		err = cerr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

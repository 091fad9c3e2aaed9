package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// toolNames are what a host's bin directory holds.
var toolNames = []string{"etcd", "etcdctl", "etcdutl"}

// layBinary puts the executable into the lab, so that the lab goes on when the
// original is replaced, or is removed as `go run` does.
func layBinary(d dir, binary string) error {
	if err := os.MkdirAll(filepath.Dir(d.binary()), 0o700); err != nil {
		return err
	}
	return linkOrCopy(binary, d.binary())
}

// layTools fills a host's bin directory: with the executable under the names
// of etcd's tools, or with links to a directory of other ones.
func layTools(d dir, host, from string) error {
	bin := filepath.Join(d.host(host), "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	if from == "" {
		for _, name := range toolNames {
			if err := linkOrCopy(d.binary(), filepath.Join(bin, name)); err != nil {
				return err
			}
		}
		return nil
	}
	from, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	for _, name := range toolNames {
		tool := filepath.Join(from, name)
		info, err := os.Stat(tool)
		if name == "etcdutl" && errors.Is(err, fs.ErrNotExist) {
			continue // etcd 3.4 has none
		}
		if err != nil {
			return fmt.Errorf("etcd for %s: directory %s: expected etcd, etcdctl and etcdutl in it: %w", host, from, err)
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("etcd for %s: %s: expected an executable", host, tool)
		}
		if err := os.Symlink(tool, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

// linkOrCopy makes to the same file as from, or a copy where that is not
// possible: on another filesystem, or where the system refuses links to files
// of others.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return nil
}

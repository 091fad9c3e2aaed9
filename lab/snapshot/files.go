package snapshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// files is where the files of a store lie. Names have no slash in them.
type files interface {
	// put copies a file of this machine to a name in the store: whole or not at
	// all. What has the name already stays, and the error matches fs.ErrExist.
	put(ctx context.Context, name, file string) error
	// get reads a file of the store. One that is not there gives an error that
	// matches fs.ErrNotExist.
	get(ctx context.Context, name string) (io.ReadCloser, error)
	// list names all files, in any order. A store that is not there has none.
	list(ctx context.Context) ([]string, error)
	// remove deletes a file, which may be gone already.
	remove(ctx context.Context, name string) error
}

// The schemes of stores that are not on this machine.
const (
	schemeS3  = "s3"
	schemeSSH = "ssh"
)

// ValidStore refuses what names no store. It asks nobody.
func ValidStore(ref string) error {
	_, err := parseStore(ref)
	return err
}

// parseStore takes the name of a store apart: nil for a directory on this
// machine.
func parseStore(ref string) (*url.URL, error) {
	if !strings.Contains(ref, "://") {
		return nil, nil
	}
	want := func(what string) error {
		return fmt.Errorf("store: %q: %s: expected a directory, s3://BUCKET/PREFIX?endpoint=URL or ssh://HOST/PATH", ref, what)
	}
	u, err := url.Parse(ref)
	switch {
	case err != nil:
		return nil, fmt.Errorf("store: %w", err)
	case u.User != nil:
		// Not repeated: there may be a password in it.
		return nil, fmt.Errorf("store: a user or password in a URL would end up in records: expected the keys of s3:// in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the user of ssh:// in the inventory")
	case u.Scheme != schemeS3 && u.Scheme != schemeSSH:
		return nil, want("unknown scheme")
	case u.Host == "":
		return nil, want("nothing stands behind " + u.Scheme + "://")
	case u.Scheme == schemeSSH && (u.Path == "" || path.Clean(u.Path) == "/"):
		return nil, want("no directory")
	case u.Scheme == schemeSSH && u.RawQuery != "":
		return nil, want("what stands behind ?")
	}
	if u.Scheme == schemeS3 {
		if _, _, _, err := s3Endpoint(u); err != nil {
			return nil, want(err.Error())
		}
	}
	return u, nil
}

// directory is a store on this machine.
type directory string

func (d directory) put(_ context.Context, name, file string) error {
	// A link is refused where there is something already; a rename is not.
	if err := os.Link(file, filepath.Join(string(d), name)); err != nil {
		return err
	}
	return SyncDir(string(d))
}

func (d directory) get(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), name))
}

func (d directory) list(context.Context) ([]string, error) {
	found, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, f := range found {
		if f.Type().IsRegular() {
			out = append(out, f.Name())
		}
	}
	return out, err
}

func (d directory) remove(_ context.Context, name string) error {
	return errors.Join(remove(filepath.Join(string(d), name)), SyncDir(string(d)))
}

// SyncDir has the names in a directory on disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// onHost is a store in a directory of a host.
type onHost struct {
	host lab.Host
	dir  string
}

func (o onHost) run(ctx context.Context, argv ...string) (string, error) {
	out, err := o.host.Run(ctx, lab.Cmd{Argv: argv})
	return string(out.Stdout), err
}

func (o onHost) put(ctx context.Context, name, file string) error {
	if _, err := o.run(ctx, "mkdir", "-p", "-m", "0700", "--", o.dir); err != nil {
		return err
	}
	there, err := o.list(ctx)
	if err != nil {
		return err
	}
	for _, n := range there {
		switch {
		case n == name:
			return fmt.Errorf("%s on %s: %w", path.Join(o.dir, name), o.host.Name(), fs.ErrExist)
		case orphaned(n):
			if err := o.remove(ctx, n); err != nil {
				return err
			}
		}
	}
	temp := path.Join(o.dir, newScratch())
	err = lab.Upload(ctx, o.host, temp, 0o400, file)
	if err == nil {
		// A link is refused where somebody else was quicker.
		_, err = o.run(ctx, "ln", "--", temp, path.Join(o.dir, name))
	}
	_, gone := o.run(context.WithoutCancel(ctx), "rm", "-f", "--", temp)
	return errors.Join(err, gone)
}

func (o onHost) get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	go func() { w.CloseWithError(lab.Download(ctx, o.host, path.Join(o.dir, name), w)) }()
	d := download{bufio.NewReader(r), func() error { cancel(); return r.Close() }}
	if _, err := d.Peek(1); err != nil && err != io.EOF {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// download is a file that is on its way, until it is closed.
type download struct {
	*bufio.Reader
	end func() error
}

// Close implements io.Closer.
func (d download) Close() error { return d.end() }

func (o onHost) list(ctx context.Context) ([]string, error) {
	out, err := o.run(ctx, "sh", "-c", `if [ -d "$1" ]; then cd "$1" && ls -1A; fi`, "sh", o.dir)
	return strings.Fields(out), err // ours have no blanks in them
}

func (o onHost) remove(ctx context.Context, name string) error {
	_, err := o.run(ctx, "rm", "-f", "--", path.Join(o.dir, name))
	return err
}

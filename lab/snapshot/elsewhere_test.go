package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

func TestStoreNames(t *testing.T) {
	for _, ref := range []string{"", "saved", "/var/backups", "ssh://rack1/var/backups", "s3://bucket", "s3://bucket/a/b?endpoint=http://127.0.0.1:9000&region=x"} {
		if err := snapshot.ValidStore(ref); err != nil {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for ref, says := range map[string]string{
		"gs://bucket":                         "unknown scheme",
		"s3:///prefix":                        "nothing stands behind",
		"s3://bucket?endpoint=127.0.0.1:9000": "endpoint: expected a URL",
		"s3://bucket?endpoint=ftp://x":        "endpoint: expected a URL",
		"s3://bucket?secret=x":                "expected endpoint and region",
		"ssh://rack1":                         "no directory",
		"ssh://rack1/":                        "no directory",
		"ssh://rack1/x?y=z":                   "what stands behind",
		"s3://key:hush@bucket":                "AWS_SECRET_ACCESS_KEY",
		"ssh://root:hush@rack1/var/backups":   "the inventory",
		"s3://bucket/%zz":                     "store:",
	} {
		err := snapshot.ValidStore(ref)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v, want %q", ref, err, says)
		}
		if (&snapshot.Save{Store: ref}).Valid() == nil || (&snapshot.Prune{Store: ref, Retention: snapshot.Retention{Keep: 1}}).Valid() == nil {
			t.Errorf("%q is taken", ref)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	e := &lab.Env{Cluster: &lab.Cluster{}}
	if _, err := snapshot.OpenStore(e, "s3://bucket"); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID is not set") {
		t.Errorf("a bucket without a key: %v", err)
	}
	if _, err := snapshot.OpenStore(e, "ssh://rack1/x"); err == nil || !strings.Contains(err.Error(), "no inventory") {
		t.Errorf("a host of nowhere: %v", err)
	}
}

// A host that loses its connection while it is written to.
type failing struct {
	lab.Host
	after *int
}

func (f failing) Put(ctx context.Context, p string, mode fs.FileMode, data []byte) error {
	if *f.after--; *f.after < 0 {
		return errors.New("connection lost")
	}
	return f.Host.Put(ctx, p, mode, data)
}

func TestStoreOnHost(t *testing.T) {
	t.Parallel()
	e := up(t, 1)
	puts := 1 << 20
	e.Kit.Machine = func(name string) (lab.Host, error) {
		if name != "rack1" {
			return nil, fmt.Errorf("no host %q", name)
		}
		return failing{e.Seats[0].Host, &puts}, nil
	}
	dir := filepath.Join(e.Seats[0].Host.Dir(), "backups")
	ref := "ssh://rack1" + dir
	elsewhere(t, e, ref, func() []string {
		found, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range found {
			out = append(out, f.Name())
		}
		return out
	})
	if _, err := snapshot.OpenStore(e, "ssh://rack2/x"); err == nil || !strings.Contains(err.Error(), `no host "rack2"`) {
		t.Errorf("a host that is not in the inventory: %v", err)
	}
	// The sidecar arrives, the snapshot does not: then there is neither.
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	puts = 1
	if _, _, err := (&snapshot.Save{Store: ref, NoTrial: true}).Do(t.Context(), e); err == nil || !strings.Contains(err.Error(), "connection lost") {
		t.Errorf("saved to a host that was lost: %v", err)
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d files became %d, %v", len(before), len(after), err)
	}
}

// TestS3 needs an S3 server: the program named by ETCDRILL_S3, which is
// versitygw; `make test-s3` builds it.
func TestS3(t *testing.T) {
	server := os.Getenv("ETCDRILL_S3")
	if server == "" {
		if slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), "s3") {
			t.Fatal("ETCDRILL_MUST asks for s3, and ETCDRILL_S3 names no server")
		}
		t.Skip("needs an S3 server: see `make test-s3`")
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "drill")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
	cmd := exec.Command(server, "--access", "drill", "--secret", "not-a-secret", "--port", addr, "posix", "--nometa", root)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := lab.Until(ctx, "the S3 server to answer", func(ctx context.Context) error {
		r, err := http.Get("http://" + addr)
		if err == nil {
			r.Body.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	e := up(t, 1)
	ref := "s3://backups/of/labs?endpoint=http://" + addr
	objects := func() []string {
		found, err := filepath.Glob(filepath.Join(root, "backups", "of", "labs", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			found[i] = path.Base(found[i])
		}
		return found
	}
	elsewhere(t, e, ref, objects)

	// What is there stays, and what is not allowed in is not half in.
	for what, c := range map[string]struct{ ref, key, says string }{
		"no such bucket": {"s3://nowhere?endpoint=http://" + addr, "drill", "bucket"},
		"a wrong key":    {ref, "somebody", "ccess"},
		"nobody there":   {"s3://backups?endpoint=http://127.0.0.1:1", "drill", "refused"},
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", c.key)
		before := len(objects())
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, _, err := (&snapshot.Save{Store: c.ref, NoTrial: true}).Do(ctx, e)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "not-a-secret") {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
		if after := len(objects()); after != before {
			t.Errorf("%s: %d objects became %d", what, before, after)
		}
	}
}

// elsewhere uses a store that is not on this machine as one on it; there names
// the files in it.
func elsewhere(t *testing.T, e *lab.Env, ref string, there func() []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	kept := store(t, e, ref)
	if all, err := kept.List(ctx); err != nil || len(all) != 0 {
		t.Fatalf("a store that is not there yet has %v, %v", all, err)
	}
	put(t, e, "Gabon", "Bona nit")
	first, side, err := (&snapshot.Save{Store: ref, Label: "first"}).Do(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	put(t, e, "Ngwe", "later")
	second, _, err := (&snapshot.Save{Store: ref, Label: "second", NoTrial: true, Compress: true}).Do(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{first + ".db", first + ".json", second + ".db.zst", second + ".json"}
	if got := there(); !slices.Equal(got, want) {
		t.Fatalf("in the store: %q, want %q", got, want)
	}
	for _, name := range []string{"first", "second"} {
		x, err := kept.Find(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.Sound(ctx, ""); err != nil {
			t.Error(err)
		}
	}
	if got, err := (&snapshot.Verify{Snapshot: "first", Store: ref}).Do(ctx, e); err != nil || got.SHA256 != side.SHA256 || got.Trial == nil {
		t.Errorf("%+v, %v", got, err)
	}
	now, _, err := snapshot.KeysOf(ctx, e, snapshot.Verify{Snapshot: snapshot.Latest, Store: ref})
	if err != nil || len(now) != 2 {
		t.Errorf("%d keys, %v", len(now), err)
	}
	out := filepath.Join(t.TempDir(), "out.db")
	x, err := kept.Find(ctx, "second")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Export(ctx, out, ""); err != nil {
		t.Error(err)
	}
	if _, err := (&snapshot.Verify{Snapshot: out}).Do(ctx, e); err != nil {
		t.Error(err)
	}
	_, err = kept.Find(ctx, "third")
	refused(t, err, "2 others")
	if _, gone, err := (&snapshot.Prune{Store: ref, Retention: snapshot.Retention{Keep: 1}}).Do(ctx, e, false); err != nil || len(gone) != 1 || gone[0].Name != first {
		t.Errorf("pruned %v, %v", gone, err)
	}
	if got := there(); !slices.Equal(got, want[2:]) {
		t.Errorf("left in the store: %q, want %q", got, want[2:])
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), fmt.Sprintf(".snapshot-work.*.%d.*", os.Getpid()))); len(left) > 0 {
		t.Errorf("left on this machine: %q", left)
	}
}

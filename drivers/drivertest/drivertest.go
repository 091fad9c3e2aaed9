// Package drivertest is what a driver must do, as tests: a driver is whatever
// passes it. It knows no driver; it talks to hosts, processes, links and
// tracers by the interfaces of package lab, and to etcd as package lab/etcd
// does.
//
// A driver's test consists of two lines:
//
//	func TestMain(m *testing.M)     { os.Exit(drivertest.Main(m, newDriver)) }
//	func TestDriver(t *testing.T)   { drivertest.Run(t, newDriver) }
//
// Where the machine cannot do what a part needs, that part is skipped; when
// the environment variable ETCDRILL_MUST names the driver, a skip is a failure.
package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local/tools"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Must is the environment variable with the names of drivers, parted by
// commas, that have to do everything here.
const Must = "ETCDRILL_MUST"

// upWord is the first argument of a test executable that is to bring up a lab
// and then be killed, or end.
const upWord = "__drivertest_up"

// patience with anything that has to happen but may take its time.
const patience = 60 * time.Second

// Main runs a driver's tests. The test executable is also called as etcd, its
// tools and a supervisor, and as a process that makes a lab and ends. driver
// makes the same driver each time, also in another process: what it needs for
// that goes through the environment.
func Main(m *testing.M, driver func() lab.Driver) int {
	if handled, code := tools.Main(os.Args); handled {
		return code
	}
	if len(os.Args) == 4 && os.Args[1] == upWord {
		if err := upAndStay(driver(), os.Args[2], os.Args[3] == "keep"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	return m.Run()
}

// upAndStay brings up a lab and says so. Then it waits until it is killed, or
// with keep until its standard input ends.
func upAndStay(d lab.Driver, id string, keep bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := d.Up(ctx, id, spec(1)); err != nil {
		return err
	}
	if keep {
		if err := d.Keep(ctx, id); err != nil {
			return err
		}
	}
	fmt.Println(upWord)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// spec of a cluster as a drill that says nothing gets it, with quick elections.
func spec(members int) lab.Spec {
	return lab.Spec{Members: members, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}
}

// Run is the suite.
func Run(t *testing.T, driver func() lab.Driver) {
	s := &suite{driver: driver, d: driver()}
	t.Run("caps", s.caps)
	t.Run("one lab", s.oneLab)
	t.Run("side by side", s.sideBySide)
	t.Run("single member", s.single)
	t.Run("names", s.names)
	t.Run("refusals", s.refusals)
	t.Run("owner killed", s.ownerKilled)
	t.Run("kept", s.kept)
}

type suite struct {
	driver func() lab.Driver
	d      lab.Driver
}

// needs skips a test for an ability that is lacking.
func (s *suite) needs(t *testing.T, caps ...lab.Cap) {
	t.Helper()
	lacks := s.d.Caps(t.Context()).Lacks(caps)
	if len(lacks) == 0 {
		return
	}
	if slices.Contains(strings.Split(os.Getenv(Must), ","), s.d.Name()) {
		t.Fatalf("%s=%s, and yet: %s", Must, os.Getenv(Must), strings.Join(lacks, "; "))
	}
	t.Skip(strings.Join(lacks, "; "))
}

// up makes a lab that is gone, wholly, when the test is over.
func (s *suite) up(t *testing.T, spec lab.Spec) *lab.Cluster {
	t.Helper()
	ctx := limit(t)
	id := newID(t)
	t.Cleanup(func() { s.down(t, id) })
	c, err := s.d.Up(ctx, id, spec)
	must(t, err)
	return c
}

// down takes a lab down, twice, and looks whether anything is left.
func (s *suite) down(t *testing.T, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 2 {
		if err := s.d.Down(ctx, id); err != nil {
			t.Errorf("down: %v", err)
		}
	}
	if l := s.left(t, id); l != nil {
		t.Errorf("left after down: %v", l.What)
	}
	if _, err := s.d.Open(ctx, id); !isNotExist(err) {
		t.Errorf("open after down: %v, want fs.ErrNotExist", err)
	}
}

// left finds a lab among what is left, nil when it is not there.
func (s *suite) left(t *testing.T, id string) *lab.Left {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := s.d.Left(ctx)
	must(t, err)
	for _, l := range all {
		if l.ID == id {
			return &l
		}
	}
	return nil
}

// newID names a lab after its test.
func newID(t *testing.T) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name()))
	return fmt.Sprintf("%s-%d", strings.Trim(name[max(0, len(name)-30):], "-"), os.Getpid())
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	must(t, lab.Until(limit(t), what, try))
}

func client(t *testing.T, c *lab.Cluster, through ...*lab.Member) *clientv3.Client {
	t.Helper()
	cli, err := etcd.Client(c, through...)
	must(t, err)
	t.Cleanup(func() { cli.Close() })
	return cli
}

// put writes through a client, and waits for it.
func put(t *testing.T, cli *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := cli.Put(limit(t), key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// read asks the one member that cli talks to for what it has, without asking
// the others, within a moment.
func read(cli *clientv3.Client, moment time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), moment)
	defer cancel()
	_, err := cli.Get(ctx, "key", clientv3.WithSerializable())
	return err
}

// leader waits until all the given seats follow one leader that is among them.
func leader(t *testing.T, c *lab.Cluster, among ...*lab.Member) *lab.Member {
	t.Helper()
	var o etcd.Observer
	defer o.Close()
	var found *lab.Member
	until(t, "a leader", func(ctx context.Context) error {
		found = nil
		id := ""
		for _, st := range o.Look(ctx, c) {
			m, err := c.Member(st.Name)
			if err != nil {
				return err
			}
			if !slices.Contains(among, m) {
				continue
			}
			if !st.Up || st.Leader == "" || id != "" && id != st.Leader {
				return fmt.Errorf("%s follows %q", st.Name, st.Leader)
			}
			if id = st.Leader; st.Role == "leader" {
				found = m
			}
		}
		if found == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return found
}

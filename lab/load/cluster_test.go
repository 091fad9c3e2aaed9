package load_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/etcdrill/etcdrill/lab"
)

// The test binary is its own etcd, so that the tests need nothing installed.
func TestMain(m *testing.M) {
	if os.Getenv("LOAD_TEST_ETCD") != "" {
		etcdmain.Main(os.Args)
		return
	}
	os.Exit(m.Run())
}

// cluster is a real one, of plain processes on loopback.
type cluster struct {
	*lab.Cluster
	members []*member
}

type member struct {
	name string
	argv []string
	cmd  *exec.Cmd
	log  *os.File
}

// up starts n members with fast ticks and waits until they serve.
func up(t testing.TB, n int, flags ...string) *cluster {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Cluster: &lab.Cluster{ID: "test", Spec: lab.Spec{Members: n}}}
	ports := freePorts(t, 2*n)
	var initial []string
	for i := range n {
		initial = append(initial, fmt.Sprintf("m%d=http://127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("m%d", i+1)
		client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[2*i]), fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])
		log, err := os.Create(filepath.Join(dir, name+".log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		m := &member{name: name, log: log, argv: append([]string{exe, "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new",
			"--heartbeat-interval", "20", "--election-timeout", "200", "--log-level", "error"}, flags...)}
		c.members = append(c.members, m)
		c.Seats = append(c.Seats, &lab.Member{Name: name, ClientURL: client})
	}
	for _, m := range c.members {
		m.start(t)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.kill()
		}
	})
	return c
}

func (m *member) start(t testing.TB) {
	t.Helper()
	m.cmd = exec.Command(m.argv[0], m.argv[1:]...)
	m.cmd.Env = append(os.Environ(), "LOAD_TEST_ETCD=1")
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill ends the process as a power failure would, and returns when.
func (m *member) kill() time.Time {
	if m.cmd == nil {
		return time.Time{}
	}
	m.cmd.Process.Signal(syscall.SIGCONT)
	at := time.Now()
	m.cmd.Process.Kill()
	m.cmd.Wait()
	m.cmd = nil
	return at
}

func (m *member) signal(s os.Signal) { m.cmd.Process.Signal(s) }

func freePorts(t testing.TB, n int) []int {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out
}

// record is what a load wrote down.
type record struct {
	dir     string
	start   time.Time
	history *lab.History
	journal *lab.Journal
}

func newRecord(t testing.TB) *record {
	t.Helper()
	r := &record{dir: t.TempDir(), start: time.Now()}
	var err error
	if r.history, err = lab.NewHistory(filepath.Join(r.dir, "history.jsonl"), r.start); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(r.dir, "events.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	r.journal = lab.NewJournal(f, r.start, nil)
	l := spec()
	r.journal.Add(lab.Event{Kind: lab.EventRun, Run: &lab.RunInfo{ID: "test", Drill: &lab.Drill{Name: "test", Load: &l}}})
	return r
}

func (r *record) read(t testing.TB) ([]lab.Op, []lab.Event) {
	t.Helper()
	if err := r.history.Close(); err != nil {
		t.Fatal(err)
	}
	r.journal.Add(lab.Event{Kind: lab.EventEnd, Verdict: lab.Pass})
	if err := r.journal.Close(); err != nil {
		t.Fatal(err)
	}
	ops, err := lab.ReadHistory(filepath.Join(r.dir, "history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	events, err := lab.ReadEvents(filepath.Join(r.dir, "events.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	return ops, events
}

// soFar is what of it is on disk while more is written.
func (r *record) soFar() []lab.Op {
	ops, _ := lab.ReadHistory(filepath.Join(r.dir, "history.jsonl")) // its last line may be half written
	return ops
}

// spec is a drill's load with its defaults.
func spec() lab.LoadSpec {
	return lab.LoadSpec{Clients: 4, Keys: 16, Size: 64, Reads: 0.3, Deletes: 0.05, Txns: 0.1, Watch: true,
		Timeout: time.Second, Backoff: 10 * time.Millisecond, Probe: 10 * time.Millisecond}
}

// until waits for a condition of the test.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // a busy machine is not a finding
	defer cancel()
	if err := lab.Until(ctx, what, func(context.Context) error {
		if !holds() {
			return fmt.Errorf("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

package etcd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// up makes a lab for one test.
func up(t testing.TB, change func(*lab.Spec)) *lab.Cluster {
	t.Helper()
	c, err := try(t, change)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func try(t testing.TB, change func(*lab.Spec)) (*lab.Cluster, error) {
	t.Helper()
	var spec lab.Spec
	lab.Defaults(&spec)
	spec.Heartbeat, spec.Election = 50*time.Millisecond, 500*time.Millisecond
	if change != nil {
		change(&spec)
	}
	d := local.New(local.Options{Root: t.TempDir(), Drill: t.Name(), Binary: os.Getenv("ETCDRILL_BINARY")})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := d.Up(ctx, "t", spec)
	t.Cleanup(func() {
		if err := d.Down(context.Background(), "t"); err != nil {
			t.Error(err)
		}
	})
	return c, err
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *lab.Cluster, key, value string) {
	t.Helper()
	cli, err := etcd.Client(c, c.Seats[:c.Spec.Members]...)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	if _, err := cli.Put(within(t, 5*time.Second), key, value); err != nil {
		t.Fatal(err)
	}
}

// seeded tells whether a member began with a log that it had not written.
func seeded(t *testing.T, m *lab.Member) bool {
	t.Helper()
	log, err := m.Proc.Log(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(bytes.NewReader(log)); s.Scan(); {
		var line struct {
			Msg string `json:"msg"`
		}
		json.Unmarshal(s.Bytes(), &line)
		switch line.Msg {
		case "restarting local member":
			return true
		case "starting local member":
			return false
		}
	}
	t.Fatalf("%s: cannot tell from its log how it began", m.Name)
	return false
}

func TestLife(t *testing.T) {
	t.Parallel()
	c := up(t, func(s *lab.Spec) { s.Spares = 1 })
	var o etcd.Observer
	defer o.Close()
	for _, m := range c.Seats[:3] {
		if !seeded(t, m) {
			t.Errorf("%s began cold", m.Name)
		}
	}
	put(t, c, "a", "b")

	look := o.Look(within(t, 5*time.Second), c)
	leaders := 0
	for _, s := range look[:3] {
		if !s.Up || s.Absent || s.Cluster != look[0].Cluster || s.Leader != look[0].Leader || s.Version == "" {
			t.Errorf("%+v", s)
		}
		if s.Role == "leader" {
			leaders++
		}
	}
	if s := look[3]; s.Up || !s.Absent || s.Error == "" {
		t.Errorf("a spare: %+v", s)
	}
	if leaders != 1 {
		t.Errorf("%d leaders", leaders)
	}
	if err := o.Final(within(t, 10*time.Second), c, lab.End{}); err != nil {
		t.Error(err)
	}
	var f *lab.Failure
	for _, end := range []lab.End{{Voters: 2}, {Voters: 3, Learners: 1}} {
		if err := o.Final(within(t, time.Second), c, end); !errors.As(err, &f) {
			t.Errorf("%+v: %v, want a finding", end, err)
		}
	}
	hashes, err := etcd.Hashes(within(t, 5*time.Second), c, c.Seats[:3]...)
	if err != nil || len(hashes) != 3 || !etcd.Equal(hashes) || hashes[0].Revision < 2 {
		t.Errorf("%+v, %v", hashes, err)
	}
	hashes[1].Hash++
	if etcd.Equal(hashes) {
		t.Error("different and equal")
	}

	// Watch: what changes is journaled, once, and a hanging member holds up nobody.
	events := make(chan lab.Status, 1000)
	journal := lab.NewJournal(nowhere{}, time.Now(), func(e lab.Event) { events <- *e.Status })
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() { defer close(watched); o.Watch(watching, c, journal) }()
	// What is waited for may have come before what was asked for earlier, so
	// each question looks at all that was journaled since the mark.
	var seen []lab.Status
	mark := 0
	next := func(what string, want func(lab.Status) bool) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for at := mark; ; at++ {
			for at >= len(seen) {
				select {
				case s := <-events:
					seen = append(seen, s)
				case <-timeout:
					t.Fatalf("never journaled: %s; journaled: %+v", what, seen[mark:])
				}
			}
			if want(seen[at]) {
				return
			}
		}
	}
	lost := 0
	for i, s := range look[:3] {
		if s.Role == "leader" {
			lost = i
		}
	}
	next("a first status", func(s lab.Status) bool { return s.Name == c.Seats[lost].Name && s.Up })
	mark = len(seen)
	if err := c.Seats[lost].Proc.Signal(t.Context(), "STOP"); err != nil {
		t.Fatal(err)
	}
	next("a new leader", func(s lab.Status) bool { return s.Role == "leader" && s.Name != c.Seats[lost].Name })
	next("the paused one is silent", func(s lab.Status) bool { return s.Name == c.Seats[lost].Name && !s.Up && !s.Absent })
	if err := o.Final(within(t, 4*time.Second), c, lab.End{}); !errors.As(err, &f) || !strings.Contains(err.Error(), "paused") {
		t.Errorf("a paused member: %v", err)
	}
	mark = len(seen)
	if err := c.Seats[lost].Proc.Signal(t.Context(), "CONT"); err != nil {
		t.Fatal(err)
	}
	next("it is back", func(s lab.Status) bool { return s.Name == c.Seats[lost].Name && s.Role == "follower" })
	if err := o.Final(within(t, 10*time.Second), c, lab.End{}); err != nil {
		t.Error(err)
	}

	mark = len(seen)
	// Nobody answers: who knew them still knows who is a member, and who never
	// saw them can tell by the configuration.
	for _, m := range c.Seats[:3] {
		if err := m.Proc.Signal(t.Context(), "KILL"); err != nil {
			t.Fatal(err)
		}
	}
	var fresh etcd.Observer
	defer fresh.Close()
	for name, eyes := range map[string]*etcd.Observer{"knew them": &o, "never saw them": &fresh} {
		for i, s := range eyes.Look(within(t, 5*time.Second), c) {
			if s.Up || s.Absent != (i == 3) {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
	if err := o.Final(within(t, time.Second), c, lab.End{}); err == nil || errors.As(err, &f) {
		t.Errorf("nobody answers: %v, want an error that is no finding", err)
	}
	if _, err := etcd.Members(within(t, 2*time.Second), c, true); err == nil {
		t.Error("a member list of nobody")
	}
	next("the end of all", func(s lab.Status) bool { return s.Name == c.Seats[lost].Name && !s.Up })
	stop()
	<-watched
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

func TestWithoutTLS(t *testing.T) {
	t.Parallel()
	c := up(t, func(s *lab.Spec) { s.TLS, s.Members = "off", 1 })
	put(t, c, "a", "b")
	var o etcd.Observer
	defer o.Close()
	if err := o.Final(within(t, 10*time.Second), c, lab.End{}); err != nil {
		t.Error(err)
	}
	code, body, err := etcd.Health(within(t, 5*time.Second), c.Seats[0], "/readyz?verbose")
	if err != nil || code != 200 || !strings.Contains(body, "[+]linearizable_read ok") {
		t.Errorf("%d %s %v", code, body, err)
	}
}

func TestDoesNotStart(t *testing.T) {
	t.Parallel()
	_, err := try(t, func(s *lab.Spec) { s.Flags = map[string]string{"auto-compaction-retention": `"soon"`} })
	if err == nil || !strings.Contains(err.Error(), "m1") && !strings.Contains(err.Error(), "m2") && !strings.Contains(err.Error(), "m3") ||
		!strings.Contains(err.Error(), "soon") {
		t.Errorf("want the member and the last lines of its log: %v", err)
	}
}

package ssh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

var _ lab.Driver = (*Driver)(nil)
var _ lab.Host = (*Host)(nil)
var _ lab.Power = power(nil)

// site is an inventory of servers of this process, which all are this machine.
type site struct {
	t       *testing.T
	file    string
	prefix  string
	root    string
	servers []*server
}

// newSite makes one with a server for each text, which is further YAML of the
// host.
func newSite(t *testing.T, hosts ...string) *site {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "root", "hosts are used with root rights")
	}
	dir := t.TempDir()
	s := &site{t: t, file: filepath.Join(dir, "hosts.yaml"), prefix: filepath.Join(dir, "labs"), root: filepath.Join(dir, "home")}
	id := filepath.Join(dir, "id")
	key, _ := newKeyFile(t, id, "")
	known := ""
	text := "defaults: {user: root, identity: id, known-hosts: known}\nhosts:\n"
	for i, more := range hosts {
		srv := newServer(t, key.PublicKey())
		s.servers = append(s.servers, srv)
		line, _ := os.ReadFile(srv.login(id).KnownHosts[0])
		known += string(line)
		text += fmt.Sprintf("  - {name: vm%d, address: 127.0.0.1, port: %d, internal: 10.0.0.%d%s}\n", i+1, srv.login(id).Port, i+1, more)
	}
	must(t, os.WriteFile(filepath.Join(dir, "known"), []byte(known), 0o600))
	must(t, os.WriteFile(s.file, []byte(text), 0o600))
	return s
}

func (s *site) driver(change ...func(*Options)) *Driver {
	o := Options{Root: s.root, Inventory: s.file, Prefix: s.prefix, Binary: "/bin/true", Drill: "test"}
	for _, c := range change {
		c(&o)
	}
	d := New(o)
	s.t.Cleanup(func() { d.Close() })
	return d
}

// mark marks this machine for the time of a test.
func mark(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(MarkFile); err == nil {
		lacking(t, "unmarked", "this machine is marked; the test would take that away")
	}
	must(t, os.WriteFile(MarkFile, []byte("for a test"), 0o600))
	t.Cleanup(func() { os.Remove(MarkFile) })
}

func spec(members int) lab.Spec {
	return lab.Spec{Members: members, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}
}

func (s *site) labs() string {
	entries, _ := os.ReadDir(s.prefix)
	local, _ := os.ReadDir(filepath.Join(s.root, Name))
	return fmt.Sprint(entries, local)
}

// TestUpRefusals: what cannot be says which host and why, and touches nothing.
func TestUpRefusals(t *testing.T) {
	s := newSite(t, "", "", "")
	d := s.driver()
	ctx := limit(t)
	refuse := func(name string, d *Driver, id string, sp lab.Spec, says ...string) {
		t.Helper()
		_, err := d.Up(ctx, id, sp)
		for _, want := range says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want it to say %q", name, err, want)
			}
		}
		if got := s.labs(); got != "[] []" {
			t.Errorf("%s: left: %s", name, got)
		}
	}
	refuse("too few", d, "x", spec(4), s.file+" has 3 hosts, and 4 are needed")
	refuse("bad id", d, "../x", spec(1), "../x")
	refuse("bad spec", d, "x", spec(0), "members")
	refuse("no inventory", s.driver(func(o *Options) { o.Inventory = "" }), "x", spec(1), "--inventory")
	refuse("no such inventory", s.driver(func(o *Options) { o.Inventory = "/not/there" }), "x", spec(1), "/not/there")
	of := spec(2)
	of.EtcdOf = map[string]string{"m3": "/bin"}
	refuse("no such member", d, "x", of, "m3", "m1 to m2")
	refuse("not marked", d, "x", spec(2), "m1 (vm1): not marked", "m2 (vm2): not marked", "etcdrill host mark vm2 --inventory "+s.file)
	s.servers[1].Stop()
	refuse("host down", s.driver(), "x", spec(2), "m2 (vm2)", "refused")

	mark(t)
	switch _, err := d.Up(ctx, "x", spec(1)); {
	case err != nil && strings.Contains(err.Error(), "an etcd runs there"):
		t.Log(err) // of another test: then nobody asks for systemd
	case err == nil || !strings.Contains(err.Error(), "m1") || !strings.Contains(err.Error(), "systemd"):
		t.Errorf("no systemd: got %v", err)
	}
	if got := s.labs(); got != "[] []" {
		t.Errorf("no systemd: left: %s", got)
	}

	// A process that looks like somebody's etcd.
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	text, err := os.ReadFile(sleep)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "etcd"), text, 0o755))
	cmd := exec.Command(filepath.Join(dir, "etcd"), "600")
	must(t, cmd.Start())
	refuse("an etcd runs there", d, "x", spec(1), "m1 (vm1): an etcd runs there", fmt.Sprint(cmd.Process.Pid), "stays away")
	cmd.Process.Kill()
	cmd.Wait()
}

func TestAddresses(t *testing.T) {
	ctx := limit(t)
	for _, c := range []struct {
		m      Machine
		others bool
		want   string
	}{
		{Machine{Login: Login{Address: "10.0.0.1"}}, true, "10.0.0.1"},
		{Machine{Login: Login{Address: "10.0.0.1"}, Internal: "fd00::1"}, true, "fd00::1"},
		{Machine{Login: Login{Address: "localhost"}}, false, "127.0.0.1"},
		{Machine{Name: "vm", Login: Login{Address: "localhost"}}, true, "host vm: its address is 127.0.0.1"},
		{Machine{Name: "vm", Login: Login{Address: "10.0.0.1"}, Internal: "no such name"}, true, "host vm: internal no such name"},
	} {
		got, err := c.m.addr(ctx, c.others)
		if got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %q, %v, want %q", c.m, got, err, c.want)
		}
	}
	s := newSite(t, "", "")
	text, err := os.ReadFile(s.file)
	must(t, err)
	must(t, os.WriteFile(s.file, []byte(strings.ReplaceAll(string(text), "10.0.0.2", "10.0.0.1")), 0o600))
	if _, err := s.driver().Up(ctx, "x", spec(2)); err == nil || !strings.Contains(err.Error(), "vm1 and vm2 both have the address 10.0.0.1") {
		t.Errorf("got %v", err)
	}
}

// TestOtherPeoplesLabs: a lab that somebody else made is seen, said to be
// owned, and not taken down by who has one of the same name.
func TestOtherPeoplesLabs(t *testing.T) {
	mark(t)
	s := newSite(t, "", "")
	d := s.driver()
	ctx := limit(t)
	theirs := record{ID: "same", Created: time.Now().UTC().Add(-time.Hour), Owner: owner{process.Life{PID: 1, Started: "x"}, "elsewhere"}, Drill: "theirs"}
	dir := filepath.Join(s.prefix, "same")
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, ownerFile), theirs.text(), 0o600))
	must(t, os.MkdirAll(filepath.Join(s.prefix, "ruin", "data"), 0o700))

	if _, err := d.Up(ctx, "same", spec(1)); err == nil || !strings.Contains(err.Error(), "process 1 on elsewhere") {
		t.Errorf("a name that is taken: %v", err)
	}
	left, err := d.Left(ctx)
	must(t, err)
	if len(left) != 2 || left[0].ID != "ruin" || left[0].Owned || left[1].ID != "same" || !left[1].Owned || left[1].Drill != "theirs" || !left[1].Created.Equal(theirs.Created) || len(left[1].What) != 2 {
		t.Errorf("left: %+v", left)
	}

	// Our record of another lab of that name.
	mine := theirs
	mine.Created, mine.Dir = time.Now().UTC(), dir
	h, err := d.Host("vm1")
	must(t, err)
	mine.Seats = map[string]seat{"m1": {h.Machine(), "10.0.0.1"}}
	local := filepath.Join(s.root, Name, "same")
	must(t, os.MkdirAll(local, 0o700))
	must(t, mine.write(local))
	if err := d.Down(ctx, "same"); err == nil || !strings.Contains(err.Error(), "m1 (vm1)") && !strings.Contains(err.Error(), "m1: ") || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("down of theirs by our record: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, ownerFile)); err != nil {
		t.Errorf("it was touched: %v", err)
	}
	if _, err := os.Stat(recordFile(local)); err != nil {
		t.Errorf("the record is gone, though something is left: %v", err)
	}
	must(t, os.RemoveAll(local))
	// By name alone, as somebody wants who names it.
	if _, err := exec.LookPath("systemctl"); err != nil {
		lacking(t, "systemd", "no systemctl on this machine")
	}
	must(t, d.Down(ctx, "same"))
	must(t, d.Down(ctx, "same"))
	must(t, d.Down(ctx, "ruin"))
	if got := s.labs(); got != "[] []" {
		t.Errorf("left: %s", got)
	}
}

// TestDownByRecord needs neither the inventory nor the process that made the
// lab, and fails as long as a host cannot be asked.
func TestDownByRecord(t *testing.T) {
	s := newSite(t, "", "")
	d := s.driver()
	ctx := limit(t)
	r, err := d.plan(ctx, "x", spec(2))
	must(t, err)
	local := filepath.Join(s.root, Name, "x")
	must(t, os.MkdirAll(local, 0o700))
	must(t, r.write(local))
	if text, _ := os.ReadFile(recordFile(local)); strings.Contains(string(text), "PRIVATE") || !strings.Contains(string(text), `"identity"`) {
		t.Errorf("record: %s", text)
	}
	var onHost record
	must(t, json.Unmarshal(r.onHost(), &onHost))
	if !onHost.same(r) || onHost.Seats != nil {
		t.Errorf("on the host: %+v", onHost)
	}
	must(t, Each(ctx, d.hostsOf(r), func(ctx context.Context, h *Host) error { return h.Put(ctx, ownerFile, 0o600, r.onHost()) }))
	must(t, os.Remove(s.file))

	other := s.driver(func(o *Options) { o.Inventory = "" })
	left, err := other.Left(ctx)
	if err != nil || len(left) != 1 || left[0].ID != "x" || !left[0].Owned || left[0].Keep {
		t.Errorf("left: %+v, %v", left, err)
	}
	if _, err := other.Open(ctx, "y"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a lab that never was: %v", err)
	}
	addr := s.servers[1].Addr().String()
	s.servers[1].Stop()
	s.servers[1].Cut()
	if err := other.Down(ctx, "x"); err == nil || !strings.Contains(err.Error(), "m2 (vm2)") || strings.Contains(err.Error(), "vm1") {
		t.Errorf("one host is down: %v", err)
	}
	if _, err := os.Stat(recordFile(local)); err != nil {
		t.Errorf("the record is gone: %v", err)
	}
	must(t, s.servers[1].Start(addr))
	must(t, other.Down(ctx, "x"))
	must(t, other.Down(ctx, "x"))
	if got := s.labs(); got != "[] []" {
		t.Errorf("left: %s", got)
	}
}

func TestLeftNamesTheHostThatIsDown(t *testing.T) {
	s := newSite(t, "", "")
	must(t, os.MkdirAll(filepath.Join(s.prefix, "x"), 0o700))
	s.servers[1].Stop()
	left, err := s.driver().Left(limit(t))
	if err == nil || !strings.Contains(err.Error(), "vm2") || strings.Contains(err.Error(), "vm1") || len(left) != 1 || left[0].ID != "x" {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestCaps(t *testing.T) {
	ctx := limit(t)
	for c, why := range New(Options{Root: t.TempDir()}).Caps(ctx) {
		if !strings.Contains(why, "--inventory") {
			t.Errorf("without an inventory: %s: %q", c, why)
		}
	}
	power := ", power: {off: ['true'], on: ['true']}"
	s := newSite(t, power, "")
	caps := s.driver().Caps(ctx)
	if !strings.Contains(caps[lab.CapPower], "vm2") || caps[lab.CapSignal] != "" {
		t.Errorf("got %v", caps)
	}
	if err := exec.Command("systemd-detect-virt", "-cq").Run(); (err == nil) != (caps[lab.CapClock] != "") {
		t.Errorf("clock: %q, in a container: %v", caps[lab.CapClock], err == nil)
	}
	s = newSite(t, power, power)
	s.servers[0].Stop()
	if caps := s.driver().Caps(ctx); caps[lab.CapPower] != "" {
		t.Errorf("got %v", caps)
	}
}

func TestMachines(t *testing.T) {
	s := newSite(t, "", "")
	d := s.driver()
	all, err := d.Machines()
	must(t, err)
	if len(all) != 2 || all[1].Name() != "vm2" || all[1].String() != "vm2" {
		t.Errorf("got %v", all)
	}
	one, err := d.Host("vm2")
	must(t, err)
	if one != all[1] {
		t.Error("the same machine twice")
	}
	if _, err := d.Host("vm3"); err == nil || !strings.Contains(err.Error(), "vm1, vm2") {
		t.Errorf("got %v", err)
	}
}

// TestTake: of several who make a lab of one name on a host, one gets it, and
// nothing is left of the others.
func TestTake(t *testing.T) {
	s := newSite(t, "", "")
	ctx := limit(t)
	const n = 8
	errs := make(chan error, n)
	for i := range n {
		d := s.driver()
		r, err := d.plan(ctx, "same", spec(1))
		must(t, err)
		r.Drill = fmt.Sprint(i)
		h := d.hostsOf(r)[0]
		run(t, h, "true") // so that they come at once
		go func() { errs <- h.take(ctx, r) }()
	}
	took := 0
	for range n {
		err := <-errs
		var exit *lab.ExitError
		if err == nil {
			took++
		} else if !errors.As(err, &exit) || exit.Code != 1 {
			t.Errorf("got %v", err)
		}
	}
	if took != 1 {
		t.Errorf("%d labs took one place", took)
	}
	entries, err := os.ReadDir(s.prefix)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "same" {
		t.Errorf("left: %v", entries)
	}
	r := record{}
	text, err := os.ReadFile(filepath.Join(s.prefix, "same", ownerFile))
	must(t, err)
	must(t, json.Unmarshal(text, &r))
	if info, err := os.Stat(filepath.Join(s.prefix, "same", ownerFile)); err != nil || info.Mode().Perm() != 0o600 || r.ID != "same" {
		t.Errorf("%+v, %v, %v", r, info, err)
	}
}

// TestLostRace: who comes too late on one host leaves nothing on the others, and
// nothing on that one is touched.
func TestLostRace(t *testing.T) {
	s := newSite(t, "", "")
	d := s.driver()
	ctx := limit(t)
	r, err := d.plan(ctx, "same", spec(2))
	must(t, err)
	hosts := d.hostsOf(r)
	hosts[1].dir = filepath.Join(s.prefix, "elsewhere") // all are this machine
	must(t, os.MkdirAll(filepath.Join(hosts[1].dir, "theirs"), 0o700))
	dir := filepath.Join(s.root, Name, "same")
	must(t, os.MkdirAll(dir, 0o700))
	err = d.take(ctx, r, dir)
	if err == nil || !strings.Contains(err.Error(), "m2 (vm2): could not make "+hosts[1].dir) {
		t.Fatalf("got %v", err)
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		lacking(t, "systemd", "no systemctl on this machine")
	}
	must(t, d.Down(ctx, "same"))
	if _, err := os.Stat(filepath.Join(hosts[1].dir, "theirs")); err != nil {
		t.Errorf("it was touched: %v", err)
	}
	must(t, os.RemoveAll(hosts[1].dir))
	if got := s.labs(); got != "[] []" {
		t.Errorf("left: %s", got)
	}
}

func TestWarnings(t *testing.T) {
	s := newSite(t, "", "")
	d := s.driver()
	if w, err := d.Warnings(limit(t)); err != nil || len(w) > 0 {
		t.Errorf("one machine and its clock: %q, %v", w, err)
	}
	s.servers[1].Setenv("PATH=" + fakeDate(t, "1000000000.5") + ":" + os.Getenv("PATH"))
	w, err := s.driver().Warnings(limit(t))
	if err == nil || !strings.Contains(err.Error(), "vm2: its clock is ") || !strings.Contains(err.Error(), "not valid yet") || len(w) != 1 || !strings.Contains(w[0], "vm1 ") || !strings.Contains(w[0], "vm2 -") || !strings.Contains(w[0], "timedatectl") {
		t.Errorf("another clock: %q, %v", w, err)
	}
	s.servers[0].Stop()
	w, err = s.driver().Warnings(limit(t))
	if err == nil || !strings.Contains(err.Error(), "vm1") || len(w) != 1 {
		t.Errorf("one does not answer: %q, %v", w, err)
	}
}

// fakeDate is a directory with a date that says what it was told.
func fakeDate(t *testing.T, says string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "date"), []byte("#!/bin/sh\necho "+says+"\n"), 0o755))
	return dir
}

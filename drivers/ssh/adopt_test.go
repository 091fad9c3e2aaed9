package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// theirs is a cluster that etcdrill has not made: etcd processes of this
// machine, one for each server of a site, each told another way.
type theirs struct {
	s    *site
	cmds []*exec.Cmd
}

// systemctl stands in for systemd, which the machine of a test need not run. It
// knows one unit for each server.
func (s *site) systemctl(i int, state string, pid int) {
	s.t.Helper()
	dir := s.t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1 $2\" = 'show prod.service' ] || { echo LoadState=not-found; echo MainPID=0; exit; }\necho LoadState=loaded\necho ActiveState=%s\necho MainPID=%d\necho ExecMainStatus=0\necho ExecMainExitTimestamp=\n", state, pid)
	must(s.t, os.WriteFile(filepath.Join(dir, "systemctl"), []byte(text), 0o755))
	s.servers[i].Setenv("PATH=" + dir + ":" + os.Getenv("PATH"))
}

func newTheirs(t *testing.T, members int, pki *etcd.PKI) *theirs {
	t.Helper()
	s := newSite(t, make([]string, members)...)
	c := &theirs{s: s}
	exe, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	must(t, os.Symlink(exe, filepath.Join(dir, "etcd")))
	pair, err := pki.Issue("server", "127.0.0.1", "localhost")
	must(t, err)
	for name, data := range map[string][]byte{"ca.crt": pki.CA(), "server.crt": pair.Cert, "server.key": pair.Key} {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	ports := func() []int { // let go right before they are used
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		m, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer m.Close()
		return []int{l.Addr().(*net.TCPAddr).Port, m.Addr().(*net.TCPAddr).Port}
	}
	var all []string
	at := make([][]int, members)
	for i := range members {
		at[i] = ports()
		all = append(all, fmt.Sprintf("infra%d=http://127.0.0.1:%d", i, at[i][1]))
	}
	for i := range members {
		told := [][2]string{
			{"name", fmt.Sprintf("infra%d", i)}, {"data-dir", filepath.Join(dir, fmt.Sprintf("data%d", i))},
			{"listen-client-urls", fmt.Sprintf("https://127.0.0.1:%d", at[i][0])}, {"advertise-client-urls", fmt.Sprintf("https://127.0.0.1:%d", at[i][0])},
			{"listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", at[i][1])}, {"initial-advertise-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", at[i][1])},
			{"initial-cluster", strings.Join(all, ",")}, {"initial-cluster-token", t.Name()},
			{"cert-file", "server.crt"}, {"key-file", "server.key"}, {"trusted-ca-file", "ca.crt"}, {"client-cert-auth", "true"},
		}
		cmd := exec.Command(filepath.Join(dir, "etcd"))
		cmd.Dir, cmd.Env = dir, os.Environ()
		switch i % 3 {
		case 0:
			for _, kv := range told {
				cmd.Args = append(cmd.Args, "--"+kv[0]+"="+kv[1])
			}
		case 1:
			for _, kv := range told {
				cmd.Env = append(cmd.Env, "ETCD_"+strings.ToUpper(strings.ReplaceAll(kv[0], "-", "_"))+"="+kv[1])
			}
		case 2:
			text, secure := "", "client-transport-security:\n"
			for _, kv := range told {
				if strings.HasSuffix(kv[0], "-file") || kv[0] == "client-cert-auth" {
					secure += "  " + kv[0] + ": " + kv[1] + "\n"
				} else {
					text += kv[0] + ": " + kv[1] + "\n"
				}
			}
			must(t, os.WriteFile(filepath.Join(dir, "etcd.yaml"), []byte(text+secure), 0o600))
			cmd.Args = append(cmd.Args, "--config-file", "etcd.yaml")
		}
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		c.cmds = append(c.cmds, cmd)
		s.systemctl(i, "active", cmd.Process.Pid)
	}
	return c
}

func newPKI(t *testing.T) *etcd.PKI {
	t.Helper()
	pki, err := etcd.NewPKI(time.Hour)
	must(t, err)
	return pki
}

func adopting(change ...func(*lab.Adopt)) lab.Spec {
	a := lab.Adopt{Name: "prod", Unit: "prod"}
	for _, f := range change {
		f(&a)
	}
	var s lab.Spec
	lab.Defaults(&s)
	s.Adopt = &a
	return s
}

// adopt tries until the processes serve.
func adopt(t *testing.T, d *Driver, id string, spec lab.Spec) *lab.Cluster {
	t.Helper()
	var c *lab.Cluster
	must(t, lab.Until(limit(t), "the cluster to be adopted", func(ctx context.Context) (err error) {
		c, err = d.Up(ctx, id, spec)
		return err
	}))
	return c
}

// TestAdoptLooks: a cluster that is looked at is found whole, however its
// members were told what they are, and nothing is put anywhere but here.
func TestAdoptLooks(t *testing.T) {
	s := newTheirs(t, 3, newPKI(t))
	d := s.s.driver()
	c := adopt(t, d, "look", adopting())
	ctx := limit(t)
	if c.Spec.Members != 3 || c.Spec.TLS != "mutual" || c.Links != nil || c.DeadMan != nil || len(c.Found) != 3 || c.Caps[lab.CapAdopt] != "" || !strings.Contains(c.Caps[lab.CapSignal], "looked at") {
		t.Errorf("%+v", c)
	}
	for i, line := range c.Found {
		for _, want := range []string{fmt.Sprintf("m%d is member", i+1), fmt.Sprintf("%q", fmt.Sprintf("infra%d", i)), fmt.Sprintf("data%d", i), fmt.Sprintf("process %d", s.cmds[i].Process.Pid)} {
			if !strings.Contains(line, want) {
				t.Errorf("found: %s: want %q in it", line, want)
			}
		}
	}
	other := s.s.driver(func(o *Options) { o.Inventory = "" })
	again, err := other.Open(ctx, "look")
	must(t, err)
	for _, c := range []*lab.Cluster{c, again} {
		var o etcd.Observer
		defer o.Close()
		must(t, o.Final(ctx, c, lab.End{}))
		for i, m := range c.Seats {
			st, err := m.Proc.State(ctx)
			if err != nil || !st.Running || st.Paused || st.PID != s.cmds[i].Process.Pid || st.Started == "" {
				t.Errorf("%s: %+v, %v", m.Name, st, err)
			}
			for _, err := range []error{m.Proc.Stop(ctx), m.Proc.Start(ctx), m.Proc.Signal(ctx, "KILL")} {
				if err == nil || !strings.Contains(err.Error(), "--i-mean") {
					t.Errorf("%s: %v", m.Name, err)
				}
			}
			if code, _, err := etcd.Health(ctx, m, "/metrics"); err != nil || code != 200 {
				t.Errorf("%s: metrics: %d, %v", m.Name, code, err)
			}
		}
	}
	if info, err := os.Stat(filepath.Join(c.Dir, "pki", "client.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	must(t, d.Keep(ctx, "look"))
	left, err := d.Left(ctx)
	if err != nil || len(left) != 1 || !left[0].Keep || len(left[0].What) != 1 {
		t.Errorf("left: %+v, %v", left, err)
	}
	if entries, err := os.ReadDir(s.s.prefix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("on the hosts: %v, %v", entries, err)
	}
	must(t, other.Down(ctx, "look"))
	must(t, other.Down(ctx, "look"))
	if got := s.s.labs(); got != "[] []" {
		t.Errorf("left: %s", got)
	}
	for _, cmd := range s.cmds {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("process %d: %v", cmd.Process.Pid, err)
		}
	}
}

// TestAdoptRefusals: what is no whole cluster is not adopted, what is not
// marked is not broken, and nothing is left of the attempt.
func TestAdoptRefusals(t *testing.T) {
	pki := newPKI(t)
	s := newTheirs(t, 2, pki)
	d := s.s.driver()
	adopt(t, d, "look", adopting())
	must(t, d.Down(limit(t), "look"))
	ctx := limit(t)
	refuse := func(name string, spec lab.Spec, says ...string) {
		t.Helper()
		_, err := d.Up(ctx, "x", spec)
		for _, want := range says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want it to say %q", name, err, want)
			}
		}
		if got := s.s.labs(); got != "[] []" {
			t.Errorf("%s: left: %s", name, got)
		}
	}
	refuse("no such host", adopting(func(a *lab.Adopt) { a.Hosts = []string{"vm1", "vm9"} }), `no host "vm9"`)
	refuse("a host twice", adopting(func(a *lab.Adopt) { a.Hosts = []string{"vm1", "vm1"} }), "vm1 is given twice")
	refuse("a member without host", adopting(func(a *lab.Adopt) { a.Hosts = []string{"vm1"} }), "prod cannot be adopted", "infra1", "on none of the hosts")
	refuse("no such unit", adopting(func(a *lab.Adopt) { a.Unit = "other" }), "m1: there is no unit other.service", "`unit`")
	refuse("another file", adopting(func(a *lab.Adopt) { a.CA = "/not/there" }), "ca", "/not/there")
	refuse("another name", adopting(func(a *lab.Adopt) { a.Meant = "other" }), `is called "prod"`)
	refuse("more than adopted", func() lab.Spec { sp := adopting(); sp.Spares = 1; return sp }(), "alone")
	if _, err := os.Stat(MarkFile); errors.Is(err, fs.ErrNotExist) {
		refuse("not marked", adopting(func(a *lab.Adopt) { a.Meant = "prod" }), "m1 (vm1): not marked", "m2 (vm2): not marked")
		if _, err := d.Up(ctx, "x", adopting(func(a *lab.Adopt) { a.Meant = "prod" })); !errors.Is(err, ErrUnmarked) {
			t.Errorf("not marked: %v", err)
		}
	}

	s.s.systemctl(1, "inactive", 0)
	refuse("a member is down", adopting(), "m2: unit prod.service is inactive")
	sleep := exec.Command("sleep", "600")
	must(t, sleep.Start())
	defer func() { sleep.Process.Kill(); sleep.Wait() }()
	s.s.systemctl(1, "active", sleep.Process.Pid)
	refuse("no etcd", adopting(), "m2: the process", `"sleep"`)
	s.s.systemctl(1, "active", s.cmds[0].Process.Pid)
	refuse("one machine twice", adopting(), "m1 and m2 are both member")

	// A member of another cluster in the place of the second.
	other := newTheirs(t, 1, pki)
	adopt(t, other.s.driver(), "alone", adopting())
	must(t, other.s.driver().Down(ctx, "alone"))
	s.s.systemctl(1, "active", other.cmds[0].Process.Pid)
	refuse("two clusters", adopting(), "prod cannot be adopted: the hosts disagree: m1 is of cluster", "m2 of cluster")
}

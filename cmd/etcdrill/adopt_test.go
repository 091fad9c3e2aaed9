package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
)

// stockUnit is that of Debian's etcd-server, and stockEnv its settings.
const stockUnit = `[Unit]
Description=etcd - highly-available key value store
After=network.target
[Service]
Environment=DAEMON_ARGS=
EnvironmentFile=-/etc/default/etcd
Type=notify
ExecStart=/usr/bin/etcd $DAEMON_ARGS
Restart=on-abnormal
LimitNOFILE=65536
[Install]
WantedBy=multi-user.target
`

const stockEnv = `ETCD_NAME=infra%[1]d
ETCD_DATA_DIR=/var/lib/etcd/default
ETCD_LISTEN_CLIENT_URLS=http://%[2]s:2379,http://127.0.0.1:2379
ETCD_ADVERTISE_CLIENT_URLS=http://%[2]s:2379
ETCD_LISTEN_PEER_URLS=http://%[2]s:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://%[2]s:2380
ETCD_INITIAL_CLUSTER=%[3]s
ETCD_INITIAL_CLUSTER_TOKEN=prod
`

// stock is a cluster that etcdrill has not made.
type stock struct {
	t     *testing.T
	hosts []*ssh.Host
}

// newStock makes one on three machines, and takes it away in the end.
func newStock(t *testing.T, b *backend) *stock {
	t.Helper()
	_, hosts := b.hosts(t)
	if len(hosts) < 3 {
		t.Fatal("expected three machines")
	}
	s := &stock{t, hosts[:3]}
	t.Cleanup(func() {
		for _, h := range s.hosts {
			h.Run(context.Background(), lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", `systemctl disable --now etcd; systemctl reset-failed etcd; rm -rf /etc/systemd/system/etcd.service /etc/default/etcd /usr/bin/etcd /usr/bin/etcdctl /var/lib/etcd; systemctl daemon-reload`}})
		}
	})
	var addrs, all []string
	for i, h := range s.hosts {
		m := h.Machine()
		addr := m.Internal
		if addr == "" {
			addr = m.Login.Address
		}
		addrs = append(addrs, addr)
		all = append(all, fmt.Sprintf("infra%d=http://%s", i+1, net.JoinHostPort(addr, "2380")))
	}
	for i, h := range s.hosts {
		for file, text := range map[string]string{"/etc/default/etcd": fmt.Sprintf(stockEnv, i+1, addrs[i], strings.Join(all, ",")), "/etc/systemd/system/etcd.service": stockUnit} {
			if err := h.Put(inTime(t), file, 0o644, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Upload(inTime(t), "/usr/bin/etcd", 0o755, b.binary); err != nil {
			t.Fatal(err)
		}
		s.sh(h, `ln -f /usr/bin/etcd /usr/bin/etcdctl; mkdir -p -m 700 /var/lib/etcd; systemctl daemon-reload; systemctl enable -q etcd; systemctl start --no-block etcd`)
	}
	err := lab.Until(inTime(t), "the stock cluster", func(ctx context.Context) error {
		_, err := s.hosts[0].Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"/usr/bin/etcdctl", "put", "/registry/theirs", "kept"}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stock) sh(h *ssh.Host, script string) string {
	s.t.Helper()
	out, err := h.Run(inTime(s.t), lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", script}})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out.Stdout)
}

// traces are everything by which one could tell that etcdrill was there, and
// the settings of the unit.
func (s *stock) traces() string {
	s.t.Helper()
	out := ""
	for _, h := range s.hosts {
		out += s.sh(h, `systemctl show -p ActiveState,Restart etcd; ls -d /run/systemd/system/*.d /var/lib/etcdrill/* /etc/systemd/system/etcdrill* 2>/dev/null; nft list tables 2>/dev/null; iptables-save 2>/dev/null | grep etcdrill; cat /proc/$(systemctl show -p MainPID --value etcd)/status | grep State | cut -c1-8`)
	}
	return out
}

// pids are the members' processes.
func (s *stock) pids() []string {
	var out []string
	for _, h := range s.hosts {
		out = append(out, strings.TrimSpace(s.sh(h, `systemctl show -p MainPID --value etcd`)))
	}
	return out
}

// data is all that the cluster holds, with its revision when that is wanted.
func (s *stock) data(revision bool) string {
	out := s.sh(s.hosts[0], `etcdctl get --prefix ""`)
	if revision {
		out += s.sh(s.hosts[0], `etcdctl get --prefix "" -w fields | grep Revision`)
	}
	return out
}

const adopted = `apiVersion: etcdrill/v1
kind: Drill
name: adopted
title: To be performed on a cluster that was there before
cluster: {adopt: {name: prod-etcd, hosts: [%s]}}
load: {clients: 2, rate: 50/s, gate: 5/s, warmup: 100ms}
steps: %s
`

func (s *stock) drill(b *backend, steps string) {
	s.t.Helper()
	var names []string
	for _, h := range s.hosts {
		names = append(names, h.Name())
	}
	if err := os.WriteFile(filepath.Join(b.dir, "adopted.yaml"), []byte(fmt.Sprintf(adopted, strings.Join(names, ", "), steps)), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// A cluster that was there before is looked at; broken by who means it, and
// only so that it is afterwards what it was; and left alone in the end,
// whatever becomes of etcdrill.
func TestAdoptElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		s := newStock(t, b)
		run := func(want int, says string, args ...string) {
			t.Helper()
			out, err := b.command(args...).CombinedOutput()
			code := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				code = exit.ExitCode()
			}
			if code != want || !strings.Contains(string(out), says) {
				t.Errorf("%q: exit code %d, want %d and %q:\n%s", args, code, want, says, out)
			}
		}
		hosts := "--adopt-hosts=" + s.hosts[0].Name() + "," + s.hosts[1].Name() + "," + s.hosts[2].Name()
		pids, traces, data := s.pids(), s.traces(), s.data(true)
		untouched := func() {
			t.Helper()
			if p, tr, d := s.pids(), s.traces(), s.data(true); !slices.Equal(p, pids) || tr != traces || d != data {
				t.Fatalf("it was touched:\n%v %s%s\nbefore:\n%v %s%s", p, tr, d, pids, traces, data)
			}
		}
		s.drill(b, "[{break: crash, member: leader, as: dead}, {check: leader, changed: true, within: 30s}, {check: writes, accepted: true, within: 30s}, {heal: dead}, "+
			"{break: cut, member: leader, as: cut}, {check: leader, changed: true, within: 30s}, {heal: cut}, {break: pause, member: follower, for: 1s}, {check: members, healthy: 3, equal: hash, within: 30s}]")

		run(exitUsage, "--i-mean prod-etcd", "run", "adopted.yaml")
		run(exitUsage, `is called "prod-etcd"`, "run", "adopted.yaml", "--i-mean", "prod")
		run(exitUsage, "never done", "run", "wipe-and-restart", "--adopt", "prod-etcd", hosts, "--i-mean", "prod-etcd")
		run(exitError, "which is on none of the hosts", "up", "two", "--adopt", "prod-etcd", "--adopt-hosts="+s.hosts[0].Name()+","+s.hosts[1].Name())
		run(exitError, "there is no unit nothing.service", "up", "none", "--adopt", "prod-etcd", hosts, "--adopt-unit", "nothing")
		untouched()

		run(exitPass, `"infra2" of cluster`, "up", "look", "--adopt", "prod-etcd", hosts)
		run(exitUsage, "--i-mean prod-etcd", "break", "crash", "--lab", "look")
		run(exitUsage, "was adopted to be looked at", "exec", "m1", "--lab", "look", "--", "true")
		run(exitUsage, "prod-etcd was adopted", "recover-quorum", "--lab", "look")
		run(exitFail, "no-trial", "snapshot", "save", "--lab", "look")
		run(exitPass, "verified", "snapshot", "save", "--no-trial", "--lab", "look")
		run(exitPass, "pass", "check", "members", "--equal", "hash", "--within", "20s", "--lab", "look")
		run(exitPass, "", "down", "look")
		untouched()

		marked := s.sh(s.hosts[1], "cat "+ssh.MarkFile+" && rm "+ssh.MarkFile)
		run(exitError, "not marked", "run", "adopted.yaml", "--i-mean", "prod-etcd")
		if err := s.hosts[1].Put(inTime(t), ssh.MarkFile, 0o644, []byte(marked)); err != nil {
			t.Fatal(err)
		}
		untouched()

		run(exitPass, "PASS", "run", "adopted.yaml", "--i-mean", "prod-etcd")
		left := func(same int) {
			t.Helper()
			now := s.pids()
			n := 0
			for i := range now {
				if now[i] == pids[i] {
					n++
				}
			}
			if tr, d := s.traces(), s.data(false); n != same || tr != traces || !strings.HasPrefix(data, d) {
				t.Fatalf("%d processes are the same, want %d; left:\n%s%s\nbefore:\n%s%s", n, same, tr, d, traces, data)
			}
			pids = now
		}
		left(2)

		// Killed in the middle: the hosts undo it by themselves, the rest is gc's.
		s.drill(b, "[{break: stop, member: m1}, {break: cut, member: m2}, {break: pause, member: m3}, {do: wait, for: 3m}]")
		var said bytes.Buffer
		cmd := b.command("run", "adopted.yaml", "--i-mean", "prod-etcd")
		cmd.Stderr, cmd.Stdout = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		paused := func(context.Context) error {
			if !strings.Contains(s.traces(), "State:\tT") {
				return errors.New("not yet")
			}
			return nil
		}
		err := lab.Until(inTime(t), "the pause", paused)
		cmd.Process.Kill()
		cmd.Wait()
		if err != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
		err = lab.Until(inTime(t), "the hosts to undo everything", func(context.Context) error {
			now := s.traces()
			if strings.Count(now, "ActiveState=active") != 3 || strings.Count(now, "Restart=on-abnormal") != 3 || strings.Count(now, "State:\tS") != 3 || strings.Contains(now, "table inet etcdrill") {
				return errors.New(now)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		b.swept(t)
		left(2)
	})
}

// The shipped drill that looks.
func TestAdoptLookElsewhere(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.only(t, "ssh")
		s := newStock(t, b)
		// It takes all hosts of the inventory, and the tests' has more.
		text, err := os.ReadFile(b.inventory)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(text), "\n")
		rest := slices.DeleteFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "  - {name: ") && !slices.ContainsFunc(s.hosts, func(h *ssh.Host) bool { return strings.HasPrefix(l, "  - {name: "+h.Name()+",") })
		})
		b.inventory = filepath.Join(b.dir, "three.yaml")
		if err := os.WriteFile(b.inventory, []byte(strings.Join(rest, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		data, traces := s.data(true), s.traces()
		if steps, verdict := story(t, b.command("run", "adopt-look", "--set", "cluster=prod-etcd", "-o", "json")); verdict != "pass" {
			t.Errorf("%s: %q", verdict, steps)
		}
		t.Logf("took %s", time.Since(start).Round(time.Millisecond))
		if d, tr := s.data(true), s.traces(); d != data || tr != traces {
			t.Errorf("it was touched:\n%s%s\nbefore:\n%s%s", d, tr, data, traces)
		}
	})
}

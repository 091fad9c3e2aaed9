package ssh

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab"
)

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	must(t, err)
	return u.Username
}

func TestInventory(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	file := filepath.Join(dir, "hosts.yaml")
	if _, err := ParseInventory(file, []byte("ssh-config: config\nhosts: [rack3]")); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "config")) {
		t.Errorf("a configuration that is not there: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "config"), []byte("Host rack3\n  HostName 10.0.0.3\n  User someone\n  Port 24\n  UserKnownHostsFile ~/.ssh/k1 ~/.ssh/k2\nHost inner\n  HostName 10.9.9.9\n"), 0o600))
	got, err := ParseInventory(file, []byte(`
# machines of the lab
ssh-config: config
defaults:
  identity: ~/.ssh/lab
  labels: {site: north}
hosts:
  - address: 10.0.0.11
    user: root
    name: rack1
    internal: 192.168.1.11
    port: 2222
    faults: [crash, power-off]
    power:
      off: [virsh, destroy, "rack 1"]
      on: [virsh, start, "rack 1"]
  - address: rack2.example.com
    user: admin
    identity: [keys/a, /keys/b]
    known-hosts: known
    labels: {zone: b}
    jump: ops@bastion:2200,inner
    sudo: true
  - rack3
  - {ssh: rack3, name: again, port: 23}
  - address: "fd00::1"
`))
	must(t, err)
	lab3 := Login{Address: "10.0.0.3", Port: 24, User: "someone", Identity: []string{home + "/.ssh/lab"}, KnownHosts: []string{home + "/.ssh/k1", home + "/.ssh/k2"}}
	again := lab3
	again.Port = 23
	north := map[string]string{"site": "north"}
	want := []Machine{
		{Name: "rack1", Login: Login{Address: "10.0.0.11", Port: 2222, User: "root", Identity: []string{home + "/.ssh/lab"}}, Internal: "192.168.1.11", Labels: north,
			Faults: []string{"crash", "power-off"}, Power: Power{Off: []string{"virsh", "destroy", "rack 1"}, On: []string{"virsh", "start", "rack 1"}}, Sudo: SudoAuto},
		{Name: "rack2.example.com", Login: Login{Address: "rack2.example.com", Port: 22, User: "admin", Identity: []string{dir + "/keys/a", "/keys/b"}, KnownHosts: []string{dir + "/known"},
			Jump: []Login{{Address: "bastion", Port: 2200, User: "ops"}, {Address: "10.9.9.9", Port: 22, User: me(t)}}}, Labels: map[string]string{"zone": "b"}, Sudo: SudoYes},
		{Name: "rack3", Login: lab3, Labels: north, Sudo: SudoAuto},
		{Name: "again", Login: again, Labels: north, Sudo: SudoAuto},
		{Name: "fd00::1", Login: Login{Address: "fd00::1", Port: 22, User: me(t), Identity: []string{home + "/.ssh/lab"}}, Labels: north, Sudo: SudoAuto},
	}
	for i, m := range got.Machines {
		if i >= len(want) || !reflect.DeepEqual(m, want[i]) {
			t.Errorf("host %d:\n got %+v\nwant %+v", i+1, m, want[min(i, len(want)-1)])
		}
	}
	if len(got.Machines) != len(want) {
		t.Errorf("%d hosts, want %d", len(got.Machines), len(want))
	}
	if s := want[4].Login.String(); s != me(t)+"@[fd00::1]:22" {
		t.Errorf("got %s", s)
	}
	if m := want[0]; !m.Allows("crash") || m.Allows("cut") || !want[1].Allows("cut") {
		t.Error("allowed faults are mixed up")
	}
	if _, err := got.Machine("rack"); err == nil || !strings.Contains(err.Error(), `did you mean "rack`) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// TestInventoryProblems: everything that is wrong is said at once, with its
// place.
func TestInventoryProblems(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	text := `
defaults:
  sudo: maybe
  adress: 1.2.3.4
  port: 70000
hosts:
  - name: "a b"
    address: ok
    address: twice
    port: ssh
    power: {off: [x]}
    faults: crash
    labels: [a]
  - user: nobody
  - address: "http://x"
    jump: "a:b"
    sudo:
    identity: {a: b}
  - [1]
  - address: *anchor
more: true
`
	want := map[string]string{
		"3:9":   `sudo: "maybe": expected true, false or auto`,
		"4:3":   `unknown word "adress"`,
		"5:9":   `port: "70000": expected a number from 1 to 65535`,
		"7:11":  `"a b": expected letters`,
		"9:5":   `"address" is given twice`,
		"10:11": `port: "ssh"`,
		"11:13": "expected both",
		"12:13": "expected a list",
		"13:13": "labels: expected names with values",
		"14:5":  "a host needs `address`",
		"15:14": `"http://x": expected a host name`,
		"16:11": "after the colon",
		"17:10": "expected a single value",
		"18:16": "expected a single value",
		"19:5":  "expected a single value",
		"20:14": "expected a single value",
		"21:1":  `unknown word "more": expected one of defaults, hosts, ssh-config`,
	}
	_, err := ParseInventory("hosts.yaml", []byte(text))
	var problems lab.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	line := 0
	for _, p := range problems {
		at := strings.Join(strings.SplitN(p.String(), ":", 4)[1:3], ":")
		if w, ok := want[at]; !ok || !strings.Contains(p.What, w) {
			t.Errorf("%s: %s: not expected, want %q", at, p.What, w)
		}
		delete(want, at)
		if p.Line < line {
			t.Errorf("line %d after line %d", p.Line, line)
		}
		line = p.Line
	}
	for at, w := range want {
		t.Errorf("%s: missing: %s", at, w)
	}
	for text, want := range map[string]string{
		"":                            "expected one inventory, found 0",
		"hosts: [":                    "no valid YAML",
		"hosts: []":                   "expected at least one",
		"defaults: {}":                `"hosts" is missing`,
		"- a":                         "expected keys with values",
		"hosts: [a]\n---\nhosts: [b]": "found 2 documents",
		"hosts: [a, a]":               "name of another host",
		"hosts: [{address: a}, {address: a, name: b}]": `a:22 is the host "a" already`,
	} {
		if _, err := ParseInventory("hosts.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "hosts.yaml:") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, err := ReadInventory("/not/there"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestAliases(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("KEYS", "/keys")
	more := filepath.Join(home, "more.conf")
	must(t, os.WriteFile(more, []byte("Host inc\n  HostName 10.0.0.2\n  User included\n"), 0o600))
	config := filepath.Join(home, "config")
	must(t, os.WriteFile(config, []byte(`
Include `+more+`
Host plain short
  HostName 10.0.0.1
  User root
  Port 2222
  IdentityFile ~/.ssh/%h-%r
  IdentityFile "${KEYS}/b"
  IdentitiesOnly yes
  IdentityAgent ~/agent.sock
  UserKnownHostsFile ~/.ssh/known /dev/null
Host sub
  HostName %h.example.com
Host behind
  HostName 10.0.0.9
  ProxyJump ops@gate:2200,plain
Host gate
  User ignored
  ProxyJump short
Host round
  ProxyJump about
Host about
  ProxyJump round
Host command
  ProxyCommand nc %h %p
Host direct
  ProxyJump none
  ProxyCommand none
Host badport
  Port many
Host noagent
  IdentityAgent none
  IdentityFile none
Host *
  User everybody
Match all
  Port 22
`), 0o600))
	a := newAliases(config)
	plain := Login{Address: "10.0.0.1", Port: 2222, User: "root", Identity: []string{home + "/.ssh/10.0.0.1-root", "/keys/b"}, Only: true, Agent: home + "/agent.sock", KnownHosts: []string{home + "/.ssh/known", "/dev/null"}}
	for alias, want := range map[string]Login{
		"plain": plain,
		"short": plain,
		"inc":   {Address: "10.0.0.2", Port: 22, User: "included"},
		"sub":   {Address: "sub.example.com", Port: 22, User: "everybody"},
		"behind": {Address: "10.0.0.9", Port: 22, User: "everybody", Jump: []Login{
			plain, {Address: "gate", Port: 2200, User: "ops"}, plain}},
		"direct":  {Address: "direct", Port: 22, User: "everybody"},
		"noagent": {Address: "noagent", Port: 22, User: "everybody", Agent: "none"},
		"nobody":  {Address: "nobody", Port: 22, User: "everybody"},
	} {
		got, err := a.login(alias)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", alias, got, err, want)
		}
	}
	for alias, want := range map[string]string{"round": "round in circles", "command": "ProxyCommand", "badport": "many"} {
		if _, err := a.login(alias); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ssh alias "+alias) {
			t.Errorf("%s: got %v, want %q", alias, err, want)
		}
	}
	if _, err := newAliases(filepath.Join(home, "none")).login("x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a configuration that was named and is not there: %v", err)
	}
	must(t, os.WriteFile(more, []byte("Include "+config+"\n"), 0o600))
	if _, err := a.login("plain"); err == nil {
		t.Error("files that include each other")
	}
}

// TestMatch: what the library does not know or takes for something else is
// asked of ssh.
func TestMatch(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	more := filepath.Join(dir, "more.conf")
	must(t, os.WriteFile(more, []byte("Match host far,near\n  Port 2200\n"), 0o600))
	config := filepath.Join(dir, "config")
	must(t, os.WriteFile(config, []byte("Host far near\n  User root\nMatch originalhost far exec \"test -e "+more+"\"\n  HostName 10.0.0.7\nMatch all\n  Include "+more+"\nMatch user \"nobody\"\n  Port 1\n"), 0o600))
	a := newAliases(config)
	at, err := findMatch(config, dir, 0)
	if err != nil || at != config+":3" {
		t.Errorf("Match at %q, %v", at, err)
	}
	t.Run("without ssh", func(t *testing.T) {
		t.Setenv("PATH", dir)
		if _, err := a.login("far"); err == nil || !strings.Contains(err.Error(), config+":3") || !strings.Contains(err.Error(), "install") {
			t.Errorf("got %v", err)
		}
	})
	if _, err := exec.LookPath("ssh"); err != nil {
		lacking(t, "ssh", "no ssh on this machine")
	}
	got, err := a.login("far")
	if err != nil || got.Address != "10.0.0.7" || got.User != "root" || len(got.Identity) == 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	near, err := a.login("near")
	if err != nil || near.Address != "near" || near.Port != 2200 {
		t.Errorf("got %+v, %v", near, err)
	}
	must(t, os.WriteFile(config, []byte("Match nonsense\n"), 0o600))
	if _, err := a.login("far"); err == nil || !strings.Contains(err.Error(), config) {
		t.Errorf("got %v", err)
	}
}

// FuzzInventory: whatever the text, there is either an inventory that holds
// together or a problem with a place in the text.
func FuzzInventory(f *testing.F) {
	for _, s := range []string{
		"hosts: [a]", "hosts:\n  - address: 10.0.0.1\n    port: 22\n", "defaults: {user: root, jump: \"a@b:1,[::1]:2\"}\nhosts: [{ssh: x, labels: {a: b}}]",
		"hosts: [{address: a, power: {off: [a], on: [b]}, faults: [crash], sudo: true}]", "hosts: &a [*a]", "hosts: !x y", "a: [", "hosts: |\n  x", "? a\n: b", "{{", "hosts: [{address: a, identity: [~/x, y]}]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		r := &reader{Reader: lab.NewReader("hosts.yaml", src), file: "hosts.yaml"}
		entries, _ := r.read() // aliases are not looked up: they may name any file
		var problems lab.Problems
		errors.As(r.Err(), &problems)
		if len(problems) == 0 && len(entries) == 0 {
			t.Fatal("neither hosts nor problems")
		}
		for _, p := range problems {
			if p.Line < 1 || p.Col < 0 || p.What == "" || p.String() == "" {
				t.Fatalf("no place: %+v", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		for _, e := range entries {
			m := e.machine
			if m.Login.Address == "" && e.alias == "" || m.Login.Port < 1 || m.Login.Port > 65535 || m.Sudo == "" || (m.Power.Off == nil) != (m.Power.On == nil) {
				t.Fatalf("let through: %+v", e)
			}
			for _, id := range m.Login.Identity {
				if !filepath.IsAbs(id) && !strings.HasPrefix(id, "~") {
					t.Fatalf("relative path: %q", id)
				}
			}
		}
	})
}

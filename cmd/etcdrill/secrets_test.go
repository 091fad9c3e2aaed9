package main

import (
	"bytes"
	"encoding/pem"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/lab/etcd"
)

// What a run leaves, records, reports and what it printed, holds no private
// key and no password, and on the lab's side keys are for their owner alone.
// The drill moves secrets about and ends with findings and errors in all the
// places where a careless record would quote them.
func TestRecordsHoldNoSecrets(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if built := os.Getenv("ETCDRILL_BINARY"); built != "" {
		exe = built // without the race detector, which makes etcd's password hashing very slow
	}
	dir := t.TempDir()
	home, out := filepath.Join(dir, "home"), filepath.Join(dir, "runs")
	if err := os.Symlink(exe, filepath.Join(dir, "etcdrill")); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) (string, error) {
		cmd := exec.Command(filepath.Join(dir, "etcdrill"), args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "ETCDRILL_HOME="+home)
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	drill := `apiVersion: etcdrill/v1
kind: Drill
name: secrets
title: Secrets on the move
cluster: {members: 3, heartbeat: 50ms, election: 500ms}
load: {clients: 2, rate: 50/s, warmup: 100ms, watch: false}
steps:
  - {do: etcdctl, args: [user, add, root, --interactive=false], password: first}
  - {do: etcdctl, args: [user, add, root, --interactive=false], password: second, refused: already exists}
  - {do: etcdctl, args: [user, grant-role, root, root]}
  - {do: etcdctl, args: [auth, enable]}
  - {check: user, name: root, password: first, may: both, within: 20s}
  - {check: user, name: root, password: second, may: nothing}
  - {do: renew, member: all, clients: true}
  - {do: trust, member: all, whom: both, clients: true}
  - {break: certificate, member: m2, pair: server, how: half-rotated, as: half}
  - {break: certificate, member: m3, pair: peer, how: foreign, as: foreign}
  - {check: handshake, member: m2, refused: true}
  - {heal: half}
  - {check: secrets, passwords: [first, second]}
  - {check: certificate, member: m3}
`
	if err := os.WriteFile(filepath.Join(dir, "secrets.yaml"), []byte(drill), 0o644); err != nil {
		t.Fatal(err)
	}
	said, err := command("run", "secrets.yaml", "--keep", "always", "--out", out)
	t.Cleanup(func() {
		if said, err := command("down", "--all"); err != nil {
			t.Errorf("down: %v\n%s", err, said)
		}
	})
	// The last step finds what the fault has spoiled, and says so.
	if err == nil || !strings.Contains(said, "unknown authority") {
		t.Fatalf("%v: expected the run to end with the finding of its last step\n%s", err, said)
	}

	secrets := map[string]string{"the beginning of a private key": "PRIVATE KEY"}
	labs, err := filepath.Glob(filepath.Join(home, "labs", "*"))
	if err != nil || len(labs) != 1 {
		t.Fatalf("labs %q, %v", labs, err)
	}
	keys := 0
	walk(t, labs[0], func(file string, mode fs.FileMode, data []byte) {
		block, _ := pem.Decode(data)
		if block == nil || !strings.Contains(block.Type, "PRIVATE KEY") {
			return
		}
		keys++
		if mode&0o077 != 0 {
			t.Errorf("%s: mode %s: others may read a private key", file, mode)
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); len(line) > 40 && !strings.HasPrefix(line, "-") {
				secrets["a line of "+file] = line
			}
		}
		secrets["the bytes of "+file] = string(block.Bytes)
	})
	if keys < 12 { // two authorities, the clients, three per host, and what is kept aside
		t.Errorf("found %d keys in the lab", keys)
	}
	ca, err := etcd.LoadPKI(filepath.Join(labs[0], "pki"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		secrets["password "+name] = ca.Password(name)
	}

	found := func(data []byte) (what []string) {
		for name, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				what = append(what, name)
			}
		}
		return what
	}
	// The search itself finds what is there.
	if key, err := os.ReadFile(filepath.Join(labs[0], "pki", "client.key")); err != nil || len(found(key)) < 2 {
		t.Fatalf("in a key were found %q, %v", found(key), err)
	}
	files := 0
	look := func(where string, data []byte) {
		files++
		if what := found(data); len(what) > 0 {
			t.Errorf("%s holds %q", where, what)
		}
	}
	walk(t, out, func(file string, _ fs.FileMode, data []byte) { look(file, data) })
	look("what it printed", []byte(said))
	for _, format := range []string{"text", "json"} {
		again, err := command("report", "-o", format)
		if err != nil && again == "" {
			t.Errorf("report: %v", err)
		}
		look("report "+format, []byte(again))
	}
	if files < 10 {
		t.Errorf("looked at %d files only", files)
	}
}

// walk reads all files below a directory.
func walk(t *testing.T, dir string, visit func(file string, mode fs.FileMode, data []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		if err == nil {
			visit(file, info.Mode().Perm(), data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

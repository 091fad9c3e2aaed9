package tools_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/drivers/local/tools"
)

func TestMain(m *testing.M) {
	if handled, code := tools.Main(os.Args); handled {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// call runs the test executable under another name.
func call(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "/some/where/" + name
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		says []string
		fail bool
	}{
		{"etcd", []string{"--version"}, []string{"etcd Version: 3."}, false},
		{"etcd", []string{"--no-such-flag"}, []string{"no-such-flag"}, true},
		{"etcdctl", []string{"version"}, []string{"etcdctl version: 3."}, false},
		{"etcdutl", []string{"version"}, []string{"etcdutl version: 3."}, false},
		{"etcdutl", []string{"--help"}, []string{"defrag", "snapshot", "hashkv", "version", "completion", "migrate", "--timeout", "--write-out"}, false},
		{"etcdutl", []string{"-w", "json", "snapshot", "status", "/no/such/file"}, []string{"no such file"}, true},
		{"etcdutl", []string{"frobnicate"}, []string{"unknown command"}, true},
	} {
		out, err := call(t, c.name, c.args...)
		if (err != nil) != c.fail {
			t.Errorf("%s %v: %v\n%s", c.name, c.args, err, out)
		}
		for _, want := range c.says {
			if !strings.Contains(out, want) {
				t.Errorf("%s %v: %q is not in\n%s", c.name, c.args, want, out)
			}
		}
	}
}

// etcdctl's package sets a global of cobra that our command line must not get.
func TestOurCommandsWantWholeWords(t *testing.T) {
	if cobra.EnablePrefixMatching {
		t.Error("prefixes of commands are taken for commands")
	}
	for _, args := range [][]string{nil, {"etcdrill"}, {"/usr/bin/etcdrill", "up"}, {"etcdrill.test", "etcd"}} {
		if handled, _ := tools.Main(args); handled {
			t.Errorf("%q was handled", args)
		}
	}
}

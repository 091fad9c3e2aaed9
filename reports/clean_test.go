package reports

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

func TestClean(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"plain text\twith\nlines", "plain text\twith\nlines"},
		{"Größe → 日本", "Größe → 日本"},
		{"\x1b[1;31mred\x1b[0m", "red"},
		{"\x1b]0;title\x07rest", "rest"},
		{"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"},
		{"\x1b]0;never ended\nnext line", "\nnext line"},
		{"\x1b(Bg0", "g0"},
		{"bell\x07 nul\x00 del\x7f", `bell\x07 nul\x00 del\x7f`},
		{"10%\r20%\r\nend", "10%\n20%\nend"},
		{"\u202eevil\u2066", `\u202eevil\u2066`},
		{"bad\xffutf8", `bad\xffutf8`},
		{"c1\u009b31m", `c1\x9b31m`},
		{"\x1b", `\x1b`},
		{"a\ufffeb", `a\ufffeb`},
	} {
		if got := clean(x.in); got != x.want {
			t.Errorf("%q: got %q, want %q", x.in, got, x.want)
		}
	}
}

func TestRedact(t *testing.T) {
	for _, x := range []struct{ in, secret string }{
		{"x\n" + privateKey + "\ny", "MHcCAQ"},
		{"-----BEGIN RSA PRIVATE KEY-----\nabcdsecret", "abcdsecret"},
		{"--user root:hunter2 get", "hunter2"},
		{"--user 'root:hunter and two'", "two"},
		{"etcdctl --password 'hunter and two' get", "two"},
		{"ETCDCTL_PASSWORD=hunter and two", "two"},
		{"env 'ETCDCTL_PASSWORD=hunter and two' etcdctl", "two"},
		{"--user=root:hunter2", "hunter2"},
		{"ETCDCTL_USER=root:hunter2", "hunter2"},
		{"ETCDCTL_PASSWORD=hunter2", "hunter2"},
		{"kubeadm join --token abcdef.0123456789abcdef 10.0.0.1", "0123456789abcdef"},
		{"the token is abcdef.0123456789abcdef", "0123456789abcdef"},
		{"--certificate-key 8c1f", "8c1f"},
		{"Authorization: Bearer abc.def.ghi-jkl", "abc.def"},
		{"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIi"},
		{"https://bob:hunter2@host/", "hunter2"},
		{`{"password": "hunter2"}`, "hunter2"},
		{"client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQo=", "LS0tLS1CRUdJTiBSU0Eg"},
		{"\x1b[1m--password\x1b[0m hun\x1b[1mter2", "ter2"},
	} {
		got := clean(x.in)
		if strings.Contains(got, x.secret) || !strings.Contains(got, "[redacted") {
			t.Errorf("%q: got %q", x.in, got)
		}
		if again := clean(got); again != got {
			t.Errorf("not the same when cleaned twice: %q, %q", got, again)
		}
	}
	for _, s := range []string{
		"--initial-cluster-token etcd-cluster-1", "ETCD_INITIAL_CLUSTER_TOKEN=lab", "initial-cluster-token: lab", "--key /pki/client.key",
		"https://127.0.0.1:2379,https://10.0.0.1:2379", "m1 (10.0.0.1:2380)", "the user of k8s", "lost == 0", "-----BEGIN CERTIFICATE-----",
	} {
		if got := clean(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func TestScrub(t *testing.T) {
	in := lab.Event{Wall: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Text: "\x1b[1mx", Argv: []string{"etcdctl", "--password", "hunter2", "--user", "root:hunter 2", "a b", "--password=hunter2"},
		Env: []string{"ETCDCTL_PASSWORD=hunter2"}, Target: &lab.Target{Names: []string{"m1\x07"}},
		Run: &lab.RunInfo{Environment: map[string]string{"password": "hunter2", "os": "linux"}, Drill: &lab.Drill{Steps: []lab.Step{{Args: map[string]any{"Key": "\x00"}}}}}}
	before := *in.Run
	got := scrub(in)
	want := []string{"etcdctl", "--password", "[redacted]", "--user", "root:[redacted]", "a b", "--password=[redacted]"}
	if !reflect.DeepEqual(got.Argv, want) {
		t.Errorf("got %q, want %q", got.Argv, want)
	}
	if got.Text != "x" || got.Target.Names[0] != `m1\x07` || got.Env[0] != "ETCDCTL_PASSWORD=[redacted]" || !got.Wall.Equal(in.Wall) {
		t.Errorf("got %+v", got)
	}
	if e := got.Run.Environment; e["password"] != "[redacted]" || e["os"] != "linux" {
		t.Errorf("environment: %v", e)
	}
	if a := got.Run.Drill.Steps[0].Args.(map[string]any)["Key"]; a != `\x00` {
		t.Errorf("args: %q", a)
	}
	if !reflect.DeepEqual(before, *in.Run) || in.Argv[2] != "hunter2" {
		t.Error("the original was changed")
	}
}

func TestDuration(t *testing.T) {
	for _, x := range []struct {
		v    float64
		want string
	}{{0, "0s"}, {.00042, "420µs"}, {.0021, "2.1ms"}, {.0312, "31ms"}, {.9994, "999ms"}, {.99951, "1.00s"}, {1.316, "1.32s"}, {12.34, "12.3s"}, {59.96, "1m00s"}, {620, "10m20s"}, {7300, "2h01m"}} {
		if got := short(x.v); got != x.want {
			t.Errorf("%g: got %s, want %s", x.v, got, x.want)
		}
	}
}

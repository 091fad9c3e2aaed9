package etcd_test

import (
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab/etcd"
)

// What an etcd was told is found the way that etcd finds it.
func TestReadTold(t *testing.T) {
	files := map[string]string{
		"/etc/etcd/etcd.yaml": "name: infra0\ndata-dir: /data\nlisten-client-urls: https://10.0.0.1:2379,https://127.0.0.1:2379\n" +
			"client-transport-security:\n  cert-file: /pki/server.crt\n  key-file: /pki/server.key\n  trusted-ca-file: ca.crt\nelection-timeout: 5000\n",
		"/srv/bad.yaml": "name: [",
	}
	read := func(file string) ([]byte, error) {
		if text, ok := files[file]; ok {
			return []byte(text), nil
		}
		return nil, fs.ErrNotExist
	}
	plain := etcd.Told{Name: "default", DataDir: "/srv/default.etcd", ClientURLs: []string{"http://localhost:2379"}, PeerURLs: []string{"http://localhost:2380"},
		Heartbeat: 100 * time.Millisecond, Election: time.Second}
	change := func(f func(*etcd.Told)) etcd.Told {
		out := plain
		f(&out)
		return out
	}
	for name, c := range map[string]struct {
		argv, env []string
		want      etcd.Told
		says      string
	}{
		"nothing": {argv: []string{"etcd"}, want: plain},
		"flags before variables": {argv: []string{"/usr/bin/etcd", "--name=a", "-data-dir", "d", "--client-cert-auth", "--cert-file=c.crt", "--listen-metrics-urls", "http://127.0.0.1:2381"},
			env: []string{"ETCD_NAME=b", "ETCD_ELECTION_TIMEOUT=2000", "ETCD_TRUSTED_CA_FILE=", "HOME=/", "ETCD_KEY_FILE=/k"},
			want: change(func(o *etcd.Told) {
				o.Name, o.DataDir, o.Cert, o.Key, o.MetricsURLs, o.Election = "a", "/srv/d", "/srv/c.crt", "/k", []string{"http://127.0.0.1:2381"}, 2*time.Second
			})},
		"a file alone": {argv: []string{"etcd", "--config-file=/etc/etcd/etcd.yaml", "--name", "ignored"}, env: []string{"ETCD_DATA_DIR=/ignored"},
			want: change(func(o *etcd.Told) {
				o.Name, o.DataDir, o.Config, o.Election = "infra0", "/data", "/etc/etcd/etcd.yaml", 5*time.Second
				o.ClientURLs = []string{"https://10.0.0.1:2379", "https://127.0.0.1:2379"}
				o.CA, o.Cert, o.Key = "/srv/ca.crt", "/pki/server.crt", "/pki/server.key"
			})},
		"a file by a variable that is not there": {argv: []string{"etcd"}, env: []string{"ETCD_CONFIG_FILE=no.yaml"}, says: "not exist"},
		"a file that is none":                    {argv: []string{"etcd", "--config-file", "bad.yaml"}, says: "/srv/bad.yaml"},
		"no time":                                {argv: []string{"etcd", "--heartbeat-interval=1s"}, says: "heartbeat-interval"},
	} {
		got, err := etcd.ReadTold(c.argv, c.env, "/srv", read)
		switch {
		case c.says != "":
			if err == nil || !strings.Contains(err.Error(), c.says) && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want it to say %q", name, err, c.says)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		default:
			if len(got.MetricsURLs) == 0 {
				got.MetricsURLs = nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, got, c.want)
			}
		}
	}
}

func TestNear(t *testing.T) {
	got := etcd.Near([]string{"http://10.0.0.1:2379", "https://0.0.0.0:2379", "unix://x:0", "http://localhost:2381", "http://[::]:2382", "https://etcd.prod:2379"}, "10.0.0.9")
	want := []string{"https://127.0.0.1:2379", "http://127.0.0.1:2381", "http://127.0.0.1:2382", "http://10.0.0.1:2379", "https://10.0.0.9:2379", "http://10.0.0.9:2382", "https://etcd.prod:2379"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

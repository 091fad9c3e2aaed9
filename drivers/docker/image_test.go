package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

func TestRunsOn(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	script := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700))
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	if err := runsOn(script, runtime.GOARCH); err == nil || !strings.Contains(err.Error(), "GOOS=linux") {
		t.Errorf("a script: %v", err)
	}
	if err := runsOn(filepath.Join(t.TempDir(), "nothing"), runtime.GOARCH); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if runtime.GOOS != "linux" {
		t.Skip("this test's executable is not for Linux")
	}
	must(t, runsOn(self, runtime.GOARCH))
	if err := runsOn(self, other); err == nil || !strings.Contains(err.Error(), "GOARCH="+other) {
		t.Errorf("another processor: %v", err)
	}
}

func TestSources(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"the same release": {map[string]string{
			"os-release":                          "NAME=Debian\nID=debian\nVERSION_CODENAME=bookworm\n",
			"apt/sources.list":                    "deb http://mirror.example/debian bookworm main\n",
			"apt/sources.list.d/debian.sources":   "Suites: bookworm bookworm-updates\n",
			"apt/sources.list.d/somebody.sources": "Suites: bookworm\n",
		}, []string{"apt/sources.list", "apt/sources.list.d/debian.sources"}},
		"an empty list": {map[string]string{
			"os-release":                        "ID=debian\nVERSION_CODENAME=bookworm\n",
			"apt/sources.list":                  "# see debian.sources\n",
			"apt/sources.list.d/debian.sources": "Suites: bookworm\n",
		}, []string{"apt/sources.list.d/debian.sources"}},
		"another release": {map[string]string{
			"os-release":       "ID=debian\nVERSION_CODENAME=trixie\n",
			"apt/sources.list": "deb http://mirror.example/debian bookworm main\n",
		}, nil},
		"no Debian": {map[string]string{"os-release": "ID=fedora\n"}, nil},
		"nothing":   {nil, nil},
	} {
		etc := t.TempDir()
		var want []string
		for file, text := range c.files {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(etc, file)), 0o700))
			must(t, os.WriteFile(filepath.Join(etc, file), []byte(text), 0o600))
		}
		for _, file := range c.want {
			want = append(want, filepath.Join(etc, file))
		}
		if got := sources(etc); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestFollow(t *testing.T) {
	status, err := follow(strings.NewReader(`{"stream":"Step 1\n"}` + "\n" + `{"status":"sha256:abc"}` + "\n"))
	if status != "sha256:abc" || err != nil {
		t.Errorf("%q, %v", status, err)
	}
	_, err = follow(strings.NewReader(`{"stream":"E: no such package\n\n"}{"errorDetail":{"message":"returned a non-zero code: 100"},"error":"x"}`))
	if err == nil || !strings.Contains(err.Error(), "code: 100") || !strings.Contains(err.Error(), "E: no such package") {
		t.Errorf("failed: %v", err)
	}
	if _, err := follow(strings.NewReader(`{"stream":"half`)); err == nil {
		t.Error("a stream that breaks off is taken for whole")
	}
}

// An engine that has no image, in a place with neither registry nor packages:
// the reason says what to do, and nothing is left of a lab.
func TestNoImage(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Ostype", "linux")
	})
	mux.HandleFunc("/v1.41/version", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"Arch":"` + runtime.GOARCH + `","Os":"linux"}`))
	})
	mux.HandleFunc("/v1.41/info", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"ID":"an engine"}`)) })
	mux.HandleFunc("/v1.41/distribution/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"message":"lookup registry: no such host"}`, http.StatusInternalServerError)
	})
	for _, list := range []string{"containers/json", "networks"} {
		mux.HandleFunc("/v1.41/"+list, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`[]`)) })
	}
	mux.HandleFunc("/v1.41/volumes", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"Volumes":[]}`)) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			t.Errorf("something was made: %s %s", r.Method, r.URL)
		}
		http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
	})
	engine := httptest.NewServer(mux)
	defer engine.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+engine.Listener.Addr().String())
	t.Setenv("PATH", t.TempDir()) // no mmdebstrap
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	root := t.TempDir()
	d := New(Options{Root: root})
	if why := d.Caps(limit(t))[lab.CapUnits]; !strings.Contains(why, "debian:") || !strings.Contains(why, "mmdebstrap") {
		t.Errorf("caps: %q", why)
	}
	if runtime.GOOS != "linux" {
		t.Skip("this test's executable is not for Linux")
	}
	spec := lab.Spec{Members: 1, TLS: "off", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond}
	_, err := d.Up(limit(t), "x", spec)
	for _, want := range []string{"no such host", "docker pull debian:", "apt-get install mmdebstrap"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("up: %v, want it to say %q", err, want)
		}
	}
	if l, err := d.Left(limit(t)); err != nil || len(l) != 0 {
		t.Errorf("left: %v, %v", l, err)
	}
}

// Who makes images in one engine is one, wherever its labs lie.
func TestImageLock(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	path := func(id string) string {
		t.Helper()
		engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Api-Version", "1.41")
			fmt.Fprintf(w, `{"ID":%q}`, id)
		}))
		defer engine.Close()
		t.Setenv("DOCKER_HOST", "tcp://"+engine.Listener.Addr().String())
		path, err := New(Options{Root: t.TempDir()}).imageLock(limit(t))
		must(t, err)
		free, err := lock(limit(t), path, "nobody")
		must(t, err)
		free()
		return path
	}
	one := path("one/../engine")
	if again := path("one/../engine"); again != one {
		t.Errorf("one engine, two locks: %s and %s", one, again)
	}
	if other := path("another"); other == one {
		t.Errorf("two engines, one lock: %s", one)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := lock(limit(t), path, "nobody")
	must(t, err)
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := lock(short, path, "the other"); err == nil || !strings.Contains(err.Error(), "the other") {
		t.Errorf("it was taken twice: %v", err)
	}
	release()
	release, err = lock(limit(t), path, "nobody")
	must(t, err)
	release()
}

// What greets otherwise than Serve is told from it, and what it says is told.
func TestGreeted(t *testing.T) {
	for said, want := range map[string]string{
		ready:                                "",
		"exec failed: no such file, at all.": "no such file",
		"etcd":                               "etcd",
	} {
		near, far := net.Pipe()
		go func() {
			far.Write([]byte(said))
			if want != "" {
				far.Close()
			}
		}()
		err := greeted(limit(t), near)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", said, err)
		}
		near.Close()
	}
	near, far := net.Pipe() // says nothing
	defer far.Close()
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := greeted(short, near); err == nil {
		t.Error("nobody greeted")
	}
}

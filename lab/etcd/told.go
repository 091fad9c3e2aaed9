package etcd

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Told is what somebody else's etcd was told when it was started. Paths are
// absolute.
type Told struct {
	Name        string
	DataDir     string
	Config      string // its configuration file; empty: flags and environment
	ClientURLs  []string
	PeerURLs    []string
	MetricsURLs []string // listen-metrics-urls
	CA          string   // trusted-ca-file of its listener for clients, and so on
	Cert        string
	Key         string
	Heartbeat   time.Duration
	Election    time.Duration
}

// section is where the configuration file has what is a flag of this name.
var section = map[string]string{
	"cert-file": "client-transport-security/cert-file", "key-file": "client-transport-security/key-file",
	"trusted-ca-file": "client-transport-security/trusted-ca-file",
}

// ReadTold finds out what an etcd was told, from its arguments, its
// environment and its working directory, as etcd itself does: a configuration
// file alone where there is one, else flags before variables before defaults.
// read reads a file of its host.
func ReadTold(argv, env []string, dir string, read func(file string) ([]byte, error)) (Told, error) {
	flags := flagsOf(argv)
	vars := map[string]string{}
	for _, e := range env {
		if k, v, ok := strings.Cut(e, "="); ok && strings.HasPrefix(k, "ETCD_") {
			vars[strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k, "ETCD_")), "_", "-")] = v
		}
	}
	given := func(key string) (string, bool) {
		if v, ok := flags[key]; ok {
			return v, true
		}
		v, ok := vars[key]
		return v, ok && v != ""
	}
	absolute := func(file string) string {
		if file == "" || path.IsAbs(file) {
			return file
		}
		return path.Join(dir, file)
	}
	t := Told{}
	if file, ok := given("config-file"); ok {
		t.Config = absolute(file)
		data, err := read(t.Config)
		if err != nil {
			return t, err
		}
		s, err := settings(data)
		if err != nil {
			return t, fmt.Errorf("%s: %w", t.Config, err)
		}
		given = func(key string) (string, bool) {
			if in, ok := section[key]; ok {
				key = in
			}
			v := s.Get(key)
			return fmt.Sprint(v), v != nil && v != ""
		}
	}
	text := func(key, otherwise string) string {
		if v, ok := given(key); ok {
			return v
		}
		return otherwise
	}
	var err error
	millis := func(key string, otherwise int) time.Duration {
		n, perr := strconv.Atoi(text(key, strconv.Itoa(otherwise)))
		if perr != nil || n < 1 {
			err = fmt.Errorf("%s: %q: expected milliseconds", key, text(key, ""))
		}
		return time.Duration(n) * time.Millisecond
	}
	t.Name = text("name", "default")
	t.DataDir = absolute(text("data-dir", t.Name+".etcd"))
	t.ClientURLs = list(text("listen-client-urls", "http://localhost:2379"))
	t.PeerURLs = list(text("listen-peer-urls", "http://localhost:2380"))
	t.MetricsURLs = list(text("listen-metrics-urls", ""))
	t.CA, t.Cert, t.Key = absolute(text("trusted-ca-file", "")), absolute(text("cert-file", "")), absolute(text("key-file", ""))
	t.Heartbeat, t.Election = millis("heartbeat-interval", 100), millis("election-timeout", 1000)
	return t, err
}

// flagsOf reads flags the way that Go programs do: one or two dashes, a value
// behind an equals sign or as the next word. A flag without a value is true.
func flagsOf(argv []string) map[string]string {
	out := map[string]string{}
	for i := 1; i < len(argv); i++ {
		word := argv[i]
		if !strings.HasPrefix(word, "-") || word == "-" || word == "--" {
			break // nothing behind it is a flag
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
		switch {
		case ok:
		case i+1 < len(argv) && !strings.HasPrefix(argv[i+1], "-"):
			i++
			value = argv[i]
		default:
			value = "true"
		}
		out[key] = value
	}
	return out
}

func list(text string) []string {
	return slices.DeleteFunc(strings.Split(strings.ReplaceAll(text, " ", ""), ","), func(s string) bool { return s == "" })
}

// Near are the URLs at which a process of the same host may reach somebody who
// listens on the given ones, those on loopback first. addr stands for every
// address of the host. Sockets of other kinds are left out.
func Near(listening []string, addr string) []string {
	var loop, far []string
	add := func(to *[]string, u *url.URL, host string) {
		c := *u
		c.Host, c.Path = net.JoinHostPort(host, u.Port()), ""
		if s := c.String(); !slices.Contains(*to, s) {
			*to = append(*to, s)
		}
	}
	for _, raw := range listening {
		u := parse(raw)
		if u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" {
			continue
		}
		ip := net.ParseIP(u.Hostname())
		switch {
		case u.Hostname() == "" || ip != nil && ip.IsUnspecified():
			add(&loop, u, "127.0.0.1")
			add(&far, u, addr)
		case u.Hostname() == "localhost" || ip != nil && ip.IsLoopback():
			add(&loop, u, strings.Replace(u.Hostname(), "localhost", "127.0.0.1", 1))
		default:
			add(&far, u, u.Hostname())
		}
	}
	return append(loop, far...)
}

package etcd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/etcdrill/etcdrill/lab"
)

// Settings are the keys of etcd's configuration file, in order. A key of a
// section is written with a slash: "client-transport-security/cert-file".
type Settings yaml.MapSlice

// The states of a configuration that say how a member without a WAL begins.
// With a WAL all initial-* settings are ignored (FE5).
const (
	StateNew      = "new"      // bootstraps a cluster together with all in initial-cluster
	StateExisting = "existing" // joins a cluster that has added it
)

// Join is what a member has to be told to begin: the initial-* settings.
type Join struct {
	Cluster map[string]string // name to peer URL of all members; nil: they are found by DNS
	State   string            // StateNew or StateExisting
	Token   string            // goes into member and cluster ids; fresh for every new cluster (FE1)
}

// String is the initial-cluster setting.
func (j Join) String() string {
	var out []string
	for name, u := range j.Cluster {
		out = append(out, name+"="+u)
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}

// NewToken makes a token no cluster had before.
func NewToken() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return "etcdrill-" + hex.EncodeToString(b[:])
}

// AdvertisedPeerURL is the peer URL a member of this spec begins with: with
// peers "loopback" one that only the host itself can reach.
func AdvertisedPeerURL(spec lab.Spec, m *lab.Member) string {
	if spec.Peers == "loopback" {
		return loopback(m)
	}
	return m.PeerURL
}

// loopback is a plain URL on the host's loopback, on the member's peer port.
func loopback(m *lab.Member) string {
	u := parse(bind(m))
	return "http://" + net.JoinHostPort("127.0.0.1", u.Port())
}

// bind is the URL a member listens on for its peers.
func bind(m *lab.Member) string {
	if m.PeerBind != "" {
		return m.PeerBind
	}
	return m.PeerURL
}

// WrongPeerURL is a URL on which nobody listens, another one for each seat,
// always the same for a seat, so that a member that was added with it is found
// again: a loopback port that only root may open.
func WrongPeerURL(c *lab.Cluster, m *lab.Member) string {
	scheme, _, _ := strings.Cut(m.PeerURL, "://")
	return fmt.Sprintf("%s://127.0.0.1:%d", scheme, slices.Index(c.Seats, m)+1)
}

func parse(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		return &url.URL{}
	}
	return u
}

// NewSettings are a member's settings from nothing: what the spec says, what
// its seat says, and how it joins. They are right for etcd 3.5 to 3.7, which
// all skip keys they do not know.
func NewSettings(spec lab.Spec, m *lab.Member, j Join) Settings {
	s := Settings{
		{Key: "name", Value: m.Name},
		{Key: "data-dir", Value: m.DataDir},
		{Key: "listen-client-urls", Value: m.LocalURL},
		{Key: "advertise-client-urls", Value: cmp.Or(m.Advertise, m.ClientURL)},
		{Key: "listen-metrics-urls", Value: m.HealthURL},
		{Key: "listen-peer-urls", Value: bind(m)},
		{Key: "initial-advertise-peer-urls", Value: AdvertisedPeerURL(spec, m)},
		{Key: "initial-cluster-state", Value: j.State},
		{Key: "initial-cluster-token", Value: j.Token},
		{Key: "heartbeat-interval", Value: spec.Heartbeat.Milliseconds()},
		{Key: "election-timeout", Value: spec.Election.Milliseconds()},
		{Key: "logger", Value: "zap"},
		{Key: "log-level", Value: "info"},
		{Key: "log-outputs", Value: []string{"stderr"}},
	}
	if j.Cluster == nil && spec.ByDNS() {
		s.Set("discovery-srv", Domain)
		s.Set("discovery-srv-name", clusterName)
	} else {
		s.Set("initial-cluster", j.String()) // etcd refuses both
	}
	if spec.Peers == "loopback" {
		s.Set("listen-peer-urls", loopback(m))
	}
	if m.PKI != "" {
		for _, section := range []string{"client-transport-security", "peer-transport-security"} {
			pair := path.Join(m.PKI, "server")
			if section == "peer-transport-security" {
				pair = path.Join(m.PKI, "peer")
			}
			s.Set(section+"/cert-file", pair+".crt")
			s.Set(section+"/key-file", pair+".key")
			s.Set(section+"/trusted-ca-file", path.Join(m.PKI, trustFile))
			s.Set(section+"/client-cert-auth", true)
		}
	}
	if spec.Quota > 0 {
		s.Set("quota-backend-bytes", int64(spec.Quota))
	}
	if spec.Snapshots > 0 {
		s.Set("snapshot-count", spec.Snapshots)
	}
	if spec.CatchUp > 0 {
		s.Set("snapshot-catchup-entries", spec.CatchUp)
		s.Set("experimental-snapshot-catch-up-entries", spec.CatchUp) // its name before 3.6, FE48
	}
	for _, k := range sorted(spec.Flags) {
		s.SetText(k, spec.Flags[k])
	}
	return s
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// Get returns a setting, nil when it is not there.
func (s Settings) Get(key string) any {
	key, rest, deeper := strings.Cut(key, "/")
	for _, i := range s {
		if i.Key == key {
			if !deeper {
				return i.Value
			}
			if section, ok := i.Value.(yaml.MapSlice); ok {
				return Settings(section).Get(rest)
			}
		}
	}
	return nil
}

// Set changes or adds a setting.
func (s *Settings) Set(key string, value any) {
	key, rest, deeper := strings.Cut(key, "/")
	at := slices.IndexFunc(*s, func(i yaml.MapItem) bool { return i.Key == key })
	if deeper {
		var section Settings
		if at >= 0 {
			if old, ok := (*s)[at].Value.(yaml.MapSlice); ok {
				section = Settings(slices.Clone(old))
			}
		}
		section.Set(rest, value)
		value = yaml.MapSlice(section)
	}
	if at < 0 {
		*s = append(*s, yaml.MapItem{Key: key, Value: value})
		return
	}
	(*s)[at].Value = value
}

// SetText sets a value written as a YAML scalar: true is a boolean, 7 a
// number, everything else text. Text that etcd wants quoted is quoted as in
// YAML: '"5"'.
func (s *Settings) SetText(key, text string) {
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil || v == nil {
		v = text
	}
	switch v.(type) {
	case bool, string, int, int64, uint64, float64:
	default: // a list or a map: etcd's settings of that kind are given as text
		v = text
	}
	s.Set(key, v)
}

// Delete takes a setting away, so that etcd's default holds.
func (s *Settings) Delete(key string) {
	key, rest, deeper := strings.Cut(key, "/")
	for n, i := range *s {
		if i.Key != key {
			continue
		}
		if !deeper {
			*s = slices.Delete(*s, n, n+1)
			return
		}
		if section, ok := i.Value.(yaml.MapSlice); ok {
			inner := Settings(section)
			inner.Delete(rest)
			(*s)[n].Value = yaml.MapSlice(inner)
		}
		return
	}
}

// ReadSettings reads a member's configuration file. A seat that was never
// configured gives an error that matches fs.ErrNotExist.
func ReadSettings(ctx context.Context, m *lab.Member) (Settings, error) {
	data, err := m.Host.Get(ctx, m.Config)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", m.Name, err)
	}
	return ParseSettings(m, data)
}

// ParseSettings reads what a member's configuration file has in it, or had.
func ParseSettings(m *lab.Member, data []byte) (Settings, error) {
	// Never act on an empty file: the rewrite of one would be a cluster lost.
	if len(strings.TrimSpace(string(data))) == 0 {
		return nil, fmt.Errorf("configuration of %s: %s is empty", m.Name, m.Config)
	}
	s, err := settings(data)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %s: %w", m.Name, m.Config, err)
	}
	return s, nil
}

// settings reads the text of a configuration file.
func settings(data []byte) (Settings, error) {
	var s yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(data, &s, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	return Settings(s), nil
}

// Flat lists the settings by key, those of sections too, as text.
func (s Settings) Flat() map[string]string {
	out := map[string]string{}
	for _, i := range s {
		section, ok := i.Value.(yaml.MapSlice)
		if !ok {
			out[fmt.Sprint(i.Key)] = fmt.Sprint(i.Value)
			continue
		}
		for k, v := range Settings(section).Flat() {
			out[fmt.Sprint(i.Key)+"/"+k] = v
		}
	}
	return out
}

// WriteSettings writes a member's configuration file, whole or not at all.
func WriteSettings(ctx context.Context, m *lab.Member, s Settings) error {
	data, err := yaml.Marshal(yaml.MapSlice(s))
	if err != nil {
		return fmt.Errorf("configuration of %s: %w", m.Name, err)
	}
	if err := m.Host.Put(ctx, m.Config, 0o600, data); err != nil {
		return fmt.Errorf("configuration of %s: %w", m.Name, err)
	}
	return nil
}

// Reconfigure changes a member's configuration file: it reads it, lets change
// work on the settings and writes them back. It starts and stops nothing.
func Reconfigure(ctx context.Context, m *lab.Member, change func(s *Settings)) error {
	s, err := ReadSettings(ctx, m)
	if err != nil {
		return err
	}
	change(&s)
	return WriteSettings(ctx, m, s)
}

// LogInside refuses a member whose configuration puts its WAL elsewhere than
// into its data directory, with a *lab.Failure. Whose data there is stands in
// the WAL, and data goes aside and comes back by one rename: with two
// directories, perhaps on two disks, neither holds. nil for a seat without a
// configuration.
func LogInside(ctx context.Context, m *lab.Member) error {
	s, err := ReadSettings(ctx, m)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	inside := path.Join(m.DataDir, "member", "wal")
	if dir, set := s.Get("wal-dir").(string); set && dir != "" && path.Clean(dir) != inside {
		return &lab.Failure{What: "wal-dir of " + m.Name, Want: "none: stop it, move the WAL to " + inside + " and take the setting away", Got: dir}
	}
	return nil
}

// Configured tells whether a seat has a configuration file.
func Configured(ctx context.Context, m *lab.Member) (bool, error) {
	_, err := m.Host.Get(ctx, m.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

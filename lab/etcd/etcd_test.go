package etcd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// disk is a host of which only the files matter.
type disk struct {
	lab.Host
	files map[string][]byte
}

func (d *disk) Name() string { return "m1" }
func (d *disk) Addr() string { return "10.0.0.21" }
func (d *disk) Get(_ context.Context, path string) ([]byte, error) {
	if data, ok := d.files[path]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}
func (d *disk) Put(_ context.Context, path string, mode fs.FileMode, data []byte) error {
	if strings.HasSuffix(path, ".key") && mode != 0o600 {
		return errors.New(path + ": a key that others can read")
	}
	d.files[path] = data
	return nil
}

func seat(name string) (*lab.Member, *disk) {
	d := &disk{files: map[string][]byte{}}
	return &lab.Member{Name: name, Host: d, ClientURL: "https://10.0.0.21:2379", LocalURL: "https://127.0.0.1:2379",
		PeerURL: "https://10.0.0.21:2380", HealthURL: "http://127.0.0.1:2381",
		DataDir: "/lab/data", Config: "/lab/etcd.yaml", PKI: "/lab/pki", Bin: "/lab/bin"}, d
}

func TestPKI(t *testing.T) {
	pki, err := etcd.NewPKI(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pki")
	for range 2 { // again: the client's certificate stays
		if err := pki.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 5 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f.Name(), ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %s", f.Name(), info.Mode())
		}
	}
	again, err := etcd.LoadPKI(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.LoadPKI(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no authority there: %v", err)
	}
	m, d := seat("m1")
	if err := again.Install(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	server, err := tls.X509KeyPair(d.files["/lab/pki/server.crt"], d.files["/lab/pki/server.key"])
	if err != nil {
		t.Fatal(err)
	}
	client, err := etcd.ClientTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		ok   bool
	}{{"127.0.0.1", true}, {"10.0.0.21", true}, {"localhost", true}, {"m1", true}, {"10.0.0.2", false}, {"m2", false}} {
		if err := handshake(t, server, d.files["/lab/pki/ca.crt"], client, c.name); (err == nil) != c.ok {
			t.Errorf("as %s: %v", c.name, err)
		}
	}
	stranger, err := etcd.NewPKI(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.Client()
	if err != nil {
		t.Fatal(err)
	}
	foreign.RootCAs = client.RootCAs
	if err := handshake(t, server, d.files["/lab/pki/ca.crt"], foreign, "127.0.0.1"); err == nil {
		t.Error("a client of another lab was let in")
	}
	// Another certificate for the same key: what was issued before stays good.
	if err := again.Renew(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, server, again.CA(), client, "127.0.0.1"); err != nil {
		t.Errorf("under a renewed authority: %v", err)
	}
	late, err := again.Sign(etcd.Request{Name: "late", Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := etcd.ParseCert(late.Cert); err != nil || time.Until(leaf.NotAfter) > time.Minute || !again.Issued(leaf) || stranger.Issued(leaf) {
		t.Errorf("a certificate that outlives its authority: %v", err)
	}
	if one, two := pki.Password("one"), pki.Password("two"); one == two || one != again.Password("one") || len(one) < 20 {
		t.Errorf("passwords %q and %q", one, two)
	}
	if _, err := etcd.NewPKI(-time.Hour); err == nil {
		t.Error("certificates that have ended before they began")
	}
}

// handshake does what etcd does with client-cert-auth.
func handshake(t *testing.T, server tls.Certificate, ca []byte, client *tls.Config, name string) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	cfg := client.Clone()
	cfg.ServerName = name
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
		err := s.Handshake()
		b.Close()
		done <- err
	}()
	err := tls.Client(a, cfg).Handshake()
	a.Close()
	return errors.Join(err, <-done)
}

func TestSettings(t *testing.T) {
	m, d := seat("m1")
	var spec lab.Spec
	lab.Defaults(&spec)
	spec.Quota, spec.Snapshots, spec.CatchUp = 16<<20, 1000, 500
	spec.Flags = map[string]string{"auto-compaction-retention": `"5"`, "pre-vote": "false", "max-txn-ops": "64", "peer-transport-security/skip-client-san-verification": "true"}
	join := etcd.Join{Cluster: map[string]string{"m2": "https://10.0.0.22:2380", "m1": m.PeerURL}, State: etcd.StateNew, Token: etcd.NewToken()}
	if err := etcd.WriteSettings(t.Context(), m, etcd.NewSettings(spec, m, join)); err != nil {
		t.Fatal(err)
	}
	err := etcd.Reconfigure(t.Context(), m, func(s *etcd.Settings) {
		s.SetText("heartbeat-interval", "20")
		s.SetText("client-transport-security/client-cert-auth", "false")
		s.Delete("snapshot-count")
		s.Delete("peer-transport-security/trusted-ca-file")
		s.Delete("never-there")
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.ReadSettings(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"name": "m1", "heartbeat-interval": uint64(20), "election-timeout": uint64(1000), "quota-backend-bytes": uint64(16 << 20),
		"snapshot-count": nil, "snapshot-catchup-entries": uint64(500), "experimental-snapshot-catch-up-entries": uint64(500),
		"auto-compaction-retention": "5", "pre-vote": false, "max-txn-ops": uint64(64),
		"listen-metrics-urls": "http://127.0.0.1:2381", "listen-client-urls": "https://127.0.0.1:2379", "advertise-client-urls": "https://10.0.0.21:2379",
		"initial-cluster":                                      "m1=https://10.0.0.21:2380,m2=https://10.0.0.22:2380",
		"client-transport-security/cert-file":                  "/lab/pki/server.crt",
		"client-transport-security/client-cert-auth":           false,
		"peer-transport-security/key-file":                     "/lab/pki/peer.key",
		"peer-transport-security/trusted-ca-file":              nil,
		"peer-transport-security/skip-client-san-verification": true,
	} {
		if got := s.Get(key); got != want {
			t.Errorf("%s: %v (%T), want %v", key, got, got, want)
		}
	}

	// Nothing is ever written on the strength of a file that was not read.
	d.files[m.Config] = []byte("\n")
	if err := etcd.Reconfigure(t.Context(), m, func(*etcd.Settings) { t.Error("asked to change an empty file") }); err == nil {
		t.Error("an empty configuration was taken for one")
	}
	delete(d.files, m.Config)
	if _, err := etcd.ReadSettings(t.Context(), m); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a seat without configuration: %v", err)
	}
	if len(d.files) != 0 {
		t.Errorf("written: %v", d.files)
	}
}

func TestURLs(t *testing.T) {
	m1, _ := seat("m1")
	m2, _ := seat("m2")
	c := &lab.Cluster{Seats: []*lab.Member{m1, m2}}
	if a, b := etcd.WrongPeerURL(c, m1), etcd.WrongPeerURL(c, m2); a == b || a != "https://127.0.0.1:1" {
		t.Errorf("%s and %s", a, b)
	}
	m1.PeerBind = "https://127.0.0.1:12380"
	if got := etcd.AdvertisedPeerURL(lab.Spec{Peers: "loopback"}, m1); got != "http://127.0.0.1:12380" {
		t.Errorf("loopback: %s", got)
	}
	s := etcd.NewSettings(lab.Spec{Peers: "lab"}, m1, etcd.Join{})
	if got := s.Get("listen-peer-urls"); got != m1.PeerBind {
		t.Errorf("listens on %v", got)
	}
	if got := s.Get("initial-advertise-peer-urls"); got != m1.PeerURL {
		t.Errorf("advertises %v", got)
	}
	if a, b := etcd.NewToken(), etcd.NewToken(); a == b {
		t.Errorf("the same token twice: %s", a)
	}
}

// A lab with a DNS: everything has a name, and all that is said of names agrees.
func TestNames(t *testing.T) {
	spec := lab.Spec{Members: 2, Spares: 1, Peers: "lab", Discovery: "dns"}
	var seats []*lab.Member
	for _, name := range []string{"m1", "m2", "m3"} {
		m, _ := seat(name)
		etcd.ByName(m)
		seats = append(seats, m)
	}
	m1 := seats[0]
	s := etcd.NewSettings(spec, m1, etcd.Join{State: etcd.StateNew})
	for key, want := range map[string]any{
		"initial-advertise-peer-urls": "https://m1.lab.test:2380",
		"advertise-client-urls":       "https://m1.client.lab.test:2379",
		"listen-peer-urls":            "https://10.0.0.21:2380",
		"discovery-srv":               "lab.test",
		"discovery-srv-name":          "c1",
		"initial-cluster":             nil,
	} {
		if got := s.Get(key); got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
	// Who joins later is told the members: etcd refuses both.
	s = etcd.NewSettings(spec, m1, etcd.Join{Cluster: map[string]string{"m1": m1.PeerURL}, State: etcd.StateExisting})
	if s.Get("discovery-srv") != nil || s.Get("initial-cluster") != "m1=https://m1.lab.test:2380" {
		t.Errorf("who joins: %v", s)
	}
	want := []lab.Record{
		{Name: "m1.lab.test", Type: "A", Data: "10.0.0.21"},
		{Name: "m1.client.lab.test", Type: "A", Data: "10.0.0.21"},
		{Name: "_etcd-server-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2380 m1.lab.test"},
		{Name: "_etcd-client-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2379 m1.client.lab.test"},
		{Name: "m2.lab.test", Type: "A", Data: "10.0.0.21"},
		{Name: "m2.client.lab.test", Type: "A", Data: "10.0.0.21"},
		{Name: "_etcd-server-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2380 m2.lab.test"},
		{Name: "_etcd-client-ssl-c1._tcp.lab.test", Type: "SRV", Data: "0 0 2379 m2.client.lab.test"},
		{Name: "m3.lab.test", Type: "A", Data: "10.0.0.21"},
		{Name: "m3.client.lab.test", Type: "A", Data: "10.0.0.21"},
	}
	if got := etcd.Records(spec, seats); !slices.Equal(got, want) {
		t.Errorf("zone:\n%v\nwant\n%v", got, want)
	}
	for _, name := range []string{"m1.lab.test", "m1.client.lab.test", "lab.test", "10.0.0.21"} {
		if r := etcd.For(m1, "peer"); !slices.Contains(r.Names, name) {
			t.Errorf("the certificate is not for %s: %v", name, r.Names)
		}
	}
	if got := etcd.SRVName(etcd.ServerSRV, false); got != "_etcd-server-c1._tcp.lab.test" {
		t.Error(got)
	}
	if plain, _ := seat("m1"); len(etcd.For(plain, "peer").Names) != 4 {
		t.Error("a certificate for names that nobody has")
	}
}

// snapshot makes one as etcd does: a database, and its sum.
func snapshot(t *testing.T) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		keys, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		for _, rev := range []byte{2, 42, 7} {
			if err := keys.Put([]byte{0, 0, 0, 0, 0, 0, 0, rev, '_', 0, 0, 0, 0, 0, 0, 0, 0}, []byte("value")); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

func TestVerifySnapshot(t *testing.T) {
	seed := snapshot(t)
	flip := append([]byte(nil), seed...)
	flip[4096*2+100] ^= 1
	front := append([]byte(nil), seed...)
	front[50] ^= 1
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"good", seed, ""},
		{"empty", nil, "an empty file"},
		{"no trailer", seed[:len(seed)-32], "trailer is cut off"},
		{"cut in half", seed[:len(seed)/2], "it is cut off"},
		{"cut to a likely size", seed[:4096+32], "it is cut off"},
		{"cut to nothing much", seed[:50], "it is cut off, or something else"},
		{"flipped", flip, "the file is damaged"},
		{"flipped in front", front, "first page is damaged"},
		{"packed", append([]byte("\x1f\x8b\x08"), seed...), "a gzip file"},
		{"encrypted", append([]byte("age-encryption.org/v1\n"), seed...), "an encrypted file"},
		{"something else", []byte(strings.Repeat("Bona nit\n", 1000)), "something else altogether"},
	} {
		_, _, err := etcd.VerifySnapshot(c.name, bytes.NewReader(c.data))
		var f *lab.Failure
		if c.says == "" && err != nil || c.says != "" && (!errors.As(err, &f) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	revision := func(data []byte) (int64, error) {
		file := filepath.Join(t.TempDir(), "a.db")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return 0, err
		}
		return etcd.FileRevision(file)
	}
	if rev, err := revision(seed); rev != 42 || err != nil {
		t.Errorf("revision %d, %v, want 42", rev, err)
	}
	if _, err := revision([]byte("no database at all, but long enough to be read as one" + strings.Repeat(".", 9000))); err == nil {
		t.Error("anything goes for a database")
	}
}

func TestLag(t *testing.T) {
	look := []lab.Status{
		{Name: "m1", Up: true, Role: "leader", Term: 3, Index: 50}, // deposed
		{Name: "m2", Up: true, Role: "leader", Term: 4, Index: 100, Applied: 100},
		{Name: "m3", Up: true, Role: "follower", Term: 4, Index: 90, Applied: 80},
		{Name: "m4", Error: "gone"},
	}
	for name, want := range map[string]int{"m2": 0, "m3": 20} {
		if got, err := etcd.Lag(look, name); got != want || err != nil {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"m4", "m5"} {
		if _, err := etcd.Lag(look, name); err == nil {
			t.Errorf("%s: the lag of who does not answer is not known", name)
		}
	}
	if _, err := etcd.Lag(look[2:], "m3"); err == nil {
		t.Error("behind nobody")
	}
}

package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// PKI is a certificate authority of one lab. It signs for servers, peers and
// clients alike, and for nobody outside the lab.
//
// A lab has one, and a second one once it is asked for: the authority that it
// is rotated to. Their keys lie in the lab's directory on this machine, with
// mode 0600, since a drill may want a certificate at any time and from another
// process; no host of the lab ever sees them.
type PKI struct {
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	valid time.Duration
}

// Pair is a certificate with its key, both PEM.
type Pair struct {
	Cert, Key []byte
}

// Request is what a certificate is to say.
type Request struct {
	Name   string   // the subject's common name; etcd takes it for the user's name when authentication is on
	Names  []string // host names and addresses it is good for
	Client bool     // good for client authentication
	Server bool     // good for server authentication
	Until  time.Time
}

// The authorities of a lab by name.
const (
	OldCA = "old" // the one it was made with
	NewCA = "new" // the one it is rotated to
)

// The pairs a member has on its host, in Member.PKI as NAME.crt and NAME.key.
// Server and peer are two, so that a drill can spoil one of them; client is
// what tools on the host show.
var Pairs = []string{"server", "peer", "client"}

// The files of a lab's PKI directory on this machine: whom the lab's clients
// trust, and what they show. The authorities' own files are named after them.
// Of hosts: whom the member trusts, under the same name.
const (
	trustFile  = "ca.crt"
	clientPair = "client"
)

// Early is how far back certificates begin, for hosts whose clock is behind.
const Early = time.Hour

// PKIDir is where the authorities of a lab and the certificate of its clients
// lie on this machine.
func PKIDir(c *lab.Cluster) string { return filepath.Join(c.Dir, "pki") }

// NewPKI makes an authority that is valid for the given time, and so is all it
// issues.
func NewPKI(valid time.Duration) (*PKI, error) { return newPKI("etcdrill lab", valid) }

func newPKI(name string, valid time.Duration) (*PKI, error) {
	if valid <= 0 {
		return nil, fmt.Errorf("certificates valid for %s: expected a time above 0", valid)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &PKI{key: key, valid: valid}
	return p, p.sign(name, valid)
}

// sign gives the authority a certificate of its own.
func (p *PKI) sign(name string, valid time.Duration) error {
	t := template(name, time.Now().Add(valid))
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, p.key.Public(), p.key)
	if err != nil {
		return err
	}
	p.ca, err = x509.ParseCertificate(der)
	return err
}

// Renew gives the authority another certificate for the same key, from now on
// and for the given time. What it has issued before is good under both. Save
// it afterwards.
func (p *PKI) Renew(valid time.Duration) error {
	p.valid = valid
	return p.sign(p.ca.Subject.CommonName, valid)
}

// template is a certificate that begins [Early] and has a number of its own.
func template(name string, until time.Time) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails on the systems we run on
	}
	from := time.Now()
	if until.Before(from) {
		from = until // it has ended already
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    from.Add(-Early),
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// Sign makes a certificate as requested, with a new key. It ends with the
// authority at the latest; a request that says no end ends with it.
func (p *PKI) Sign(r Request) (Pair, error) {
	if r.Until.IsZero() {
		r.Until = time.Now().Add(p.valid)
	}
	if r.Until.After(p.ca.NotAfter) {
		r.Until = p.ca.NotAfter
	}
	t := template(r.Name, r.Until)
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, n := range r.Names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, key.Public(), p.key)
	if err != nil {
		return Pair{}, err
	}
	pk, err := keyPEM(key)
	return Pair{Cert: certPEM(der), Key: pk}, err
}

// Issue makes a certificate for server and client authentication, as etcd
// wants it for peers, which are both. names are host names or addresses.
func (p *PKI) Issue(name string, names ...string) (Pair, error) {
	return p.Sign(Request{Name: name, Names: names, Server: true, Client: true})
}

// IssueClient makes a certificate that is good for clients only.
func (p *PKI) IssueClient(name string) (Pair, error) {
	return p.Sign(Request{Name: name, Client: true})
}

// For is the request for one of a member's Pairs. Server and peer are for its
// host's address and names, and for loopback, where the lab and the member's
// own tools reach it; and for clients too, as etcd shows the same one when it
// dials.
func For(m *lab.Member, pair string) Request {
	if pair == clientPair {
		return Request{Name: User, Client: true}
	}
	return Request{Name: m.Name, Names: append([]string{m.Host.Addr(), "127.0.0.1", "localhost", m.Name}, names(m)...), Server: true, Client: true}
}

// User is the common name of the clients' certificates of a lab: the user who
// may do everything when authentication is on.
const User = "root"

// CA is the authority's certificate, PEM.
func (p *PKI) CA() []byte { return certPEM(p.ca.Raw) }

// Issued tells whether a certificate is by this authority.
func (p *PKI) Issued(c *x509.Certificate) bool { return c.CheckSignatureFrom(p.ca) == nil }

// Password is a secret of the lab for a name: the same again in another
// process, and nowhere written down.
func (p *PKI) Password(name string) string {
	key, err := p.key.Bytes()
	if err != nil {
		panic(err) // a P-256 key can always be encoded
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte("password " + name))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Save writes the authority, as the one the lab's clients trust, and a client
// certificate into a directory on this machine, made with mode 0700; keys get
// mode 0600. A client certificate that is there already stays.
func (p *PKI) Save(dir string) error {
	if err := p.save(dir, OldCA); err != nil {
		return err
	}
	if err := SaveTrust(dir, p); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, clientPair+".crt")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	client, err := p.IssueClient(User)
	if err != nil {
		return err
	}
	return SaveClient(dir, client)
}

func (p *PKI) save(dir, name string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := keyPEM(p.key)
	if err != nil {
		return err
	}
	return savePair(dir, authority(name), Pair{Cert: p.CA(), Key: key})
}

// authority is the name of an authority's files.
func authority(name string) string { return name + "-authority" }

// SaveTrust writes whom the clients of a lab trust.
func SaveTrust(dir string, whom ...*PKI) error {
	return replace(filepath.Join(dir, trustFile), Bundle(whom...))
}

// SaveClient writes what the clients of a lab show.
func SaveClient(dir string, pair Pair) error { return savePair(dir, clientPair, pair) }

func savePair(dir, name string, pair Pair) error {
	if err := replace(filepath.Join(dir, name+".key"), pair.Key); err != nil {
		return err
	}
	return replace(filepath.Join(dir, name+".crt"), pair.Cert)
}

// replace writes a file whole or not at all, since clients read these files
// whenever they connect.
func replace(file string, data []byte) error {
	fresh := file + ".new"
	if err := os.WriteFile(fresh, data, mode(file)); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}

// Bundle is a file of authorities that are trusted, PEM.
func Bundle(whom ...*PKI) []byte {
	var out []byte
	for _, p := range whom {
		out = append(out, p.CA()...)
	}
	return out
}

// mode of a file by its name: keys are for their owner alone.
func mode(name string) fs.FileMode {
	if path.Ext(name) == ".key" {
		return 0o600
	}
	return 0o644
}

// LoadPKI reads the authority that Save wrote. A directory without one gives
// an error that matches fs.ErrNotExist.
func LoadPKI(dir string) (*PKI, error) { return loadPKI(dir, OldCA) }

func loadPKI(dir, name string) (*PKI, error) {
	file := filepath.Join(dir, authority(name))
	pair, err := tls.LoadX509KeyPair(file+".crt", file+".key")
	if err != nil {
		return nil, fmt.Errorf("authority of the lab: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("authority of the lab: %s.key: expected an ECDSA key", file)
	}
	return &PKI{ca: pair.Leaf, key: key, valid: time.Until(pair.Leaf.NotAfter)}, nil
}

// Authority reads an authority of a lab by name. The new one is made when it
// is first asked for, to be valid for a year.
func Authority(c *lab.Cluster, name string) (*PKI, error) {
	p, err := Issuer(c, name)
	if name != NewCA || !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	if p, err = newPKI("etcdrill lab, new", 365*24*time.Hour); err != nil {
		return nil, err
	}
	return p, p.save(PKIDir(c), name)
}

// Issuer reads an authority of a lab by name, and makes none: one that was never
// asked for gives an error that matches fs.ErrNotExist.
func Issuer(c *lab.Cluster, name string) (*PKI, error) {
	if c.TLS == nil {
		return nil, fmt.Errorf("this lab has no certificates: set `cluster.tls: mutual`")
	}
	return loadPKI(PKIDir(c), name)
}

// RenewAuthority gives an authority of a lab another certificate for the same
// key, valid for the given time, and keeps it.
func RenewAuthority(c *lab.Cluster, name string, valid time.Duration) (*PKI, error) {
	p, err := Authority(c, name)
	if err != nil {
		return nil, err
	}
	if err := p.Renew(valid); err != nil {
		return nil, err
	}
	return p, p.save(PKIDir(c), name)
}

// ClientTLS reads the client's side of a directory written by Save. It needs
// no authority's key.
func ClientTLS(dir string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, clientPair+".crt"), filepath.Join(dir, clientPair+".key"))
	if err != nil {
		return nil, err
	}
	pool, err := trusted(dir)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// trusted reads whom the clients of a lab trust.
func trusted(dir string) (*x509.CertPool, error) {
	ca, err := os.ReadFile(filepath.Join(dir, trustFile))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: expected a certificate", filepath.Join(dir, trustFile))
	}
	return pool, nil
}

// Client returns a TLS configuration for a client of the lab.
func (p *PKI) Client() (*tls.Config, error) {
	pair, err := p.IssueClient(User)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// Install puts a member's certificates on its host, into Member.PKI: whom it
// trusts, and its Pairs. The keys get mode 0600.
func (p *PKI) Install(ctx context.Context, m *lab.Member) error {
	if err := PutTrust(ctx, m, p); err != nil {
		return err
	}
	return p.Equip(ctx, m)
}

// Equip puts new Pairs for a member on its host.
func (p *PKI) Equip(ctx context.Context, m *lab.Member) error {
	for _, name := range Pairs {
		pair, err := p.Sign(For(m, name))
		if err != nil {
			return err
		}
		if err := PutPair(ctx, m, name, pair); err != nil {
			return err
		}
	}
	return nil
}

// PutTrust writes whom a member trusts. It reads that when it starts and never
// again.
func PutTrust(ctx context.Context, m *lab.Member, whom ...*PKI) error {
	return putPKI(ctx, m, trustFile, Bundle(whom...))
}

// PutPair writes one of a member's Pairs, the key first. etcd reads it anew
// for every connection.
func PutPair(ctx context.Context, m *lab.Member, name string, pair Pair) error {
	if err := putPKI(ctx, m, name+".key", pair.Key); err != nil || pair.Cert == nil {
		return err
	}
	return putPKI(ctx, m, name+".crt", pair.Cert)
}

func putPKI(ctx context.Context, m *lab.Member, name string, data []byte) error {
	if err := m.Host.Put(ctx, path.Join(m.PKI, name), mode(name), bytes.Clone(data)); err != nil {
		return fmt.Errorf("certificates of %s: %w", m.Name, err)
	}
	return nil
}

// GetPair reads one of a member's Pairs from its host.
func GetPair(ctx context.Context, m *lab.Member, name string) (Pair, error) {
	var p Pair
	var err error
	if p.Cert, err = getPKI(ctx, m, name+".crt"); err != nil {
		return p, err
	}
	p.Key, err = getPKI(ctx, m, name+".key")
	return p, err
}

func getPKI(ctx context.Context, m *lab.Member, name string) ([]byte, error) {
	data, err := m.Host.Get(ctx, path.Join(m.PKI, name))
	if err != nil {
		return nil, fmt.Errorf("certificates of %s: %w", m.Name, err)
	}
	return data, nil
}

// SaveFound writes what clients need for a cluster that somebody else made:
// whom they trust, one text after the other, and what they show. The directory
// is made with mode 0700.
func SaveFound(dir string, client Pair, trust ...[]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := replace(filepath.Join(dir, trustFile), bytes.Join(trust, []byte("\n"))); err != nil {
		return err
	}
	return SaveClient(dir, client)
}

// LinkFound are the commands that give files of a host, below dir there, the
// names by which the lab's tools look for them.
func LinkFound(dir, ca, cert, key string) [][]string {
	var out [][]string
	for name, file := range map[string]string{trustFile: ca, clientPair + ".crt": cert, clientPair + ".key": key} {
		out = append(out, []string{"ln", "-sfn", "--", file, path.Join(dir, name)})
	}
	return out
}

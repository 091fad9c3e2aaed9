package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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

// PKI is the certificate authority of one lab. It signs for servers, peers and
// clients alike, and for nobody outside the lab.
type PKI struct {
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	valid time.Duration
}

// Pair is a certificate with its key, both PEM.
type Pair struct {
	Cert, Key []byte
}

// The files of a PKI directory, on this machine (ca, client) and on hosts (all
// but the authority's key).
const (
	caCert = "ca.crt"
	caKey  = "ca.key"
)

// early is how far back certificates begin, for hosts whose clock is behind.
const early = time.Hour

// NewPKI makes an authority that is valid for the given time, and so is all it
// issues.
func NewPKI(valid time.Duration) (*PKI, error) {
	if valid <= 0 {
		return nil, fmt.Errorf("certificates valid for %s: expected a time above 0", valid)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("etcdrill lab", valid)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &PKI{ca: ca, key: key, valid: valid}, nil
}

func template(name string, valid time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails on the systems we run on
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-early),
		NotAfter:     now.Add(valid),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// Issue makes a certificate for server and client authentication, as etcd
// wants it for peers, which are both. names are host names or addresses.
func (p *PKI) Issue(name string, names ...string) (Pair, error) {
	t := template(name, p.valid)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	return p.sign(t)
}

// IssueMember makes the certificate of a member: for its host's address and
// name, and for loopback, where the lab and the member's own tools reach it.
func (p *PKI) IssueMember(m *lab.Member) (Pair, error) {
	return p.Issue(m.Name, m.Host.Addr(), "127.0.0.1", "localhost", m.Name)
}

// IssueClient makes a certificate that is good for clients only. etcd takes
// the name for the user's name when authentication is on.
func (p *PKI) IssueClient(name string) (Pair, error) {
	t := template(name, p.valid)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return p.sign(t)
}

func (p *PKI) sign(t *x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if t.NotAfter.After(p.ca.NotAfter) {
		t.NotAfter = p.ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, key.Public(), p.key)
	if err != nil {
		return Pair{}, err
	}
	pk, err := keyPEM(key)
	return Pair{Cert: certPEM(der), Key: pk}, err
}

// CA is the authority's certificate, PEM.
func (p *PKI) CA() []byte { return certPEM(p.ca.Raw) }

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

// Save writes the authority and a client certificate into a directory on this
// machine, made with mode 0700; keys get mode 0600. A client certificate that
// is there already stays.
func (p *PKI) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key, err := keyPEM(p.key)
	if err != nil {
		return err
	}
	files := map[string][]byte{caCert: p.CA(), caKey: key}
	if _, err := os.Stat(filepath.Join(dir, "client.crt")); errors.Is(err, fs.ErrNotExist) {
		client, err := p.IssueClient("root")
		if err != nil {
			return err
		}
		files["client.crt"], files["client.key"] = client.Cert, client.Key
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, mode(name)); err != nil {
			return err
		}
	}
	return nil
}

// mode of a file by its name: keys are for their owner alone.
func mode(name string) fs.FileMode {
	if path.Ext(name) == ".key" {
		return 0o600
	}
	return 0o644
}

// LoadPKI reads what Save wrote. A directory without an authority gives an
// error that matches fs.ErrNotExist.
func LoadPKI(dir string) (*PKI, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, caCert), filepath.Join(dir, caKey))
	if err != nil {
		return nil, fmt.Errorf("authority of the lab: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("authority of the lab: %s: expected an ECDSA key", filepath.Join(dir, caKey))
	}
	return &PKI{ca: pair.Leaf, key: key, valid: time.Until(pair.Leaf.NotAfter)}, nil
}

// ClientTLS reads the client's side of a directory written by Save. It needs
// no authority's key.
func ClientTLS(dir string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, caCert))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: expected a certificate", filepath.Join(dir, caCert))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// Client returns a TLS configuration for a client of the lab.
func (p *PKI) Client() (*tls.Config, error) {
	pair, err := p.IssueClient("root")
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

// Install puts a member's certificates on its host, into Member.PKI: ca.crt,
// server, peer and client .crt and .key. The keys get mode 0600. Server and
// peer certificates are two, so that a drill can spoil one of them.
func (p *PKI) Install(ctx context.Context, m *lab.Member) error {
	server, err := p.IssueMember(m)
	if err != nil {
		return err
	}
	peer, err := p.IssueMember(m)
	if err != nil {
		return err
	}
	client, err := p.IssueClient("root")
	if err != nil {
		return err
	}
	files := []struct {
		name string
		data []byte
	}{
		{caCert, p.CA()},
		{"server.crt", server.Cert}, {"server.key", server.Key},
		{"peer.crt", peer.Cert}, {"peer.key", peer.Key},
		{"client.crt", client.Cert}, {"client.key", client.Key},
	}
	for _, f := range files {
		if err := m.Host.Put(ctx, path.Join(m.PKI, f.name), mode(f.name), bytes.Clone(f.data)); err != nil {
			return fmt.Errorf("certificates of %s: %w", m.Name, err)
		}
	}
	return nil
}

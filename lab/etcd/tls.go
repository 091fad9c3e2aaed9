package etcd

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/credentials"

	"github.com/etcdrill/etcdrill/lab"
)

// Credentials are what clients of a lab connect with: for every new connection
// what lies in the lab's directory at that moment, so that clients show a
// renewed certificate and trust another authority without being restarted, as
// etcd itself does with its own pairs. Where nothing lies there, they are
// Cluster.TLS. nil for a lab without TLS.
func Credentials(c *lab.Cluster) credentials.TransportCredentials {
	if c.TLS == nil {
		return nil
	}
	return current{credentials.NewTLS(c.TLS.Clone()), c}
}

// current looks its certificates up for every connection.
type current struct {
	credentials.TransportCredentials
	c *lab.Cluster
}

func (k current) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := ClientConfig(k.c)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
}

func (k current) Clone() credentials.TransportCredentials {
	return current{k.TransportCredentials.Clone(), k.c}
}

// ClientConfig is what the lab's clients connect with just now: the caller's
// own to change, nil for a lab without TLS. See Credentials.
func ClientConfig(c *lab.Cluster) (*tls.Config, error) {
	if c.TLS == nil {
		return nil, nil
	}
	cfg, err := ClientTLS(PKIDir(c))
	if errors.Is(err, fs.ErrNotExist) {
		return c.TLS.Clone(), nil
	}
	return cfg, err
}

// Caller is somebody who connects to a member.
type Caller struct {
	Plain bool             // speaks no TLS
	Shows *tls.Certificate // the certificate it shows, nil for none
	Trust *x509.CertPool   // whom it trusts; it believes anybody when nil
	From  *lab.Member      // on whose host it is; that of the member it connects to when nil
}

// Clients is the Caller that the clients of a lab are.
func Clients(c *lab.Cluster) (Caller, error) {
	if c.TLS == nil {
		return Caller{}, fmt.Errorf("this lab has no certificates: set `cluster.tls: mutual`")
	}
	cfg, err := ClientConfig(c)
	if err != nil {
		return Caller{}, err
	}
	return Caller{Shows: &cfg.Certificates[0], Trust: cfg.RootCAs}, nil
}

// Stranger is a Caller that shows a certificate and believes anybody.
func Stranger(p Pair) (Caller, error) {
	cert, err := tls.X509KeyPair(p.Cert, p.Key)
	return Caller{Shows: &cert}, err
}

// Peer is the Caller that a member of a seat is among its peers: it shows and
// trusts what lies on its host now.
func Peer(ctx context.Context, m *lab.Member) (Caller, error) {
	p, err := GetPair(ctx, m, "peer")
	if err != nil {
		return Caller{}, err
	}
	who, err := Stranger(p)
	if err != nil {
		return who, fmt.Errorf("certificate peer of %s: %w", m.Name, err)
	}
	who.Trust, err = trusts(ctx, m)
	who.From = m // a member takes peers only from addresses that their certificates name
	return who, err
}

// trusts is whom a member trusts once it is started.
func trusts(ctx context.Context, m *lab.Member) (*x509.CertPool, error) {
	trust, err := getPKI(ctx, m, trustFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(trust) {
		return nil, fmt.Errorf("certificates of %s: %s holds no certificate", m.Name, trustFile)
	}
	return pool, nil
}

// Familiar looks whether the lab's clients and a member that is started now
// would believe each other, by what lies on its host. The first thing that is
// in the way is a *lab.Failure.
func Familiar(ctx context.Context, c *lab.Cluster, m *lab.Member) error {
	who, err := Clients(c)
	if err != nil {
		return err
	}
	p, err := GetPair(ctx, m, "server")
	if err != nil {
		return err
	}
	leaf, err := ParseCert(p.Cert)
	if err != nil {
		return fmt.Errorf("certificate server of %s: %w", m.Name, err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: who.Trust, DNSName: parse(m.ClientURL).Hostname()}); err != nil {
		return &lab.Failure{What: "certificate server of " + m.Name, Want: "one that the clients believe: let them trust its authority first", Got: err.Error()}
	}
	trust, err := trusts(ctx, m)
	if err != nil {
		return err
	}
	mine, err := x509.ParseCertificate(who.Shows.Certificate[0])
	if err != nil {
		return err
	}
	if _, err := mine.Verify(x509.VerifyOptions{Roots: trust, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return &lab.Failure{What: "certificate of the clients", Want: "one that " + m.Name + " believes: let it trust their authority first", Got: err.Error()}
	}
	return nil
}

// Reception is how a member took a new connection.
type Reception struct {
	Accepted bool
	Why      string            // it was not
	Leaf     *x509.Certificate // the certificate the member showed, nil when it came to none
	Body     string            // what it answered
}

// String says how a connection was taken, and what certificate was shown.
func (r Reception) String() string {
	out := "refused, " + r.Why
	if r.Accepted {
		out = fmt.Sprintf("accepted, and answered %.60s", r.Body)
	}
	if l := r.Leaf; l != nil {
		out += fmt.Sprintf("; it shows %s by %s, good until %s", l.Subject, l.Issuer, l.NotAfter.UTC().Format(time.RFC3339))
	}
	return out
}

// The ports of a member that speak TLS.
const (
	ClientPort = "client"
	PeerPort   = "peer"
)

// Call makes a new connection to a port of a member, from the caller's host, and asks
// something small: a client port for the version, a peer port for the members.
// Only the answer tells that the connection was accepted, since a server looks
// at the client's certificate when the client believes to be done. An error
// means that we cannot tell: nobody listens, or nobody answers in time.
func Call(ctx context.Context, m *lab.Member, port string, who Caller) (Reception, error) {
	ask := "/version"
	if port == PeerPort {
		ask = "/members"
	}
	r, _, err := visit(ctx, m, port, who, ask, nil, func(resp *http.Response) (string, error) {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return strings.TrimSpace(string(body)), err
	})
	return r, err
}

// visit connects, asks, and lets read take what comes after a 200. It returns
// the header of the answer, too.
func visit(ctx context.Context, m *lab.Member, port string, who Caller, ask string, header http.Header, read func(*http.Response) (string, error)) (r Reception, got http.Header, err error) {
	from := cmp.Or(who.From, m)
	at := m.LocalURL
	switch away := from != m; {
	case port == PeerPort && away:
		at = m.PeerURL
	case port == PeerPort:
		at = bind(m)
	case away:
		at = m.ClientURL
	}
	addr := parse(at)
	ctx, cancel := context.WithTimeout(ctx, 2*answer)
	defer cancel()
	defer func() {
		if why, no := refusal(err); no && ctx.Err() == nil {
			r.Why, err = why, nil
		}
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			err = fmt.Errorf("%s port of %s: %w", port, m.Name, err)
		}
	}()
	raw, err := from.Host.Dial(ctx, addr.Host)
	if err != nil {
		return r, nil, errors.New(err.Error()) // nobody listens: that is no refusal
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() }) // a tunnel may know no deadlines
	defer stop()
	conn, err := encrypted(raw, addr.Hostname(), who, &r)
	if err != nil {
		return r, nil, err
	}
	req := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: ask}, Host: addr.Host, Header: header, Close: true, ProtoMajor: 1, ProtoMinor: 1}
	if err := req.Write(conn); err != nil {
		return r, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return r, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		r.Why = fmt.Sprintf("it answers %s: %s", resp.Status, strings.TrimSpace(string(body)))
		return r, resp.Header, nil
	}
	if r.Body, err = read(resp); err == nil {
		r.Accepted = true
	}
	return r, resp.Header, err
}

// encrypted speaks TLS on a connection, unless the caller does not.
func encrypted(conn net.Conn, name string, who Caller, r *Reception) (net.Conn, error) {
	if who.Plain {
		return conn, nil
	}
	cfg := &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	// The member's certificate is to be seen also when it is not believed.
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		r.Leaf = s.PeerCertificates[0]
		if who.Trust == nil {
			return nil
		}
		rest := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			rest.AddCert(c)
		}
		if _, err := r.Leaf.Verify(x509.VerifyOptions{Roots: who.Trust, Intermediates: rest, DNSName: name}); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
	if who.Shows != nil {
		// Shown whether or not the member asks for one of this authority.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return who.Shows, nil }
	}
	secure := tls.Client(conn, cfg)
	return secure, secure.Handshake()
}

// Tap connects to a member's peer port in the place of one of its followers
// and listens to what it replicates, until a text comes by. All a stranger has
// to know for that the port itself tells. The follower takes its place back in
// a moment, and raft sends again what it has missed; so say, which makes the
// member replicate the text, is called again and again meanwhile.
func Tap(ctx context.Context, m *lab.Member, who Caller, text string, say func(ctx context.Context) error) (Reception, error) {
	var list []struct {
		ID   uint64 `json:"id"`
		Name string `json:"name"`
	}
	r, header, err := visit(ctx, m, PeerPort, who, "/members", nil, func(resp *http.Response) (string, error) {
		return "", json.NewDecoder(resp.Body).Decode(&list)
	})
	if err != nil || !r.Accepted {
		return r, err
	}
	var to, from string
	for _, l := range list {
		if l.Name == m.Name {
			to = HexID(l.ID)
		} else {
			from = HexID(l.ID)
		}
	}
	if to == "" || from == "" {
		return r, fmt.Errorf("peer port of %s: it does not name itself and another one", m.Name)
	}
	as := http.Header{
		"X-Server-From": {from}, "X-Raft-To": {to}, "X-Etcd-Cluster-ID": {header.Get("X-Etcd-Cluster-ID")},
		"X-Server-Version": {version.Version}, "X-Min-Cluster-Version": {version.MinClusterVersion},
	}
	saying, enough := context.WithCancel(ctx)
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		for saying.Err() == nil {
			if err := say(saying); err != nil {
				break
			}
		}
	}()
	defer func() { enough(); <-quiet }()
	r, _, err = visit(ctx, m, PeerPort, who, "/raft/stream/msgapp/"+from, as, func(resp *http.Response) (string, error) {
		var heard []byte
		part := make([]byte, 32<<10)
		for !bytes.Contains(heard, []byte(text)) {
			n, err := resp.Body.Read(part)
			heard = append(heard, part[:n]...)
			if err != nil {
				return "", fmt.Errorf("the line was lost before it was heard: %s", err)
			}
		}
		return fmt.Sprintf("%q in what it sends to %s", text, from), nil
	})
	return r, err
}

// refusal tells an explicit no from an error that says nothing: either side
// does not like the other's certificate, or the member hangs up.
func refusal(err error) (string, bool) {
	var mine *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case err == nil:
		return "", false
	case errors.As(err, &mine):
		return "the client does not believe it: " + mine.Err.Error(), true
	case errors.As(err, &op) && op.Op == "remote error":
		return "it says " + op.Err.Error(), true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it hangs up", true
	}
	return "", false
}

// Examine looks at one of a member's Pairs as it lies on its host, the way one
// should before the member is restarted: the key belongs to the certificate,
// which is by somebody the member trusts, has not ended and does not within
// left, and names the member's host where it is to. The first thing that is
// wrong is a *lab.Failure.
func Examine(ctx context.Context, m *lab.Member, name string, left time.Duration) error {
	p, err := GetPair(ctx, m, name)
	if err != nil {
		return err
	}
	trust, err := getPKI(ctx, m, trustFile)
	if err != nil {
		return err
	}
	if err := examine(p, trust, For(m, name), left); err != nil {
		return &lab.Failure{What: fmt.Sprintf("certificate %s of %s", name, m.Name), Got: err.Error()}
	}
	return nil
}

func examine(p Pair, trust []byte, want Request, left time.Duration) error {
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(trust) {
		return fmt.Errorf("%s holds no certificate", trustFile)
	}
	opts := x509.VerifyOptions{Roots: pool}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if want.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	for _, u := range usages { // one after the other: all of them, not any
		opts.KeyUsages = []x509.ExtKeyUsage{u}
		if _, err := pair.Leaf.Verify(opts); err != nil {
			return err
		}
	}
	opts.CurrentTime = time.Now().Add(left)
	if _, err := pair.Leaf.Verify(opts); err != nil {
		return fmt.Errorf("within %s: %w", left, err)
	}
	for _, n := range want.Names {
		if err := pair.Leaf.VerifyHostname(n); err != nil {
			return err
		}
	}
	return nil
}

// ParseCert reads the first certificate of a PEM file.
func ParseCert(data []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(data)
	if b == nil {
		return nil, fmt.Errorf("expected a certificate in PEM")
	}
	return x509.ParseCertificate(b.Bytes)
}

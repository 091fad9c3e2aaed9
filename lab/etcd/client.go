package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdrill/etcdrill/lab"
)

// The back-off between two dials. gRPC's own begins at one second and hides
// how fast a cluster comes back: a restart of 0.1 s looks like a flat second
// (FE41).
const (
	BackoffMin = 5 * time.Millisecond
	BackoffMax = 20 * time.Millisecond
)

// dialTimeout bounds one try to connect, TLS included. It must leave room for
// slow links, which some drills make.
const dialTimeout = 2 * time.Second

func dialOptions(c *lab.Cluster) []grpc.DialOption {
	return []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: c.Spec.Long(BackoffMin), Multiplier: 1.6, Jitter: 0.2, MaxDelay: c.Spec.Long(BackoffMax)},
		MinConnectTimeout: c.Spec.Long(dialTimeout),
	})}
}

// Client makes a client that talks to the given members, to all seats when
// there are none given. It does not connect yet, so it is cheap and does not
// fail for a cluster that is down; the first request connects. Close it.
//
// It dials with a back-off of BackoffMin to BackoffMax. Like every etcd client
// it repeats reads while no member is available, and writes only as long as
// they were not sent (FE42): a deadline belongs into the ctx of every request.
func Client(c *lab.Cluster, through ...*lab.Member) (*clientv3.Client, error) {
	if len(through) == 0 {
		through = c.Seats
	}
	var endpoints []string
	for _, m := range through {
		endpoints = append(endpoints, m.ClientURL)
	}
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("client: the lab has no members to talk to")
	}
	cfg := clientv3.Config{
		Endpoints:            endpoints,
		DialOptions:          append(dialOptions(c), ViaHosts(through...)),
		DialKeepAliveTime:    6 * time.Second, // etcd answers pings more often than every 5 s with a goodbye
		DialKeepAliveTimeout: 2 * time.Second,
		Logger:               zap.NewNop(),
	}
	return secure(c, cfg)
}

// Local makes a client that talks to one member the way its own host does:
// over the host, to where the member listens, past all links. It is for
// looking at the effect of a command that ran there. Close it.
func Local(c *lab.Cluster, m *lab.Member) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints:   []string{m.LocalURL},
		DialOptions: append(dialOptions(c), ViaHosts(m)),
		Logger:      zap.NewNop(),
	}
	return secure(c, cfg)
}

// secure makes a client that connects with the lab's certificates.
func secure(c *lab.Cluster, cfg clientv3.Config) (*clientv3.Client, error) {
	if creds := Credentials(c); creds != nil {
		cfg.TLS = c.TLS.Clone() // says that there is TLS; what is shown comes from creds
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithTransportCredentials(creds))
	}
	return clientv3.New(cfg)
}

// ClientAs makes a client that talks to one member as a user of its own: with
// a password, or with a certificate by the lab's first authority that has the
// user's name. A password is checked at once. It works until ctx ends; close
// it.
func ClientAs(ctx context.Context, c *lab.Cluster, m *lab.Member, user, password string) (*clientv3.Client, error) {
	p, err := Authority(c, OldCA)
	if err != nil {
		return nil, err
	}
	name := user
	if password != "" {
		name = "nobody" // a token goes before the certificate's name, and this one may do nothing
	}
	pair, err := p.IssueClient(name)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	cfg, err := ClientConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Certificates = []tls.Certificate{cert}
	out := clientv3.Config{Context: ctx, Endpoints: []string{m.ClientURL}, TLS: cfg, DialOptions: append(dialOptions(c), ViaHosts(m)), Logger: zap.NewNop()}
	if password != "" {
		out.Username, out.Password = user, password
	}
	return clientv3.New(out)
}

// Password is a secret of the lab for a name; see PKI.Password.
func Password(c *lab.Cluster, name string) (string, error) {
	p, err := Authority(c, OldCA)
	if err != nil {
		return "", err
	}
	return p.Password(name), nil
}

// ViaHosts makes connections to the members' URLs the way their hosts are
// reached, which may be through a tunnel.
func ViaHosts(members ...*lab.Member) grpc.DialOption {
	hosts := map[string]lab.Host{}
	for _, m := range members {
		hosts[parse(m.ClientURL).Host], hosts[parse(m.LocalURL).Host] = m.Host, m.Host
	}
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if u := parse(addr); u.Host != "" {
			addr = u.Host
		}
		if h := hosts[addr]; h != nil {
			return h.Dial(ctx, addr)
		}
		var d net.Dialer // a member that is no host of a lab
		return d.DialContext(ctx, "tcp", addr)
	})
}

// connect makes a bare connection to one member, over its host as in Local. It
// has no endpoint balancer, and above all no retries, so that "it does not
// answer" is known at once.
func connect(c *lab.Cluster, m *lab.Member, how ...grpc.DialOption) (*grpc.ClientConn, error) {
	u := parse(m.LocalURL)
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		if creds = Credentials(c); creds == nil {
			return nil, fmt.Errorf("%s speaks TLS at %s and the lab has no certificates", m.Name, m.LocalURL)
		}
	}
	how = append(append(dialOptions(c), ViaHosts(m), grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig()), how...)
	return grpc.NewClient("passthrough:///"+u.Host, how...)
}

package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
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

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: BackoffMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: BackoffMax},
		MinConnectTimeout: dialTimeout,
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
		DialOptions:          dialOptions(),
		DialKeepAliveTime:    6 * time.Second, // etcd answers pings more often than every 5 s with a goodbye
		DialKeepAliveTimeout: 2 * time.Second,
		Logger:               zap.NewNop(),
	}
	if c.TLS != nil {
		cfg.TLS = c.TLS.Clone()
	}
	return clientv3.New(cfg)
}

// Local makes a client that talks to one member the way its own host does:
// over the host, to where the member listens, past all links. It is for
// looking at the effect of a command that ran there. Close it.
func Local(c *lab.Cluster, m *lab.Member) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints:   []string{m.LocalURL},
		DialOptions: append(dialOptions(), viaHost(m)),
		Logger:      zap.NewNop(),
	}
	if c.TLS != nil {
		cfg.TLS = c.TLS.Clone()
	}
	return clientv3.New(cfg)
}

func viaHost(m *lab.Member) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		return m.Host.Dial(ctx, strings.TrimPrefix(strings.TrimPrefix(addr, "https://"), "http://"))
	})
}

// connect makes a bare connection to one member, over its host as in Local. It
// has no endpoint balancer, and above all no retries, so that "it does not
// answer" is known at once.
func connect(tlsConfig *tls.Config, m *lab.Member) (*grpc.ClientConn, error) {
	u := parse(m.LocalURL)
	creds := insecure.NewCredentials()
	if u.Scheme == "https" {
		if tlsConfig == nil {
			return nil, fmt.Errorf("%s speaks TLS at %s and the lab has no certificates", m.Name, m.LocalURL)
		}
		cfg := tlsConfig.Clone()
		cfg.ServerName = u.Hostname()
		creds = credentials.NewTLS(cfg)
	}
	opts := append(dialOptions(), viaHost(m), grpc.WithTransportCredentials(creds), grpc.WithDisableServiceConfig())
	return grpc.NewClient("passthrough:///"+u.Host, opts...)
}

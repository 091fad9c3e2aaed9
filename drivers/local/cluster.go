package local

import (
	"context"
	"net"
	"path/filepath"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// cluster is a lab.Cluster that is being put together.
type cluster struct {
	*lab.Cluster
	tracer lab.Tracer
}

// newCluster puts together what a record tells.
func newCluster(where dir, r record) (*cluster, error) {
	supervisor := supervisorOf(where)
	c := &lab.Cluster{ID: r.ID, Driver: Name, Spec: r.Spec, Links: control.Links{Client: supervisor}, LinksBy: linksBy, Dir: string(where)}
	if r.Spec.TLS == "mutual" {
		var err error
		if c.TLS, err = etcd.ClientTLS(where.join("pki")); err != nil {
			return nil, err
		}
	}
	if r.Spec.ByDNS() {
		c.DNS = control.DNS{Client: supervisor}
	}
	for _, m := range members(where, r) {
		m.Proc = &proc{control: supervisor, dir: where, host: m.Name}
		c.Hosts, c.Seats = append(c.Hosts, m.Host), append(c.Seats, m)
	}
	return &cluster{Cluster: c, tracer: control.Tracer{Client: supervisor}}, nil
}

// members are the seats that a record tells of, without their processes.
func members(where dir, r record) []*lab.Member {
	scheme := "http"
	if r.Spec.TLS == "mutual" {
		scheme = "https"
	}
	var out []*lab.Member
	for _, s := range r.Seats {
		h := &host{lab: where, id: r.ID, seat: s, env: r.names(s)}
		m := &lab.Member{
			Name:      s.Name,
			Host:      h,
			ClientURL: scheme + "://" + loopback(s.Front),
			LocalURL:  scheme + "://" + loopback(s.Client),
			PeerURL:   scheme + "://" + s.Addr + ":2380",
			PeerBind:  scheme + "://" + loopback(s.Peer),
			HealthURL: "http://" + loopback(s.Health),
			DataDir:   dataDir(h.Dir()),
			Config:    configFile(h.Dir()),
			Bin:       filepath.Join(h.Dir(), "bin"),
		}
		if scheme == "https" {
			m.PKI = filepath.Join(h.Dir(), "pki")
		}
		if r.Spec.ByDNS() {
			etcd.ByName(m)
		}
		out = append(out, m)
	}
	return out
}

// supervisorOf asks the supervisor of a lab. Connections are not kept: a Driver
// is not closed, and they are cheap.
func supervisorOf(d dir) *control.Client {
	return control.NewClient("the supervisor of lab "+string(d), "", false, func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.socket())
	})
}

func (c *cluster) setCaps(caps lab.Caps) {
	c.Caps = caps
	if caps[lab.CapTrace] == "" {
		c.Tracer = c.tracer
	}
}

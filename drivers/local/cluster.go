package local

import (
	"path/filepath"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// cluster is a lab.Cluster that is being put together.
type cluster struct {
	*lab.Cluster
	tracer *tracer
}

// newCluster puts together what a record tells.
func newCluster(where dir, r record) (*cluster, error) {
	control := newControl(where)
	c := &lab.Cluster{ID: r.ID, Driver: Name, Spec: r.Spec, Links: &links{control}, Dir: string(where)}
	scheme, pki := "http", ""
	if r.Spec.TLS == "mutual" {
		var err error
		if c.TLS, err = etcd.ClientTLS(where.join("pki")); err != nil {
			return nil, err
		}
		scheme, pki = "https", "pki"
	}
	for _, s := range r.Seats {
		h := &host{lab: where, id: r.ID, seat: s}
		m := &lab.Member{
			Name:      s.Name,
			Host:      h,
			Proc:      &proc{control: control, host: s.Name},
			ClientURL: scheme + "://" + loopback(s.Front),
			LocalURL:  scheme + "://" + loopback(s.Client),
			PeerURL:   scheme + "://" + s.Addr + ":2380",
			PeerBind:  scheme + "://" + loopback(s.Peer),
			HealthURL: "http://" + loopback(s.Health),
			DataDir:   dataDir(h.Dir()),
			Config:    configFile(h.Dir()),
			Bin:       filepath.Join(h.Dir(), "bin"),
		}
		if pki != "" {
			m.PKI = filepath.Join(h.Dir(), pki)
		}
		c.Hosts, c.Seats = append(c.Hosts, h), append(c.Seats, m)
	}
	return &cluster{Cluster: c, tracer: &tracer{control}}, nil
}

func (c *cluster) setCaps(caps lab.Caps) {
	c.Caps = caps
	if caps[lab.CapTrace] == "" {
		c.Tracer = c.tracer
	}
}

package etcd

import (
	"fmt"
	"net"
	"net/url"
	"strconv"

	"github.com/etcdrill/etcdrill/lab"
)

// Domain is the zone of every lab that has a DNS. Nobody else has names below
// .test (RFC 6761).
const Domain = "lab.test"

// clusterName is the cluster's discovery-srv-name: one domain may have several.
const clusterName = "c1"

// HostName is the name of a seat's host, under which peers reach its member.
func HostName(seat string) string { return seat + "." + Domain }

// FrontName is the name under which clients reach a seat's member.
func FrontName(seat string) string { return seat + ".client." + Domain }

// The services that SRV records name.
const (
	ServerSRV = "server" // peers find each other by it
	ClientSRV = "client" // clients find members
)

// SRVName is the name of a service's records, those with or without TLS: etcd
// asks for both families, and takes what it gets (FE45, FE46).
func SRVName(service string, tls bool) string {
	ssl := ""
	if tls {
		ssl = "-ssl"
	}
	return fmt.Sprintf("_etcd-%s%s-%s._tcp.%s", service, ssl, clusterName, Domain)
}

// SRV is the data of a service record: as much of it as etcd looks at.
func SRV(port int, target string) string { return fmt.Sprintf("0 0 %d %s", port, target) }

// Records are the zone of a lab: addresses of all seats, and of the first
// members the service records. The seats were given to ByName.
func Records(spec lab.Spec, seats []*lab.Member) []lab.Record {
	var out []lab.Record
	for i, m := range seats {
		out = append(out,
			lab.Record{Name: HostName(m.Name), Type: "A", Data: m.Host.Addr()},
			lab.Record{Name: FrontName(m.Name), Type: "A", Data: parse(m.ClientURL).Hostname()})
		if i >= spec.Members {
			continue
		}
		out = append(out, service(ServerSRV, m.PeerURL), service(ClientSRV, m.Advertise))
	}
	return out
}

func service(name, raw string) lab.Record {
	u := parse(raw)
	port, _ := strconv.Atoi(u.Port()) // the URL is our own
	return lab.Record{Name: SRVName(name, u.Scheme == "https"), Type: "SRV", Data: SRV(port, u.Hostname())}
}

// ByName gives a seat URLs with names instead of addresses: what peers dial is
// what the SRV records say and what the certificates are for. It still listens
// where it did, and who stands outside of the lab, where the names mean
// nothing, still comes by ClientURL.
func ByName(m *lab.Member) {
	m.PeerBind = bind(m)
	m.PeerURL = named(m.PeerURL, HostName(m.Name))
	m.Advertise = named(m.ClientURL, FrontName(m.Name))
}

func named(raw, name string) string {
	u := parse(raw)
	return (&url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(name, u.Port())}).String()
}

// names are the host names a member is known by, none where it is known by its
// address. The domain itself is one: a client that checks what it discovered,
// and etcd without a CA of its own for peers, wants to see that (FE46).
func names(m *lab.Member) []string {
	if m.Advertise == "" {
		return nil
	}
	return []string{parse(m.PeerURL).Hostname(), parse(m.Advertise).Hostname(), Domain}
}

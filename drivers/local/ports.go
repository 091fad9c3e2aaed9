package local

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"syscall"
)

// Ports of one host, all on 127.0.0.1 and in a row.
type Ports struct {
	Front  int `json:"front"`  // the lab's listener for clients, its member's client URL
	SOCKS  int `json:"socks"`  // the lab's listener for what the host says to other hosts
	Client int `json:"client"` // etcd's listener for clients
	Peer   int `json:"peer"`   // etcd's listener for peers
	Health int `json:"health"` // etcd's listener for health and metrics
	DNS    int `json:"dns"`    // the lab's server of names, where it has one
}

// Members must find their ports free again after a crash, so none may lie where
// the kernel takes ports for outgoing connections from; and none where
// Kubernetes has its node ports.
const (
	firstPort = 20000
	lastPort  = 29999
	block     = 10 // ports per host, more than it uses, so that they read well
)

// claimPorts finds ports for n hosts. A block of ports belongs to whoever
// listens on its first one: the listeners that come back, front and SOCKS of
// each host in turn, are passed on to the supervisor and close with the lab.
// So labs of all users and roots keep out of each other's way without a lock,
// and a killed lab leaves no claim behind.
//
// seed says where to begin the search; the same lab gets the same ports when
// they are free.
func claimPorts(seed string, n int) (ports []Ports, claims []*net.TCPListener, err error) {
	low, high := ephemeralPorts()
	h := fnv.New32a()
	h.Write([]byte(seed))
	const blocks = (lastPort - firstPort + 1) / block
	start := int(h.Sum32() % blocks)
	defer func() {
		if err != nil {
			closeAll(claims)
		}
	}()
	// A second round takes ports the kernel may give to others, where it
	// leaves none.
	for round := range 2 {
		for i := range blocks {
			if len(ports) == n {
				return ports, claims, nil
			}
			p := firstPort + (start+i)%blocks*block
			if round == 0 && p+block > low && p <= high {
				continue
			}
			front, err := listen(p)
			if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
				continue
			}
			if err != nil {
				return nil, claims, err
			}
			socks, err := listen(p + 1)
			if err != nil || !free(p+2) || !free(p+3) || !free(p+4) || !free(p+5) || !freeUDP(p+5) {
				front.Close()
				if socks != nil {
					socks.Close()
				}
				continue
			}
			ports = append(ports, Ports{Front: p, SOCKS: p + 1, Client: p + 2, Peer: p + 3, Health: p + 4, DNS: p + 5})
			claims = append(claims, front, socks)
		}
	}
	if len(ports) == n {
		return ports, claims, nil
	}
	return nil, claims, fmt.Errorf("no free ports for %d hosts from %d to %d on 127.0.0.1: take other labs down (etcdrill gc)", n, firstPort, lastPort)
}

func closeAll(ls []*net.TCPListener) {
	for _, l := range ls {
		l.Close()
	}
}

func listen(port int) (*net.TCPListener, error) {
	return net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
}

func free(port int) bool {
	l, err := listen(port)
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func freeUDP(port int) bool {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// ephemeralPorts is the range from which the kernel takes ports for outgoing
// connections.
func ephemeralPorts() (low, high int) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if _, err := fmt.Sscan(string(data), &low, &high); err == nil {
			return low, high
		}
	}
	return 49152, 65535 // what IANA says and macOS does
}

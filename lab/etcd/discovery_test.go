package etcd

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdrill/etcdrill/lab"
)

// A member that was found by DNS has a number for a name until it tells its own.
func TestNumberedMembers(t *testing.T) {
	c := &lab.Cluster{Spec: lab.Spec{Discovery: "dns"}}
	for _, name := range []string{"m1", "m2", "m3"} {
		c.Seats = append(c.Seats, &lab.Member{Name: name, PeerURL: "https://" + HostName(name) + ":2380"})
	}
	l := listing(c, &pb.ResponseHeader{}, []*pb.Member{
		{ID: 1, Name: "m1", PeerURLs: []string{"https://m1.lab.test:2380"}, ClientURLs: []string{"https://m1.client.lab.test:2379"}},
		{ID: 2, Name: "0", PeerURLs: []string{"https://m2.lab.test:2380"}},
		{ID: 3, Name: "1", PeerURLs: []string{"https://m3.lab.test:1"}},
	})
	for i, want := range []*lab.Member{c.Seats[0], c.Seats[1], nil} {
		if m := l.Members[i]; m.Seat != want || m.Started() != (i == 0) {
			t.Errorf("%+v: want seat %v", m, want)
		}
	}
}

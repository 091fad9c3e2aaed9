package load_test

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// BenchmarkPut measures what the load gets through while it records
// everything: compare with etcd's own benchmark tool at the same number of
// clients and size of values. LOAD_BENCH_ENDPOINTS (URLs with commas) names a cluster to use,
// LOAD_BENCH_CLIENTS the clients, LOAD_BENCH_FULL=1 adds probers and watchers.
func BenchmarkPut(b *testing.B) {
	s := spec()
	s.Clients, _ = strconv.Atoi(cmp.Or(os.Getenv("LOAD_BENCH_CLIENTS"), "100"))
	s.Keys, s.Size, s.Reads, s.Deletes, s.Txns, s.Watch, s.Probe = 1000, 256, 0, 0, 0, false, 0
	s.Timeout = 10 * time.Second
	if os.Getenv("LOAD_BENCH_FULL") != "" {
		s.Watch, s.Probe = true, 10*time.Millisecond
	}
	c := named(os.Getenv("LOAD_BENCH_ENDPOINTS"))
	if c == nil {
		c = up(b, 3)
	}
	r := newRecord(b)
	l := start(b, c, s, r)
	until(b, "the load to run", func() bool { return l.Acked() > 100 })
	before, begin := l.Acked(), time.Now()
	b.ResetTimer()
	until(b, "all operations", func() bool { return l.Acked() >= before+b.N })
	b.StopTimer()
	b.ReportMetric(float64(l.Acked()-before)/time.Since(begin).Seconds(), "ops/s")
	stop(b, l)
	r.read(b)
}

func named(urls string) *cluster {
	if urls == "" {
		return nil
	}
	c := &cluster{Cluster: &lab.Cluster{}}
	for i, u := range strings.Split(urls, ",") {
		c.Seats = append(c.Seats, &lab.Member{Name: "m" + strconv.Itoa(i+1), ClientURL: u})
	}
	c.Spec.Members = len(c.Seats)
	return c
}

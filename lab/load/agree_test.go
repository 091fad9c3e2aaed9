package load_test

import (
	"context"
	"math"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/judge"
)

// BenchmarkLeaderCrash kills the leader under load and compares the end of the
// outage as judged from the record with what an independent prober sees: plain
// gRPC, one put every two milliseconds to each of the survivors. off-ms is how
// far the two are apart on average, worst-off-ms at the most.
func BenchmarkLeaderCrash(b *testing.B) {
	s := spec()
	s.Rate = 200
	if v, err := strconv.ParseFloat(os.Getenv("LOAD_BENCH_RATE"), 64); err == nil {
		s.Rate = lab.Rate(v)
	}
	sum, worst, gap := 0.0, 0.0, 0.0
	n := 0
	for b.Loop() {
		c := up(b, 3)
		r := newRecord(b)
		l := start(b, c, s, r)
		until(b, "100 acknowledged writes", func() bool { return l.Acked() >= 100 })
		dead := leader(b, c)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		first := make(chan time.Time, 1)
		r.journal.At("1", "crash").Add(lab.Event{Kind: lab.EventFault, Verb: "crash"})
		at := c.members[dead].kill()
		var wg sync.WaitGroup
		for i, m := range c.Seats {
			if i != dead {
				wg.Go(func() { independent(ctx, m.ClientURL[len("http://"):], first) })
			}
		}
		seen := <-first
		cancel()
		wg.Wait()
		before := l.Acked()
		until(b, "the load to go on", func() bool { return l.Acked() > before+50 })
		stop(b, l)
		ops, events := r.read(b)
		rep := judge.Default().Report(context.Background(), events, ops)
		var o *lab.Outage
		for i := range rep.Outages {
			if x := &rep.Outages[i]; x.Kind == "write" && x.During == "crash" && (o == nil || x.Duration > o.Duration) {
				o = x
			}
		}
		if o == nil {
			b.Fatalf("no outage judged, the other prober saw %s", seen.Sub(at))
		}
		off := math.Abs(o.End-seen.Sub(r.start).Seconds()) * 1000
		b.Logf("judged %.1f ms, the other prober %.1f ms, ends %.1f ms apart", o.Duration*1000, float64(seen.Sub(at).Microseconds())/1000, off)
		sum, worst, gap = sum+off, max(worst, off), gap+o.Duration*1000
		n++
		for _, m := range c.members {
			m.kill()
		}
	}
	b.ReportMetric(sum/float64(n), "off-ms")
	b.ReportMetric(worst, "worst-off-ms")
	b.ReportMetric(gap/float64(n), "gap-ms")
}

func independent(ctx context.Context, addr string, first chan<- time.Time) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}}))
	if err != nil {
		return
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() {
			if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("other"), Value: []byte("x")}); err == nil {
				select {
				case first <- time.Now():
				default:
				}
			}
		})
	}
}

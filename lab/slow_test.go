package lab

import (
	"testing"
	"time"
)

func TestSlow(t *testing.T) {
	drill := func() *Drill {
		d := &Drill{
			Cluster: Spec{Heartbeat: 100 * time.Millisecond, Election: 10 * time.Second},
			Load:    &LoadSpec{Rate: 200, Gate: 10, Timeout: time.Second, Backoff: 10 * time.Millisecond, Probe: 10 * time.Millisecond, Warmup: time.Second},
			Steps:   []Step{{Word: "repeat", Times: 2, Steps: []Step{{Word: "check", Within: 5 * time.Second, For: time.Second}}}, {Word: "do"}},
		}
		for _, text := range []string{"outage.first < 5s", "latency.p99 <= 100ms", "lost == 0"} {
			e, err := ParseExpect(text)
			if err != nil {
				t.Fatal(err)
			}
			d.Expect = append(d.Expect, e)
		}
		return d
	}
	for _, n := range []int{-1, 0, Slowest + 1} {
		if drill().Slow(n) == nil {
			t.Errorf("%d times is taken", n)
		}
	}
	same := drill()
	if err := same.Slow(1); err != nil || same.Cluster.Slower != 0 || same.Load.Rate != 200 {
		t.Errorf("as it is: %v, %+v", err, same)
	}
	d := drill()
	if err := d.Slow(10); err != nil {
		t.Fatal(err)
	}
	if d.Cluster.Heartbeat != 500*time.Millisecond || d.Cluster.Election != 50*time.Second { // as long as etcd takes
		t.Errorf("ticks %s, %s", d.Cluster.Heartbeat, d.Cluster.Election)
	}
	if l := d.Load; l.Rate != 20 || l.Gate != 1 || l.Timeout != 10*time.Second || l.Backoff != 100*time.Millisecond || l.Probe != 100*time.Millisecond || l.Warmup != 10*time.Second {
		t.Errorf("load %+v", l)
	}
	if s := d.Steps[0]; s.Times != 2 || s.Steps[0].Within != 50*time.Second || s.Steps[0].For != 10*time.Second || d.Steps[1].Within != 0 {
		t.Errorf("steps %+v", d.Steps)
	}
	for i, want := range []string{"outage.first < 50s", "latency.p99 <= 1s", "lost == 0"} {
		e, err := ParseExpect(want)
		if got := d.Expect[i]; err != nil || got != e {
			t.Errorf("promise %+v, want %+v, %v", got, e, err)
		}
	}
}

package load

import (
	"strconv"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// inFlight bounds the probes of one prober that wait for an answer.
const inFlight = 256

// probe sends one request per interval, to one member after the other, and
// never waits for an answer before the next. So the first answer after an
// outage comes within an interval of its end: a proposal that was under way to
// a dead leader hangs until it times out, but those sent later wait inside
// raft and are answered at the moment there is a leader.
func (l *load) probe(start time.Time, one func(n int, s *seat, timeout time.Duration)) {
	free := make(chan struct{}, inFlight)
	// Given up early enough that there is always room for the next one.
	timeout := min(l.spec.Timeout, inFlight*3/4*l.spec.Probe)
	for n, due := 0, start; ; n++ {
		if !l.sleep(time.Until(due)) {
			return
		}
		// Intervals in which this process did not run are gone: a burst
		// would measure nothing.
		for due = due.Add(l.spec.Probe); time.Since(due) > 0; {
			due = due.Add(l.spec.Probe)
		}
		select {
		case free <- struct{}{}:
		default:
			continue
		}
		seats := *l.serving.Load()
		l.wg.Go(func() {
			defer func() { <-free }()
			one(n, seats[n%len(seats)], timeout)
		})
	}
}

// probeWrite puts to a key of its own. Keys are never used again, so that each
// acknowledged probe must be found in the end, and many unknown ones do not
// make the history of any key hard to judge.
func (l *load) probeWrite(n int, s *seat, timeout time.Duration) {
	op := lab.Op{Client: lab.ClientWriteProber, Kind: lab.OpPut, Key: l.probeKey(int64(n)), Value: "p." + strconv.Itoa(n), Member: s.name}
	s.prober.performOnce(l.ctx, l.history, &op, int(l.spec.Size), timeout)
	if op.Outcome == lab.OK {
		for {
			last := l.probed.Load()
			if last >= int64(n) || l.probed.CompareAndSwap(last, int64(n)) {
				break
			}
		}
	}
	l.record(&op)
}

// probeRead reads what the other prober got acknowledged last: a stale answer
// shows at once.
func (l *load) probeRead(_ int, s *seat, timeout time.Duration) {
	op := lab.Op{Client: lab.ClientReadProber, Kind: lab.OpGet, Key: l.probeKey(l.probed.Load()), Member: s.name}
	s.prober.performOnce(l.ctx, l.history, &op, int(l.spec.Size), timeout)
	l.record(&op)
}

func (l *load) probeKey(n int64) string { return l.prefix + "p" + strconv.FormatInt(n, 10) }

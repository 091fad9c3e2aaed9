package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// WatchSpec says what a Watch follows.
type WatchSpec struct {
	Key           string
	Prefix        bool
	RequireLeader bool  // let etcd end it on a member without a leader
	From          int64 // first revision, 0 = the next one
}

// Seen is one event a Watch got, or one that it should have got.
type Seen struct {
	Key      string
	Revision int64
	Deleted  bool
}

func (s Seen) String() string {
	what := "put"
	if s.Deleted {
		what = "delete"
	}
	return fmt.Sprintf("%s of %s at revision %d", what, s.Key, s.Revision)
}

// Watch is a watch that records what it gets until it ends or is closed. Safe
// for concurrent use.
type Watch struct {
	spec    WatchSpec
	cluster *lab.Cluster
	cli     *clientv3.Client
	stop    context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	from   int64 // first revision it was to see
	events []Seen
	at     int64 // everything up to here has arrived
	end    error
	last   time.Time // when the last thing arrived
}

// WatchKey is the name under which a drill's watch is kept in lab.Held.
func WatchKey(name string) string { return "watch/" + name }

// OpenWatch opens a watch through the given seats and returns when etcd has
// confirmed it, or has ended it.
func OpenWatch(ctx context.Context, c *lab.Cluster, spec WatchSpec, through ...*lab.Member) (*Watch, error) {
	cli, err := Client(c, through...)
	if err != nil {
		return nil, err
	}
	w := &Watch{spec: spec, cluster: c, cli: cli, from: spec.From, done: make(chan struct{}), last: time.Now()}
	life, stop := context.WithCancel(context.Background())
	w.stop = stop
	if spec.RequireLeader {
		life = clientv3.WithRequireLeader(life)
	}
	created := make(chan struct{})
	ch := cli.Watch(life, spec.Key, append(spec.options(), clientv3.WithCreatedNotify())...)
	go w.read(ch, created)
	select {
	case <-created:
		return w, nil
	case <-w.done:
		return w, nil
	case <-ctx.Done():
		w.Close()
		return nil, fmt.Errorf("not confirmed: %w", ctx.Err())
	}
}

func (s WatchSpec) options() []clientv3.OpOption {
	var opts []clientv3.OpOption
	if s.Prefix {
		opts = append(opts, clientv3.WithPrefix())
	}
	if s.From > 0 {
		opts = append(opts, clientv3.WithRev(s.From))
	}
	return opts
}

func (w *Watch) read(ch clientv3.WatchChan, created chan struct{}) {
	defer close(w.done)
	for r := range ch {
		w.mu.Lock()
		w.last = time.Now()
		if r.Created {
			select {
			case <-created: // again, after a reconnect
			default:
				if w.from == 0 {
					w.from = r.Header.Revision + 1
				}
				close(created)
			}
		}
		for _, e := range r.Events {
			w.events = append(w.events, Seen{Key: string(e.Kv.Key), Revision: e.Kv.ModRevision, Deleted: e.Type == clientv3.EventTypeDelete})
			w.at = max(w.at, e.Kv.ModRevision)
		}
		if r.IsProgressNotify() {
			w.at = max(w.at, r.Header.Revision)
		}
		if err := r.Err(); err != nil {
			w.end = err
			if r.CompactRevision > 0 {
				w.end = fmt.Errorf("%w: compacted at revision %d", err, r.CompactRevision)
			}
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end == nil {
		w.end = errors.New("the stream was closed")
	}
}

// Close ends the watch.
func (w *Watch) Close() error {
	w.stop()
	err := w.cli.Close()
	<-w.done
	return err
}

// From is the first revision it was to see.
func (w *Watch) From() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.from
}

// Events returns what it got so far.
func (w *Watch) Events() []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Seen(nil), w.events...)
}

// Ended returns how it ended, nil as long as it has not.
func (w *Watch) Ended() error {
	select {
	case <-w.done:
	default:
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

// Last is when anything, even only a sign of life, arrived.
func (w *Watch) Last() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Complete compares what the watch got with the store's own history, replayed
// from any member by a second watch of the same keys from the same revision up
// to now: each event once, in order, none missing. It waits for what is on its
// way as long as ctx allows. What it found is a *lab.Failure; a history that is
// compacted, or that nobody serves, any other error.
func (w *Watch) Complete(ctx context.Context) error {
	truth, upTo, err := w.replay(ctx)
	if err != nil {
		return fmt.Errorf("what there was to see could not be read: %w", err)
	}
	var missing *lab.Failure
	err = lab.Until(ctx, "the watch to catch up", func(context.Context) error {
		ended := w.Ended() // before the events: then these are all
		got := w.Events()
		if wrong := misses(got, truth, upTo); wrong != nil {
			missing = wrong
			return nil
		}
		missing = nil
		if len(got) < len(truth) {
			missing = &lab.Failure{What: "watch", Want: fmt.Sprintf("%d events up to revision %d", len(truth), upTo), Got: fmt.Sprint(len(got))}
			if ended != nil {
				missing.Got += ", and it has ended: " + ended.Error()
				return nil
			}
			return missing
		}
		return nil
	})
	if missing != nil {
		return missing
	}
	return err
}

// misses finds the first event that is not the one it should be: one left out,
// twice, out of order, or that never was. Events that have not come yet are
// none, and neither are those after upTo.
func misses(got, truth []Seen, upTo int64) *lab.Failure {
	for i, g := range got {
		switch {
		case i < len(truth) && g == truth[i]:
		case i < len(truth):
			return &lab.Failure{What: fmt.Sprintf("event %d of the watch", i+1), Want: truth[i].String(), Got: g.String()}
		case g.Revision <= upTo:
			return &lab.Failure{What: fmt.Sprintf("event %d of the watch", i+1), Want: fmt.Sprintf("none, up to revision %d", upTo), Got: g.String()}
		}
	}
	return nil
}

// replay reads the history of the watched keys from the store.
func (w *Watch) replay(ctx context.Context) ([]Seen, int64, error) {
	cli, err := Client(w.cluster)
	if err != nil {
		return nil, 0, err
	}
	defer cli.Close()
	r, err := cli.Get(ctx, "health", clientv3.WithKeysOnly())
	if err != nil {
		return nil, 0, err
	}
	now, from := r.Header.Revision, w.From()
	if from > now {
		return nil, now, nil
	}
	spec := w.spec
	spec.From, spec.RequireLeader = from, true // a member that is cut off knows the past only
	again, err := OpenWatch(ctx, w.cluster, spec)
	if err != nil {
		return nil, 0, err
	}
	defer again.Close()
	err = lab.Until(ctx, fmt.Sprintf("the history up to revision %d", now), func(ctx context.Context) error {
		if end := again.Ended(); end != nil {
			return end
		}
		if again.upTo() >= now {
			return nil
		}
		// etcd answers with how far all watches of the stream are.
		again.cli.RequestProgress(clientv3.WithRequireLeader(ctx))
		return fmt.Errorf("it came up to revision %d", again.upTo())
	})
	if err != nil {
		if errors.Is(again.Ended(), rpctypes.ErrCompacted) {
			return nil, 0, again.Ended()
		}
		return nil, 0, err
	}
	var out []Seen
	for _, e := range again.Events() {
		if e.Revision <= now {
			out = append(out, e)
		}
	}
	return out, now, nil
}

func (w *Watch) upTo() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/etcdrill/etcdrill/lab"
)

// watcher follows everything the load writes, through one member.
type watcher struct {
	id   int
	seat *seat
	next int64        // revision from which to watch
	upto atomic.Int64 // everything up to this revision was delivered
}

// watch starts a watcher through a seat, unless there is one: a member that
// comes back is watched by the one of before.
func (l *load) watch(s *seat) {
	l.watchers.Lock()
	defer l.watchers.Unlock()
	if slices.ContainsFunc(l.watchers.list, func(w *watcher) bool { return w.seat == s }) {
		return
	}
	w := &watcher{id: lab.ClientWatcher - len(l.watchers.list), seat: s, next: l.from + 1}
	w.upto.Store(l.from)
	l.watchers.list = append(l.watchers.list, w)
	l.watchers.wg.Go(func() { l.follow(w) })
}

// follow watches until the load is torn down. A watch that breaks begins again
// right after the last revision it delivered, never before and never later,
// unless etcd says that this revision was compacted.
func (l *load) follow(w *watcher) {
	for l.ctx.Err() == nil {
		began, err := l.stream(w)
		if began {
			now := l.history.Now()
			l.history.Add(lab.Op{Client: w.id, Kind: lab.OpWatch, Call: now, Return: now, Outcome: lab.OK, Revision: w.next, Member: w.seat.name, Error: err.Error()})
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(l.spec.Backoff):
		}
	}
}

// errCompacted ends a watch whose next revision etcd has thrown away. Its
// record in the history names the revision that comes instead.
var errCompacted = errors.New("compacted")

// stream runs one watch; began tells whether the member took it.
func (l *load) stream(w *watcher) (began bool, err error) {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(w.seat.closer.client.ActiveConnection()).Watch(ctx, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	create := &pb.WatchCreateRequest{Key: []byte(l.prefix), RangeEnd: endOf(l.prefix), StartRevision: w.next, ProgressNotify: true}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil && err != io.EOF {
		return false, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return began, err
		}
		now := l.history.Now()
		switch {
		case resp.CompactRevision > 0:
			w.next = max(w.next, resp.CompactRevision)
			return began, errCompacted
		case resp.Canceled:
			return began, fmt.Errorf("canceled: %s", resp.CancelReason)
		case resp.Created:
			began = true
			l.history.Add(lab.Op{Client: w.id, Kind: lab.OpWatch, Call: now, Return: now, Outcome: lab.OK, Revision: w.next, Member: w.seat.name})
		case len(resp.Events) == 0: // progress: nothing is missing up to here
			w.next = max(w.next, resp.Header.Revision+1)
		}
		for _, e := range resp.Events {
			op := lab.Op{Client: w.id, Kind: lab.OpEvent, Key: string(e.Kv.Key), Call: now, Return: now, Outcome: lab.OK,
				Mod: e.Kv.ModRevision, Deleted: e.Type == mvccpb.Event_DELETE, Member: w.seat.name}
			if !op.Deleted {
				op.Value = unpad(e.Kv.Value, int(l.spec.Size))
			}
			l.history.Add(op)
			w.next = max(w.next, e.Kv.ModRevision+1)
		}
		w.upto.Store(w.next - 1)
	}
}

// How long a watcher that does not move is waited for.
const (
	still     = 10 * time.Second
	stillDown = time.Second // while its member's process does not run
)

// caughtUp waits until every watcher delivered a revision, and names those
// that did not: their members are gone, or deliver nothing any more.
func (l *load) caughtUp(ctx context.Context, revision int64) (behind []*watcher) {
	l.watchers.Lock()
	list := l.watchers.list
	l.watchers.Unlock()
	seen, moved := make([]int64, len(list)), make([]time.Time, len(list))
	_ = lab.Until(ctx, "the watchers", func(ctx context.Context) error {
		behind = nil
		waiting := 0
		for i, w := range list {
			upto := w.upto.Load()
			if upto >= revision {
				continue
			}
			behind = append(behind, w)
			if upto > seen[i] || moved[i].IsZero() {
				seen[i], moved[i] = upto, time.Now()
			}
			switch quiet := time.Since(moved[i]); {
			case quiet < stillDown:
				waiting++
			case quiet < still:
				// A member that just came back may be slow to be reached.
				if st, err := w.seat.proc.State(ctx); err != nil || st.Running && !st.Paused {
					waiting++
				}
			}
		}
		if waiting > 0 {
			return fmt.Errorf("%d are behind", waiting)
		}
		return nil
	})
	return behind
}

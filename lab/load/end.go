package load

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/etcdrill/etcdrill/lab"
)

// end stops the clients, closes the history with a marker, reads everything
// back and lets the watchers catch up.
func (l *load) end(ctx context.Context) error {
	close(l.stop)
	quiet := make(chan struct{})
	go func() { l.wg.Wait(); close(quiet) }()
	select {
	case <-quiet: // what was under way was answered or timed out
	case <-ctx.Done():
		l.cancel()
		<-quiet
	}
	l.journal.Add(lab.Event{Kind: lab.EventLoad, Text: fmt.Sprintf("the clients have stopped, %d writes were acknowledged", l.Acked())})
	defer func() {
		l.close()
		l.watchers.wg.Wait()
	}()
	marker, err := l.mark(ctx)
	if err != nil {
		return err
	}
	revision, keys, err := l.readBack(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("marker at revision %d, read back %d keys at revision %d", marker, keys, revision)
	if !l.spec.Watch {
		l.journal.Add(lab.Event{Kind: lab.EventLoad, Text: text})
		return nil
	}
	behind := l.caughtUp(ctx, marker)
	l.journal.Add(lab.Event{Kind: lab.EventLoad, Text: text})
	for _, w := range behind {
		l.journal.Add(lab.Event{Kind: lab.EventLoad, Host: w.seat.name, Text: fmt.Sprintf("the watcher through this member did not come to the marker: it saw everything up to revision %d", w.upto.Load())})
	}
	return nil
}

// mark writes the marker through whichever member takes it. Every try is an
// operation of its own.
func (l *load) mark(ctx context.Context) (revision int64, err error) {
	n := 0
	err = lab.Until(ctx, "the marker to be accepted", func(ctx context.Context) error {
		var errs []error
		for _, s := range *l.serving.Load() {
			n++
			op := lab.Op{Client: lab.ClientCloser, Kind: lab.OpMarker, Key: l.prefix + "marker", Value: "end." + strconv.Itoa(n), Member: s.name}
			s.closer.performOnce(ctx, l.history, &op, int(l.spec.Size), l.spec.Timeout)
			l.history.Add(op)
			if op.Outcome == lab.OK {
				revision = op.Revision
				return nil
			}
			errs = append(errs, fmt.Errorf("%s: %s", s.name, op.Error))
		}
		return errors.Join(errs...)
	})
	return revision, err
}

// readBack reads all keys of the load at one revision, linearizably, and
// records them when it has them all. The first page decides the revision; the
// others may come from other members.
func (l *load) readBack(ctx context.Context) (revision int64, keys int, err error) {
	var rows []lab.Op
	call := l.history.Now()
	err = lab.Until(ctx, "everything to be read back", func(ctx context.Context) error {
		if revision == 0 {
			call = l.history.Now()
		}
		from := l.prefix
		if n := len(rows); n > 0 {
			from = rows[n-1].Key + "\x00"
		}
		for {
			page, err := l.anyPage(ctx, from, revision)
			if errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
				revision, rows = 0, nil // begin again, at a newer revision
			}
			if err != nil {
				return err
			}
			if revision == 0 {
				revision = page.Header.Revision
			}
			for _, kv := range page.Kvs {
				rows = append(rows, lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Key: string(kv.Key), Value: unpad(kv.Value, int(l.spec.Size)),
					Outcome: lab.OK, Revision: revision, Mod: kv.ModRevision})
				from = string(kv.Key) + "\x00"
			}
			if !page.More {
				return nil
			}
		}
	})
	now := l.history.Now()
	if err != nil {
		l.history.Add(lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Call: call, Return: now, Outcome: lab.Unknown, Error: err.Error()})
		return 0, 0, err
	}
	for _, op := range rows {
		op.Call, op.Return = call, now
		l.history.Add(op)
	}
	l.history.Add(lab.Op{Client: lab.ClientCloser, Kind: lab.OpFinal, Call: call, Return: now, Outcome: lab.OK, Revision: revision})
	return revision, len(rows), nil
}

// anyPage reads a page through the first member that gives it.
func (l *load) anyPage(ctx context.Context, from string, revision int64) (*pb.RangeResponse, error) {
	var errs []error
	for _, s := range *l.serving.Load() {
		ctx, cancel := context.WithTimeout(ctx, max(l.spec.Timeout, pageTimeout))
		page, err := s.closer.page(ctx, l.prefix, from, revision, pageKeys)
		cancel()
		if err == nil {
			return page, nil
		}
		if errors.Is(rpctypes.Error(err), rpctypes.ErrCompacted) {
			return nil, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
	}
	return nil, errors.Join(errs...)
}

// A page of the final read.
const (
	pageKeys    = 1000
	pageTimeout = 5 * time.Second
)

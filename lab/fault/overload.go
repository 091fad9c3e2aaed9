package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Overload lets many clients do as much as they can, beside the drill's own
// load: each writes keys of its own, watches what one of them writes, or fights
// for one key. What then happens is the question: etcd may get slow or say
// "too many requests", and should keep its leader.
//
// The clients live in this process and end with it, so it can be used in a
// drill and not by hand on a lab that stays.
type Overload struct {
	Clients int       `default:"100" doc:"how many clients, 1 to 5000"`
	Size    lab.Bytes `default:"1KiB" doc:"bytes per value, at most 1MiB"`
	Kind    string    `default:"puts" doc:"puts (each its own keys), watchers (all watch what one writes) or hot-key (all change one key)"`
}

// Doc says what the fault does.
func (*Overload) Doc() string {
	return "let many clients write, watch, or fight for one key, as fast as they can"
}

// Needs lists the abilities it must have: none.
func (*Overload) Needs() []lab.Cap { return nil }

// Valid refuses arguments that cannot be.
func (f *Overload) Valid() error {
	switch {
	case f.Clients < 1 || f.Clients > 5000:
		return fmt.Errorf("clients: %d: expected 1 to 5000", f.Clients)
	case f.Size < 0 || f.Size > 1<<20:
		return fmt.Errorf("size: %s: expected at most 1MiB: etcd refuses more than 1.5MiB in one request", f.Size)
	}
	return oneOf("kind", f.Kind, "puts", "watchers", "hot-key")
}

// Shell shows the commands it amounts to.
func (f *Overload) Shell() (do, undo []string) {
	return []string{fmt.Sprintf("etcdctl check perf   # %d clients, %s each, %s", f.Clients, f.Size, f.Kind)},
		[]string{"etcdctl del --prefix " + own + "overload/"}
}

func (f *Overload) prefix(e *lab.Env) string { return own + "overload/" + e.Owner + "/" }

// crowd is the clients at work.
type crowd struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	over   atomic.Bool
	conns  []*clientv3.Client
	active atomic.Int64 // clients that were answered at least once
	done   atomic.Int64 // requests that were answered, events that arrived
	failed atomic.Int64 // requests that were not
}

// Close ends the clients and waits for them. It may be called again.
func (c *crowd) Close() error {
	c.cancel()
	c.wg.Wait()
	if c.over.Swap(true) {
		return nil
	}
	var errs []error
	for _, cli := range c.conns {
		if err := cli.Close(); !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// at is the crowd of this fault, nil when there is none or it has ended.
func at(e *lab.Env) *crowd {
	if e.Held == nil {
		return nil
	}
	c, _ := e.Held.Get(e.Owner).(*crowd)
	if c == nil || c.over.Load() {
		return nil
	}
	return c
}

// Inject starts the clients.
func (f *Overload) Inject(ctx context.Context, e *lab.Env) error {
	if e.Held == nil {
		return errors.New("overload lives in the process of a drill: it cannot be left on a lab by hand")
	}
	bound, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &crowd{cancel: cancel}
	e.Held.Put(e.Owner, c)
	const share = 50 // clients on one connection
	for range (f.Clients + share - 1) / share {
		cli, err := etcd.Client(e.Cluster)
		if err != nil {
			return errors.Join(err, c.Close())
		}
		c.conns = append(c.conns, cli)
	}
	value := strings.Repeat("x", int(f.Size))
	for i := range f.Clients {
		cli, key := c.conns[i/share], fmt.Sprintf("%s%d", f.prefix(e), i)
		c.wg.Go(func() {
			switch f.Kind {
			case "puts":
				c.loop(bound, func(ctx context.Context) error { _, err := cli.Put(ctx, key, value); return err })
			case "hot-key":
				c.fight(bound, cli, f.prefix(e)+"0", value)
			case "watchers":
				c.watch(bound, cli, f.prefix(e))
			}
		})
	}
	if f.Kind == "watchers" {
		c.wg.Go(func() {
			for bound.Err() == nil {
				call, cancel := context.WithTimeout(bound, 5*time.Second)
				c.conns[0].Put(call, f.prefix(e)+"0", value)
				cancel()
			}
		})
	}
	e.Note("", "%d clients on %d connections: %s of %s", f.Clients, len(c.conns), f.Kind, f.Size)
	return nil
}

// loop does one request after the other. Errors are part of it.
func (c *crowd) loop(ctx context.Context, do func(context.Context) error) {
	first := true
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := do(call)
		cancel()
		if err != nil {
			c.failed.Add(1)
			// A request that is refused at once must not turn into a busy loop.
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		c.done.Add(1)
		if first {
			first = false
			c.active.Add(1)
		}
	}
}

// fight changes one key by compare-and-put, so that most tries are in vain.
func (c *crowd) fight(ctx context.Context, cli *clientv3.Client, key, value string) {
	var seen int64
	c.loop(ctx, func(ctx context.Context) error {
		r, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", seen)).
			Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key, clientv3.WithKeysOnly())).Commit()
		if err != nil {
			return err
		}
		seen = r.Header.Revision
		if kvs := r.Responses; !r.Succeeded && len(kvs) > 0 && len(kvs[0].GetResponseRange().GetKvs()) > 0 {
			seen = kvs[0].GetResponseRange().GetKvs()[0].ModRevision
		}
		return nil
	})
}

// watch follows a prefix.
func (c *crowd) watch(ctx context.Context, cli *clientv3.Client, prefix string) {
	first := true
	for ctx.Err() == nil {
		for r := range cli.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix()) {
			c.done.Add(int64(len(r.Events)))
			if first && len(r.Events) > 0 {
				first = false
				c.active.Add(1)
			}
		}
		if ctx.Err() == nil {
			c.failed.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// Prove asks both sides: every client was served, and the store itself counts
// what they wrote. It is gone when the clients have ended, nothing of theirs is
// in the store, and a read is answered within a second.
func (f *Overload) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		return lab.Proof{}, err
	}
	defer cli.Close()
	c := at(e)
	limit := 5 * time.Second
	if c == nil {
		limit = time.Second
	}
	call, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	got, err := cli.Get(call, f.prefix(e), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return lab.Proof{Evidence: fmt.Sprintf("a read is not answered within %s: %s", limit, err)}, nil
	}
	took := time.Since(start).Round(time.Millisecond)
	var writes int64
	for _, kv := range got.Kvs {
		writes += kv.Version
	}
	if c == nil {
		if len(got.Kvs) > 0 {
			return lab.Proof{Evidence: fmt.Sprintf("%d keys of it are still in the store", len(got.Kvs))}, nil
		}
		return lab.Proof{State: lab.Gone, Evidence: fmt.Sprintf("no client of it is left, a read takes %s", took)}, nil
	}
	text := fmt.Sprintf("%d of %d clients were served, %d answers and %d failures so far; the store counts %d writes of theirs; a read takes %s",
		c.active.Load(), f.Clients, c.done.Load(), c.failed.Load(), writes, took)
	p := lab.Proof{Evidence: text}
	least := int64(f.Clients)
	if f.Kind != "puts" { // of those that fight few win, and of watchers one writes
		least = 1
	}
	if c.active.Load() >= int64(f.Clients) && writes >= least {
		p.State = lab.Bites
	}
	return p, nil
}

// Heal ends the clients and deletes what they wrote.
func (f *Overload) Heal(ctx context.Context, e *lab.Env) error {
	if c := at(e); c != nil {
		if err := c.Close(); err != nil {
			e.Note("", "end of the clients: %s", err)
		}
	}
	cli, err := etcd.Client(e.Cluster)
	if err != nil {
		return err
	}
	defer cli.Close()
	// A write that was cut off may still arrive: delete until there is nothing.
	return lab.Until(ctx, "what the clients wrote to be deleted", func(ctx context.Context) error {
		r, err := cli.Delete(ctx, f.prefix(e), clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if r.Deleted > 0 {
			return fmt.Errorf("there were %d keys", r.Deleted)
		}
		return nil
	})
}

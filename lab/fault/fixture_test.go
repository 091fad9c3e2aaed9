package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/drivers/local/labtest"
	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// bed is a cluster that tests share, with what the engine does to a fault.
type bed struct {
	t *testing.T
	*lab.Cluster
	look func(context.Context, *lab.Cluster) []lab.Status
}

// newBed brings a lab up for one test.
func newBed(t *testing.T, spec lab.Spec) *bed {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd")
	}
	l := labtest.Up(t, spec.Members, spec.Spares, func(s *lab.Spec) { *s = spec })
	return &bed{t: t, Cluster: l.Cluster, look: l.Kit.Look}
}

// spec is a cluster with quick elections and a small quota.
func spec(members, spares int) lab.Spec {
	var s lab.Spec
	lab.Defaults(&s)
	s.Members, s.Spares, s.Quota = members, spares, 8<<20
	s.Heartbeat, s.Election = 40*time.Millisecond, 400*time.Millisecond
	return s
}

// env is what the engine hands to a fault; owner is its name.
func (b *bed) env(owner string) *lab.Env {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e := &lab.Env{
		Cluster: b.Cluster,
		Kit:     lab.Kit{Look: b.look},
		Rand:    rand.New(rand.NewPCG(1, 2)),
		Owner:   owner,
		Held:    &lab.Held{},
	}
	e.Before = e.Look(ctx)
	b.t.Cleanup(e.Held.Close)
	return e
}

// aim resolves a fault's targets as the engine does.
func (b *bed) aim(f lab.Fault, e *lab.Env) {
	b.t.Helper()
	for _, t := range lab.Targets(f) {
		names, err := lab.Pick(t.Role, e.Before, e.Rand)
		if err != nil {
			b.t.Fatal(err)
		}
		t.Names = names
	}
}

// ready waits until every member of the first n seats is in service.
func (b *bed) ready(n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := etcd.WaitReady(ctx, b.Cluster, b.Seats[:n]...); err != nil {
		b.t.Fatalf("the cluster does not come back: %v", err)
	}
}

// put writes a key and returns the client's error.
func (b *bed) put(key, value string, through ...*lab.Member) error {
	cli, err := etcd.Client(b.Cluster, through...)
	if err != nil {
		return err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err = cli.Put(ctx, key, value)
	return err
}

// get reads a key through members.
func (b *bed) get(key string, through ...*lab.Member) (string, error) {
	cli, err := etcd.Client(b.Cluster, through...)
	if err != nil {
		return "", err
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	r, err := cli.Get(ctx, key, clientv3.WithSerializable())
	if err != nil || len(r.Kvs) == 0 {
		return "", err
	}
	return string(r.Kvs[0].Value), nil
}

// until asks a fault for a state, as the engine does.
func until(t *testing.T, f lab.Fault, e *lab.Env, want lab.ProofState) lab.Proof {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var p lab.Proof
	err := lab.Until(ctx, want.String(), func(ctx context.Context) error {
		var err error
		if p, err = f.Prove(ctx, e); err == nil && p.State != want {
			err = errors.New(p.State.String() + ": " + p.Evidence)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.Evidence == "" {
		t.Errorf("%s without evidence", want)
	}
	return p
}

// never asks a fault some times, and fails when it says Bites.
func never(t *testing.T, f lab.Fault, e *lab.Env, why string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 3 {
		if p, err := f.Prove(ctx, e); err == nil && p.State == lab.Bites {
			t.Fatalf("%s: proved to bite: %s", why, p.Evidence)
		}
	}
}

// again is the fault as another process finds it in the ledger.
func again(t *testing.T, ledger []byte, f lab.Fault) lab.Fault {
	t.Helper()
	g := reflect.New(reflect.TypeOf(f).Elem()).Interface().(lab.Fault)
	if err := json.Unmarshal(ledger, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// later is the Env that another process has: the same owner and the same look
// before the fault, and nothing held.
func later(e *lab.Env) *lab.Env {
	l := *e
	l.Held = nil
	return &l
}

// cycle is the life of a fault: it does nothing, it is sabotaged, it bites, it
// is healed by another process, twice. during looks at the broken cluster.
func (b *bed) cycle(f lab.Fault, n int, during func(t *testing.T, e *lab.Env)) {
	t := b.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	e := b.env(name + "-1.2")
	b.aim(f, e)
	if v, ok := f.(interface{ Valid() error }); ok {
		if err := v.Valid(); err != nil {
			t.Fatal(err)
		}
	}
	never(t, f, e, "nothing was injected")

	for what, c := range saboteurs(b.Cluster) {
		if !needs(f, what) {
			continue
		}
		lazy := *e
		lazy.Cluster, lazy.Owner, lazy.Held = c, name+"-"+what, &lab.Held{}
		bound, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := f.Inject(bound, &lazy)
		cancel()
		if err == nil {
			never(t, f, &lazy, what)
		} else {
			t.Logf("%s: %v", what, err)
		}
		if err := again(t, ledger(t, f), f).Heal(ctx, later(&lab.Env{Cluster: b.Cluster, Kit: e.Kit, Owner: lazy.Owner, Before: e.Before})); err != nil {
			t.Fatalf("heal after %s: %v", what, err)
		}
		lazy.Held.Close()
		b.ready(n)
	}

	// Roles may have moved; the names stay those that were resolved.
	e.Before = e.Look(ctx)
	b.aim(f, e)
	book := ledger(t, f)
	if err := again(t, book, f).Heal(ctx, later(e)); err != nil {
		t.Fatalf("heal of what was never injected: %v", err)
	}
	t.Cleanup(func() { // a test that failed must not spoil the next one
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			t.Log("clean up: ", again(t, book, f).Heal(ctx, e))
		}
	})
	start := time.Now()
	if err := f.Inject(ctx, e); err != nil {
		t.Fatal(err)
	}
	p := until(t, f, e, lab.Bites)
	t.Logf("bites after %s: %s", time.Since(start).Round(time.Millisecond), p.Evidence)
	if again := again(t, book, f); !holds(e, e.Owner) {
		until(t, again, later(e), lab.Bites)
	}
	if during != nil {
		during(t, e)
	}
	start = time.Now()
	healer, mind := again(t, book, f), later(e)
	if holds(e, e.Owner) {
		mind = e // what lives in a process dies with it, or is healed there
	}
	if err := healer.Heal(ctx, mind); err != nil {
		t.Fatal(err)
	}
	p = until(t, healer, mind, lab.Gone)
	t.Logf("gone after %s: %s", time.Since(start).Round(time.Millisecond), p.Evidence)
	if err := healer.Heal(ctx, mind); err != nil {
		t.Fatalf("heal again: %v", err)
	}
	until(t, healer, mind, lab.Gone)
}

func holds(e *lab.Env, owner string) bool { return e.Held.Get(owner) != nil }

func ledger(t *testing.T, f lab.Fault) []byte {
	t.Helper()
	book, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// needs tells whether a fault uses what a saboteur has disabled.
func needs(f lab.Fault, what string) bool {
	if _, ok := f.(*fault.Certificate); ok {
		return what == "host" || what == "put"
	}
	if s, ok := f.(*fault.Snapshot); ok {
		return s.Member.Role != "" && (what == "host" || what == "put")
	}
	for sabotage, caps := range map[string][]lab.Cap{
		"proc": {lab.CapSignal}, "host": {lab.CapSignal}, "links": {lab.CapLinks}, "lying-links": {lab.CapLinks}, "tracer": {lab.CapTrace},
		"dns": {lab.CapDNS}, "lying-dns": {lab.CapDNS},
	} {
		if sabotage == what {
			return slices.ContainsFunc(caps, func(c lab.Cap) bool { return slices.Contains(f.Needs(), c) }) && !(what == "host" && !files(f))
		}
	}
	return false
}

// files tells whether a fault works on files or starts commands.
func files(f lab.Fault) bool {
	switch reflect.TypeOf(f).Elem().Name() {
	case "Wipe", "Destroy", "Corrupt", "TakePort":
		return true
	}
	return false
}

// saboteurs are clusters on which one thing that faults use does nothing and
// says that it has.
func saboteurs(c *lab.Cluster) map[string]*lab.Cluster {
	with := func(change func(s *lab.Cluster)) *lab.Cluster {
		s := *c
		s.Seats = nil
		for _, m := range c.Seats {
			n := *m
			s.Seats = append(s.Seats, &n)
		}
		change(&s)
		return &s
	}
	return map[string]*lab.Cluster{
		"proc": with(func(s *lab.Cluster) {
			for _, m := range s.Seats {
				m.Proc = lazyProc{m.Proc}
			}
		}),
		"host": with(func(s *lab.Cluster) {
			for _, m := range s.Seats {
				m.Host = lazyHost{m.Host}
			}
		}),
		"put": with(func(s *lab.Cluster) {
			for _, m := range s.Seats {
				m.Host = lazyPut{m.Host}
			}
		}),
		"links":       with(func(s *lab.Cluster) { s.Links = lazyLinks{s.Links} }),
		"lying-links": with(func(s *lab.Cluster) { s.Links = &lyingLinks{Links: s.Links} }),
		"tracer":      with(func(s *lab.Cluster) { s.Tracer = lazyTracer{s.Tracer} }),
		"dns":         with(func(s *lab.Cluster) { s.DNS = lazyDNS{s.DNS} }),
		"lying-dns":   with(func(s *lab.Cluster) { s.DNS = &lyingDNS{DNS: s.DNS} }),
	}
}

// lazyProc ignores every signal.
type lazyProc struct{ lab.Proc }

func (lazyProc) Signal(context.Context, string) error { return nil }
func (lazyProc) Stop(context.Context) error           { return nil }

// lazyHost looks and does nothing.
type lazyHost struct{ lab.Host }

func (h lazyHost) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	switch c.Argv[0] {
	case "test", "ls", "diff", "ps":
		return h.Host.Run(ctx, c)
	}
	return lab.Output{}, nil
}

// lazyPut writes no files.
type lazyPut struct{ lab.Host }

func (lazyPut) Put(context.Context, string, fs.FileMode, []byte) error { return nil }

// lazyLinks forgets rules.
type lazyLinks struct{ lab.Links }

func (lazyLinks) Set(context.Context, string, string, string, lab.Rule) error { return nil }

// lyingLinks lists rules that are not there, and says they held something.
type lyingLinks struct {
	lab.Links
	said []lab.LinkRule
}

func (l *lyingLinks) Set(_ context.Context, owner, from, to string, r lab.Rule) error {
	l.said = append(l.said, lab.LinkRule{Owner: owner, From: from, To: to, Rule: r, Held: 1000})
	return nil
}

func (l *lyingLinks) Rules(ctx context.Context) ([]lab.LinkRule, error) {
	all, err := l.Links.Rules(ctx)
	return append(all, l.said...), err
}

// lazyTracer attaches to nothing.
type lazyTracer struct{ lab.Tracer }

func (lazyTracer) Inject(context.Context, string, string, lab.Injection) error { return nil }

// lazyDNS serves what it always has.
type lazyDNS struct{ lab.DNS }

func (lazyDNS) Set(context.Context, string, lab.ZoneChange) error { return nil }

// lyingDNS says of changes that they are made.
type lyingDNS struct {
	lab.DNS
	owners []string
	silent bool
}

func (d *lyingDNS) Set(_ context.Context, owner string, c lab.ZoneChange) error {
	d.owners, d.silent = append(d.owners, owner), c.Silent
	return nil
}

func (d *lyingDNS) Zone(ctx context.Context, host string) (lab.Zone, error) {
	z, err := d.DNS.Zone(ctx, host)
	z.Owners, z.Silent = append(z.Owners, d.owners...), d.silent
	return z, err
}

package fault_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/fault"
)

// faults are one of each.
func faults() []lab.Fault {
	return []lab.Fault{&fault.Crash{}, &fault.Stop{}, &fault.Pause{}, &fault.Destroy{}, &fault.Wipe{}, &fault.Cut{}, &fault.Slow{},
		&fault.Throttle{}, &fault.Fill{}, &fault.Overload{}, &fault.SlowDisk{}, &fault.FailDisk{}, &fault.Corrupt{}, &fault.TakePort{}, &fault.PowerOff{}, &fault.ClockStep{}, &fault.FillDisk{},
		&fault.Certificate{}, &fault.DNS{}, &fault.Snapshot{}}
}

func TestWords(t *testing.T) {
	for _, f := range faults() {
		name := reflect.TypeOf(f).Elem().Name()
		lab.Defaults(f)
		if d := f.Doc(); d == "" || strings.HasSuffix(d, ".") || strings.ToLower(d[:1]) != d[:1] {
			t.Errorf("%s: doc %q: expected a sentence in lower case without a full stop", name, d)
		}
		for _, a := range lab.Fields(f) {
			if a.Doc == "" {
				t.Errorf("%s: %s has no doc", name, a.Key)
			}
			if a.Need && a.Default != "" {
				t.Errorf("%s: %s is required and has a default", name, a.Key)
			}
		}
		sh, ok := f.(lab.Shelled)
		if !ok {
			t.Errorf("%s shows no commands", name)
			continue
		}
		do, undo := sh.Shell()
		if len(do) == 0 || len(undo) == 0 && name != "Destroy" {
			t.Errorf("%s: commands %q, undo %q", name, do, undo)
		}
	}
}

func TestValid(t *testing.T) {
	m := on("m1")
	for _, c := range []struct {
		name string
		f    interface{ Valid() error }
		want string // in the error; "" = none
	}{
		{"cut", &fault.Cut{Member: m, Shape: "isolate", Mode: "drop"}, ""},
		{"cut shape", &fault.Cut{Member: m, Shape: "half", Mode: "drop"}, "expected one of isolate"},
		{"cut mode", &fault.Cut{Member: m, Shape: "isolate", Mode: "deny"}, "expected one of drop, reject"},
		{"cut one-way", &fault.Cut{Shape: "one-way", Mode: "drop", From: m}, "both `from` and `to`"},
		{"cut from", &fault.Cut{Shape: "ring", Mode: "drop", From: m}, "one-way only"},
		{"cut clients", &fault.Cut{Shape: "bridge", Mode: "drop", Clients: true}, "isolate and halves only"},
		{"slow", &fault.Slow{Member: m, Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}, ""},
		{"slow nothing", &fault.Slow{Member: m}, "a `delay` or a `loss`"},
		{"slow too little", &fault.Slow{Member: m, Delay: time.Millisecond}, "at least 5ms"},
		{"slow jitter", &fault.Slow{Member: m, Delay: 20 * time.Millisecond, Jitter: 20 * time.Millisecond}, "jitter"},
		{"slow all lost", &fault.Slow{Member: m, Loss: 1}, "a cut"},
		{"slow half a direction", &fault.Slow{Delay: time.Second, From: m}, "together"},
		{"slow direction and clients", &fault.Slow{Delay: time.Second, From: m, To: m, Clients: true}, "goes with `member`"},
		{"throttle", &fault.Throttle{Member: m, Rate: 1 << 20}, ""},
		{"throttle too fast", &fault.Throttle{Member: m, Rate: 1 << 30}, "4KiB to 4MiB"},
		{"overload", &fault.Overload{Clients: 1, Kind: "puts"}, ""},
		{"overload nobody", &fault.Overload{Kind: "puts"}, "1 to 5000"},
		{"overload size", &fault.Overload{Clients: 1, Kind: "puts", Size: 2 << 20}, "at most 1MiB"},
		{"overload kind", &fault.Overload{Clients: 1, Kind: "gets"}, "expected one of puts"},
		{"slow-disk", &fault.SlowDisk{Member: m, File: "wal", Call: "sync", Delay: time.Second}, ""},
		{"slow-disk file", &fault.SlowDisk{Member: m, File: "snap", Call: "sync", Delay: time.Second}, "expected one of wal, db"},
		{"slow-disk call", &fault.SlowDisk{Member: m, File: "wal", Call: "read", Delay: time.Second}, "expected one of write, sync"},
		{"slow-disk delay", &fault.SlowDisk{Member: m, File: "wal", Call: "sync"}, "at least 5ms"},
		{"fail-disk", &fault.FailDisk{Member: m, File: "db", Call: "write", Error: "ENOSPC"}, ""},
		{"fail-disk error", &fault.FailDisk{Member: m, File: "db", Call: "write", Error: "EPERM"}, "expected one of EIO, ENOSPC"},
		{"corrupt", &fault.Corrupt{Member: m, What: "db-value", Key: "a"}, ""},
		{"corrupt what", &fault.Corrupt{Member: m, What: "snap"}, "db-empty, db-gone"},
		{"corrupt key", &fault.Corrupt{Member: m, What: "wal-gone", Key: "a"}, "db-value only"},
		{"clock-step", &fault.ClockStep{Member: m, By: time.Minute, Back: true}, ""},
		{"clock-step too small", &fault.ClockStep{Member: m, By: 5 * time.Second}, "at least 10s"},
		{"clock-step too far", &fault.ClockStep{Member: m, By: 9000 * time.Hour}, "at most 2400h"},
		{"take-port", &fault.TakePort{Member: m, Port: "health"}, "expected one of client, peer"},
		{"certificate", &fault.Certificate{Member: m, Pair: "peer", How: "wrong-names"}, ""},
		{"certificate pair", &fault.Certificate{Member: m, Pair: "ca", How: "expired"}, "expected one of server, peer, client"},
		{"certificate how", &fault.Certificate{Member: m, Pair: "peer", How: "old"}, "expected one of expired"},
		{"dns", &fault.DNS{Record: "server-srv", Change: "both-families"}, ""},
		{"dns server", &fault.DNS{Server: "down"}, ""},
		{"dns server and more", &fault.DNS{Server: "down", Member: m}, "expected alone"},
		{"dns server how", &fault.DNS{Server: "slow"}, "expected one of down"},
		{"dns nothing", &fault.DNS{Record: "address"}, "`record` and `change`"},
		{"dns record", &fault.DNS{Record: "mx", Change: "missing"}, "expected one of server-srv, client-srv, address"},
		{"dns change", &fault.DNS{Record: "client-srv", Change: "gone"}, "expected one of missing"},
		{"dns change of an address", &fault.DNS{Record: "address", Change: "both-families"}, "expected one of missing, wrong, stale"},
		{"snapshot", &fault.Snapshot{Snapshot: "latest", What: "flip", Key: "a"}, ""},
		{"snapshot what", &fault.Snapshot{Snapshot: "latest", What: "bend"}, "flip, truncate, empty"},
		{"snapshot key", &fault.Snapshot{Snapshot: "latest", What: "gzip", Key: "a"}, "flip only"},
		{"snapshot store and member", &fault.Snapshot{Member: m, Snapshot: "a.db", Store: "/s", What: "gzip"}, "expected one of them"},
		{"snapshot elsewhere", &fault.Snapshot{Member: m, Snapshot: "../a.db", What: "gzip"}, "relative path"},
		{"certificate names of a client", &fault.Certificate{Member: m, Pair: "client", How: "wrong-names"}, "for no address"},
	} {
		err := c.f.Valid()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v: expected %q", c.name, err, c.want)
		}
	}
}

// What cannot be broken is refused, and left alone.
func TestRefused(t *testing.T) {
	s := spec(3, 1)
	s.Quota = 0
	b := newBed(t, s)
	e := b.env("refused")
	m2 := lab.Target{Role: "m2", Names: []string{"m2"}}
	spare := lab.Target{Role: "m4", Names: []string{"m4"}}
	for _, c := range []struct {
		name string
		f    lab.Fault
		want string
	}{
		{"nobody", &fault.Crash{Member: on("leader")}, "not resolved"},
		{"a host without a member", &fault.Crash{Member: spare}, "does not run already"},
		{"whom nobody revives", &fault.Crash{Member: m2, Revived: true}, "revive: true"},
		{"data of a host without a member", &fault.Destroy{Member: spare}, "no data"},
		{"fill without a small quota", &fault.Fill{Member: m2}, "quota: 16MiB"},
		{"a ring of three", &fault.Cut{Shape: "ring", Mode: "drop", Member: m2}, "at least 4"},
		{"halves of one side", &fault.Cut{Shape: "halves", Mode: "drop", Member: lab.Target{Role: "all", Names: []string{"m1", "m2", "m3"}}}, "cannot be divided"},
		{"a value of an empty store", &fault.Corrupt{Member: m2, What: "db-value"}, "write one first"},
		{"a certificate of a host without a member", &fault.Certificate{Member: spare, Pair: "server", How: "expired"}, "does not run already"},
		{"the value of a key that is not there", &fault.Corrupt{Member: m2, What: "db-value", Key: "no"}, "no value for \"no\""},
	} {
		err := c.f.Inject(t.Context(), e)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v: expected %q", c.name, err, c.want)
		}
	}
	by := *e
	by.Held = nil
	if err := (&fault.Overload{Clients: 1, Kind: "puts"}).Inject(t.Context(), &by); err == nil {
		t.Error("overload on a lab that stays is not refused")
	}
	none := *e
	none.Cluster = &lab.Cluster{Seats: b.Seats, Hosts: b.Hosts}
	for _, f := range []lab.Fault{&fault.Cut{Shape: "isolate", Mode: "drop", Member: m2}, &fault.SlowDisk{File: "wal", Call: "sync", Member: m2, Delay: time.Second}} {
		if err := f.Inject(t.Context(), &none); err == nil || !strings.Contains(err.Error(), "this lab cannot") {
			t.Errorf("%T without the ability: %v", f, err)
		}
	}
	// A fault on who is down already would be proved by the other's effect.
	b.member("m2").Proc.Signal(t.Context(), "KILL")
	for _, f := range []lab.Fault{&fault.Crash{Member: m2}, &fault.Stop{Member: m2}, &fault.Pause{Member: m2}, &fault.FailDisk{Member: m2, File: "wal", Call: "write", Error: "EIO"},
		&fault.Certificate{Member: m2, Pair: "peer", How: "expired"}} {
		if err := f.Inject(t.Context(), e); err == nil || !strings.Contains(err.Error(), "does not run already") {
			t.Errorf("%T on a member that is down: %v", f, err)
		}
	}
	if rules, err := b.Links.Rules(context.Background()); err != nil || len(rules) > 0 {
		t.Errorf("what was refused left rules: %v, %v", rules, err)
	}
}

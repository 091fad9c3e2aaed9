package docker

import (
	"context"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/fixtures/node"
	"github.com/etcdrill/etcdrill/lab"
)

func TestAddresses(t *testing.T) {
	s := subnet{prefix: netip.MustParsePrefix("172.18.0.0/16"), gateway: netip.MustParseAddr("172.18.0.1")}
	for i, want := range []string{"172.18.0.2", "172.18.0.3"} {
		if a, err := s.host(i); err != nil || a.String() != want {
			t.Errorf("host %d: %s, %v, want %s", i, a, err, want)
		}
	}
	s = subnet{prefix: netip.MustParsePrefix("10.0.0.0/29"), gateway: netip.MustParseAddr("10.0.0.1")}
	if a, err := s.host(4); err != nil || a.String() != "10.0.0.6" {
		t.Errorf("the last one: %s, %v", a, err)
	}
	if a, err := s.host(5); err == nil {
		t.Errorf("a broadcast address was given out: %s", a)
	}
}

// Labels say what the record in a lab's directory says, for those who have no
// such directory.
func TestLabels(t *testing.T) {
	me, err := self()
	must(t, err)
	r := record{ID: "x", Created: time.Now().UTC(), Owner: me, Drill: "leader-kill"}
	labels, err := r.labels()
	must(t, err)
	if got := recordOf(labels); !reflect.DeepEqual(got, r) {
		t.Errorf("read %+v, wrote %+v", got, r)
	}
	dir := t.TempDir()
	must(t, r.write(dir))
	if got, err := readRecord(dir); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("read %+v, wrote %+v (%v)", got, r, err)
	}
	if !me.lives() {
		t.Error("this process does not live")
	}
	past := owner{Life: process.Life{PID: os.Getpid(), Started: "before"}, Machine: me.Machine}
	if past.lives() {
		t.Error("a process of the same number is taken for the owner")
	}
	if far := (owner{Life: past.Life, Machine: "elsewhere"}); !far.lives() {
		t.Error("an owner that cannot be looked at is said to be gone")
	}
	if recordOf(map[string]string{labelLab: "x"}).Owner.lives() {
		t.Error("what has no owner is owned")
	}
}

// A host whose first process ends is not waited for, and what that said is
// told.
func TestHostThatDoesNotBoot(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // the image may have to be made
	defer cancel()
	if !slices.Contains(strings.Split(os.Getenv("ETCDRILL_MUST"), ","), Name) {
		t.Skip("make test-docker runs it")
	}
	d := New(Options{Root: t.TempDir(), Binary: os.Getenv("ETCDRILL_BINARY")})
	if why := d.Caps(ctx)[lab.CapUnits]; why != "" {
		t.Fatal(why)
	}
	must(t, d.Prepare(ctx))
	name := repository + ":" + node.Hash()
	made, err := d.engine.ContainerCreate(ctx, client.ContainerCreateOptions{Image: name, Config: &container.Config{
		Entrypoint: []string{"sh", "-c", "echo no control groups here >&2; exit 3"},
		Labels:     map[string]string{labelLab: "no-boot"},
	}})
	must(t, err)
	defer func() { must(t, d.remove(ctx, "no-boot")) }()
	_, err = d.engine.ContainerStart(ctx, made.ID, client.ContainerStartOptions{})
	must(t, err)
	h := newHost("m1", "192.0.2.1", "/x", func(ctx context.Context) (net.Conn, error) { return enter(ctx, d.engine, made.ID, "/x") })
	h.engine, h.container = d.engine, made.ID
	err = h.booted(ctx)
	for _, want := range []string{"m1", "code 3", "no control groups here"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want it to say %q", err, want)
		}
	}
}

package ssh_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/drivertest"
	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
)

// inventory is the environment variable with the inventory of four machines on
// which this may do what it likes.
const inventory = "ETCDRILL_TEST_INVENTORY"

// The hosts run the binary that users run: that of the tests is not static.
func newDriver() lab.Driver {
	return ssh.New(ssh.Options{Root: os.Getenv("ETCDRILL_SSH_TEST"), Binary: os.Getenv("ETCDRILL_BINARY"), Inventory: os.Getenv(inventory), Drill: "test"})
}

// TestMain gives all tests, and the processes they start, a root of their own.
func TestMain(m *testing.M) {
	if os.Getenv("ETCDRILL_SSH_TEST") != "" { // one of those processes
		os.Exit(drivertest.Main(m, newDriver))
	}
	home, err := os.MkdirTemp("", "etcdrill-ssh-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv("ETCDRILL_SSH_TEST", home)
	code := drivertest.Main(m, newDriver)
	os.RemoveAll(home)
	os.Exit(code)
}

// needsMachines skips a test where there is nothing to try it on.
func needsMachines(t *testing.T) {
	t.Helper()
	for _, name := range []string{inventory, "ETCDRILL_BINARY"} {
		if os.Getenv(name) != "" {
			continue
		}
		if slices.Contains(strings.Split(os.Getenv(drivertest.Must), ","), ssh.Name) {
			t.Fatalf("%s=%s, and yet: %s is not set", drivertest.Must, os.Getenv(drivertest.Must), name)
		}
		t.Skipf("no machines to try it on: set %s", name)
	}
}

func TestDriver(t *testing.T) {
	needsMachines(t)
	drivertest.Run(t, newDriver)
}

// TestPowerOfMachines switches a host of a lab off and on, twice each.
func TestPowerOfMachines(t *testing.T) {
	needsMachines(t)
	d := newDriver()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if why := d.Caps(ctx)[lab.CapPower]; why != "" {
		t.Skip(why)
	}
	c, err := d.Up(ctx, "power-test", lab.Spec{Members: 1, TLS: "mutual", Peers: "lab", Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond})
	must(err)
	defer func() { must(d.Down(ctx, c.ID)) }()
	h := c.Hosts[0]
	boot := func() string {
		t.Helper()
		out, err := h.Run(ctx, lab.Cmd{Argv: []string{"stat", "-c", "%Y", "/proc/1"}, Dir: "/"})
		must(err)
		return string(out.Stdout)
	}
	must(h.Put(ctx, "kept", 0o600, []byte("on disk")))
	first := boot()
	running := make(chan error)
	go func() {
		_, err := h.Run(ctx, lab.Cmd{Argv: []string{"sleep", "600"}})
		running <- err
	}()
	time.Sleep(200 * time.Millisecond) // so that it has started; nothing depends on it
	must(c.Power.Off(ctx, "m1"))
	if err := <-running; err == nil || ctx.Err() != nil {
		t.Errorf("a command on a host without power: %v", err)
	}
	must(c.Power.Off(ctx, "m1"))
	short, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if _, err := h.Run(short, lab.Cmd{Argv: []string{"true"}}); err == nil {
		t.Error("a host without power runs commands")
	}
	must(c.Power.On(ctx, "m1"))
	must(c.Power.On(ctx, "m1"))
	if boot() == first {
		t.Error("it was never off")
	}
	if data, err := h.Get(ctx, "kept"); err != nil || string(data) != "on disk" {
		t.Errorf("%q, %v", data, err)
	}
	if err := c.Power.Off(ctx, "m9"); err == nil {
		t.Error("no such host was switched off")
	}
}

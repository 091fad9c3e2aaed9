package local_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/etcdrill/etcdrill/drivers/drivertest"
	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/lab"
)

func newDriver() lab.Driver { return local.New(local.Options{}) }

// TestMain gives all tests, and the processes they start, a root of their own.
func TestMain(m *testing.M) {
	if os.Getenv("ETCDRILL_LOCAL_TEST") != "" { // one of those processes
		os.Exit(drivertest.Main(m, newDriver))
	}
	home, err := os.MkdirTemp("", "etcdrill-local-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("ETCDRILL_HOME", home)
	os.Setenv("ETCDRILL_LOCAL_TEST", "1")
	code := drivertest.Main(m, newDriver)
	os.RemoveAll(home)
	os.Exit(code)
}

func TestDriver(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	drivertest.Run(t, newDriver)
}

// Package drivers is the table of all drivers. A driver is named here and
// nowhere else; each passes the suite in drivers/drivertest.
package drivers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/drivers/docker"
	"github.com/etcdrill/etcdrill/drivers/local"
	"github.com/etcdrill/etcdrill/drivers/ssh"
	"github.com/etcdrill/etcdrill/lab"
)

// Options are what the command line may say about drivers. Each driver takes
// what concerns it.
type Options struct {
	Root   string // directory under which local labs live, see local.Options
	Binary string // executable that is etcd too, see local.Options
	Drill  string // what labs are made for
	// Inventory is the file with the machines of the ssh driver, and AcceptNew
	// lets it meet hosts it does not know yet.
	Inventory string
	AcceptNew bool
	// Say is told about what takes long, such as a first build of an image, and
	// what makes a lab worth less; may be nil.
	Say func(what string)
}

// table of all drivers by their word for --driver.
var table = map[string]func(Options) lab.Driver{
	docker.Name: func(o Options) lab.Driver {
		return docker.New(docker.Options{Root: o.Root, Binary: o.Binary, Drill: o.Drill, Say: o.Say})
	},
	local.Name: func(o Options) lab.Driver {
		return local.New(local.Options{Root: o.Root, Binary: o.Binary, Drill: o.Drill})
	},
	ssh.Name: func(o Options) lab.Driver {
		return ssh.New(ssh.Options{Root: o.Root, Binary: o.Binary, Drill: o.Drill, Inventory: o.Inventory, AcceptNew: o.AcceptNew, Say: o.Say})
	},
}

// Names lists the drivers.
func Names() []string { return slices.Sorted(maps.Keys(table)) }

// New makes the driver of that name. It touches nothing.
func New(name string, o Options) (lab.Driver, error) {
	build, ok := table[name]
	if !ok {
		return nil, fmt.Errorf("driver %q: expected one of %s", name, strings.Join(Names(), ", "))
	}
	return build(o), nil
}

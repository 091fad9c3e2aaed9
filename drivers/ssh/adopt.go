package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// planAdoption chooses the machines that a cluster is said to run on: those
// that it names, or all.
func (d *Driver) planAdoption(ctx context.Context, id string, inv *Inventory, a *lab.Adopt) (record, error) {
	machines := inv.Machines
	if len(a.Hosts) > 0 {
		machines = nil
		seen := map[string]bool{}
		for _, name := range a.Hosts {
			m, err := inv.Machine(name)
			if err != nil {
				return record{}, err
			}
			if seen[name] {
				return record{}, fmt.Errorf("adopt: hosts: %s is given twice", name)
			}
			seen[name] = true
			machines = append(machines, m)
		}
	}
	if len(machines) > 9 {
		return record{}, fmt.Errorf("%s has %d hosts: name those of the cluster's members by `hosts`, 9 at most", inv.File, len(machines))
	}
	r, err := d.begin(id)
	if err != nil {
		return record{}, err
	}
	r.Looks = a.ReadOnly()
	for i, m := range machines {
		addr, err := m.addr(ctx, false) // what members call each other they say themselves
		if err != nil {
			return record{}, fmt.Errorf("%s: %w", inv.File, err)
		}
		r.Seats[fmt.Sprintf("m%d", i+1)] = seat{m, addr}
	}
	return r, nil
}

// removeKeys takes away what a lab has written into a cluster that it adopted.
// nil for any other lab, and for one that never came to writing.
func (d *Driver) removeKeys(ctx context.Context, id string) error {
	c, err := d.Open(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || c.Spec.Adopt == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return etcd.RemoveOwn(ctx, c)
}

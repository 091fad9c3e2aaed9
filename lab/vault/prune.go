package vault

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// Prune deletes old states of a store. What it keeps is the union of what its
// fields say, those that were saved by themselves, and in any case the newest
// one that is sound. Where none is sound nothing is deleted.
type Prune struct {
	Store string `doc:"directory on this machine where states are kept; absent: the lab's own"`
	snapshot.Retention
	Automatic bool `doc:"states that were saved by themselves before an operation may go too"`
}

// Do performs it, or with dry only says what it would do.
func (p *Prune) Do(c *lab.Cluster, dry bool) (stay, gone []Entry, err error) {
	store := OpenStore(c, p.Store)
	all, err := store.List()
	if err != nil {
		return nil, nil, err
	}
	saved := make([]time.Time, len(all))
	for i, e := range all {
		if e.State != nil { // what cannot be read is not ours to delete
			saved[i] = e.State.Time.UTC()
		}
	}
	keep := p.Stay(saved)
	for i, e := range all {
		keep[i] = keep[i] || e.State != nil && e.State.Before != "" && !p.Automatic
	}
	if slices.Contains(keep, false) {
		if err := last(store, all, keep); err != nil {
			return nil, nil, err
		}
	}
	for i, e := range all {
		if keep[i] {
			stay = append(stay, e)
		} else {
			gone = append(gone, e)
		}
	}
	if dry || len(gone) == 0 {
		return stay, gone, nil
	}
	return stay, gone, store.Remove(gone...)
}

// last keeps the newest state that is sound.
func last(store Store, all []Entry, keep []bool) error {
	var why error
	for i, e := range slices.Backward(all) {
		if err := store.Sound(e); err != nil {
			why = errors.Join(err, why)
			continue
		}
		keep[i] = true
		return nil
	}
	return fmt.Errorf("nothing is deleted, since no state is sound: %w", why)
}

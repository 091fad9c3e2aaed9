package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Prune deletes old snapshots of a store. What it keeps is the union of what
// its fields say, and in any case the newest one that is sound: it is verified
// before anything goes. Where none is sound nothing is deleted.
type Prune struct {
	Store string `doc:"where snapshots are kept: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL; absent: the lab's own"`
	Retention

	Identity string `doc:"file with age secret keys on this machine, to verify snapshots that are encrypted"`
}

// Valid refuses impossible arguments.
func (p *Prune) Valid() error {
	if err := ValidStore(p.Store); err != nil {
		return err
	}
	return p.Retention.Valid()
}

// Retention says which of many that were saved over time stay.
type Retention struct {
	Keep   int `doc:"keep the last so many"`
	Hourly int `doc:"of each of the last so many hours that have one, keep the last"`
	Daily  int `doc:"the same for days"`
	Weekly int `doc:"the same for weeks"`
}

// Valid refuses impossible arguments.
func (p *Retention) Valid() error {
	if p.Keep < 0 || p.Hourly < 0 || p.Daily < 0 || p.Weekly < 0 {
		return fmt.Errorf("keep, hourly, daily, weekly: expected 0 or more")
	}
	if p.Keep+p.Hourly+p.Daily+p.Weekly == 0 {
		return fmt.Errorf("keep, hourly, daily, weekly: expected at least one of them: what is to be kept?")
	}
	return nil
}

// bucket is a kind of time of which each keeps its last snapshot.
type bucket struct {
	keep int
	name func(t time.Time) string
}

func (p *Retention) buckets() []bucket {
	return []bucket{
		{p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d week %d", year, week)
		}},
	}
}

// Stay tells which stay, by when each was saved, the oldest first. One without a
// time is not ours to delete, and stays.
func (p *Retention) Stay(saved []time.Time) []bool {
	keep := make([]bool, len(saved))
	for i, t := range saved {
		keep[i] = i >= len(saved)-p.Keep || t.IsZero()
	}
	for _, b := range p.buckets() {
		seen := map[string]bool{}
		for i, t := range slices.Backward(saved) {
			if name := b.name(t); !t.IsZero() && !seen[name] && len(seen) < b.keep {
				seen[name], keep[i] = true, true
			}
		}
	}
	return keep
}

// Choose sorts snapshots into those that stay and those that go, without
// touching any. sound verifies one of them.
func (p *Prune) Choose(all []Entry, sound func(Entry) error) (stay, gone []Entry, err error) {
	saved := make([]time.Time, len(all))
	for i, e := range all {
		saved[i], _ = e.time() // what we did not name has none
	}
	keep := p.Stay(saved)
	if !slices.Contains(keep, false) {
		return all, nil, nil
	}
	var why error
	found := false
	for i, e := range slices.Backward(all) {
		if err := sound(e); err != nil {
			why = errors.Join(err, why)
			continue
		}
		keep[i], found = true, true
		break
	}
	if !found {
		return nil, nil, fmt.Errorf("nothing is deleted, since no snapshot is sound: %w", why)
	}
	for i, e := range all {
		if keep[i] {
			stay = append(stay, e)
		} else {
			gone = append(gone, e)
		}
	}
	return stay, gone, nil
}

// time is when a snapshot was saved: as its sidecar says, else as its name does.
func (e Entry) time() (time.Time, bool) {
	if e.Sidecar != nil {
		return e.Sidecar.Time.UTC(), true
	}
	if len(e.Name) < len("20060102-150405.000") {
		return time.Time{}, false
	}
	t, err := time.Parse("20060102-150405.000", e.Name[:len("20060102-150405.000")])
	return t, err == nil
}

// Do performs it, or with dry only says what it would do.
func (p *Prune) Do(ctx context.Context, e *lab.Env, dry bool) (stay, gone []Entry, err error) {
	store, err := OpenStore(e, p.Store)
	if err != nil {
		return nil, nil, err
	}
	all, err := store.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	stay, out, err := p.Choose(all, func(e Entry) error { return e.Sound(ctx, p.Identity) })
	if err != nil || dry {
		return stay, out, err
	}
	for _, e := range out {
		if err := store.Remove(ctx, e); err != nil {
			return stay, gone, err
		}
		gone = append(gone, e)
	}
	return stay, gone, nil
}

// Sound verifies a snapshot of a store against itself and its sidecar. Whether
// it is of this lab, and can be read by its etcd, Verify says. identity is as in Open.
func (e Entry) Sound(ctx context.Context, identity string) error {
	return e.with(ctx, identity, func(string) error { return nil })
}

// with calls do with the unpacked file of a sound snapshot.
func (e Entry) with(ctx context.Context, identity string, do func(file string) error) (err error) {
	if e.Problem != nil {
		return e.Problem
	}
	file, done, err := e.Open(ctx, identity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	now := &Sidecar{}
	if err := now.read(e.Name, file); err != nil {
		return err
	}
	if err := e.Sidecar.Same(e.Name, now); err != nil {
		return err
	}
	return do(file)
}

// Export copies a sound snapshot out of a store, unpacked, with its sidecar
// beside it. It overwrites nothing.
func (e Entry) Export(ctx context.Context, to, identity string) error {
	if filepath.Ext(to) != fileExt {
		return fmt.Errorf("export to %s: expected a name that ends with %s: the sidecar goes beside it, as %s", to, fileExt, sidecarExt)
	}
	beside := to[:len(to)-len(fileExt)] + sidecarExt
	return e.with(ctx, identity, func(file string) error {
		side, err := e.store.get(ctx, filepath.Base(e.Beside))
		if err != nil {
			return err
		}
		defer side.Close()
		in, err := os.Open(file)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := copyNew(side, beside); err != nil {
			return err
		}
		if err := copyNew(in, to); err != nil {
			return errors.Join(err, os.Remove(beside))
		}
		return nil
	})
}

// copyNew copies a file to where there is none.
func copyNew(in io.Reader, to string) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

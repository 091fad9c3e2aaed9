package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// healthWindow is how long all members have to be connected before etcd lets one
// be added or removed (FE21).
const healthWindow = 5.0

// stretch measures the switch of a cluster to three other hosts, under load,
// against what etcd itself takes: three of its windows of health, after the first
// and the second member that comes and after the hand-over, and the time in which
// each of the three gets the data.
func (b *bench) stretch(ctx context.Context) error {
	d, err := b.parse("cluster: {members: 3, spares: 3, quota: 1GiB}", "load: {clients: 4, rate: 100/s}", "steps:",
		"- do: seed", "  count: 100000", "  size: 1KiB",
		"- do: wait", "  for: 6s", // else etcd refuses the first one too
		"- do: switch", "  to: [m4, m5, m6]", "  within: 5m")
	if err != nil {
		return err
	}
	var took, floor, gap []float64
	lost := 0
	for i := range 3 {
		r, err := lab.Run(ctx, d, b.driver, b.kit, lab.Options{Out: filepath.Join(b.dir, "stretch"), ID: fmt.Sprintf("bench-stretch-%d", i), Seed: uint64(i)})
		if err != nil {
			return err
		}
		if r.Verdict != lab.Pass || r.RTO == nil || r.LostWrites == nil {
			return fmt.Errorf("the drill ended %s: %s", r.Verdict, r.Reason)
		}
		copies, err := copying(filepath.Join(b.dir, "stretch", "latest", "events.ndjson"))
		if err != nil {
			return err
		}
		for _, s := range r.Steps {
			if s.Verb == "switch" {
				took = append(took, s.Duration)
			}
		}
		floor = append(floor, 3*healthWindow+copies)
		gap = append(gap, 1000**r.RTO)
		lost += *r.LostWrites
	}
	row("stretch switch of 3 to 3 members, 110 MB, load (5 s windows, copies)", took, floor, "s")
	row(fmt.Sprintf("  longest gap between writes; %d lost", lost), gap, nil, "ms")
	return nil
}

// copying adds up how long members that came took from their start to their vote.
func copying(events string) (float64, error) {
	all, err := lab.ReadEvents(events)
	if err != nil {
		return 0, err
	}
	var sum, start float64
	for _, e := range all {
		if e.Kind != lab.EventNote || !strings.HasPrefix(e.Text, "switch, step ") {
			continue
		}
		_, step, _ := strings.Cut(e.Text, ": ")
		switch {
		case strings.HasPrefix(step, "start "):
			start = e.T
		case start != 0 && !strings.HasPrefix(step, "promote "):
			sum, start = sum+e.T-start, 0
		}
	}
	return sum, nil
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/etcdrill/etcdrill/lab"
)

// faults are those whose arming is measured. The proof of some waits for an
// answer that must not come, which no machine makes shorter.
var faults = []struct{ what, words string }{
	{"crash", "break: crash, member: follower"},
	{"cut that refuses", "break: cut, member: follower, mode: reject"},
	{"cut that drops (its proof waits 250 ms)", "break: cut, member: follower"},
	{"pause (its proof waits 250 ms)", "break: pause, member: follower"},
}

// fault measures how long a fault takes from the word to the proof that it
// bites, on a lab of three.
func (b *bench) fault(ctx context.Context, d lab.Driver) error {
	lines := []string{"cluster: {members: 3}", "steps:", fmt.Sprintf("- repeat: %d", b.n), "  steps:"}
	for i, f := range faults {
		lines = append(lines,
			fmt.Sprintf("  - {%s, as: f%d}", f.words, i),
			fmt.Sprintf("  - {heal: f%d}", i),
			"  - {check: members, healthy: 3, within: 15s}")
	}
	drill, err := b.parse(lines...)
	if err != nil {
		return err
	}
	took := map[string][]float64{}
	r, err := lab.Run(ctx, drill, d, b.kit, lab.Options{Out: filepath.Join(b.dir, "fault"), ID: fmt.Sprintf("bench-fault-%s-%d", d.Name(), os.Getpid()), Tell: func(e lab.Event) {
		if e.Kind == lab.EventBites {
			took[e.Fault] = append(took[e.Fault], e.Seconds*1000)
		}
	}})
	if err != nil {
		return err
	}
	if r.Verdict != lab.Pass {
		return fmt.Errorf("the drill ended %s: %s", r.Verdict, r.Reason)
	}
	for i, f := range faults {
		row("armed and proven: "+f.what, took[fmt.Sprintf("f%d", i)], nil, "ms")
	}
	return nil
}

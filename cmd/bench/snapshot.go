package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
	"github.com/etcdrill/etcdrill/lab/recovery"
	"github.com/etcdrill/etcdrill/lab/snapshot"
	"github.com/etcdrill/etcdrill/lab/vault"
)

// store is a lab with data in it, of which snapshots are taken.
type store struct {
	*lab.Env
	file string // of the last snapshot, on this machine

	mu       sync.Mutex
	commands []lab.Event // since the last call of ran
}

// filled brings up a lab of three with so many keys of so many bytes. down
// takes it down.
func (b *bench) filled(ctx context.Context, id string, keys int, size lab.Bytes) (s *store, down func(), err error) {
	spec := lab.Spec{Flags: map[string]string{"quota-backend-bytes": "8589934592"}}
	lab.Defaults(&spec)
	c, err := b.driver.Up(ctx, id, spec)
	if err != nil {
		return nil, nil, err
	}
	down = func() { b.driver.Down(context.WithoutCancel(ctx), id) }
	s = &store{}
	s.Env = &lab.Env{Cluster: c, Kit: b.kit, Rand: rand.New(rand.NewPCG(1, 2)), Owner: id, Journal: lab.NewJournal(nowhere{}, time.Now(), func(e lab.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.Kind == lab.EventCommand {
			s.commands = append(s.commands, e)
		}
	})}
	if err := (&action.Seed{Count: keys, Size: size, Prefix: "seed/"}).Do(ctx, s.Env); err != nil {
		down()
		return nil, nil, err
	}
	return s, down, nil
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// ran returns from when to when commands ran that have a word in them, since it
// was called last, in seconds.
func (s *store) ran(word string) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var from, to float64
	for _, e := range s.commands {
		if !strings.Contains(strings.Join(e.Argv, " "), word) {
			continue
		}
		if begin := e.T - e.Seconds; to == 0 || begin < from {
			from = begin
		}
		to = max(to, e.T)
	}
	s.commands = nil
	return to - from
}

// save takes a snapshot, and returns how long it took.
func (s *store) save(ctx context.Context, dir, member string) (float64, error) {
	start := time.Now()
	name, _, err := (&snapshot.Save{Member: member, Store: dir, NoTrial: true}).Do(ctx, s.Env)
	s.file = filepath.Join(dir, name+".db")
	return since(start), err
}

// gone kills all members and deletes what they have.
func (s *store) gone(ctx context.Context) error {
	return etcd.Each(s.Seats, func(_ int, m *lab.Member) error {
		if err := m.Proc.Signal(ctx, "KILL"); err != nil {
			return err
		}
		_, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", "--", m.DataDir}})
		return err
	})
}

// snapshot measures saving and restoring of 138 MB.
func (b *bench) snapshot(ctx context.Context) error { return b.saveAndRestore(ctx, 100_000) }

// largeSnapshot does it with 1.5 GB.
func (b *bench) largeSnapshot(ctx context.Context) error { return b.saveAndRestore(ctx, 1_000_000) }

// saveAndRestore measures, in turn, a save with its verification against
// etcdctl's, that of a state against one of every member in a row, the restore on
// three members side by side against one by etcdutl, and the time from the loss
// of everything to the first write.
func (b *bench) saveAndRestore(ctx context.Context, keys int) error {
	s, down, err := b.filled(ctx, fmt.Sprintf("bench-snapshot-%d", keys), keys, 1024)
	if err != nil {
		return err
	}
	defer down()
	m := s.Seats[0]
	dir := filepath.Join(b.dir, "snapshots")
	var saved, bySave, states, bySaves, restored, byRestore, first []float64
	for i := range max(3, b.n/2) {
		took, err := s.save(ctx, dir, m.Name)
		if err != nil {
			return err
		}
		saved = append(saved, took)
		plain := path.Join(m.Host.Dir(), "bench.db")
		begun := time.Now()
		for i, m := range s.Seats {
			if _, err := etcd.Tool(ctx, s.Env, m, "etcdctl", "snapshot", "save", path.Join(m.Host.Dir(), "bench.db"), "--command-timeout=10m"); err != nil {
				return err
			}
			if i == 0 {
				bySave = append(bySave, since(begun))
			}
		}
		bySaves = append(bySaves, since(begun))
		begun = time.Now()
		if _, _, err := (&vault.Save{Store: filepath.Join(b.dir, "states"), NoTrial: true}).Do(ctx, s.Env); err != nil {
			return err
		}
		states = append(states, since(begun))
		if err := os.RemoveAll(filepath.Join(b.dir, "states")); err != nil {
			return err
		}
		if i > 2 {
			continue // a restore costs more than it tells
		}
		target := path.Join(m.Host.Dir(), "bench-restored")
		start := time.Now()
		if _, err := etcd.Tool(ctx, s.Env, m, "etcdutl", "snapshot", "restore", plain, "--data-dir="+target, "--bump-revision=1000000000", "--mark-compacted"); err != nil {
			return err
		}
		byRestore = append(byRestore, since(start))
		if _, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"rm", "-rf", "--", target, plain}}); err != nil {
			return err
		}
		if err := s.gone(ctx); err != nil {
			return err
		}
		s.ran("")
		took, err = s.back(ctx)
		if err != nil {
			return err
		}
		first = append(first, took)
		restored = append(restored, s.ran("snapshot restore"))
	}
	info, err := os.Stat(s.file)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d keys of 1 KiB, %d MB", keys, info.Size()/1e6)
	row("snapshot saved and verified, "+what+" (etcdctl's)", saved, bySave, "s")
	row("  state of three members saved (etcdctl's of each, in a row)", states, bySaves, "s")
	row("  restored on three members side by side (one, by etcdutl)", restored, byRestore, "s")
	row("  everything lost to first write", first, nil, "s")
	return nil
}

// back restores the last snapshot and returns the seconds to the first write,
// which is tried all the time.
func (s *store) back(ctx context.Context) (float64, error) {
	cli, err := etcd.Client(s.Cluster)
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	start := time.Now()
	wrote := make(chan error, 1)
	var took float64
	go func() {
		err := lab.Until(ctx, "a first write", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err := cli.Put(ctx, "first", "write")
			return err
		})
		took = since(start)
		wrote <- err
	}()
	// Written to before it was judged: that is what clients do.
	err = operation.Run(ctx, s.Env, "restore", &recovery.Restore{File: s.file, Foreign: true, Discard: true}, operation.Options{})
	if err != nil {
		return 0, err
	}
	return took, <-wrote
}

// totalLoss measures from the loss of everything to the first write at ten
// thousand small keys.
func (b *bench) totalLoss(ctx context.Context) error {
	s, down, err := b.filled(ctx, "bench-total-loss", 10_000, 64)
	if err != nil {
		return err
	}
	defer down()
	var first []float64
	for range max(3, b.n/2) {
		if _, err := s.save(ctx, filepath.Join(b.dir, "total-loss"), ""); err != nil {
			return err
		}
		if err := s.gone(ctx); err != nil {
			return err
		}
		took, err := s.back(ctx)
		if err != nil {
			return err
		}
		first = append(first, took)
	}
	row("everything lost to first write, 10,000 keys of 64 B", first, nil, "s")
	return nil
}

// diff measures the comparison of two snapshots of a million keys, as a whole
// command, and the memory it takes.
func (b *bench) diff(ctx context.Context) error {
	const id = "bench-diff"
	s, down, err := b.filled(ctx, id, 1_000_000, 64)
	if err != nil {
		return err
	}
	defer down()
	var files [2]string
	for i := range files {
		if _, err := s.save(ctx, filepath.Join(b.dir, "diff"), ""); err != nil {
			return err
		}
		files[i] = s.file
		if err := (&action.Seed{Count: 1000, Size: 64, Prefix: "seed/"}).Do(ctx, s.Env); err != nil {
			return err
		}
	}
	if err := b.driver.Keep(ctx, id); err != nil {
		return err
	}
	var took, memory []float64
	for range 3 {
		cmd := exec.CommandContext(ctx, b.binary, "snapshot", "diff", files[0], files[1], "--lab", id)
		cmd.Env = append(os.Environ(), "ETCDRILL_HOME="+filepath.Join(b.dir, "home"))
		start := time.Now()
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			return err
		}
		most := peak(cmd.Process.Pid)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %.300s", err, text.String())
		}
		if !strings.Contains(text.String(), "1000 changed") {
			return fmt.Errorf("the difference was not found: %.300s", text.String())
		}
		took = append(took, since(start))
		memory = append(memory, <-most)
	}
	row("etcdrill snapshot diff, two of 1,000,000 keys, whole command", took, nil, "s")
	row("  memory", memory, nil, "MiB")
	return nil
}

// peak tells the most memory that a process has had, in MiB, when it has ended.
// What the system tells of an ended process counts that of its parent, too.
func peak(pid int) <-chan float64 {
	most := make(chan float64, 1)
	go func() {
		var kib float64
		for {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, after, there := strings.Cut(string(text), "VmHWM:")
			if err != nil || !there {
				break // it has none left
			}
			fmt.Sscan(after, &kib)
			time.Sleep(5 * time.Millisecond)
		}
		most <- kib / 1024
	}()
	return most
}

package judge

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// The benchmarks judge in a process of its own, so that the memory they
// report is that of judging and of nothing else.
func TestMain(m *testing.M) {
	dir := os.Getenv("JUDGE_BENCH_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	start := time.Now()
	rep, err := Judge(context.Background(), dir)
	took := time.Since(start)
	if err != nil || rep.Verdict != lab.Pass {
		fmt.Println(err, rep)
		os.Exit(1)
	}
	fmt.Println(took.Nanoseconds(), cpu().Nanoseconds(), peak())
}

// cpu is the processor time this process has used, on all cores: what is left
// to compare on a machine that does other things too.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the largest resident set this process has had, in bytes; 0 where
// the system does not say.
func peak() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// Operations are those of clients and probers; the history has the events of
// three watchers and the final read besides.
func BenchmarkJudge100k(b *testing.B) {
	for _, s := range []sim{
		{seed: 1, ops: 100_000, clients: 4, keys: 64, watchers: 3, unknown: 0.01, probes: true},
		{seed: 2, ops: 100_000, clients: 50, keys: 64, watchers: 3, unknown: 0.01, probes: true},
		{seed: 3, ops: 100_000, clients: 100, keys: 1000, watchers: 3, unknown: 0.05, probes: true},
	} {
		b.Run(fmt.Sprintf("%dclients-%dkeys", s.clients, s.keys), func(b *testing.B) { benchJudge(b, s) })
	}
}

func BenchmarkJudge1M(b *testing.B) {
	benchJudge(b, sim{seed: 4, ops: 1_000_000, clients: 100, keys: 1000, watchers: 3, unknown: 0.01, probes: true})
}

func benchJudge(b *testing.B, s sim) {
	dir := b.TempDir()
	lines := save(b, dir, s)
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	took, used, most, n := int64(0), int64(0), int64(0), 0
	for b.Loop() {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "JUDGE_BENCH_DIR="+dir)
		out, err := cmd.Output()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		var ns, cpu, size int64
		if _, err := fmt.Fscan(bytes.NewReader(out), &ns, &cpu, &size); err != nil {
			b.Fatal(err)
		}
		took, used, most, n = took+ns, used+cpu, max(most, size), n+1
	}
	b.ReportMetric(float64(took)/float64(n), "ns/op")
	b.ReportMetric(float64(used)/float64(n), "cpu-ns/op")
	b.ReportMetric(float64(most)/(1<<20), "peak-MiB")
	b.ReportMetric(float64(lines), "lines")
}

// save writes a run's directory.
func save(b testing.TB, dir string, s sim) int {
	b.Helper()
	h, err := lab.NewHistory(filepath.Join(dir, "history.jsonl"), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	ops := s.history()
	for _, op := range ops {
		h.Add(op)
	}
	if err := h.Close(); err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "events.ndjson"))
	if err != nil {
		b.Fatal(err)
	}
	j := lab.NewJournal(f, time.Now(), nil)
	j.Add(lab.Event{Kind: lab.EventRun, Run: &lab.RunInfo{ID: "bench", Drill: &lab.Drill{Name: "bench", Load: &lab.LoadSpec{Clients: s.clients, Keys: s.keys, Watch: true, Probe: 10 * time.Millisecond, Backoff: 10 * time.Millisecond}}}})
	j.Add(lab.Event{Kind: lab.EventEnd, Verdict: lab.Pass})
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	return len(ops)
}

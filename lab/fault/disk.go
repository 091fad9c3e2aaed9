package fault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// disk is what etcd writes, as system calls on files: the WAL by write and
// fdatasync, the database by pwrite64 and fdatasync. The database is read
// through mmap, which nothing can inject into (FF10).
type disk struct{ file, call string }

// What the words of drills mean.
var (
	wordsFile = []string{"wal", "db"}
	wordsCall = []string{"write", "sync"}
)

// injection says it to the tracer.
func (d disk) injection() lab.Injection {
	in := lab.Injection{Calls: []string{"fdatasync"}, Files: "member/wal/*.wal"}
	if d.file == "db" {
		in.Files = "member/snap/db"
	}
	if d.call == "write" {
		in.Calls = []string{"write"}
		if d.file == "db" {
			in.Calls = []string{"pwrite64"}
		}
	}
	return in
}

// histogram is etcd's own measure of the calls, empty where it has none. The
// measure of a WAL's sync begins after the write; and
// etcd_disk_wal_write_duration_seconds, since 3.6, is about filling a buffer,
// not about the write of it: with every write(2) delayed it still says
// microseconds (tried with 3.7.3).
func (d disk) histogram() string {
	switch {
	case d.file == "db":
		return "etcd_disk_backend_commit_duration_seconds"
	case d.call == "sync":
		return "etcd_disk_wal_fsync_duration_seconds"
	}
	return ""
}

func (d disk) valid() error {
	return errors.Join(oneOf("file", d.file, wordsFile...), oneOf("call", d.call, wordsCall...))
}

func (d disk) String() string { return d.call + " of the " + d.file }

// tracer returns the lab's tracer, or why there is none.
func tracer(e *lab.Env) (lab.Tracer, error) {
	if e.Tracer == nil {
		return nil, errors.New("this lab cannot inject into system calls")
	}
	return e.Tracer, nil
}

// inject traces all members of a target.
func inject(ctx context.Context, e *lab.Env, t lab.Target, in lab.Injection) error {
	tr, err := tracer(e)
	if err != nil {
		return err
	}
	ms, err := seats(e, t)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := tr.Inject(ctx, e.Owner, m.Host.Name(), in); err != nil {
			return fmt.Errorf("trace of %s: %w", m.Name, err)
		}
		e.Note(m.Name, "injecting into %s on %s", strings.Join(in.Calls, ", "), in.Files)
	}
	return nil
}

// untrace ends the fault's injections.
func untrace(ctx context.Context, e *lab.Env) error {
	tr, err := tracer(e)
	if err != nil {
		return err
	}
	if err := tr.Clear(ctx, e.Owner); err != nil {
		return fmt.Errorf("injections of %s: %w", e.Owner, err)
	}
	return nil
}

// hits counts what the fault's injections have hit.
func hits(ctx context.Context, e *lab.Env) (int, error) {
	tr, err := tracer(e)
	if err != nil {
		return 0, err
	}
	n, err := tr.Hits(ctx, e.Owner)
	if err != nil {
		return 0, fmt.Errorf("hits of %s: %w", e.Owner, err)
	}
	return n, nil
}

// gauge is a histogram at one moment.
type gauge struct {
	sum   float64 // seconds
	count float64
}

// read reads the histogram of a member, false when there is none.
func (d disk) read(ctx context.Context, m *lab.Member) (gauge, bool, error) {
	if d.histogram() == "" {
		return gauge{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, body, err := etcd.Health(ctx, m, "/metrics")
	if err != nil {
		return gauge{}, false, err
	}
	var g gauge
	sum, okSum := metric(body, d.histogram()+"_sum")
	count, okCount := metric(body, d.histogram()+"_count")
	g.sum, g.count = sum, count
	return g, okSum && okCount, nil
}

// metric finds a value without labels in Prometheus text.
func metric(body, name string) (float64, bool) {
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v, err == nil && !math.IsNaN(v)
		}
	}
	return 0, false
}

// mean is what the calls of a member take on average while a touch passes;
// false when etcd does not measure them.
func (d disk) mean(ctx context.Context, e *lab.Env, m *lab.Member, limit time.Duration) (time.Duration, bool, error) {
	before, ok, err := d.read(ctx, m)
	if err != nil || !ok {
		return 0, false, err
	}
	if err := touch(ctx, e, limit); err != nil {
		return 0, false, fmt.Errorf("nothing is written that could be measured: %w", err)
	}
	// A follower writes a little later, and the database only ten times a second.
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var after gauge
	err = lab.Until(ctx, "a "+d.String(), func(ctx context.Context) error {
		if after, _, err = d.read(ctx, m); err != nil {
			return err
		}
		if after.count <= before.count {
			return errors.New("none was measured")
		}
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	return time.Duration((after.sum - before.sum) / (after.count - before.count) * float64(time.Second)), true, nil
}

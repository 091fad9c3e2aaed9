package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
)

// Compact forgets the history below a revision, asked for through one member.
// With physical it returns only when the space is free for use again. etcd
// refuses, with a *lab.ExitError, what is compacted already; see Compacted. The
// effect looked at is that the history is gone.
func Compact(ctx context.Context, e *lab.Env, m *lab.Member, revision int64, physical bool) error {
	args := []string{"compact", strconv.FormatInt(revision, 10)}
	if physical {
		args = append(args, "--physical")
	}
	if _, err := Tool(ctx, e, m, "etcdctl", args...); err != nil || revision < 2 {
		return err // below the first revision there is nothing to read
	}
	gone, err := Compacted(ctx, e, m, revision)
	switch {
	case err != nil:
		return fmt.Errorf("compacted at revision %d, and the effect could not be seen: %w", revision, err)
	case !gone:
		return &lab.Failure{What: fmt.Sprintf("read of revision %d after a compaction at %d", revision-1, revision), Want: "compacted", Got: "an answer"}
	}
	return nil
}

// Compacted tells whether the history below a revision is gone: a read of the
// one below is answered with "compacted".
func Compacted(ctx context.Context, e *lab.Env, m *lab.Member, revision int64) (bool, error) {
	cli, err := Local(e.Cluster, m)
	if err != nil {
		return false, err
	}
	defer cli.Close()
	_, err = cli.Get(ctx, "health", clientv3.WithRev(revision-1), clientv3.WithKeysOnly())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return true, nil
	}
	return false, err
}

// Defrag gives free space of one member's database back. The member stands
// still meanwhile. Free space that is still there afterwards is a *lab.Failure.
func Defrag(ctx context.Context, e *lab.Env, m *lab.Member) error {
	cli, err := Local(e.Cluster, m)
	if err != nil {
		return err
	}
	defer cli.Close()
	before, err := cli.Status(ctx, m.LocalURL)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	// It copies the whole database, which etcdctl's own five seconds do not
	// allow for; ours is the deadline of the step.
	if _, err := Tool(ctx, e, m, "etcdctl", "defrag", TimeLeft(ctx)); err != nil {
		return err
	}
	after, err := cli.Status(ctx, m.LocalURL)
	if err != nil {
		return fmt.Errorf("%s: defragmented, and the effect could not be seen: %w", m.Name, err)
	}
	e.Note(m.Name, "database: %d bytes, of which %d in use, became %d, of which %d in use",
		before.DbSize, before.DbSizeInUse, after.DbSize, after.DbSizeInUse)
	was, is := before.DbSize-before.DbSizeInUse, after.DbSize-after.DbSizeInUse
	if is > 1<<20 && is > was/2 {
		return &lab.Failure{What: "free space inside the database of " + m.Name + " after a defragmentation", Want: fmt.Sprintf("far below the %d bytes of before", was), Got: fmt.Sprintf("%d bytes", is)}
	}
	return nil
}

// Disarm takes all alarms away, through one member. Alarms that came back are
// a *lab.Failure: without space NOSPACE does.
func Disarm(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if _, err := Tool(ctx, e, m, "etcdctl", "alarm", "disarm"); err != nil {
		return err
	}
	still, err := Alarms(ctx, e, m)
	if err != nil {
		return fmt.Errorf("disarmed, and the alarms could not be listed: %w", err)
	}
	if len(still) > 0 {
		return &lab.Failure{What: "alarms after a disarm", Want: "none", Got: "they came back: " + strings.Join(still, ", ")}
	}
	return nil
}

// Alarms lists the alarms of the cluster, such as "NOSPACE of 8e9e05c52164694d",
// as agreed upon by a quorum.
func Alarms(ctx context.Context, e *lab.Env, m *lab.Member) ([]string, error) {
	cli, err := Local(e.Cluster, m)
	if err != nil {
		return nil, err
	}
	defer cli.Close()
	r, err := cli.AlarmList(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range r.Alarms {
		if a.Alarm != pb.AlarmType_NONE {
			out = append(out, fmt.Sprintf("%s of %s", a.Alarm, HexID(a.MemberID)))
		}
	}
	return out, nil
}

// TimeLeft is the flag that gives one of etcd's tools as long as ctx has.
func TimeLeft(ctx context.Context) string {
	left := 10 * time.Minute
	if end, ok := ctx.Deadline(); ok {
		left = time.Until(end)
	}
	return "--command-timeout=" + max(left, time.Second).Round(time.Second).String()
}

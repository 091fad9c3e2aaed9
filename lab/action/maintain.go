package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// Compact forgets the history below a revision.
type Compact struct {
	Revision int64 `doc:"up to where; the current revision when absent"`
	Physical bool  `doc:"return only when the space is free for use again"`
}

// Valid implements the check of arguments.
func (a *Compact) Valid() error {
	if a.Revision < 0 {
		return fmt.Errorf("revision: %d: expected 1 or more, or nothing for the current one", a.Revision)
	}
	return nil
}

// Doc implements lab.Action.
func (*Compact) Doc() string { return "forgets the history below a revision" }

// Do implements lab.Action. The effect asserted is that a read of the revision
// below is answered with "compacted".
func (a *Compact) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	return local(e, m, func(cli *clientv3.Client) error {
		rev := a.Revision
		if rev == 0 {
			// As the member knows it: whether there is a quorum is for the
			// compaction itself to find out.
			r, err := cli.Get(ctx, "health", clientv3.WithKeysOnly(), clientv3.WithSerializable())
			if err != nil {
				return fmt.Errorf("current revision: %w", err)
			}
			rev = r.Header.Revision
		}
		args := []string{"compact", strconv.FormatInt(rev, 10)}
		if a.Physical {
			args = append(args, "--physical")
		}
		_, cause := etcd.Tool(ctx, e, m, "etcdctl", args...)
		if cause != nil && a.Revision != 0 || rev < 2 {
			return cause // below the first revision there is nothing to read
		}
		_, err := cli.Get(ctx, "health", clientv3.WithRev(rev-1), clientv3.WithKeysOnly())
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			return nil // also when somebody else had compacted it already
		case cause != nil:
			return cause
		case err != nil:
			return fmt.Errorf("compacted at revision %d, and the effect could not be seen: %w", rev, err)
		}
		return &lab.Failure{What: fmt.Sprintf("read of revision %d after a compaction at %d", rev-1, rev), Want: "compacted", Got: "an answer"}
	})
}

// Defrag gives space inside the database back to the filesystem.
type Defrag struct {
	Member lab.Target `default:"all" doc:"the members, one after the other, the leader last: each stands still meanwhile"`
}

// Doc implements lab.Action.
func (*Defrag) Doc() string {
	return "gives free space of the databases back, one member after the other, the leader last"
}

// Do implements lab.Action.
func (a *Defrag) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	for _, s := range e.Look(ctx) {
		if s.Up && s.Role == "leader" {
			slices.SortStableFunc(seats, func(a, b *lab.Member) int { return b2i(a.Name == s.Name) - b2i(b.Name == s.Name) })
		}
	}
	for _, m := range seats {
		err := local(e, m, func(cli *clientv3.Client) error {
			before, err := cli.Status(ctx, m.LocalURL)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			// It copies the whole database, which etcdctl's own five seconds do
			// not allow for; ours is the deadline of the step.
			if _, err := etcd.Tool(ctx, e, m, "etcdctl", "defrag", "--command-timeout="+timeLeft(ctx)); err != nil {
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
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// timeLeft is how long a tool may take: as long as ctx, in its flags' form.
func timeLeft(ctx context.Context) string {
	left := 10 * time.Minute
	if end, ok := ctx.Deadline(); ok {
		left = time.Until(end)
	}
	return max(left, time.Second).Round(time.Second).String()
}

// Disarm takes alarms away.
type Disarm struct{}

// Doc implements lab.Action.
func (*Disarm) Doc() string {
	return "disarms all alarms and looks that they are away; without space they come back"
}

// Do implements lab.Action.
func (*Disarm) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, lab.Target{})
	if err != nil {
		return err
	}
	m := via[0]
	if _, err := etcd.Tool(ctx, e, m, "etcdctl", "alarm", "disarm"); err != nil {
		return err
	}
	return local(e, m, func(cli *clientv3.Client) error {
		r, err := cli.AlarmList(ctx)
		if err != nil {
			return fmt.Errorf("disarmed, and the alarms could not be listed: %w", err)
		}
		var still []string
		for _, a := range r.Alarms {
			if a.Alarm != pb.AlarmType_NONE {
				still = append(still, fmt.Sprintf("%s of %s", a.Alarm, etcd.HexID(a.MemberID)))
			}
		}
		if len(still) > 0 {
			return &lab.Failure{What: "alarms after a disarm", Want: "none", Got: "they came back: " + strings.Join(still, ", ")}
		}
		return nil
	})
}

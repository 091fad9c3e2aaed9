package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Fill writes until the database is larger than its quota and etcd raises the
// NOSPACE alarm: from then on the whole cluster refuses what would make it
// larger, and goes on to read and to delete. The disk is not full, and
// /readyz still says 200; a full disk is [FailDisk] with ENOSPC (FE36).
//
// It needs a small quota in the drill's cluster, such as `quota: 16MiB`.
//
// Healing frees the space in the order that works: compact the history,
// defragment the members one by one with the leader last, then disarm. To
// disarm without freeing brings the alarm back with the next write.
type Fill struct {
	Member lab.Target `default:"leader" doc:"through whom it writes; the alarm is the whole cluster's"`
}

const (
	// mostQuota is the largest quota it fills. More takes minutes, and is
	// somebody's memory.
	mostQuota = 256 << 20
	// piece is how much one write of it adds.
	piece = 512 << 10
)

// Doc says what the fault does.
func (*Fill) Doc() string {
	return "write until the quota is used up and the NOSPACE alarm is raised; healing compacts, defragments, disarms"
}

// Needs lists the abilities it must have: none, any etcd can be filled.
func (*Fill) Needs() []lab.Cap { return nil }

// Shell shows the commands it amounts to.
func (f *Fill) Shell() (do, undo []string) {
	return operator(f.Member, "while etcdctl put "+own+"fill '$(head -c 400000 /dev/urandom | base64 -w0)'; do :; done"),
		operator(f.Member, "etcdctl del "+own+"fill", "etcdctl compact --physical REVISION",
			"etcdctl defrag   # on each member, the leader last", "etcdctl alarm disarm")
}

// key is where it writes. One key, over and over: what fills the database is
// its history, which a compaction frees.
func (f *Fill) key(e *lab.Env) string { return own + "fill/" + e.Owner }

// quota reads a member's quota-backend-bytes.
func quota(ctx context.Context, m *lab.Member) (int64, error) {
	s, err := etcd.ReadSettings(ctx, m)
	if err != nil {
		return 0, err
	}
	n, _ := strconv.ParseInt(fmt.Sprint(s.Get("quota-backend-bytes")), 10, 64)
	if n <= 0 || n > mostQuota {
		have := "etcd's default of 2GiB"
		if n > 0 {
			have = lab.Bytes(n).String()
		}
		return 0, fmt.Errorf("the quota of %s is %s: give the drill's cluster one of at most %s, such as `quota: 16MiB`", m.Name, have, lab.Bytes(mostQuota))
	}
	return n, nil
}

// Inject writes until it is refused for lack of space.
func (f *Fill) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	limit, err := quota(ctx, ms[0])
	if err != nil {
		return err
	}
	cli, err := etcd.Client(e.Cluster, ms...)
	if err != nil {
		return err
	}
	defer cli.Close()
	value := string(bytes.Repeat([]byte("etcdrill"), piece/8))
	// Twice the quota and then some: pages are used again once they are free.
	for wrote := int64(0); wrote <= 3*limit+8*piece; wrote += piece {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := cli.Put(call, f.key(e), value)
		cancel()
		switch {
		case errors.Is(err, rpctypes.ErrNoSpace):
			e.Note(ms[0].Name, "wrote %s until there was no space", lab.Bytes(wrote))
			return nil
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("wrote %s of a quota of %s: %w", lab.Bytes(wrote), lab.Bytes(limit), err)
		}
	}
	return fmt.Errorf("wrote three times the quota of %s and was not refused", lab.Bytes(limit))
}

// Prove wants the alarm in the members' status and a write that is refused for
// it; both for the effect. It is gone when no member has an alarm and each
// takes a write.
func (f *Fill) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var alarmed, clear []string
	look := e.Look(ctx)
	up := inService(e, look)
	for _, s := range look {
		switch {
		case slices.Contains(s.Alarms, "NOSPACE"):
			alarmed = append(alarmed, s.Name)
		case s.Up:
			clear = append(clear, s.Name)
		}
	}
	if len(alarmed)+len(clear) == 0 {
		return lab.Proof{Evidence: "no member answers"}, nil
	}
	if len(alarmed) > 0 {
		err := timely(ctx, func(ctx context.Context) error { return nudge(ctx, e, ms...) })
		if !errors.Is(err, rpctypes.ErrNoSpace) {
			return lab.Proof{Evidence: fmt.Sprintf("alarm NOSPACE at %s, but a write is not refused for it: %v", strings.Join(alarmed, ", "), err)}, nil
		}
		return lab.Proof{State: lab.Bites, Evidence: fmt.Sprintf("alarm NOSPACE at %s; a write is refused: %s", strings.Join(alarmed, ", "), err)}, nil
	}
	// Each member looks at its own database before it takes a write.
	for _, m := range up {
		if err := timely(ctx, func(ctx context.Context) error { return nudge(ctx, e, m) }); err != nil {
			return lab.Proof{Evidence: fmt.Sprintf("no alarm, but a write through %s is refused: %s", m.Name, err)}, nil
		}
	}
	if len(up) == 0 {
		return lab.Proof{Evidence: "no alarm, but no member takes writes"}, nil
	}
	return lab.Proof{State: lab.Gone, Evidence: fmt.Sprintf("no alarm at %s, each of them takes a write", strings.Join(clear, ", "))}, nil
}

// timely bounds one request of a proof.
func timely(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return do(ctx)
}

// inService are the voting members that answer, the leader last.
func inService(e *lab.Env, look []lab.Status) []*lab.Member {
	var out, leader []*lab.Member
	for i, s := range look {
		switch {
		case !s.Up || s.Absent || s.Role == "learner":
		case s.Role == "leader":
			leader = append(leader, e.Seats[i])
		default:
			out = append(out, e.Seats[i])
		}
	}
	return append(out, leader...)
}

// Heal frees space and disarms. Where there is neither an alarm nor what the
// fault has written it changes nothing.
func (f *Fill) Heal(ctx context.Context, e *lab.Env) error {
	var err error
	for range 3 { // an alarm that was under way comes back once
		var done bool
		if done, err = f.free(ctx, e); done || ctx.Err() != nil {
			return err
		}
	}
	if err == nil {
		err = errors.New("the alarm NOSPACE comes back though the space was freed: something else fills the database")
	}
	return err
}

// free frees once. True means that there was nothing to free.
func (f *Fill) free(ctx context.Context, e *lab.Env) (bool, error) {
	look := e.Look(ctx)
	up := inService(e, look)
	if len(up) == 0 {
		return false, errors.New("no member answers: space is freed only with a quorum")
	}
	cli, err := etcd.Client(e.Cluster, up...)
	if err != nil {
		return false, err
	}
	defer cli.Close()
	got, err := cli.Get(ctx, f.key(e), clientv3.WithCountOnly())
	if err != nil {
		return false, fmt.Errorf("what the fault has written: %w", err)
	}
	alarm := slices.ContainsFunc(look, func(s lab.Status) bool { return slices.Contains(s.Alarms, "NOSPACE") })
	if !alarm && got.Count == 0 {
		return true, nil
	}
	last := up[len(up)-1]
	if _, err := etcd.Tool(ctx, e, last, "etcdctl", "del", f.key(e)); err != nil {
		return false, err
	}
	if got, err = cli.Get(ctx, f.key(e), clientv3.WithCountOnly()); err != nil {
		return false, fmt.Errorf("revision to compact: %w", err)
	}
	_, err = etcd.Tool(ctx, e, last, "etcdctl", "compact", "--physical", fmt.Sprint(got.Header.Revision))
	if exit := (*lab.ExitError)(nil); err != nil && !(errors.As(err, &exit) && strings.Contains(exit.Text(), "has been compacted")) {
		return false, err
	}
	for _, m := range up {
		if _, err := etcd.Tool(ctx, e, m, "etcdctl", "defrag", "--command-timeout=30s"); err != nil {
			return false, err
		}
	}
	_, err = etcd.Tool(ctx, e, last, "etcdctl", "alarm", "disarm")
	return false, err
}

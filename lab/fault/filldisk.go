package fault

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// FillDisk uses up the filesystem under members' data directories, for real:
// the kernel says ENOSPC to whoever writes next. It is not etcd's quota (that is
// [Fill]): no alarm is raised, the member's process ends at the first write that
// finds no room (FE37, FF15).
//
// It needs a filesystem for the data directory alone (`cluster: {disk: 512MiB}`)
// and never touches another one. Healing removes what it wrote and starts the
// member.
type FillDisk struct {
	Member lab.Target `default:"follower" doc:"whose disk is filled"`
}

// Doc says what the fault does.
func (*FillDisk) Doc() string {
	return "use up the filesystem under a member's data directory; healing frees it and starts the member"
}

// Needs lists the abilities it must have.
func (*FillDisk) Needs() []lab.Cap { return []lab.Cap{lab.CapSmall, lab.CapSignal} }

// Shell shows the commands it amounts to.
func (f *FillDisk) Shell() (do, undo []string) {
	return operator(f.Member, "dd if=/dev/zero of=/var/lib/etcd/filler bs=1M"), operator(f.Member, "rm /var/lib/etcd/filler", "systemctl start etcd")
}

func (f *FillDisk) filler(e *lab.Env, m *lab.Member) string {
	return path.Join(m.DataDir, "filler-"+url.PathEscape(e.Owner))
}

// room is what is left of the filesystem under a directory, and of how much, in
// bytes. A directory that is not the top of a filesystem is refused: what is
// filled there is filled for others too.
func room(ctx context.Context, m *lab.Member) (free, size int64, err error) {
	out, err := m.Host.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"df", "-P", "-B1", m.DataDir}})
	if err != nil {
		return 0, 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(out.Stdout)), "\n")
	f := strings.Fields(lines[len(lines)-1])
	if len(lines) != 2 || len(f) != 6 {
		return 0, 0, fmt.Errorf("%s: df says %q", m.Name, out.Stdout)
	}
	if f[5] != m.DataDir {
		return 0, 0, fmt.Errorf("%s: %s is part of the filesystem of %s, which is not filled: give the cluster a disk of its own (cluster: {disk: 512MiB})", m.Name, m.DataDir, f[5])
	}
	if size, err = strconv.ParseInt(f[1], 10, 64); err == nil {
		free, err = strconv.ParseInt(f[3], 10, 64)
	}
	return free, size, err
}

// Inject fills. All members must run.
func (f *FillDisk) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		free, _, err := room(ctx, m)
		if err != nil {
			return err
		}
		if err := arm(ctx, e, m, []string{"rm", "-f", "--", f.filler(e, m)}); err != nil {
			return err
		}
		// dd ends with an error when there is no room left, which is the point;
		// the proof looks at what it did.
		e.Run(ctx, m.Host, lab.Cmd{Dir: "/", Argv: []string{"dd", "if=/dev/zero", "of=" + f.filler(e, m), "bs=64K", "count=" + strconv.FormatInt(free/(64<<10)+16, 10), "status=none"}})
	}
	return nil
}

// Prove looks at the room that is left, and for the filler.
func (f *FillDisk) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		free, size, err := room(ctx, m)
		if err != nil {
			return lab.Proof{}, err
		}
		there, err := exists(ctx, m.Host, f.filler(e, m))
		if err != nil {
			return lab.Proof{}, err
		}
		says := fmt.Sprintf("%s has %s of %s left on its disk", m.Name, lab.Bytes(free), lab.Bytes(size))
		if there && free < 64<<10 {
			bites = append(bites, says)
			continue
		}
		p, err := away(ctx, e, []*lab.Member{m})
		if err != nil {
			return p, err
		}
		if !there && p.State == lab.Gone {
			gone = append(gone, says+"; "+p.Evidence)
		} else {
			unclear = append(unclear, says+"; "+p.Evidence)
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal frees the disks and starts who is down.
func (f *FillDisk) Heal(ctx context.Context, e *lab.Env) error {
	return mend(ctx, e, f.Member, func(m *lab.Member) error {
		if err := remove(ctx, e, m, f.filler(e, m)); err != nil {
			return err
		}
		return disarm(ctx, e, m)
	})
}

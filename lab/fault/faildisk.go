package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// FailDisk makes a member's writes to its WAL or database fail, or the syncs
// of them, as a broken or a full disk does. etcd takes each of these for fatal:
// the process ends with a line in its log (FE37). A full disk is not the quota
// alarm, which is [Fill] (FE36).
type FailDisk struct {
	Member lab.Target `need:"yes" doc:"whose disk fails"`
	File   string     `default:"wal" doc:"wal or db"`
	Call   string     `default:"write" doc:"write or sync"`
	Error  string     `default:"EIO" doc:"EIO (broken) or ENOSPC (full)"`
}

func (f *FailDisk) disk() disk { return disk{f.File, f.Call} }

// The two errors, and what etcd's log says of them.
var errnos = map[string]string{"EIO": "input/output error", "ENOSPC": "no space left on device"}

// Doc says what the fault does.
func (*FailDisk) Doc() string {
	return "let a member's writes or syncs fail, as a broken or full disk does; healing starts it again"
}

// Needs lists the abilities it must have.
func (*FailDisk) Needs() []lab.Cap { return []lab.Cap{lab.CapTrace} }

// Valid refuses arguments that do not go together.
func (f *FailDisk) Valid() error {
	if err := f.disk().valid(); err != nil {
		return err
	}
	return oneOf("error", f.Error, "EIO", "ENOSPC")
}

// Shell shows the commands it amounts to.
func (f *FailDisk) Shell() (do, undo []string) {
	in := f.disk().injection()
	return operator(f.Member, fmt.Sprintf("strace -f -p '$(pidof etcd)' -P /var/lib/etcd/%s -e trace=%s -e inject=%s:error=%s",
			in.Files, in.Calls[0], in.Calls[0], f.Error)),
		operator(f.Member, "pkill -KILL strace", "systemctl start etcd")
}

// Inject attaches the tracer.
func (f *FailDisk) Inject(ctx context.Context, e *lab.Env) error {
	in := f.disk().injection()
	in.Errno = f.Error
	return inject(ctx, e, f.Member, in)
}

// Prove wants that the process has ended, and that its log says why. While it
// runs a touch gives it something to write.
func (f *FailDisk) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	before, err := hits(ctx, e)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		p, err := away(ctx, e, []*lab.Member{m})
		if err != nil {
			return p, err
		}
		switch p.State {
		case lab.Bites:
			line, err := lastSaid(ctx, m, errnos[f.Error])
			if err != nil {
				return lab.Proof{}, err
			}
			switch {
			case before == 0:
				unclear = append(unclear, p.Evidence+", but no call of it has failed")
			case line == "":
				unclear = append(unclear, fmt.Sprintf("%s, but its log does not say %q", p.Evidence, errnos[f.Error]))
			default:
				bites = append(bites, fmt.Sprintf("%s; its log: %s", p.Evidence, line))
			}
		case lab.Gone:
			// It lives. Write something: either that kills it, or it is well.
			err := touch(ctx, e, time.Second)
			after, herr := hits(ctx, e)
			again, aerr := away(ctx, e, []*lab.Member{m})
			switch {
			case err != nil:
				unclear = append(unclear, fmt.Sprintf("%s; no write is accepted: %s", p.Evidence, err))
			case errors.Join(herr, aerr) == nil && again.State == lab.Gone && after == before:
				gone = append(gone, p.Evidence+"; a write is accepted")
			default:
				unclear = append(unclear, fmt.Sprintf("%s; %d calls failed so far", p.Evidence, after))
			}
		default:
			unclear = append(unclear, p.Evidence)
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// lastSaid finds the last line with a text among the latest a member said.
func lastSaid(ctx context.Context, m *lab.Member, text string) (string, error) {
	log, err := m.Proc.Log(ctx, 32<<10)
	if err != nil {
		return "", fmt.Errorf("log of %s: %w", m.Name, err)
	}
	found := ""
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, text) {
			found = strings.TrimSpace(line)
		}
	}
	const most = 300
	if len(found) > most {
		found = found[:most] + " …"
	}
	return found, nil
}

// Heal detaches the tracer and starts who is down and still a member.
func (f *FailDisk) Heal(ctx context.Context, e *lab.Env) error {
	return errors.Join(untrace(ctx, e), startAll(ctx, e, f.Member))
}

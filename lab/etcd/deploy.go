package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// Deploy turns the first Spec.Members seats of a lab into a running cluster,
// and gives all seats, spares too, their certificates. The driver has made the
// hosts and filled the seats. It returns when there is a leader that every
// member follows and a linearizable read is answered. pki may be nil for a lab
// without TLS.
//
// The cluster gets a token nobody had before (FE1). Several members begin with
// a log that lists them, see SeedWAL; one alone has nobody to wait for and
// begins with nothing, as do members that are to find each other by DNS, which
// is what a log spares (FE47), and members whose log lies elsewhere. All start
// at once, since waiting for the first before the second is started would never
// end (FE43). When a member does not start the error carries its last log
// lines. On error what was started keeps running: the driver takes the lab down.
func Deploy(ctx context.Context, c *lab.Cluster, pki *PKI) error {
	seats := c.Seats[:c.Spec.Members]
	join := Join{State: StateNew, Token: NewToken()}
	var logs map[string][]byte
	if !c.Spec.ByDNS() {
		join.Cluster = map[string]string{}
		for _, m := range seats {
			join.Cluster[m.Name] = AdvertisedPeerURL(c.Spec, m)
		}
		if c.Spec.Flags["wal-dir"] == "" {
			var err error
			if logs, err = SeedWAL(join); err != nil {
				return fmt.Errorf("members of the lab: %w", err)
			}
		}
	}
	err := Each(c.Seats, func(i int, m *lab.Member) error {
		if pki != nil && m.PKI != "" {
			if err := pki.Install(ctx, m); err != nil {
				return err
			}
		}
		if i >= len(seats) {
			return nil
		}
		if err := WriteSettings(ctx, m, NewSettings(c.Spec, m, join)); err != nil {
			return err
		}
		if len(seats) == 1 || logs == nil {
			return nil
		}
		if err := m.Host.Put(ctx, path.Join(m.DataDir, FirstWAL), 0o600, logs[m.Name]); err != nil {
			return fmt.Errorf("data directory of %s: %w", m.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = Each(seats, func(_ int, m *lab.Member) error {
		if err := m.Proc.Start(ctx); err != nil {
			return WithLog(ctx, m, fmt.Errorf("start of %s: %w", m.Name, err))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return WaitReady(ctx, c, seats...)
}

// WaitReady waits until every one of the seats answers, all follow one leader,
// and a linearizable read is answered. It ends early when a process has ended:
// the error then carries its last log lines, and so it does when ctx ends.
func WaitReady(ctx context.Context, c *lab.Cluster, seats ...*lab.Member) error {
	var o Observer
	defer o.Close()
	ctx, dead := context.WithCancelCause(ctx)
	defer dead(nil)
	var look []lab.Status
	var next time.Time
	err := lab.Until(ctx, "a leader that every member follows", func(ctx context.Context) error {
		look = o.look(ctx, c, seats)
		err := oneLeader(look)
		if err != nil && time.Now().After(next) {
			next = time.Now().Add(100 * time.Millisecond)
			for _, m := range seats {
				if st, serr := m.Proc.State(ctx); serr == nil && !st.Running {
					dead(WithLog(ctx, m, fmt.Errorf("%s does not run: %s", m.Name, st.Exit)))
				}
			}
		}
		return err
	})
	if err == nil {
		return Serves(ctx, c, seats...)
	}
	if cause := context.Cause(ctx); cause != ctx.Err() {
		return cause // a process has ended
	}
	for i, s := range look {
		if !s.Up {
			return WithLog(context.WithoutCancel(ctx), seats[i], err)
		}
	}
	return err
}

// oneLeader returns nil when all answer and follow the same leader.
func oneLeader(look []lab.Status) error {
	leader := ""
	for _, s := range look {
		switch {
		case !s.Up:
			return fmt.Errorf("%s does not answer: %s", s.Name, s.Error)
		case s.Leader == "":
			return fmt.Errorf("%s knows no leader", s.Name)
		case leader == "":
			leader = s.Leader
		case leader != s.Leader:
			return fmt.Errorf("%s follows %s, another member %s", s.Name, s.Leader, leader)
		}
	}
	return nil
}

// WithLog adds the last lines of a member's log to an error.
func WithLog(ctx context.Context, m *lab.Member, err error) error {
	const lines, bytes = 6, 32 << 10
	out, lerr := m.Proc.Log(ctx, bytes)
	if lerr != nil || len(out) == 0 {
		return err
	}
	all := telling(string(out))
	if len(all) == 0 {
		return err
	}
	return fmt.Errorf("%w; the last lines of its log:\n  %s", err, strings.Join(all[max(0, len(all)-lines):], "\n  "))
}

// telling picks what a log says about an end: warnings and worse, and the
// first line of a panic, without stack traces; when there is none of these,
// all messages.
func telling(log string) []string {
	var grave, all []string
	for _, line := range strings.Split(strings.TrimSpace(log), "\n") {
		var l struct{ Level, Msg, Error string }
		switch err := json.Unmarshal([]byte(line), &l); {
		case err == nil && l.Msg != "":
			text := l.Level + ": " + l.Msg
			if l.Error != "" {
				text += ": " + l.Error
			}
			all = append(all, text)
			if l.Level != "info" && l.Level != "debug" {
				grave = append(grave, text)
			}
		case strings.HasPrefix(line, "panic: "):
			grave = append(grave, line)
		case strings.HasPrefix(line, "goroutine "), strings.HasPrefix(line, "\t"), strings.HasSuffix(line, ")"), line == "":
			// a stack trace
		default:
			all = append(all, line) // not etcd's own: a wrapper, a linker
		}
	}
	if len(grave) > 0 {
		return grave
	}
	return all
}

package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Quorum asks whether the members can still agree.
type Quorum struct {
	Lost bool `doc:"it is lost; otherwise that there is one"`
}

// Doc implements lab.Check.
func (*Quorum) Doc() string {
	return "asks whether there is a quorum, by a linearizable read through the members themselves"
}

// Holds implements lab.Check. It asks over the hosts, past links that are cut
// between clients and members.
func (q *Quorum) Holds(ctx context.Context, e *lab.Env) error {
	now := e.Look(ctx)
	seats := seated(e.Cluster, now)
	if len(seats) == 0 {
		return fmt.Errorf("could not look: the lab has no members")
	}
	var yes, no, unsure []string
	for _, p := range askAll(ctx, e, inside, seats, linearizable) {
		switch p.answer {
		case accepted:
			yes = append(yes, p.seat.Name)
		case unclear:
			unsure = append(unsure, p.String())
		default:
			no = append(no, p.String())
		}
	}
	switch {
	case !q.Lost && len(yes) > 0:
		return nil
	case len(yes) > 0:
		return &lab.Failure{What: "quorum", Want: "lost", Got: "a linearizable read through " + strings.Join(yes, ", ")}
	case len(unsure) > 0:
		return fmt.Errorf("could not tell whether there is a quorum: %s", strings.Join(unsure, "; "))
	case q.Lost:
		e.Note("", "quorum lost: %s", strings.Join(no, "; "))
		return nil
	}
	return &lab.Failure{What: "quorum", Want: "a linearizable read that is answered", Got: strings.Join(no, "; ")}
}

// Writes asks whether clients can write.
type Writes struct {
	Accepted bool       `doc:"a write is acknowledged"`
	Refused  bool       `doc:"no member acknowledges a write: each refuses explicitly, or lets the client's deadline pass"`
	Through  lab.Target `doc:"through each of these members; by any when absent"`
}

// Valid implements the check of arguments.
func (w *Writes) Valid() error { return either(w.Accepted, w.Refused) }

// Doc implements lab.Check.
func (*Writes) Doc() string { return "writes one probe and asks whether it was accepted or refused" }

// Touches says how much of an adopted cluster it changes.
func (*Writes) Touches() lab.Touch { return lab.Passes }

// Holds implements lab.Check.
func (w *Writes) Holds(ctx context.Context, e *lab.Env) error {
	value := e.Owner + " " + time.Now().UTC().Format(time.RFC3339Nano)
	return service(ctx, e, "write", w.Through, w.Refused, func(ctx context.Context, cli *clientv3.Client) error {
		_, err := cli.Put(ctx, ProbeKey, value)
		return err
	})
}

// Reads asks whether clients can read.
type Reads struct {
	Accepted     bool       `doc:"a read is answered"`
	Refused      bool       `doc:"no member answers a read: each refuses explicitly, or lets the client's deadline pass"`
	Serializable bool       `doc:"what one member knows by itself, without asking the quorum"`
	Through      lab.Target `doc:"through each of these members; by any when absent"`
}

// Valid implements the check of arguments.
func (r *Reads) Valid() error { return either(r.Accepted, r.Refused) }

// Doc implements lab.Check.
func (*Reads) Doc() string {
	return "reads and asks whether it was answered or refused; linearizable unless serializable is said"
}

// Holds implements lab.Check.
func (r *Reads) Holds(ctx context.Context, e *lab.Env) error {
	opts := []clientv3.OpOption{clientv3.WithKeysOnly()}
	what := "linearizable read"
	if r.Serializable {
		opts = append(opts, clientv3.WithSerializable())
		what = "serializable read"
	}
	return service(ctx, e, what, r.Through, r.Refused, func(ctx context.Context, cli *clientv3.Client) error {
		_, err := cli.Get(ctx, ProbeKey, opts...)
		return err
	})
}

// Value asks what a key holds.
type Value struct {
	Key          string     `need:"yes" doc:"the key"`
	Is           string     `doc:"its value"`
	Absent       bool       `doc:"it is not there"`
	Through      lab.Target `doc:"as each of these members has it; as one that answers has it when absent"`
	Serializable bool       `doc:"what the member knows by itself, which may be old"`
}

// Valid implements the check of arguments.
func (v *Value) Valid() error {
	if (v.Is != "") == v.Absent {
		return fmt.Errorf("expected one of is and absent")
	}
	return nil
}

// Doc implements lab.Check.
func (*Value) Doc() string { return "asks what a key holds" }

// Holds implements lab.Check.
func (v *Value) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, v.Through)
	if v.Through.Role == "" {
		if seats, err = etcd.Answering(ctx, e); err == nil {
			seats = seats[:1]
		}
	}
	if err != nil {
		return err
	}
	var opts []clientv3.OpOption
	if v.Serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	for _, m := range seats {
		var got string
		p := ask(ctx, e, outside, m, func(ctx context.Context, cli *clientv3.Client) error {
			r, err := cli.Get(ctx, v.Key, opts...)
			if err != nil {
				return err
			}
			got = "nothing"
			if len(r.Kvs) > 0 {
				got = fmt.Sprintf("%q", r.Kvs[0].Value)
			}
			return nil
		})
		if p.answer != accepted {
			return fmt.Errorf("could not read %s through %s", v.Key, p)
		}
		want := "nothing"
		if !v.Absent {
			want = fmt.Sprintf("%q", v.Is)
		}
		if err := wrong(v.Key+" through "+m.Name, want, got); err != nil {
			return err
		}
	}
	return nil
}

// Lease asks how a lease stands.
type Lease struct {
	Name    string        `need:"yes" doc:"its name, as given to do lease"`
	Alive   string        `doc:"true: it has not ended; false: it has"`
	AtLeast time.Duration `yaml:"at-least" doc:"it has at least this time left"`
	AtMost  time.Duration `yaml:"at-most" doc:"it has at most this time left"`
}

// Valid implements the check of arguments.
func (l *Lease) Valid() error {
	alive, given, err := asked(l.Alive)
	switch {
	case err != nil:
		return fmt.Errorf("alive: %w", err)
	case l.AtLeast < 0 || l.AtMost < 0:
		return fmt.Errorf("at-least, at-most: expected no negative time")
	case !given && l.AtLeast == 0 && l.AtMost == 0:
		return fmt.Errorf("expected alive, at-least or at-most")
	case given && !alive && (l.AtLeast > 0 || l.AtMost > 0):
		return fmt.Errorf("alive: false: expected alone: what has ended has no time left")
	}
	return nil
}

// Doc implements lab.Check.
func (*Lease) Doc() string { return "asks whether a lease lives, and how much time it has left" }

// Holds implements lab.Check. etcd counts whole seconds.
func (l *Lease) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	wantAlive, given, _ := asked(l.Alive)
	wantAlive = wantAlive || !given
	var left time.Duration
	alive := true
	p := ask(ctx, e, outside, seats[0], func(ctx context.Context, cli *clientv3.Client) error {
		id, err := etcd.FindLease(ctx, cli, l.Name)
		if errors.Is(err, fs.ErrNotExist) {
			alive = false
			return nil
		}
		if err != nil {
			return err
		}
		r, err := cli.TimeToLive(ctx, clientv3.LeaseID(id))
		if err != nil {
			return err
		}
		alive, left = r.TTL >= 0, time.Duration(r.TTL)*time.Second
		return nil
	})
	if p.answer != accepted {
		return fmt.Errorf("could not look at lease %s: %s", l.Name, p)
	}
	life := map[bool]string{true: "alive", false: "ended"}
	switch {
	case alive != wantAlive:
		return &lab.Failure{What: "lease " + l.Name, Want: life[wantAlive], Got: life[alive]}
	case alive && l.AtLeast > 0 && left < l.AtLeast:
		return &lab.Failure{What: "lease " + l.Name, Want: "at least " + l.AtLeast.String() + " left", Got: left.String()}
	case alive && l.AtMost > 0 && left > l.AtMost:
		return &lab.Failure{What: "lease " + l.Name, Want: "at most " + l.AtMost.String() + " left", Got: left.String()}
	}
	return nil
}

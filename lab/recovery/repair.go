package recovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Repair takes wrong data out of a cluster. Who is wrong is found by comparing
// the hashes of all members at one revision and equal compact revision, and not
// by the CORRUPT alarm, which may name another one or nobody (FE35): data that
// more than half of the voting members have is right. A member that is wrong
// answers reads, linearizable ones too, so it is stopped first where the others
// are a quorum without it. Then it is removed, the alarm is disarmed, and it
// joins again on an empty directory, as a new member on the same host.
//
// With equal data everywhere and an alarm that nobody took away it only
// disarms.
type Repair struct {
	Member   lab.Target    `doc:"who is wrong, where the hashes cannot tell: a member that does not start, or one of two that differ"`
	Anyway   bool          `doc:"although the data of whom member names is that of the majority"`
	CatchUp  time.Duration `yaml:"catch-up" default:"5m" doc:"how long each may take to come close to the leader"`
	StayAway time.Duration `yaml:"stay-away" default:"3s" doc:"for how long no CORRUPT may come back at the end; with more than corrupt-check-time etcd has looked again itself"`

	Decided RepairPlan `yaml:"-"`
}

// RepairPlan is what a repair has decided. With nobody wrong and no alarm there
// is nothing to do.
type RepairPlan struct {
	Was   Standing
	Wrong []string // seats: the dead first, who leads last
	Heir  string   // one whose data is right, the leader if his is
	Alarm bool     // CORRUPT is raised
}

// Doc is one sentence for lists and help.
func (*Repair) Doc() string {
	return "finds by their hashes the members whose data is wrong, fences and removes them, ends a CORRUPT alarm, and lets them join anew"
}

// Decide implements operation.Operation.
func (r *Repair) Decide(ctx context.Context, e *lab.Env) error {
	was, err := survey(ctx, e)
	if err != nil {
		return err
	}
	leader, err := e.Member(was.Leader)
	if err != nil {
		return err
	}
	alarms, err := corrupt(ctx, e, leader)
	if err != nil {
		return err
	}
	named, err := r.named(ctx, e, was)
	if err != nil {
		return err
	}
	right, hashes, err := r.right(ctx, e, was, named)
	if err != nil {
		return err
	}
	d := RepairPlan{Was: was, Heir: right[0], Alarm: len(alarms) > 0}
	if slices.Contains(right, was.Leader) {
		d.Heir = was.Leader
	}
	for _, x := range was.Members {
		if slices.Contains(right, x.Name) {
			continue
		}
		m, err := e.Member(x.Name)
		if err != nil {
			return err
		}
		if _, err := m.Proc.State(ctx); err != nil {
			return fmt.Errorf("host of %s: %w: `replace` puts another host in its place", x.Name, err)
		}
		e.Note(x.Name, "is taken out and joins anew; right is the data of %s: %s", strings.Join(right, ", "), etcd.Describe(hashes))
		d.Wrong = append(d.Wrong, x.Name)
	}
	was.line(d.Wrong)
	switch {
	case len(d.Wrong) > 0:
		if d.Alarm {
			e.Note("", "the alarm says %s", strings.Join(alarms, ", "))
		}
	case d.Alarm:
		e.Note("", "equal data: %s: only the alarm is to be taken away: %s", etcd.Describe(hashes), strings.Join(alarms, ", "))
	default:
		e.Note("", "equal data: %s, and no CORRUPT alarm: nothing to do", etcd.Describe(hashes))
	}
	r.Decided = d
	return nil
}

// named are the members that whoever asks calls wrong.
func (r *Repair) named(ctx context.Context, e *lab.Env, was Standing) ([]string, error) {
	if r.Member.Role == "" && len(r.Member.Names) == 0 {
		return nil, nil
	}
	seats, err := aimed(ctx, e, r.Member)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range seats {
		if _, in := was.Members.find(m.Name); !in {
			return nil, &lab.Failure{What: "member " + m.Name, Want: "one of " + was.Members.String(), Got: "no member"}
		}
		out = append(out, m.Name)
	}
	return out, nil
}

// right are the members whose data is right, with the hashes that say so. Those
// who are named as wrong are not among them; of the others each must be
// compared. Whom to believe where they differ is said by more than half of all
// voters, or by nobody.
func (r *Repair) right(ctx context.Context, e *lab.Env, was Standing, named []string) ([]string, []etcd.Hash, error) {
	var up, rest Roster
	for _, x := range was.Members {
		called := slices.Contains(named, x.Name)
		if x.Down && !called {
			return nil, nil, &lab.Failure{What: "member " + x.Name, Want: "an answer, for its data to be compared: start it, or name it as `member` when it is damaged", Got: "none"}
		}
		if !x.Down {
			up = append(up, x)
		}
		if !called {
			rest = append(rest, x)
		}
	}
	if len(rest) == 0 {
		return nil, nil, &lab.Failure{What: "members that are right", Want: "one at least: without any, `restore` a snapshot", Got: "all are named as wrong"}
	}
	hashes, err := patientHashes(ctx, e, up)
	if err != nil && len(rest) < len(up) {
		e.Note("", "compared without those that are named as wrong: %s", err)
		hashes, err = patientHashes(ctx, e, rest)
	}
	if err != nil {
		return nil, nil, err
	}
	most := believed(hashes, len(was.Members))
	for _, name := range named {
		if slices.Contains(most, name) && !r.Anyway {
			return nil, nil, &lab.Failure{What: "member " + name, Want: "other data than the majority has, or `anyway`", Got: etcd.Describe(hashes)}
		}
	}
	others := slices.DeleteFunc(slices.Clone(hashes), func(h etcd.Hash) bool { return slices.Contains(named, h.Seat.Name) })
	if etcd.Equal(others) {
		return rest.names(), hashes, nil
	}
	if right := believed(others, len(was.Members)); right != nil {
		return right, hashes, nil
	}
	return nil, nil, &lab.Failure{
		What: "data of the members",
		Want: fmt.Sprintf("equal on more than half of %d, since nobody else tells who is right: name all that are wrong as `member`, or `restore` a snapshot", len(was.Members)),
		Got:  etcd.Describe(hashes),
	}
}

// believed are the members with the hash that more than half of the voters
// have; nil when there is none.
func believed(hashes []etcd.Hash, voters int) []string {
	by := map[uint32][]string{}
	for _, h := range hashes {
		by[h.Hash] = append(by[h.Hash], h.Seat.Name)
	}
	for _, names := range by {
		if len(names) >= lab.Quorum(voters) {
			return names
		}
	}
	return nil
}

// compareWithin is how long members may take until their hashes can be
// compared: a compaction is on its way, or one of them is behind.
const compareWithin = 30 * time.Second

// patientHashes are the hashes of members that are to be judged by them: those
// that cannot be compared in time are a *lab.Failure, and never equal.
func patientHashes(ctx context.Context, e *lab.Env, r Roster) ([]etcd.Hash, error) {
	bound, cancel := context.WithTimeout(ctx, compareWithin)
	defer cancel()
	hashes, err := compared(bound, e, r)
	if err != nil && ctx.Err() == nil {
		err = &lab.Failure{What: "hashes of " + strings.Join(r.names(), ", "), Want: fmt.Sprintf("all at one revision and compact revision within %s, or no judgement", compareWithin), Got: err.Error()}
	}
	return hashes, err
}

// corrupt are the CORRUPT alarms.
func corrupt(ctx context.Context, e *lab.Env, m *lab.Member) ([]string, error) {
	alarms, err := etcd.Alarms(ctx, e, m)
	if err != nil {
		return nil, fmt.Errorf("alarms: %w", err)
	}
	return slices.DeleteFunc(alarms, func(a string) bool { return !strings.HasPrefix(a, "CORRUPT") }), nil
}

// sound wants no CORRUPT alarm.
func sound(ctx context.Context, e *lab.Env, m *lab.Member) error {
	alarms, err := corrupt(ctx, e, m)
	if err == nil && len(alarms) > 0 {
		err = &lab.Failure{What: "alarms after the wrong data went", Want: "no CORRUPT", Got: strings.Join(alarms, ", ")}
	}
	return err
}

// Steps implements operation.Operation.
func (r *Repair) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	c := begin(e, d.Was, r.CatchUp)
	if len(d.Wrong) == 0 && !d.Alarm {
		return c.done()
	}
	without := d.Was.Members
	for _, name := range d.Wrong {
		x, _ := without.find(name)
		x.Down = true
		without = without.with(x)
	}
	// Who must be asked for the quorum to agree on his removal is fenced after it.
	ahead := func(name string) bool {
		x, _ := d.Was.Members.find(name)
		return x.Down || without.forecast().Quorate()
	}
	for _, name := range d.Wrong {
		if ahead(name) {
			c.fence(name)
		}
	}
	for _, name := range d.Wrong {
		c.remove(name, d.Heir)
		c.steps[len(c.steps)-1].Point = "a member that was removed never comes back on its data, and that of " + name + " is wrong"
		if !ahead(name) {
			c.fence(name)
		}
	}
	c.disarm()
	for _, name := range d.Wrong {
		c.join(name)
	}
	c.add(operation.Step{
		Name:  "see that the alarm stays away",
		Shell: []string{"etcdctl alarm list  # for " + r.StayAway.String()},
		Limit: time.Minute + r.StayAway,
		Gate: func(ctx context.Context, e *lab.Env) error {
			for end := time.Now().Add(r.StayAway); ; {
				if err := throughLeader(sound)(ctx, e); err != nil || time.Now().After(end) {
					return err
				}
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(100 * time.Millisecond):
				}
			}
		},
	})
	return c.done()
}

// disarm takes a CORRUPT alarm away from members that have equal data. One that
// was not raised when that was decided may have been meanwhile. etcdctl takes
// NOSPACE away with it, which the next write without space raises again.
func (c *course) disarm() {
	now := c.now
	c.add(operation.Step{
		Name:   "disarm",
		Shell:  []string{"etcdctl endpoint hashkv --cluster", "etcdctl alarm disarm"},
		Before: func(ctx context.Context, e *lab.Env) error { return same(ctx, e, now) },
		Do: throughLeader(func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			if alarms, err := corrupt(ctx, e, m); err != nil || len(alarms) == 0 {
				return err
			}
			return etcd.Disarm(ctx, e, m)
		}),
		Gate: throughLeader(sound),
	})
}

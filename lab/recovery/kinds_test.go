package recovery

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// bare is a lab of which only the seats matter.
func bare(n int) *lab.Env {
	c := &lab.Cluster{ID: "test"}
	for i := range n {
		name := "m" + string(rune('1'+i))
		c.Seats = append(c.Seats, &lab.Member{Name: name, DataDir: "/lab/" + name + "/data", Config: "/lab/" + name + "/etcd.yaml",
			PeerURL: "https://" + name + ":2380", ClientURL: "https://" + name + ":2379"})
	}
	return &lab.Env{Cluster: c}
}

// found is a standing with members under ids of their own, the first leading.
func standing(down string, names ...string) Standing {
	s := Standing{Cluster: "c1", Leader: names[0], Version: "3.7.3", Token: "tok"}
	for i, n := range names {
		s.Members = append(s.Members, Entry{Name: n, ID: strings.Repeat("a", i+1), Down: n == down})
	}
	return s
}

func stepNames(steps []operation.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.Name)
	}
	return out
}

// Every plan keeps the quorum at every step, names each step once, and says
// how to take it back.
func TestPlans(t *testing.T) {
	three := standing("", "m1", "m2", "m3")
	for what, c := range map[string]struct {
		op   operation.Operation
		want string
	}{
		"a dead member goes first": {
			&Replace{Decided: ReplacePlan{Was: standing("m2", "m1", "m2", "m3"), Out: "m2", In: "m4", Dead: true}},
			"fence m2, remove m2, clear m4, add m4 as a learner, start m4, promote m4, look at the whole cluster"},
		"one that lives goes last": {
			&Replace{Decided: ReplacePlan{Was: three, Out: "m1", In: "m4"}},
			"clear m4, add m4 as a learner, start m4, promote m4, hand leadership over from m1 to m4, remove m1, fence m1, look at the whole cluster"},
		"nothing to replace": {&Replace{}, ""},
		"grow": {
			&Grow{Decided: GrowPlan{Was: standing("", "m1"), Join: []string{"m2"}}},
			"clear m2, add m2 as a learner, start m2, promote m2, look at the whole cluster"},
		"shrink to one": {
			&Shrink{Decided: ShrinkPlan{Was: three, Leave: []string{"m3", "m2"}, Heir: "m1"}},
			"remove m3, fence m3, remove m2, fence m2, look at the whole cluster"},
		"nothing to switch": {&Switch{Method: bySnapshot}, ""},
		"switch of one": {
			&Switch{Decided: SwitchPlan{Was: standing("", "m1"), Join: []string{"m2"}, Leave: []string{"m1"}}},
			"clear m2, add m2 as a learner, start m2, promote m2, hand leadership over from m1 to m2, remove m1, fence m1, look at the whole cluster"},
		"rolling restart": {
			&RollingRestart{Decided: Ordered{Was: three, Order: []string{"m2", "m3", "m1"}}},
			"stop m2, start m2 again, stop m3, start m3 again, hand leadership over from m1 to m2, stop m1, start m1 again, look at the whole cluster"},
		"upgrade": {
			&Upgrade{Decided: UpgradePlan{Was: three, Order: []string{"m2", "m1"}, From: "3.6.16", To: "3.7.3", Tools: []Binary{{Name: "etcd"}}}},
			"bring etcd 3.7.3 to m1, m2, stop m2, exchange the binaries of m2, start m2 with etcd 3.7.3, hand leadership over from m1 to m2, stop m1, exchange the binaries of m1, start m1 with etcd 3.7.3, look at the versions, look at the whole cluster, clear up"},
		"downgrade": {
			&Upgrade{Down: true, Decided: UpgradePlan{Was: three, Order: []string{"m2"}, From: "3.7.3", To: "3.6.16", Tools: []Binary{{Name: "etcd"}}}},
			"bring etcd 3.6.16 to m2, let the data become that of 3.6, stop m2, exchange the binaries of m2, start m2 with etcd 3.6.16, look at the versions, look at the whole cluster, clear up"},
		"new certificates": {
			&Rotate{Decided: RotatePlan{Was: three, Order: []string{"m2", "m3", "m1"}, By: "old"}},
			"keep the certificates of m1, m2, m3, m4, m5, m6 and of the clients, give m1 new certificates, give m2 new certificates, give m3 new certificates, " +
				"give m4 new certificates, give m5 new certificates, give m6 new certificates, give the clients a new certificate, look at the whole cluster, clear up"},
		"defragmentation": {
			&Defrag{Decided: Ordered{Was: three, Order: []string{"m2", "m1"}}},
			"defragment m2, hand leadership over from m1 to m2, defragment m1, look at the whole cluster"},
		"free space": {
			&FreeSpace{Decided: FreeSpacePlan{Was: three, Revision: 7, Order: []string{"m2"}}},
			"compact the history below revision 7, defragment m2, disarm, write, and see that the alarm stays away, look at the whole cluster"},
		"nothing to repair": {&Repair{}, ""},
		"an alarm without damage": {
			&Repair{Decided: RepairPlan{Was: three, Heir: "m1", Alarm: true}},
			"disarm, see that the alarm stays away, look at the whole cluster"},
		"who is wrong is stopped first": {
			&Repair{Decided: RepairPlan{Was: standing("m4", "m1", "m2", "m3", "m4", "m5"), Wrong: []string{"m4", "m1"}, Heir: "m2"}},
			"fence m4, fence m1, remove m4, remove m1, disarm, clear m4, add m4 as a learner, start m4, promote m4, " +
				"clear m1, add m1 as a learner, start m1, promote m1, see that the alarm stays away, look at the whole cluster"},
		"unless his vote is needed": {
			&Repair{Decided: RepairPlan{Was: standing("m3", "m1", "m2", "m3"), Wrong: []string{"m3", "m2"}, Heir: "m1"}},
			"fence m3, remove m3, remove m2, fence m2, disarm, clear m3, add m3 as a learner, start m3, promote m3, " +
				"clear m2, add m2 as a learner, start m2, promote m2, see that the alarm stays away, look at the whole cluster"},
	} {
		steps, err := c.op.Steps(bare(6))
		if err != nil {
			t.Errorf("%s: %s", what, err)
			continue
		}
		if got := strings.Join(stepNames(steps), ", "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", what, got, c.want)
		}
		for _, s := range steps {
			if s.Forecast == nil || !s.Forecast.Quorate() {
				t.Errorf("%s: %s: forecast %v", what, s.Name, s.Forecast)
			}
			if len(s.Shell) == 0 || (s.Undo != nil) != (len(s.ShellUndo) > 0 && !strings.HasPrefix(s.ShellUndo[0], "# nothing: a dead")) {
				t.Errorf("%s: %s: shell %q, undo %q, and an undo: %v", what, s.Name, s.Shell, s.ShellUndo, s.Undo != nil)
			}
		}
	}
}

// What is written down is enough to compute the same steps again.
func TestPlansSurviveTheJournal(t *testing.T) {
	for name, op := range map[string]operation.Operation{
		"replace": &Replace{CatchUp: time.Minute, Decided: ReplacePlan{Was: standing("m2", "m1", "m2", "m3"), Out: "m2", In: "m4", Dead: true}},
		"switch":  &Switch{To: []string{"m4"}, Decided: SwitchPlan{Was: standing("", "m1", "m2"), Join: []string{"m4"}, Leave: []string{"m2", "m1"}}},
	} {
		data, err := json.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		again, ok := Kinds(name)
		if !ok {
			t.Fatalf("no kind %s", name)
		}
		if err := json.Unmarshal(data, again); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(op, again) {
			t.Errorf("%s: %+v became %+v", name, op, again)
		}
	}
	for name, op := range kinds() {
		if again, ok := Kinds(name); !ok || again == op {
			t.Errorf("%s: a kind is to be a new one each time", name)
		}
	}
	if _, ok := Kinds("nosuch"); ok {
		t.Error("an unknown kind is known")
	}
}

// What etcd's guard would refuse is foreseen (FE21), and what would lose the
// quorum shows in the forecast.
func TestForeseen(t *testing.T) {
	_, err := (&Grow{Decided: GrowPlan{Was: standing("m2", "m1", "m2", "m3"), Join: []string{"m4"}}}).Steps(bare(4))
	var f *lab.Failure
	if !errors.As(err, &f) || !strings.Contains(err.Error(), "3 of 3 voters up") {
		t.Errorf("a learner beside a dead voter of three: %v", err)
	}
	if _, err := (&Grow{Decided: GrowPlan{Was: standing("m2", "m1", "m2", "m3", "m4", "m5"), Join: []string{"m6"}}}).Steps(bare(6)); err != nil {
		t.Errorf("five can spare one: %s", err)
	}
	steps, err := (&RollingRestart{Decided: Ordered{Was: standing("", "m1", "m2"), Order: []string{"m2"}}}).Steps(bare(2))
	if err != nil || steps[0].Forecast.Quorate() {
		t.Errorf("one of two is stopped: %v, %v", steps[0].Forecast, err)
	}
	if got := strings.Join(expendable(standing("m2", "m1", "m2", "m3", "m4")), " "); got != "m2 m4 m3 m1" {
		t.Errorf("in order of who can be spared: %s", got)
	}
}

// A member list is compared by seat, role and id, not in order or in number.
func TestRoster(t *testing.T) {
	e := bare(3)
	list := func(change func(*etcd.Membership)) etcd.Membership {
		l := etcd.Membership{Members: []etcd.Listed{
			{ID: 0xaa, Name: "m2", Seat: e.Seats[1]}, {ID: 0xa, Name: "m1", Seat: e.Seats[0]}, {ID: 0x77, Seat: e.Seats[2], Learner: true}}}
		change(&l)
		return l
	}
	r := standing("", "m1", "m2").Members.with(Entry{Name: "m3", Learner: true})
	if l := list(func(*etcd.Membership) {}); !r.is(l) {
		t.Errorf("%s is not %s", listed(l), r)
	}
	for what, change := range map[string]func(*etcd.Membership){
		"one less":           func(l *etcd.Membership) { l.Members = l.Members[1:] },
		"another id":         func(l *etcd.Membership) { l.Members[0].ID = 0xbb },
		"a voter":            func(l *etcd.Membership) { l.Members[2].Learner = false },
		"a stranger instead": func(l *etcd.Membership) { l.Members[2].Seat = nil },
	} {
		if l := list(change); r.is(l) {
			t.Errorf("%s: %s is taken for %s", what, listed(l), r)
		}
	}
	if got := r.without("m1").String(); got != "m2 (aa), m3 (new, learner)" {
		t.Error(got)
	}
}

// Where an upgrade ends before it begins.
func TestPermitted(t *testing.T) {
	for _, c := range []struct {
		from, to string
		down     bool
		refused  string // empty: permitted
	}{
		{"3.6.16", "3.7.3", false, ""},
		{"3.5.32", "3.6.16", false, ""},
		{"3.7.3", "3.7.3", false, ""},
		{"3.7.3", "3.7.0", false, ""},
		{"3.7.3", "3.6.16", true, ""},
		{"3.6.16", "3.7.0-rc.0", false, ""},
		{"3.5.32", "3.7.3", false, "3.6 first"},
		{"3.5.19", "3.6.16", false, "3.5.32 or later"},
		{"3.5.31", "3.6.16", false, "3.5.32 or later"},
		{"3.7.3", "3.6.16", false, "`down`"},
		{"3.7.3", "3.5.35", true, "one minor release down"},
		{"3.6.16", "3.7.3", true, "one minor release down"},
		{"3.7.3", "3.7.2", true, "one minor release down"},
		{"3.7.3", "4.7.3", false, "the same major release"},
		{"3.7", "3.7.3", false, "not three numbers"},
		{"3.x.1", "3.7.3", false, "expected one such as 3.7.3"},
	} {
		err := (&Upgrade{Down: c.down}).permitted(c.from, c.to)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("from %s to %s, down %v: %v, want %q", c.from, c.to, c.down, err, c.refused)
		}
	}
}

// Between the first and the last round nobody may refuse anybody: all trust both
// authorities before the first certificate is exchanged, and all show new ones
// before the first member trusts the new authority alone.
func TestRotationOrder(t *testing.T) {
	op := &Rotate{CA: true, Decided: RotatePlan{Was: standing("", "m1", "m2"), Order: []string{"m2", "m1"}, By: "new"}}
	steps, err := op.Steps(bare(3))
	if err != nil {
		t.Fatal(err)
	}
	round := 0
	for i, name := range stepNames(steps) {
		was := round
		switch {
		case strings.Contains(name, "trust both"):
			round = 1
		case strings.Contains(name, "new certificate"):
			round = 2
		case strings.Contains(name, "alone"):
			round = 3
		}
		if round < was {
			t.Errorf("step %d, %s, is of round %d and comes after one of round %d", i+1, name, round, was)
		}
	}
	for _, want := range []string{"let the clients trust both authorities", "let m3 trust both authorities", "start m1, for it to trust the new authority alone", "let the clients trust the new authority alone"} {
		if !strings.Contains(strings.Join(stepNames(steps), ", "), want) {
			t.Errorf("no step %q in %q", want, stepNames(steps))
		}
	}
}

// Whom to believe is said by more than half of the voters, also of those that
// could not be asked.
func TestBelieved(t *testing.T) {
	e := bare(5)
	for _, c := range []struct {
		hashes []uint32 // by seat
		voters int
		want   string
	}{
		{[]uint32{7, 7, 7}, 3, "m1, m2, m3"},
		{[]uint32{7, 8, 7}, 3, "m1, m3"},
		{[]uint32{7, 8, 9}, 3, ""},
		{[]uint32{7, 8}, 2, ""},
		{[]uint32{7}, 1, "m1"},
		{[]uint32{7, 7}, 4, ""},
		{[]uint32{7, 7, 8, 8}, 4, ""},
		{[]uint32{8, 7, 7, 7, 9}, 5, "m2, m3, m4"},
		{[]uint32{7, 7, 8}, 5, ""},
		{nil, 3, ""},
	} {
		var hashes []etcd.Hash
		for i, h := range c.hashes {
			hashes = append(hashes, etcd.Hash{Seat: e.Seats[i], Hash: h})
		}
		if got := strings.Join(believed(hashes, c.voters), ", "); got != c.want {
			t.Errorf("%v of %d voters: %q is believed, want %q", c.hashes, c.voters, got, c.want)
		}
	}
}

// Every removal of a repair is where the way back ends, and none joins before
// all that is wrong has gone and the alarm has: who catches up from a wrong
// leader is wrong, too.
func TestRepairOrder(t *testing.T) {
	steps, err := (&Repair{Decided: RepairPlan{Was: standing("", "m1", "m2", "m3", "m4", "m5"), Wrong: []string{"m2", "m1"}, Heir: "m3"}}).Steps(bare(5))
	if err != nil {
		t.Fatal(err)
	}
	joined := false
	for _, s := range steps {
		removal := strings.HasPrefix(s.Name, "remove ")
		if removal != (s.Point != "") {
			t.Errorf("%s: point %q", s.Name, s.Point)
		}
		if removal && s.Undo == nil {
			t.Errorf("%s: half done, it cannot be taken back", s.Name)
		}
		joined = joined || strings.HasPrefix(s.Name, "add ")
		if joined && (removal || strings.HasPrefix(s.Name, "fence ") || s.Name == "disarm") {
			t.Errorf("%s comes after a member has joined", s.Name)
		}
	}
	if !joined {
		t.Errorf("nobody joins: %q", stepNames(steps))
	}
}

// Who deletes what the way back would need comes after the point from which there
// is only the way forward: half of it may be done, and the way back asked for.
func TestNothingIsClearedBeforeThePoint(t *testing.T) {
	was := standing("m1", "m1", "m2", "m3")
	names := []string{"m2", "m3", "m1"}
	for name, op := range map[string]operation.Operation{
		"upgrade":   &Upgrade{Decided: UpgradePlan{Was: was, Order: names, From: "3.7.2", To: "3.7.3", Tools: []Binary{{Name: "etcd"}}}},
		"downgrade": &Upgrade{Down: true, Decided: UpgradePlan{Was: was, Order: names, From: "3.7.3", To: "3.6.1", Tools: []Binary{{Name: "etcd"}}}},
		"rotate":    &Rotate{CA: true, Decided: RotatePlan{Was: was, Order: names}},
	} {
		steps, err := op.Steps(bare(3))
		if err != nil {
			t.Fatal(err)
		}
		last := len(steps) - 1
		if steps[last].Name != "clear up" || steps[last-1].Point == "" {
			t.Errorf("%s: %s, point %q before it", name, steps[last].Name, steps[last-1].Point)
		}
	}
}

package linux

import (
	"reflect"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/lab"
)

func TestParseShow(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 0, 1, 250_000_000, time.UTC)
	for text, want := range map[string]lab.ProcState{
		"MainPID=77\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=\n":                                   {Running: true, PID: 77},
		"MainPID=0\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=\n":                                    {},
		"MainPID=0\nExecMainCode=0\nExecMainStatus=0\nExecMainExitTimestamp=n/a\n":                                 {},
		"MainPID=0\nExecMainCode=2\nExecMainStatus=9\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n":  {Exit: "killed", Ended: at},
		"MainPID=0\nExecMainCode=1\nExecMainStatus=2\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n":  {Exit: "exit 2", Ended: at},
		"MainPID=0\nExecMainCode=2\nExecMainStatus=15\nExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC\n": {Exit: "terminated", Ended: at},
	} {
		got, err := parseShow(text)
		if err != nil || !got.Ended.Equal(want.Ended) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		got.Ended, want.Ended = time.Time{}, time.Time{}
		if got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	for _, bad := range []string{"", "MainPID=x\n", "MainPID=0\nExecMainStatus=?\n", "MainPID=0\nExecMainStatus=1\nExecMainExitTimestamp=yesterday\n"} {
		if got, err := parseShow(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

// A rule that is carried out by two comes back as it was set.
func TestParts(t *testing.T) {
	for _, m := range []kernel.Means{{}, {Filter: kernel.Iptables}, {Filter: kernel.Nft, Netem: true}} {
		for _, to := range []string{"m2", "client"} {
			for _, r := range []lab.Rule{{}, {Drop: true}, {Reject: true}, {Loss: 0.01}, {Drop: true, Delay: time.Second, Jitter: time.Millisecond, Loss: 0.7, Rate: 1}} {
				part := m.Takes("m1", to, r)
				rest := without(r, part)
				if got := with(rest, part); got != r {
					t.Errorf("%s, to %s: %+v is %+v, and the kernel's part %+v", m, to, r, got, part)
				}
				if m.Filter != "" && (rest.Drop || rest.Reject) || m.Netem && to == "m2" && rest != (lab.Rule{}) {
					t.Errorf("%s, to %s: of %+v the proxy gets %+v", m, to, r, rest)
				}
			}
		}
	}
}

func TestListening(t *testing.T) {
	table := `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:A1B2 0100007F:094C 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
`
	if got, want := listening(table), map[int]bool{2379: true, 22: true}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"", "..", "a/b", "-x", "a b", "a%n"} {
		if place.CheckID(id) == nil {
			t.Errorf("%q was taken", id)
		}
	}
	if err := place.CheckID("leader-kill-20261121-080000-ab12"); err != nil {
		t.Error(err)
	}
}

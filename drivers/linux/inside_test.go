package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/drivers/kernel"
	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/drivers/place"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/drivers/trace"
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

// A process that lives is looked at without systemd; only systemd knows how one
// has ended.
func TestUnitState(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	systemctl := func(says string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+says+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
	})
	u := &unit{name: "test.service"}
	expect := func(want lab.ProcState) {
		t.Helper()
		err := lab.Until(ctx, fmt.Sprintf("%+v", want), func(ctx context.Context) error {
			got, err := u.state(ctx)
			got.Started = ""
			if err == nil && got != want {
				err = fmt.Errorf("got %+v", got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	running := lab.ProcState{Running: true, PID: child.Process.Pid}
	systemctl(fmt.Sprintf("echo MainPID=%d; echo ExecMainCode=0; echo ExecMainStatus=0", running.PID))
	expect(running)
	systemctl("exit 1")
	expect(running)
	if err := u.signal(ctx, "STOP"); err != nil {
		t.Fatal(err)
	}
	expect(lab.ProcState{Running: true, Paused: true, PID: running.PID})
	if err := u.signal(ctx, "CONT"); err != nil {
		t.Fatal(err)
	}
	expect(running)
	child.Process.Kill()
	child.Wait()
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if got, err := u.state(short); err == nil {
		t.Errorf("systemd was not asked about a process that is gone: %+v", got)
	}
	systemctl("echo MainPID=0; echo ExecMainCode=2; echo ExecMainStatus=9; echo ExecMainExitTimestamp=Sat 2026-11-21 08:00:01.250000 UTC")
	expect(lab.ProcState{Exit: "killed", Ended: time.Date(2026, 11, 21, 8, 0, 1, 250_000_000, time.UTC)})
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

// here is a host that is this machine, for commands that run anywhere.
type here struct {
	lab.Host
	name, dir string
}

func (h here) Name() string { return h.name }
func (h here) Dir() string  { return h.dir }
func (h here) Run(ctx context.Context, c lab.Cmd) (lab.Output, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, &out, &complaint
	err := cmd.Run()
	o := lab.Output{Stdout: out.Bytes(), Stderr: complaint.Bytes()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return o, &lab.ExitError{Host: h.name, Argv: c.Argv, Code: exit.ExitCode(), Output: o}
	}
	return o, err
}

// TestClaim: of labs that are made on one host at the same time, whoever makes
// them, no two get one port.
func TestClaim(t *testing.T) {
	if _, err := exec.LookPath("flock"); err != nil {
		t.Skip("no flock here, as every Linux host has it")
	}
	dir := t.TempDir()
	claims := filepath.Join(dir, "claims")
	lab1 := func(i int) here {
		h := here{name: fmt.Sprint("lab", i), dir: filepath.Join(dir, fmt.Sprint("lab", i))}
		if err := os.MkdirAll(h.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return h
	}
	taken := map[int]bool{2379: true, 2580: true} // listened on: distances 0 and 200 are not free
	const n = 8
	type result struct {
		ports Ports
		err   error
	}
	results := make(chan result, n)
	for i := range n {
		h := lab1(i)
		go func() {
			p, err := claim(t.Context(), h, claims, taken)
			results <- result{p, err}
		}()
	}
	seen := map[int]bool{}
	for range n {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if seen[r.ports.Front] || taken[r.ports.Front] || taken[r.ports.Peer] || r.ports.Front > 2379+100*(n+1) {
			t.Errorf("ports %+v, of others: %v", r.ports, seen)
		}
		seen[r.ports.Front] = true
	}
	// The claim of a lab that is gone is free.
	if err := os.RemoveAll(lab1(3).dir); err != nil {
		t.Fatal(err)
	}
	if p, err := claim(t.Context(), lab1(n), claims, taken); err != nil || !seen[p.Front] {
		t.Errorf("got %+v, %v, want those of the lab that is gone", p, err)
	}
	all := map[int]bool{}
	for by := 0; by < 20000; by += 100 {
		all[PortsAt(by).SOCKS] = true
	}
	if _, err := claim(t.Context(), lab1(n+1), claims, all); err == nil || !strings.Contains(err.Error(), "lab9: no free ports") {
		t.Errorf("everything is taken: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(t.Context(), lab1(n+1), filepath.Join(dir, "file", "claims"), nil); err == nil || !strings.Contains(err.Error(), "lab9: could not claim ports") || !strings.Contains(err.Error(), "file") {
		t.Errorf("no place for claims: %v", err)
	}
}

// TestUndos: what was armed is undone, the last one first, also by an agent that
// was started again; what worked is not done twice.
func TestUndos(t *testing.T) {
	dir := t.TempDir()
	file, said := filepath.Join(dir, "undo.json"), filepath.Join(dir, "said")
	open := func() *undos {
		t.Helper()
		u, err := openUndos(file)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	say := func(word string) []string { return []string{"sh", "-c", `echo "$1" >>"$2"`, "sh", word, said} }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got, _ := os.ReadFile(said); string(got) != want {
			t.Errorf("done: %q, want %q", got, want)
		}
	}
	u := open()
	must(u.disarm("nobody"))
	if _, err := os.Stat(file); err == nil {
		t.Error("nothing was armed, and yet there is a file")
	}
	must(u.arm("a", [][]string{say("never")}))
	must(u.arm("a", [][]string{say("a 1"), say("a 2")}))
	must(u.arm("b", [][]string{{"sh", "-c", "echo no luck >&2; test -e " + filepath.Join(dir, "later")}, say("b 2")}))
	must(u.arm("c", [][]string{say("c")}))
	must(u.arm("d", [][]string{say("d")}))
	must(u.disarm("c"))
	for _, bad := range [][][]string{nil, {{}}} {
		if u.arm("x", bad) == nil {
			t.Errorf("%q was armed", bad)
		}
	}
	u = open() // of an agent that was started again
	if err := u.run(t.Context()); err == nil || !strings.Contains(err.Error(), "undo of b: sh -c") || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %v", err)
	}
	expect("d\na 1\na 2\n")
	must(os.WriteFile(filepath.Join(dir, "later"), nil, 0o600))
	u = open()
	must(u.run(t.Context()))
	expect("d\na 1\na 2\nb 2\n")
	must(u.run(t.Context()))
	expect("d\na 1\na 2\nb 2\n")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	must(os.WriteFile(file, []byte("{"), 0o600))
	if _, err := openUndos(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

func TestClocks(t *testing.T) {
	r := func(host string, ahead, give time.Duration) Reading { return Reading{host, ahead, give} }
	for _, c := range []struct {
		all  []Reading
		says string // empty: nothing
	}{
		{nil, ""},
		{[]Reading{r("m1", 900*time.Millisecond, 0), r("m2", 100*time.Millisecond, 0)}, ""},
		{[]Reading{r("m1", 3*time.Second, 2100*time.Millisecond)}, ""}, // perhaps a slow answer
		{[]Reading{r("m1", 1500*time.Millisecond, time.Millisecond)}, "m1 +1.5s"},
		{[]Reading{r("m1", 600*time.Millisecond, time.Millisecond), r("m2 (vm2)", -600*time.Millisecond, time.Millisecond)}, "m1 +0.6s, m2 (vm2) -0.6s"},
	} {
		got := Skew(c.all)
		if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%+v: %q, want %q", c.all, got, c.says)
		}
	}
	for ahead, says := range map[time.Duration]string{
		-59 * time.Minute: "", 24 * time.Hour: "",
		-2 * time.Hour: "m2 (vm2): its clock is 2h0m0s behind", 2 * validity: "they have ended there",
	} {
		err := r("m2 (vm2)", ahead, time.Second).Fit()
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", ahead, err, says)
		}
	}
}

// TestDeadMansSwitch: it falls when nobody was heard of, not before and not for
// a lab that is to stay; who lives after all is told.
func TestDeadMansSwitch(t *testing.T) {
	dir := t.TempDir()
	armed, err := openUndos(filepath.Join(dir, "undo.json"))
	if err != nil {
		t.Fatal(err)
	}
	undone := filepath.Join(dir, "undone")
	if err := armed.arm("a", [][]string{{"touch", undone}}); err != nil {
		t.Fatal(err)
	}
	// A systemd on which the member does not run.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\necho MainPID=0; echo ExecMainStatus=0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	traces := trace.New(process.NewForker(), nil)
	defer traces.Close()
	a := &agent{config: agentConfig{DeadMan: time.Hour}, unit: &unit{name: "etcdrill-test-no-such.service"}, links: network.New(nil, time.Second), traces: traces, armed: armed}
	fallen := func(want bool) {
		t.Helper()
		a.watch()
		if _, err := os.Stat(undone); (err == nil) != want {
			t.Errorf("undone: %v, want %v", err == nil, want)
		}
	}
	if a.heard() {
		t.Error("it has fallen before it could")
	}
	fallen(false)
	a.config.DeadMan = 0
	a.keep.Store(true)
	fallen(false)
	a.keep.Store(false)
	fallen(true)
	if !a.heard() {
		t.Error("who lives after all is not told")
	}
	// And again, should nobody be heard of again.
	if err := errors.Join(os.Remove(undone), armed.arm("b", [][]string{{"touch", undone}})); err != nil {
		t.Fatal(err)
	}
	fallen(true)

	l := &linuxLab{fell: make(chan string, 1)}
	l.fell <- "m2"
	if err := l.forgotten(t.Context()); err == nil || !strings.Contains(err.Error(), "m2 had not heard of etcdrill") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.forgotten(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// save writes a report where a run leaves it.
func save(t *testing.T, out, driver string, r lab.Report) {
	t.Helper()
	dir := filepath.Join(out, driver, r.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTable(t *testing.T) {
	m := &matrix{out: t.TempDir()}
	begun := time.Now()
	n := 0
	report := func(driver, name string, v lab.Verdict, change ...func(*lab.Report)) {
		n++
		r := lab.Report{ID: name + "-" + strings.Repeat("x", n), Drill: name, Driver: driver, Verdict: v, Started: begun.Add(time.Duration(n) * time.Second), Duration: 30}
		for _, c := range change {
			c(&r)
		}
		save(t, m.out, driver, r)
	}
	because := func(text string) func(*lab.Report) { return func(r *lab.Report) { r.Reason = text } }
	report("local", "one", lab.Pass)
	report("local", "wrong-bad", lab.Fail, because("lost 3 writes"))
	report("local", "power", lab.Skip, because("not possible with driver local here: processes have no power"))
	report("docker", "one", lab.Fail, because("too slow"))
	report("docker", "one", lab.Pass)
	report("docker", "wrong-bad", lab.Pass)
	report("docker", "power", lab.Pass, func(r *lab.Report) { r.Left = []string{"container x"} })
	report("docker", "late", lab.Pass, func(r *lab.Report) { r.Interrupted = true })
	if err := os.MkdirAll(filepath.Join(m.out, "docker", "killed"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("killed", filepath.Join(m.out, "docker", "latest")); err != nil {
		t.Fatal(err)
	}
	tb := table{
		drills: []drill{{Name: "one", Family: "quorum"}, {Name: "wrong-bad", Family: "quorum", Tags: []string{"damage"}},
			{Name: "power", Family: "faults"}, {Name: "late", Family: "faults"}},
		drivers: []string{"local", "docker"}, runs: map[string][]*lab.Report{}, absent: map[string]string{"ssh": "no inventory"},
	}
	for _, driver := range tb.drivers {
		var err error
		if tb.runs[driver], err = m.reports(driver); err != nil {
			t.Fatal(err)
		}
	}
	var got bytes.Buffer
	tb.write(&got)
	want := `| drills | local | docker |
|---|---|---|
| quorum: 2 | 1 pass, 1 damage | 1 pass, **1 no damage** |
| faults: 2 | 1 skip, **1 not run** | **1 left behind**, **1 not run** |
| all, one after the other | 2 runs in 1m30s | 4 runs in 2m0s |

*damage*: the drill shows the wrong way, and ended *fail*, as it must.

<details><summary>Drill by drill</summary>

| drill | local | docker |
|---|---|---|
| **quorum** | | |
| one | pass | pass (run 2) |
| wrong-bad | damage | **no damage** [1] |
| **faults** | | |
| power | skip [2] | **left behind** [3] |
| late | **not run** | **not run** |

</details>

[1] docker: it should have ended fail  
[2] local: processes have no power  
[3] docker: container x  
ssh was not there: no inventory  
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestInsert(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	head, tail := "# before\n"+begin+"\n", end+"\n# after\n"
	write(head + "old\n" + tail)
	for range 2 {
		if err := insert(file, []byte("\nnew\n\n")); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(file); string(got) != head+"\nnew\n\n"+tail {
			t.Errorf("got %q", got)
		}
	}
	write("# no place for it\n")
	if err := insert(file, nil); err == nil || !strings.Contains(err.Error(), begin) {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(file); string(got) != "# no place for it\n" {
		t.Errorf("it was written to: %q", got)
	}
}

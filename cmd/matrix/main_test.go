package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is an etcdrill that knows three drills and ends each run
// with the next verdict that the file next/DRILL has a line for, pass after
// the last one. It notes what it was asked to run in the file asked.
const fake = `#!/bin/sh
cd "${0%/*}"
if [ "$1" = list ]; then
	echo '[{"name":"one","family":"quorum","drivers":{"local":"","docker":"no engine","ssh":"no inventory"}},
		{"name":"two-bad","family":"quorum","tags":["damage"],"drivers":{"local":"","docker":"no engine","ssh":"no inventory"}},
		{"name":"three","family":"faults","drivers":{"local":"no power","docker":"no engine","ssh":"no inventory"}}]'
	exit
fi
shift # run --driver D --out DIR -q NAMES...
driver=$2 out=$4
shift 5
echo "$driver $*" >>asked
for name in "$@"; do
	n=$(($(cat n 2>/dev/null || echo 100) + 1))
	echo $n >n
	verdict=$(head -n 1 "next/$name" 2>/dev/null)
	sed -i 1d "next/$name" 2>/dev/null
	mkdir -p "$out/$name-$n"
	echo "{\"drill\": \"$name\", \"verdict\": \"${verdict:-pass}\", \"started\": \"2026-11-21T08:00:00.${n}Z\"}" >"$out/$name-$n/report.json"
done
exit 1
`

// What did not end as it must is run again, once; what did is not, also when
// the program is started again.
func TestPass(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("etcdrill", fake, 0o755)
	write("next/one", "error\npass\n", 0o644)
	write("next/two-bad", "fail\n", 0o644)
	write("next/three", "skip\n", 0o644)
	write("README.md", begin+"\n"+end+"\n", 0o644)
	readme := filepath.Join(dir, "README.md")
	m := &matrix{out: filepath.Join(dir, "out"), binary: filepath.Join(dir, "etcdrill"), tries: 2}
	for range 2 {
		if err := m.run(t.Context(), nil, nil, readme); err != nil {
			t.Fatal(err)
		}
		asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
		if got, want := string(asked), "local one two-bad three\nlocal one\n"; got != want {
			t.Errorf("it ran\n%s\nwant\n%s", got, want)
		}
	}
	text, _ := os.ReadFile(readme)
	for _, want := range []string{"| one | pass (run 2) |", "| two-bad | damage |", "docker was not there: no engine", "ssh was not there: no inventory"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the table:\n%s", want, text)
		}
	}

	if err := m.run(t.Context(), []string{"moon"}, nil, ""); err == nil || !strings.Contains(err.Error(), "moon") {
		t.Errorf("no such driver: %v", err)
	}
	if err := m.run(t.Context(), nil, []string{"moon"}, ""); err == nil || !strings.Contains(err.Error(), "moon") {
		t.Errorf("no such family: %v", err)
	}
	m.binary = filepath.Join(dir, "gone")
	if err := m.run(t.Context(), nil, nil, ""); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("no binary: %v", err)
	}
	ds, err := (&matrix{binary: filepath.Join(dir, "etcdrill")}).drills(t.Context(), []string{"faults"})
	if err != nil || len(ds) != 1 || ds[0].Name != "three" {
		t.Errorf("drills of one family: %+v, %v", ds, err)
	}
}

package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func sampleOps() []Op {
	return []Op{
		{},
		{Client: 3, Kind: OpPut, Key: "load/x/k1", Value: "c3.1", Call: 5, Return: 9, Outcome: OK, Revision: 7, Member: "m1"},
		{Client: -1, Kind: OpPut, Key: "k", Value: "v", Call: 1, Return: 2, Due: 1, Outcome: Unknown, Error: `rpc error: desc = "x" <y> & \z`},
		{Client: 1, Kind: OpTxn, Key: "k", Value: "v", Prev: "u", Call: 1, Return: 2, Outcome: OK, Swapped: true, Revision: 9},
		{Client: 1, Kind: OpGet, Key: "ключ", Value: "tab\there\nand \x7f \u2028", Call: -1, Return: 1 << 62, Outcome: OK, Serializable: true, Mod: 3},
		{Client: -10, Kind: OpEvent, Key: "k", Call: 7, Return: 7, Outcome: OK, Mod: 4, Deleted: true, Member: "m2"},
	}
}

func TestAppendOpWritesWhatJSONWould(t *testing.T) {
	for _, op := range sampleOps() {
		want, err := json.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendOp(nil, &op); !bytes.Equal(got, want) {
			t.Errorf("appendOp:\n got %s\nwant %s", got, want)
		}
	}
}

// The encoder names every field by hand: a field added to Op and forgotten
// there would be lost silently.
func TestAppendOpForgetsNoField(t *testing.T) {
	var op Op
	v := reflect.ValueOf(&op).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		default:
			f.SetInt(int64(i + 1))
		}
	}
	line := appendOp(nil, &op)
	want, _ := json.Marshal(op)
	if !bytes.Equal(line, want) {
		t.Fatalf("got %s, want %s", line, want)
	}
	var back Op
	if d := (&opDecoder{words: map[string]string{}}); !d.fast(line, &back) || back != op {
		t.Fatalf("the decoder did not take %s: %+v", line, back)
	}
}

func TestHistoryRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	h, err := NewHistory(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var want []Op
	for range 500 { // past the point where the reader guesses the number of lines
		want = append(want, sampleOps()...)
	}
	want = append(want, Op{Kind: OpPut, Value: strings.Repeat("v", 1<<19)}) // longer than any buffer
	for _, op := range want {
		h.Add(op)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("read %d operations that differ from the %d written", len(got), len(want))
	}
}

func TestReadHistoryOfAKilledRun(t *testing.T) {
	line := string(appendOp(nil, &Op{Client: 1, Kind: OpPut}))
	for name, c := range map[string]struct {
		text string
		n    int
		err  string
	}{
		"empty":        {"", 0, ""},
		"whole":        {line + "\n" + line + "\n", 2, ""},
		"torn end":     {line + "\n" + line[:len(line)-3], 1, ""},
		"no last end":  {line + "\n" + line, 1, ""},
		"broken line":  {line + "\n" + line[:9] + "\n" + line + "\n", 0, "history.jsonl:2:"},
		"other JSON":   {"[1]\n", 0, "history.jsonl:1:"},
		"wrong type":   {`{"c":"one"}` + "\n", 0, "history.jsonl:1:"},
		"spaces":       {` { "c" : 1 , "k":"put" } ` + "\n", 1, ""},
		"unknown name": {`{"c":1,"later":{"x":[1,2]}}` + "\n", 1, ""},
		"zero bytes":   {line + "\n" + strings.Repeat("\x00", 50) + "\n", 0, "history.jsonl:2:"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history.jsonl")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			ops, err := ReadHistory(path)
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && len(ops) != c.n {
				t.Fatalf("%d operations, want %d", len(ops), c.n)
			}
		})
	}
}

// The fast decoder may refuse a line, but never read it differently.
func FuzzDecodeOp(f *testing.F) {
	for _, op := range sampleOps() {
		f.Add(appendOp(nil, &op))
	}
	for _, s := range []string{`{}`, `{"c":1,}`, `{,"c":1}`, `{"c":01}`, `{"c":-0}`, `{"C":1}`, `{"c":1,"c":2}`, `{"s":false}`, `{"k":"\u0041"}`, `{"e":9223372036854775808}`, `{"k":"a"}x`, "{\"k\":\"\xff\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var want, got Op
		err := json.Unmarshal(line, &want)
		if (&opDecoder{words: map[string]string{}}).fast(line, &got) && (err != nil || got != want) {
			t.Fatalf("%q: decoded %+v, encoding/json says %+v, %v", line, got, want, err)
		}
		if err == nil {
			again := appendOp(nil, &want)
			var back Op
			if err := (&opDecoder{words: map[string]string{}}).decode(again, &back); err != nil || back != want {
				t.Fatalf("%+v came back from %s as %+v, %v", want, again, back, err)
			}
		}
	})
}

// A journal of a killed run, or of a damaged disk, is read or refused, never
// guessed at.
func FuzzReadEvents(f *testing.F) {
	f.Add([]byte(`{"t":1,"wall":"2026-01-02T03:04:05Z","kind":"run","run":{"id":"x","drill":{"Name":"d","Steps":[{"word":"do","args":{"a":1}}]},"seed":7}}` + "\n" + `{"t":2,"kind":"sta`))
	f.Add([]byte("\n"))
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "events.ndjson")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		events, err := ReadEvents(path)
		if lines := bytes.Count(data, []byte("\n")); err == nil && len(events) != lines {
			t.Fatalf("%d events from %d whole lines", len(events), lines)
		}
	})
}

func BenchmarkHistoryAdd(b *testing.B) {
	h, err := NewHistory(filepath.Join(b.TempDir(), "h"), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	b.ReportAllocs()
	for b.Loop() {
		h.Add(Op{Client: 12, Kind: OpPut, Key: "load/abc/k17", Value: "c12.123456", Call: 123456789012, Return: 123458789012, Outcome: OK, Revision: 234567, Member: "m1"})
	}
}

func BenchmarkReadHistory(b *testing.B) {
	path := filepath.Join(b.TempDir(), "h")
	h, err := NewHistory(path, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100_000 {
		h.Add(Op{Client: 12, Kind: OpPut, Key: "load/abc/k17", Value: "c12." + strconv.Itoa(i), Call: 123456789012, Return: 123458789012, Outcome: OK, Revision: 234567, Member: "m1"})
	}
	if err := h.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadHistory(path); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/line")
}

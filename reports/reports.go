package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/etcdrill/etcdrill/lab"
)

// The files that Write makes, beside those a run recorded.
const (
	FileJSON     = "report.json"
	FileHTML     = "report.html"
	FileMarkdown = "report.md"
	FileJUnit    = "junit.xml"
)

// The files a run recorded, which Write reads.
const (
	fileEvents  = "events.ndjson"
	fileHistory = "history.jsonl"
)

// Write draws a run in every format into its directory. Each file appears
// whole or not at all, and one that cannot be written does not keep the others
// from it. It reads events.ndjson and history.jsonl there: a file that is
// missing or broken is no error, since a run whose set-up failed is reported
// too; the report then says what could not be read.
func Write(dir string, r *lab.Report) error {
	s := open(dir, r)
	var errs []error
	for _, f := range []struct {
		name string
		draw func(io.Writer, *saved) error
	}{
		{FileJSON, func(w io.Writer, s *saved) error { return writeJSON(w, s.Report) }},
		{FileHTML, writeHTML},
		{FileMarkdown, writeMarkdown},
		{FileJUnit, writeJUnit},
	} {
		var b bytes.Buffer
		err := f.draw(&b, s)
		if err == nil {
			err = put(filepath.Join(dir, f.name), b.Bytes())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	return errors.Join(errs...)
}

// put writes a file whole or not at all.
func put(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// JSON writes reports as an array, also one and also none: what
// `etcdrill run -o json` prints.
func JSON(w io.Writer, rs []*lab.Report) error {
	out := make([]*lab.Report, len(rs))
	for i, r := range rs {
		out[i] = tidy(r)
	}
	return writeJSON(w, out)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

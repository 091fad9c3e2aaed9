package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"github.com/etcdrill/etcdrill/lab"
)

// The supervisor is asked by POST of a JSON object to /WORD, and answers with
// the result or, with status 500, a failure. A request that is given up is
// given up by the supervisor too.

// ask is what a request may carry; each word uses some of it.
type ask struct {
	Host   string        `json:"host,omitempty"`
	Signal string        `json:"signal,omitempty"`
	Owner  string        `json:"owner,omitempty"`
	From   string        `json:"from,omitempty"`
	To     string        `json:"to,omitempty"`
	Rule   lab.Rule      `json:"rule,omitzero"`
	Inject lab.Injection `json:"inject,omitzero"`
}

// failure is an error on its way through the socket.
type failure struct {
	Text       string `json:"error"`
	NotRunning bool   `json:"notRunning,omitempty"` // it is lab.ErrNotRunning
}

// words is the table of what a supervisor can be asked.
type words map[string]func(context.Context, ask) (any, error)

// ServeHTTP answers one request.
func (ws words) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var a ask
	var result any
	do, ok := ws[r.URL.Path]
	err := fmt.Errorf("unknown word %s: the supervisor is of another version of etcdrill", r.URL.Path)
	if ok {
		if err = json.NewDecoder(r.Body).Decode(&a); err == nil {
			result, err = do(r.Context(), a)
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		result = failure{Text: err.Error(), NotRunning: errors.Is(err, lab.ErrNotRunning)}
	}
	json.NewEncoder(w).Encode(result)
}

// control asks the supervisor of one lab.
type control struct {
	dir    dir
	client *http.Client
}

func newControl(d dir) *control {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.socket())
	}
	// Connections are not kept: a Driver is not closed, and they are cheap.
	return &control{dir: d, client: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// errGone says that a lab has no supervisor any more.
var errGone = errors.New("its supervisor is gone")

// ask sends a request and reads the result into out (may be nil).
func (c *control) ask(ctx context.Context, word string, a ask, out any) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://supervisor"+word, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("lab %s: %w: take the lab down (etcdrill down)", c.dir, errGone)
	case err != nil:
		return fmt.Errorf("lab %s: asking its supervisor: %w", c.dir, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if out == nil {
			return nil
		}
		return json.NewDecoder(resp.Body).Decode(out)
	}
	var f failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		return fmt.Errorf("lab %s: answer of its supervisor: %w", c.dir, err)
	}
	if f.NotRunning {
		return fmt.Errorf("%s: %w", a.Host, lab.ErrNotRunning)
	}
	return errors.New(f.Text)
}

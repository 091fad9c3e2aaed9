// Package control is how a driver talks to the process that keeps a lab going:
// the supervisor of a local lab, the agent of a host. It is asked by POST of a
// JSON object to /WORD, and answers with the result or, with status 500, a
// failure. A request that is given up is given up by the other side too.
package control

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// What can be asked. Not everybody knows every word.
const (
	WordStart     = "/process/start"
	WordStop      = "/process/stop"
	WordSignal    = "/process/signal"
	WordState     = "/process/state"
	WordSet       = "/links/set"
	WordClear     = "/links/clear"
	WordRules     = "/links/rules"
	WordProbe     = "/links/probe"
	WordInject    = "/trace/inject"
	WordUninject  = "/trace/clear"
	WordHits      = "/trace/hits"
	WordZoneSet   = "/zone/set"
	WordZoneClear = "/zone/clear"
	WordZone      = "/zone"
	WordLookup    = "/zone/lookup"
	WordKeep      = "/keep"
	WordAlive     = "/alive" // the owner of the lab lives; whether the dead man's switch fell before
	WordArm       = "/dead-man/arm"
	WordDisarm    = "/dead-man/disarm"
	WordTrace     = "/trace/probe" // why processes cannot be traced
)

// Ask is what a request may carry; each word uses some of it.
type Ask struct {
	Host   string         `json:"host,omitempty"`
	Signal string         `json:"signal,omitempty"`
	Owner  string         `json:"owner,omitempty"`
	From   string         `json:"from,omitempty"`
	To     string         `json:"to,omitempty"`
	Rule   lab.Rule       `json:"rule,omitzero"`
	Inject lab.Injection  `json:"inject,omitzero"`
	Undo   [][]string     `json:"undo,omitempty"`
	Kind   string         `json:"kind,omitempty"`
	Name   string         `json:"name,omitempty"`
	Zone   lab.ZoneChange `json:"zone,omitzero"`
}

// failure is an error on its way through the socket.
type failure struct {
	Text       string `json:"error"`
	NotRunning bool   `json:"notRunning,omitempty"` // it is lab.ErrNotRunning
}

// Words is the table of what can be asked.
type Words map[string]func(context.Context, Ask) (any, error)

// ServeHTTP answers one request.
func (ws Words) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var a Ask
	var result any
	do, ok := ws[r.URL.Path]
	err := fmt.Errorf("unknown word %s: asked by another version of etcdrill", r.URL.Path)
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

// Client asks.
type Client struct {
	who   string
	token string
	http  *http.Client
}

// NewClient makes a client that connects by dial. who names the other side in
// errors; token, where it is not empty, goes along with each request. With
// keep, connections are used again.
func NewClient(who, token string, keep bool, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{who: who, token: token, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: !keep,
		IdleConnTimeout:   time.Minute,
	}}}
}

// ErrGone says that nobody is there to be asked any more.
var ErrGone = errors.New("nobody answers there any more: take the lab down (etcdrill down)")

// Do sends a request and reads the result into out (may be nil).
func (c *Client) Do(ctx context.Context, word string, a Ask, out any) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab"+word, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if word != WordSignal && word != WordInject {
		// May be sent again when a kept connection turns out to be dead.
		req.Header["Idempotency-Key"] = nil
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s: %w", c.who, ErrGone)
	case err != nil:
		return fmt.Errorf("%s: %w", c.who, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if out == nil {
			_, err := io.Copy(io.Discard, resp.Body)
			return err
		}
		return json.NewDecoder(resp.Body).Decode(out)
	}
	var f failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		return fmt.Errorf("%s: answer %s: %w", c.who, resp.Status, err)
	}
	if f.NotRunning {
		return fmt.Errorf("%s: %w", a.Host, lab.ErrNotRunning)
	}
	return errors.New(f.Text)
}

// Guard serves only requests that carry the token.
func Guard(token string, h http.Handler) http.Handler {
	want := []byte("Bearer " + token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, `{"error":"wrong token"}`, http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Links is the network of a lab that one process carries.
type Links struct{ *Client }

// Set implements lab.Links.
func (l Links) Set(ctx context.Context, owner, from, to string, r lab.Rule) error {
	return l.Do(ctx, WordSet, Ask{Owner: owner, From: from, To: to, Rule: r}, nil)
}

// Clear implements lab.Links.
func (l Links) Clear(ctx context.Context, owner string) error {
	return l.Do(ctx, WordClear, Ask{Owner: owner}, nil)
}

// Rules implements lab.Links.
func (l Links) Rules(ctx context.Context) (out []lab.LinkRule, err error) {
	err = l.Do(ctx, WordRules, Ask{}, &out)
	return out, err
}

// Probe implements lab.Links.
func (l Links) Probe(ctx context.Context, from, to string) (rtt time.Duration, err error) {
	err = l.Do(ctx, WordProbe, Ask{From: from, To: to}, &rtt)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s to %s: no answer: %w", from, to, ctx.Err())
	}
	return rtt, err
}

// Tracer is the tracer of a lab that one process runs.
type Tracer struct{ *Client }

// Inject implements lab.Tracer.
func (t Tracer) Inject(ctx context.Context, owner, host string, in lab.Injection) error {
	return t.Do(ctx, WordInject, Ask{Owner: owner, Host: host, Inject: in}, nil)
}

// Clear implements lab.Tracer.
func (t Tracer) Clear(ctx context.Context, owner string) error {
	return t.Do(ctx, WordUninject, Ask{Owner: owner}, nil)
}

// Hits implements lab.Tracer.
func (t Tracer) Hits(ctx context.Context, owner string) (n int, err error) {
	err = t.Do(ctx, WordHits, Ask{Owner: owner}, &n)
	return n, err
}

// DNS is the server of names of one host. What is asked of all hosts is asked
// of each one's.
type DNS struct{ *Client }

// Set implements lab.DNS.
func (d DNS) Set(ctx context.Context, owner string, c lab.ZoneChange) error {
	return d.Do(ctx, WordZoneSet, Ask{Owner: owner, Zone: c}, nil)
}

// Clear implements lab.DNS.
func (d DNS) Clear(ctx context.Context, owner string) error {
	return d.Do(ctx, WordZoneClear, Ask{Owner: owner}, nil)
}

// Zone implements lab.DNS.
func (d DNS) Zone(ctx context.Context, host string) (z lab.Zone, err error) {
	err = d.Do(ctx, WordZone, Ask{Host: host}, &z)
	return z, err
}

// Lookup implements lab.DNS.
func (d DNS) Lookup(ctx context.Context, host, kind, name string) (found []string, err error) {
	err = d.Do(ctx, WordLookup, Ask{Host: host, Kind: kind, Name: name}, &found)
	return found, err
}

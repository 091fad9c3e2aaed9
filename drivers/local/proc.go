package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// proc is a member's process, seen from outside the supervisor.
type proc struct {
	control *control
	host    string
}

func (p *proc) Start(ctx context.Context) error {
	return p.control.ask(ctx, wordStart, ask{Host: p.host}, nil)
}

func (p *proc) Stop(ctx context.Context) error {
	return p.control.ask(ctx, wordStop, ask{Host: p.host}, nil)
}

func (p *proc) Signal(ctx context.Context, name string) error {
	return p.control.ask(ctx, wordSignal, ask{Host: p.host, Signal: name}, nil)
}

// State implements lab.Proc. Without a supervisor it tells what that one wrote
// down last.
func (p *proc) State(ctx context.Context) (lab.ProcState, error) {
	var s lab.ProcState
	err := p.control.ask(ctx, wordState, ask{Host: p.host}, &s)
	if !errors.Is(err, errGone) {
		return s, err
	}
	err = readJSON(p.control.dir.life(p.host), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return lab.ProcState{}, nil
	}
	if err == nil && s.Running && !(life{s.PID, s.Started}).alive() {
		s = lab.ProcState{Exit: "killed with its supervisor", Ended: time.Now()}
	}
	return s, err
}

func (p *proc) Log(ctx context.Context, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(p.control.dir.log(p.host))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // never started
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	from := max(0, size-int64(n))
	// Bounded, since the process goes on writing.
	return io.ReadAll(io.NewSectionReader(f, from, size-from))
}

// links is a lab's network, seen from outside the supervisor.
type links struct{ control *control }

func (l *links) Set(ctx context.Context, owner, from, to string, r lab.Rule) error {
	return l.control.ask(ctx, wordSet, ask{Owner: owner, From: from, To: to, Rule: r}, nil)
}

func (l *links) Clear(ctx context.Context, owner string) error {
	return l.control.ask(ctx, wordClear, ask{Owner: owner}, nil)
}

func (l *links) Rules(ctx context.Context) (out []lab.LinkRule, err error) {
	err = l.control.ask(ctx, wordRules, ask{}, &out)
	return out, err
}

func (l *links) Probe(ctx context.Context, from, to string) (rtt time.Duration, err error) {
	err = l.control.ask(ctx, wordProbe, ask{From: from, To: to}, &rtt)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s to %s: no answer: %w", from, to, ctx.Err())
	}
	return rtt, err
}

// tracer is a lab's tracer, seen from outside the supervisor.
type tracer struct{ control *control }

func (t *tracer) Inject(ctx context.Context, owner, host string, in lab.Injection) error {
	return t.control.ask(ctx, wordInject, ask{Owner: owner, Host: host, Inject: in}, nil)
}

func (t *tracer) Clear(ctx context.Context, owner string) error {
	return t.control.ask(ctx, wordUninject, ask{Owner: owner}, nil)
}

func (t *tracer) Hits(ctx context.Context, owner string) (n int, err error) {
	err = t.control.ask(ctx, wordHits, ask{Owner: owner}, &n)
	return n, err
}

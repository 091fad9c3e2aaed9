package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/etcdrill/etcdrill/drivers/control"
	"github.com/etcdrill/etcdrill/drivers/process"
	"github.com/etcdrill/etcdrill/lab"
)

// proc is a member's process, seen from outside the supervisor.
type proc struct {
	control *control.Client
	dir     dir
	host    string
}

func (p *proc) Start(ctx context.Context) error {
	return p.control.Do(ctx, control.WordStart, control.Ask{Host: p.host}, nil)
}

func (p *proc) Stop(ctx context.Context) error {
	return p.control.Do(ctx, control.WordStop, control.Ask{Host: p.host}, nil)
}

func (p *proc) Signal(ctx context.Context, name string) error {
	return p.control.Do(ctx, control.WordSignal, control.Ask{Host: p.host, Signal: name}, nil)
}

// State implements lab.Proc. Without a supervisor it tells what that one wrote
// down last.
func (p *proc) State(ctx context.Context) (lab.ProcState, error) {
	var s lab.ProcState
	err := p.control.Do(ctx, control.WordState, control.Ask{Host: p.host}, &s)
	if !errors.Is(err, control.ErrGone) {
		return s, err
	}
	err = readJSON(p.dir.life(p.host), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return lab.ProcState{}, nil
	}
	if err == nil && s.Running && !(process.Life{PID: s.PID, Started: s.Started}).Alive() {
		s = lab.ProcState{Exit: "killed with its supervisor", Ended: time.Now()}
	}
	return s, err
}

func (p *proc) Log(ctx context.Context, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.Open(p.dir.log(p.host))
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

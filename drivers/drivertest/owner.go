package drivertest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/etcdrill/etcdrill/drivers/network"
	"github.com/etcdrill/etcdrill/lab"
)

// another starts a process that brings up a lab, and returns when it has.
func another(t *testing.T, id, how string) (*exec.Cmd, io.Closer) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, upWord, id, how)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != upWord {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	return cmd, in
}

// ownerKilled: a lab whose maker was killed is found, known to be nobody's,
// and can be taken down; its name is free again. Its hosts are not left as they
// are: a member ends, also a paused one, rules go, and what was armed is undone.
func (s *suite) ownerKilled(t *testing.T) {
	id := newID(t)
	cmd, _ := another(t, id, "leave")
	t.Cleanup(func() { s.down(t, id) })
	if l := s.left(t, id); l == nil || !l.Owned || l.Keep {
		t.Fatalf("while its maker lives: %+v", l)
	}
	c, err := s.d.Open(limit(t), id)
	must(t, err)
	put(t, client(t, c), "key", "value")
	if s.d.Caps(limit(t))[lab.CapSignal] == "" {
		must(t, c.Seats[0].Proc.Signal(limit(t), "STOP"))
	}
	undone, kept := path.Join(c.Hosts[0].Dir(), "undone"), path.Join(c.Hosts[0].Dir(), "kept")
	if c.DeadMan != nil {
		ctx := limit(t)
		must(t, c.Links.Set(ctx, "test", "m1", network.Client, lab.Rule{Drop: true}))
		must(t, c.DeadMan.Arm(ctx, "test", "m1", []string{"false"}))
		must(t, c.DeadMan.Arm(ctx, "test", "m1", []string{"test", "-d", c.Hosts[0].Dir()}, []string{"touch", undone}))
		must(t, c.DeadMan.Arm(ctx, "healed", "m1", []string{"touch", kept}))
		must(t, c.DeadMan.Disarm(ctx, "healed", "m1"))
		must(t, c.DeadMan.Disarm(ctx, "healed", "m1"))
		if err := c.DeadMan.Arm(ctx, "test", "m9", []string{"true"}); err == nil {
			t.Error("a switch on no host was armed")
		}
	}

	must(t, cmd.Process.Kill())
	cmd.Wait()
	until(t, "the lab to be nobody's", func(context.Context) error {
		l := s.left(t, id)
		if l == nil {
			return nil // gone by itself, which is as good
		}
		if l.Owned {
			return errors.New("it is somebody's")
		}
		return nil
	})
	until(t, "its members to end with its maker", func(ctx context.Context) error {
		st, err := c.Seats[0].Proc.State(ctx)
		if err != nil {
			return err
		}
		if st.Running {
			return errors.New("one runs")
		}
		return nil
	})
	if c.DeadMan != nil {
		until(t, "what was armed to be undone", func(ctx context.Context) error {
			_, err := c.Hosts[0].Get(ctx, undone)
			return err
		})
		if _, err := c.Hosts[0].Get(limit(t), kept); !isNotExist(err) {
			t.Errorf("what was healed was undone again: %v", err)
		}
		if rules, err := c.Links.Rules(limit(t)); err != nil || len(rules) > 0 {
			t.Errorf("rules: %v, %v", rules, err)
		}
	}
	s.down(t, id)
	c, err = s.d.Up(limit(t), id, spec(1))
	must(t, err)
	put(t, client(t, c), "key", "value")
}

// kept: a lab that was made to stay outlives its maker.
func (s *suite) kept(t *testing.T) {
	id := newID(t)
	cmd, in := another(t, id, "keep")
	t.Cleanup(func() { s.down(t, id) })
	must(t, in.Close())
	must(t, cmd.Wait())
	l := s.left(t, id)
	if l == nil || !l.Keep || l.Owned {
		t.Fatalf("after its maker has ended: %+v", l)
	}
	c, err := s.d.Open(limit(t), id)
	must(t, err)
	put(t, client(t, c), "key", "value")
	must(t, c.Seats[0].Proc.Stop(limit(t)))
	must(t, c.Seats[0].Proc.Start(limit(t)))
	put(t, client(t, c), "key", "after a restart")
}

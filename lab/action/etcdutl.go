package action

import (
	"context"
	"fmt"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Etcdutl runs any command of etcdutl.
type Etcdutl struct {
	Member lab.Target `need:"yes" doc:"on whose host"`
	Args   []string   `need:"yes" doc:"the command and its arguments; paths are relative to the lab's directory on the host"`
	Says   string     `doc:"text that it must print"`
}

// Doc implements lab.Action.
func (*Etcdutl) Doc() string {
	return "runs any etcdutl command on a member's host; beyond `says` its effect is not looked at, so let a check follow, or say what it refuses"
}

// Valid refuses a command without a word.
func (c *Etcdutl) Valid() error {
	if len(c.Args) == 0 {
		return fmt.Errorf("args: expected a command")
	}
	return nil
}

// Do implements lab.Action.
func (c *Etcdutl) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, c.Member)
	if err != nil {
		return err
	}
	for _, m := range seats {
		out, err := etcd.Tool(ctx, e, m, "etcdutl", c.Args...)
		if err != nil {
			return err
		}
		if text := string(out.Stdout) + string(out.Stderr); !strings.Contains(text, c.Says) {
			return &lab.Failure{What: m.Name + ": etcdutl " + lab.Quote(c.Args), Want: fmt.Sprintf("an answer with %q", c.Says), Got: fmt.Sprintf("%.300q", text)}
		}
	}
	return nil
}

// Shell implements lab.Shelled.
func (c *Etcdutl) Shell() (do, undo []string) {
	return shell("ssh " + who(c.Member) + " etcdutl " + lab.Quote(c.Args))
}

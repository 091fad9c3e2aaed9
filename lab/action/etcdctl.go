package action

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Etcdctl runs any command of etcdctl.
type Etcdctl struct {
	Args    []string      `need:"yes" doc:"the command and its arguments"`
	Says    string        `doc:"text that the answer must contain"`
	Through lab.Target    `doc:"members to send it to, one after the other; one that answers when absent"`
	Timeout time.Duration `default:"5s" doc:"etcdctl's own --command-timeout"`
	// A name and not a password, so that no record holds one.
	Password string `doc:"name of a password to give on standard input; the lab makes it up from the name, see check user"`
}

// Doc implements lab.Action.
func (*Etcdctl) Doc() string {
	return "runs any etcdctl command; beyond `says` its effect is not looked at, so let a check follow, or say what it refuses"
}

// Valid refuses a command without a word.
func (c *Etcdctl) Valid() error {
	if len(c.Args) == 0 || c.Timeout < time.Millisecond {
		return fmt.Errorf("args, timeout: expected a command, and at least 1ms")
	}
	return nil
}

// Do implements lab.Action.
func (c *Etcdctl) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, c.Through)
	if err != nil {
		return err
	}
	secret := ""
	if c.Password != "" {
		if secret, err = etcd.Password(e.Cluster, c.Password); err != nil {
			return err
		}
	}
	for _, m := range via {
		cmd := etcd.ToolCmd(e.Cluster, m, "etcdctl", append([]string{"--command-timeout=" + c.Timeout.String()}, c.Args...)...)
		if secret != "" {
			cmd.Stdin = strings.NewReader(secret + "\n")
		}
		out, err := e.Run(ctx, m.Host, cmd)
		if err != nil {
			return err
		}
		if text := string(out.Stdout) + string(out.Stderr); !strings.Contains(text, c.Says) {
			return &lab.Failure{What: m.Name + ": etcdctl " + lab.Quote(c.Args), Want: fmt.Sprintf("an answer with %q", c.Says), Got: fmt.Sprintf("%.300q", text)}
		}
	}
	return nil
}

// Shell implements lab.Shelled.
func (c *Etcdctl) Shell() (do, undo []string) {
	line := etcdctl + lab.Quote(append([]string{"--command-timeout=" + c.Timeout.String()}, c.Args...)) + via(c.Through)
	if c.Password != "" {
		line += " < " + c.Password + ".password"
	}
	return shell(line)
}

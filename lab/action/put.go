package action

import (
	"context"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// Put writes a key.
type Put struct {
	Key     string     `need:"yes" doc:"the key"`
	Value   string     `need:"yes" doc:"its value"`
	Through lab.Target `doc:"members to write through, one after the other; one that answers when absent"`
}

// Doc implements lab.Action.
func (*Put) Doc() string { return "writes a key and reads it back at the revision of the answer" }

// Touches says how much of an adopted cluster it changes.
func (p *Put) Touches() lab.Touch {
	if strings.HasPrefix(p.Key, lab.OwnKeys) {
		return lab.Passes
	}
	return lab.Lasts
}

// Do implements lab.Action.
func (p *Put) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, p.Through)
	if err != nil {
		return err
	}
	for _, m := range via {
		rev, err := ctl(ctx, e, m, "", "put", "--", p.Key, p.Value)
		if err != nil {
			return err
		}
		if err := holds(ctx, e, m, "the put", p.Key, &p.Value, rev); err != nil {
			return err
		}
	}
	return nil
}

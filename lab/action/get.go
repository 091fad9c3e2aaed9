package action

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Get reads a key and journals what it found.
type Get struct {
	Key          string     `need:"yes" doc:"the key"`
	Serializable bool       `doc:"ask the member alone: it answers without a quorum, and may be behind"`
	Through      lab.Target `doc:"members to read through, one after the other; one that answers when absent"`
}

// Doc implements lab.Action.
func (*Get) Doc() string { return "reads a key and journals value, revision and term" }

// Touches says how much of an adopted cluster it changes: it needs the lab's
// tools on the host.
func (*Get) Touches() lab.Touch { return lab.Passes }

// Do implements lab.Action.
func (g *Get) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, g.Through)
	if err != nil {
		return err
	}
	consistency := "--consistency=l"
	if g.Serializable {
		consistency = "--consistency=s"
	}
	for _, m := range via {
		out, err := etcd.Tool(ctx, e, m, "etcdctl", "--write-out=json", "get", consistency, "--", g.Key)
		if err != nil {
			return err
		}
		var r struct {
			Header struct {
				Revision int64  `json:"revision"`
				Term     uint64 `json:"raft_term"`
			} `json:"header"`
			Kvs []struct {
				Value []byte `json:"value"`
				Mod   int64  `json:"mod_revision"`
			} `json:"kvs"`
		}
		if err := json.Unmarshal(out.Stdout, &r); err != nil || r.Header.Revision == 0 {
			return fmt.Errorf("%s: etcdctl get exited 0 without an answer: %.200q", m.Name, out.Stdout)
		}
		if len(r.Kvs) == 0 {
			e.Note(m.Name, "%s is not there at revision %d, term %d", g.Key, r.Header.Revision, r.Header.Term)
			continue
		}
		e.Note(m.Name, "%s is %q of revision %d, at revision %d, term %d", g.Key, r.Kvs[0].Value, r.Kvs[0].Mod, r.Header.Revision, r.Header.Term)
	}
	return nil
}

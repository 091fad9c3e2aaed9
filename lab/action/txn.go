package action

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Txn compares a key and writes it, in one transaction.
type Txn struct {
	Key     string     `need:"yes" doc:"the key that is written"`
	Guard   string     `doc:"the key that is compared; the one that is written when absent"`
	Is      string     `doc:"the value it must have; absent or empty: it must not be there"`
	Then    string     `need:"yes" doc:"the value it gets when the comparison holds"`
	Else    string     `doc:"the value it gets when it does not; nothing is written when absent"`
	Through lab.Target `doc:"member to go through; one that answers when absent"`
}

// Doc implements lab.Action.
func (*Txn) Doc() string { return "compares a key and writes it, in one transaction" }

// compare is the comparison, in etcdctl's language.
func (t *Txn) compare() string {
	guard := t.Guard
	if guard == "" {
		guard = t.Key
	}
	if t.Is == "" {
		return fmt.Sprintf("create(%q) = %q", guard, "0")
	}
	return fmt.Sprintf("value(%q) = %q", guard, t.Is)
}

// Do implements lab.Action.
func (t *Txn) Do(ctx context.Context, e *lab.Env) error {
	via, err := through(ctx, e, t.Through)
	if err != nil {
		return err
	}
	// etcdctl reads comparisons, then what to do if they hold, then what if
	// not, each ended by an empty line, with Go's quoting.
	compare := t.compare()
	put := func(v string) string { return fmt.Sprintf("put -- %q %q", t.Key, v) }
	lines := []string{compare, "", put(t.Then), ""}
	if t.Else != "" {
		lines = append(lines, put(t.Else))
	}
	stdin := strings.Join(append(lines, "", ""), "\n")
	for _, m := range via {
		e.Note(m.Name, "transaction: %s", strings.Join(lines, " / "))
		cmd := etcd.ToolCmd(e.Cluster, m, "etcdctl", "--write-out=json", "txn")
		cmd.Stdin = strings.NewReader(stdin)
		out, err := e.Run(ctx, m.Host, cmd)
		if err != nil {
			return err
		}
		var r struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
			Succeeded bool `json:"succeeded"`
		}
		if err := json.Unmarshal(out.Stdout, &r); err != nil || r.Header.Revision == 0 {
			return fmt.Errorf("%s: etcdctl txn exited 0 without an answer: %.200q", m.Name, out.Stdout)
		}
		want := &t.Then
		if !r.Succeeded {
			e.Note(m.Name, "the comparison did not hold")
			if t.Else == "" {
				continue // nothing was written, so nothing can be read back
			}
			want = &t.Else
		}
		if err := holds(ctx, e, m, "the transaction", t.Key, want, r.Header.Revision); err != nil {
			return err
		}
	}
	return nil
}

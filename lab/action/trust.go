package action

import (
	"context"
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Trust says which authorities are believed.
type Trust struct {
	Member  lab.Target `need:"yes" doc:"the members"`
	Whom    string     `need:"yes" doc:"old (the lab's first authority), new (the one it is rotated to) or both"`
	Clients bool       `doc:"the lab's clients on this machine too; they take it with their next connection"`
}

// Valid implements the check of arguments.
func (a *Trust) Valid() error {
	if authorities[a.Whom] == nil {
		return fmt.Errorf("whom: %q: expected old, new or both", a.Whom)
	}
	return nil
}

var authorities = map[string][]string{"old": {etcd.OldCA}, "new": {etcd.NewCA}, "both": {etcd.OldCA, etcd.NewCA}}

// Doc implements lab.Action.
func (*Trust) Doc() string {
	return "writes whom members trust into their ca.crt; a member reads it when it starts and never again"
}

// Do implements lab.Action. The effect asserted is that the file says so when
// it is read again.
func (a *Trust) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	var whom []*etcd.PKI
	for _, name := range authorities[a.Whom] {
		p, err := etcd.Authority(e.Cluster, name)
		if err != nil {
			return err
		}
		whom = append(whom, p)
	}
	return believe(ctx, e, seats, a.Clients, "the authority: "+a.Whom, whom)
}

// believe writes authorities for members and for the lab's clients.
func believe(ctx context.Context, e *lab.Env, seats []*lab.Member, clients bool, what string, whom []*etcd.PKI) error {
	for _, m := range seats {
		if err := etcd.PutTrust(ctx, m, whom...); err != nil {
			return err
		}
		e.Note(m.Name, "ca.crt holds %s; it takes effect with the next start", what)
	}
	if clients {
		if err := etcd.SaveTrust(etcd.PKIDir(e.Cluster), whom...); err != nil {
			return err
		}
		e.Note("", "the lab's clients trust %s, from their next connection on", what)
	}
	return nil
}

// Shell implements lab.Shelled.
func (a *Trust) Shell() (do, undo []string) {
	from := map[string]string{"old": "old-ca.crt", "new": "new-ca.crt", "both": "old-ca.crt new-ca.crt"}[a.Whom]
	lines := []string{"ssh " + who(a.Member) + " tee PKI/ca.crt < " + from}
	if a.Whom == "both" {
		lines = []string{"cat " + from + " | ssh " + who(a.Member) + " tee PKI/ca.crt"}
	}
	return shell(lines...)
}

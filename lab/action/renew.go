package action

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Renew gives members new certificates, in place.
type Renew struct {
	Member  lab.Target    `need:"yes" doc:"the members"`
	Pair    string        `doc:"server, peer or client, with a new key each; ca for the authority's own certificate, with the same key; server, peer and client when absent"`
	By      string        `default:"old" doc:"the authority that issues them: old (the lab's first) or new (the one it is rotated to)"`
	Lasts   time.Duration `default:"8760h" doc:"how long they are good, from now on"`
	Clients bool          `doc:"the lab's clients on this machine too; they show it with their next connection"`
}

const caPair = "ca"

// Valid implements the check of arguments.
func (a *Renew) Valid() error {
	switch {
	case a.Pair != "" && a.Pair != caPair && !slices.Contains(etcd.Pairs, a.Pair):
		return fmt.Errorf("pair: %q: expected server, peer, client or ca", a.Pair)
	case a.By != etcd.OldCA && a.By != etcd.NewCA:
		return fmt.Errorf("by: %q: expected old or new", a.By)
	case a.Lasts < time.Second:
		return fmt.Errorf("lasts: %s: expected at least 1s", a.Lasts)
	}
	return nil
}

// Doc implements lab.Action.
func (*Renew) Doc() string {
	return "issues new certificates and puts them in place of the old ones; nothing is restarted"
}

// Do implements lab.Action. The effect asserted is that what lies on the host
// is in order.
func (a *Renew) Do(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, a.Member)
	if err != nil {
		return err
	}
	until := time.Now().Add(a.Lasts)
	if a.Pair == caPair {
		p, err := etcd.RenewAuthority(e.Cluster, a.By, a.Lasts)
		if err != nil {
			return err
		}
		return believe(ctx, e, seats, a.Clients, fmt.Sprintf("the authority, good until %s: %s", until.UTC().Format(time.RFC3339), a.By), []*etcd.PKI{p})
	}
	p, err := etcd.Authority(e.Cluster, a.By)
	if err != nil {
		return err
	}
	pairs := etcd.Pairs
	if a.Pair != "" {
		pairs = []string{a.Pair}
	}
	sign := func(r etcd.Request) (etcd.Pair, error) {
		r.Until = until
		return p.Sign(r)
	}
	for _, m := range seats {
		for _, name := range pairs {
			pair, err := sign(etcd.For(m, name))
			if err != nil {
				return err
			}
			if err := etcd.PutPair(ctx, m, name, pair); err != nil {
				return err
			}
			if there, err := etcd.GetPair(ctx, m, name); err != nil {
				return err
			} else if string(there.Cert) != string(pair.Cert) || string(there.Key) != string(pair.Key) {
				return &lab.Failure{What: fmt.Sprintf("certificate %s of %s after it was written", name, m.Name), Want: "the new one", Got: "another"}
			}
		}
		e.Note(m.Name, "new certificates (%s) by the authority: %s", strings.Join(pairs, ", "), a.By)
	}
	if !a.Clients {
		return nil
	}
	pair, err := sign(etcd.Request{Name: etcd.User, Client: true})
	if err != nil {
		return err
	}
	e.Note("", "the lab's clients show a new certificate by the authority: %s", a.By)
	return etcd.SaveClient(etcd.PKIDir(e.Cluster), pair)
}

// Shell implements lab.Shelled.
func (a *Renew) Shell() (do, undo []string) {
	m := who(a.Member)
	days := fmt.Sprintf("-days %d", int(a.Lasts.Hours()/24))
	if a.Lasts < 24*time.Hour {
		days = "-not_after " + a.Lasts.String() + "-FROM-NOW"
	}
	if a.Pair == caPair {
		return shell("openssl req -x509 -key "+a.By+"-ca.key -out "+a.By+"-ca.crt "+days, "ssh "+m+" tee PKI/ca.crt < "+a.By+"-ca.crt")
	}
	pair := a.Pair
	if pair == "" {
		pair = "{server,peer,client}"
	}
	return shell("openssl x509 -req -in "+m+"-"+pair+".csr -CA "+a.By+"-ca.crt -CAkey "+a.By+"-ca.key "+days,
		"scp "+m+"-"+pair+".{key,crt} "+m+":PKI/")
}

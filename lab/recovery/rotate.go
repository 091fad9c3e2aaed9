package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// Rotate gives all hosts, and the lab's clients, new certificates while the
// cluster serves.
//
// By the authority there is, they are put in place and shown with the next
// connection. To another authority it takes three rounds, in this order and no
// other: all trust both, all get certificates by the new one, nobody trusts the
// old one any more. A member reads whom it trusts when it starts, so the first
// and the last round restart one member after the other; who may connect then
// is tried on each before the next is touched.
//
// What was there before lies aside on its host until the end, and an undo puts
// it back the same way, member by member.
type Rotate struct {
	CA bool `doc:"to the lab's other authority, which nobody has trusted so far; else new certificates by the one there is"`

	Decided RotatePlan `yaml:"-"`
}

// RotatePlan is what a rotation has decided.
type RotatePlan struct {
	Was   Standing
	Order []string // members, who leads last
	By    string   // the authority of the new certificates
}

// Doc is one sentence for lists and help.
func (*Rotate) Doc() string {
	return "gives everybody new certificates while the cluster serves, by the authority there is or, in three rounds, by another one"
}

// Decide implements operation.Operation.
func (r *Rotate) Decide(ctx context.Context, e *lab.Env) error {
	was, err := calm(ctx, e)
	if err != nil {
		return err
	}
	d := RotatePlan{Was: was, By: etcd.OldCA}
	for _, x := range was.Members {
		if x.Down {
			return &lab.Failure{What: "member " + x.Name, Want: "answering, as all must before certificates are rotated", Got: "no answer: bring it back or replace it first"}
		}
		d.Order = append(d.Order, x.Name)
	}
	was.line(d.Order)
	present, err := issuer(ctx, e)
	if err != nil {
		return err
	}
	switch {
	case !r.CA:
		d.By = present
	case present == etcd.NewCA:
		return &lab.Failure{What: "authority of all certificates", Want: "the lab's first one, to rotate from it", Got: "the second one: this was done before"}
	default:
		d.By = etcd.NewCA
	}
	r.Decided = d
	return nil
}

// issuer finds the one authority that has issued all certificates.
func issuer(ctx context.Context, e *lab.Env) (string, error) {
	authorities := map[string]*etcd.PKI{}
	for _, name := range []string{etcd.OldCA, etcd.NewCA} {
		p, err := etcd.Issuer(e.Cluster, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		authorities[name] = p
	}
	present, where := "", ""
	for _, m := range e.Seats {
		for _, pair := range etcd.Pairs {
			p, err := etcd.GetPair(ctx, m, pair)
			if err != nil {
				return "", err
			}
			cert, err := etcd.ParseCert(p.Cert)
			if err != nil {
				return "", fmt.Errorf("certificate %s of %s: %w", pair, m.Name, err)
			}
			by := ""
			for name, a := range authorities {
				if a != nil && a.Issued(cert) {
					by = name
				}
			}
			here := fmt.Sprintf("certificate %s of %s", pair, m.Name)
			if by == "" {
				return "", &lab.Failure{What: here, Want: "by an authority of this lab", Got: "by " + cert.Issuer.String()}
			}
			if present != "" && present != by {
				return "", &lab.Failure{What: here, Want: "by the authority: " + present + ", as is " + where, Got: "by the authority: " + by}
			}
			present, where = by, here
		}
	}
	return present, nil
}

// Steps implements operation.Operation.
func (r *Rotate) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	c := begin(e, d.Was, 0)
	c.keep()
	both := []string{etcd.OldCA, etcd.NewCA}
	if r.CA {
		c.clientsTrust("let the clients trust both authorities", both, []string{etcd.OldCA})
		c.round(d.Order, "both authorities", both, []string{etcd.OldCA}, func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			return errors.Join(admits(ctx, e, m, etcd.OldCA, true), admits(ctx, e, m, etcd.NewCA, true))
		})
	}
	for _, m := range e.Seats {
		c.equip(m, d.By)
	}
	c.clientsShow(d.By)
	if r.CA {
		order := slices.Clone(d.Order)
		if heir, ok := d.Was.heir(); ok { // who leads since the first round
			order = append(slices.DeleteFunc(order, func(n string) bool { return n == heir }), heir)
		}
		c.round(order, "the new authority alone", []string{etcd.NewCA}, both, func(ctx context.Context, e *lab.Env, m *lab.Member) error {
			return errors.Join(admits(ctx, e, m, etcd.NewCA, true), admits(ctx, e, m, etcd.OldCA, false))
		})
		c.clientsTrust("let the clients trust the new authority alone", []string{etcd.NewCA}, both)
	}
	steps, err := c.done()
	if err != nil {
		return nil, err
	}
	steps[len(steps)-1].Point = "the certificates of before are deleted next: the way back is another rotation"
	return append(steps, operation.Step{
		Name:     "clear up",
		Shell:    ssh(e.Seats, func(m *lab.Member) string { return "rm -r " + c.pki(m) }),
		Forecast: c.now.forecast(),
		Do:       c.forget,
	}), nil
}

// pki is where the certificates of before lie aside on a host, clients' on
// this machine.
func (c *course) pki(m *lab.Member) string { return path.Join(m.PKI, before+"-"+c.was.Token) }
func (c *course) clients() string {
	return filepath.Join(etcd.PKIDir(c.e.Cluster), before+"-"+c.was.Token)
}

// forget removes what lies aside.
func (c *course) forget(ctx context.Context, e *lab.Env) error {
	return errors.Join(remove(ctx, e, e.Seats, c.pki), os.RemoveAll(c.clients()))
}

// keep copies all certificates aside.
func (c *course) keep() {
	now := c.now
	c.add(operation.Step{
		Name:      "keep the certificates of " + names(c.e.Seats) + " and of the clients",
		Shell:     ssh(c.e.Seats, func(m *lab.Member) string { return "cp -p PKI/*.crt PKI/*.key " + c.pki(m) }),
		ShellUndo: ssh(c.e.Seats, func(m *lab.Member) string { return "rm -r " + c.pki(m) }),
		Before:    func(ctx context.Context, e *lab.Env) error { return c.was.stands(ctx, e, now) },
		Do: func(ctx context.Context, e *lab.Env) error {
			err := etcd.Each(e.Seats, func(_ int, m *lab.Member) error {
				_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `set -e; mkdir -p -m 0700 -- "$2"; cp -p -- "$1"/*.crt "$1"/*.key "$2"`, "sh", m.PKI, c.pki(m)}})
				return err
			})
			if err != nil {
				return err
			}
			return copies(clientFiles, etcd.PKIDir(e.Cluster), c.clients())
		},
		Undo: c.forget,
	})
}

// clientFiles are what the lab's clients show.
var clientFiles = []string{"client.key", "client.crt"}

// copies copies files of this machine, each whole or not at all.
func copies(names []string, from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		fresh := filepath.Join(to, name+".new")
		if err := errors.Join(os.WriteFile(fresh, data, 0o600), os.Rename(fresh, filepath.Join(to, name))); err != nil {
			return err
		}
	}
	return nil
}

// authorities reads them by name; one that was never asked for is made.
func authorities(e *lab.Env, names []string) ([]*etcd.PKI, error) {
	var out []*etcd.PKI
	for _, name := range names {
		p, err := etcd.Authority(e.Cluster, name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// clientsTrust says whom the lab's clients trust, from their next connection
// on, and whom they trusted before.
func (c *course) clientsTrust(name string, whom, was []string) {
	put := func(whom []string) func(context.Context, *lab.Env) error {
		return func(_ context.Context, e *lab.Env) error {
			all, err := authorities(e, whom)
			if err != nil {
				return err
			}
			return etcd.SaveTrust(etcd.PKIDir(e.Cluster), all...)
		}
	}
	c.add(operation.Step{
		Name: name, Shell: []string{"# on the clients: ca.crt of " + fmt.Sprint(whom)}, ShellUndo: []string{"# on the clients: ca.crt of " + fmt.Sprint(was)},
		Do: put(whom), Undo: put(was),
	})
}

// round lets one host after the other trust somebody else: a member is stopped,
// told, and started again, the last of the order after a hand-over. What must
// hold of each before the next is touched is for gate to say.
func (c *course) round(order []string, what string, whom, was []string, gate func(context.Context, *lab.Env, *lab.Member) error) {
	put := func(m *lab.Member, whom []string) func(context.Context, *lab.Env) error {
		return func(ctx context.Context, e *lab.Env) error {
			all, err := authorities(e, whom)
			if err != nil {
				return err
			}
			return etcd.PutTrust(ctx, m, all...)
		}
	}
	tell := func(name string) {
		m := c.seat(name)
		c.add(operation.Step{
			Name:      "let " + name + " trust " + what,
			Shell:     []string{at(m, "tee", path.Join(m.PKI, "ca.crt")) + "  # of " + fmt.Sprint(whom)},
			ShellUndo: []string{at(m, "tee", path.Join(m.PKI, "ca.crt")) + "  # of " + fmt.Sprint(was)},
			Do:        put(m, whom), Undo: put(m, was),
		})
	}
	why := ", for it to trust " + what
	for i, name := range order {
		m := c.seat(name)
		if i > 0 && i == len(order)-1 {
			c.handOver(name, order[0])
		}
		c.halt(name, why)
		tell(name)
		c.launch(name, operation.Step{
			Name:      "start " + name + why,
			ShellUndo: []string{at(m, "systemctl", "stop", "etcd")},
			Gate:      func(ctx context.Context, e *lab.Env) error { return gate(ctx, e, m) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return etcd.Stop(ctx, e, m) },
		})
	}
	for _, m := range c.e.Seats {
		if !slices.Contains(order, m.Name) {
			tell(m.Name)
		}
	}
}

// equip gives a host new certificates, in place.
func (c *course) equip(m *lab.Member, by string) {
	_, member := c.now.find(m.Name)
	c.add(operation.Step{
		Name:      "give " + m.Name + " new certificates",
		Shell:     []string{"openssl x509 -req -CA " + by + "-ca.crt …  # server, peer, client", "scp … " + m.Name + ":" + m.PKI},
		ShellUndo: []string{at(m, "cp", "-p", c.pki(m)+"/…", m.PKI)},
		Do: func(ctx context.Context, e *lab.Env) error {
			all, err := authorities(e, []string{by})
			if err != nil {
				return err
			}
			e.Note(m.Name, "new certificates (server, peer, client) by the authority: %s", by)
			return all[0].Equip(ctx, m)
		},
		Gate: func(ctx context.Context, e *lab.Env) error {
			for _, pair := range etcd.Pairs {
				if err := etcd.Examine(ctx, m, pair, 0); err != nil {
					return err
				}
			}
			if !member {
				return nil
			}
			if err := shows(ctx, e, m); err != nil {
				return err
			}
			return serving(ctx, e, c.was.Members)
		},
		Undo: func(ctx context.Context, e *lab.Env) error {
			// Keys first, as etcd.PutPair does; what is in place is replaced whole.
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `set -e
if [ ! -d "$2" ]; then exit 0; fi
for f in server.key server.crt peer.key peer.crt client.key client.crt; do cp -p -- "$2/$f" "$1/$f.part"; mv -- "$1/$f.part" "$1/$f"; done`, "sh", m.PKI, c.pki(m)}})
			return err
		},
	})
}

// shows wants a member to show, on both ports, what lies on its host.
func shows(ctx context.Context, e *lab.Env, m *lab.Member) error {
	for port, pair := range map[string]string{etcd.ClientPort: "server", etcd.PeerPort: "peer"} {
		who, err := etcd.Peer(ctx, m)
		if err != nil {
			return err
		}
		r, err := etcd.Call(ctx, m, port, who)
		if err != nil {
			return err
		}
		if !r.Accepted {
			return &lab.Failure{What: "new connection to the " + port + " port of " + m.Name, Want: "accepted", Got: r.Why}
		}
		p, err := etcd.GetPair(ctx, m, pair)
		if err != nil {
			return err
		}
		lies, err := etcd.ParseCert(p.Cert)
		if err != nil {
			return err
		}
		if !lies.Equal(r.Leaf) {
			return &lab.Failure{What: "certificate that the " + port + " port of " + m.Name + " shows", Want: "the new one", Got: r.String()}
		}
	}
	return nil
}

// clientsShow gives the lab's clients a new certificate.
func (c *course) clientsShow(by string) {
	c.add(operation.Step{
		Name:      "give the clients a new certificate",
		Shell:     []string{"openssl x509 -req -CA " + by + "-ca.crt …  # client"},
		ShellUndo: []string{"# the old one back"},
		Do: func(_ context.Context, e *lab.Env) error {
			all, err := authorities(e, []string{by})
			if err != nil {
				return err
			}
			pair, err := all[0].IssueClient(etcd.User)
			if err != nil {
				return err
			}
			return etcd.SaveClient(etcd.PKIDir(e.Cluster), pair)
		},
		Gate: func(ctx context.Context, e *lab.Env) error {
			if err := familiar(ctx, e, c.was.Members.names()); err != nil {
				return err
			}
			for _, x := range c.was.Members {
				m, err := e.Member(x.Name)
				if err != nil {
					return err
				}
				if _, err := etcd.VersionsOf(ctx, e.Cluster, m); err != nil {
					return err
				}
			}
			return nil
		},
		Undo: func(_ context.Context, e *lab.Env) error {
			if _, err := os.Stat(c.clients()); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return copies(clientFiles, c.clients(), etcd.PKIDir(e.Cluster))
		},
	})
}

// admits tries whether a member lets in, on both ports, whoever shows a
// certificate by an authority.
func admits(ctx context.Context, e *lab.Env, m *lab.Member, by string, want bool) error {
	all, err := authorities(e, []string{by})
	if err != nil {
		return err
	}
	pair, err := all[0].IssueClient(etcd.User)
	if err != nil {
		return err
	}
	who, err := etcd.Stranger(pair)
	if err != nil {
		return err
	}
	for _, port := range []string{etcd.ClientPort, etcd.PeerPort} {
		r, err := etcd.Call(ctx, m, port, who)
		if err != nil {
			return err
		}
		if r.Accepted != want {
			return &lab.Failure{What: fmt.Sprintf("%s port of %s, for a certificate by the authority: %s", port, m.Name, by), Want: map[bool]string{true: "accepted", false: "refused"}[want], Got: r.String()}
		}
		e.Note(m.Name, "%s port, for a certificate by the authority: %s: %s", port, by, r)
	}
	return nil
}

package fault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Certificate spoils one of a member's certificates where it lies, while the
// member runs. etcd reads them anew for every connection: those that are open
// live on, so that nothing seems to be wrong, and new ones fail, both to the
// member and, for its peer certificate, from it.
//
// How it is spoiled:
//
//	expired       it has ended a minute ago
//	wrong-names   it is for another address
//	foreign       it is by an authority that nobody knows
//	half-rotated  a new key lies beside the old certificate
//
// Healing puts the old one back, unless what is there is in order: it was
// renewed meanwhile, and then that is the cure. A member that is down, since it
// did not start with such a certificate for instance, is started.
type Certificate struct {
	Member lab.Target `need:"yes" doc:"whose certificate is spoiled"`
	Pair   string     `need:"yes" doc:"server (shown to clients), peer (shown to and by members) or client (of the tools on its host)"`
	How    string     `default:"expired" doc:"expired, wrong-names, foreign or half-rotated"`
}

const (
	expired     = "expired"
	wrongNames  = "wrong-names"
	foreign     = "foreign"
	halfRotated = "half-rotated"
)

// Doc says what the fault does.
func (*Certificate) Doc() string {
	return "spoil a certificate of a member in place; healing puts the old one back unless it was renewed"
}

// Needs lists the abilities it must have.
func (*Certificate) Needs() []lab.Cap { return nil }

// Valid refuses arguments that do not go together.
func (f *Certificate) Valid() error {
	if err := oneOf("pair", f.Pair, etcd.Pairs...); err != nil {
		return err
	}
	if err := oneOf("how", f.How, expired, wrongNames, foreign, halfRotated); err != nil {
		return err
	}
	if f.How == wrongNames && f.Pair == "client" {
		return fmt.Errorf("how: %s: expected with server or peer: a client's certificate is for no address", f.How)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *Certificate) Shell() (do, undo []string) {
	spoil := map[string]string{
		expired:     "openssl x509 -req -in PAIR.csr -CA ca.crt -CAkey ca.key -not_after YESTERDAY -out /etc/etcd/pki/PAIR.crt",
		wrongNames:  "openssl x509 -req -in PAIR.csr -CA ca.crt -CAkey ca.key -extfile <(echo subjectAltName=IP:" + elsewhere + ") -out /etc/etcd/pki/PAIR.crt",
		foreign:     "openssl req -x509 -newkey ec -nodes -keyout /etc/etcd/pki/PAIR.key -out /etc/etcd/pki/PAIR.crt",
		halfRotated: "openssl ecparam -name prime256v1 -genkey -noout -out /etc/etcd/pki/PAIR.key",
	}[f.How]
	return operator(f.Member, "cp -a /etc/etcd/pki /etc/etcd/pki.kept", strings.ReplaceAll(spoil, "PAIR", f.Pair)),
		operator(f.Member, "cp -a /etc/etcd/pki.kept/. /etc/etcd/pki", "rm -r /etc/etcd/pki.kept")
}

// elsewhere is an address for documentation: no host of a lab has it.
const elsewhere = "198.51.100.1"

// Inject keeps a copy and spoils. What is not in order already is left alone.
func (f *Certificate) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	lab, err := etcd.Authority(e.Cluster, etcd.OldCA)
	if err != nil {
		return err
	}
	if _, err := running(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := etcd.Examine(ctx, m, f.Pair, time.Minute); err != nil {
			return fmt.Errorf("it is not in order already, there is nothing to break: %w", err)
		}
	}
	for _, m := range ms {
		bad, err := f.spoiled(lab, m)
		if err != nil {
			return err
		}
		if err := keep(ctx, e, m, m.PKI); err != nil {
			return err
		}
		if err := etcd.PutPair(ctx, m, f.Pair, bad); err != nil {
			return err
		}
		e.Note(m.Name, "its certificate %s is %s now", f.Pair, f.How)
	}
	return nil
}

// spoiled makes the pair that is put in place. Half a rotation brings no
// certificate.
func (f *Certificate) spoiled(ca *etcd.PKI, m *lab.Member) (etcd.Pair, error) {
	r := etcd.For(m, f.Pair)
	switch f.How {
	case expired:
		r.Until = time.Now().Add(-time.Minute)
	case wrongNames:
		r.Names = []string{elsewhere}
	case foreign:
		var err error
		if ca, err = etcd.NewPKI(time.Hour); err != nil {
			return etcd.Pair{}, err
		}
	}
	p, err := ca.Sign(r)
	if f.How == halfRotated {
		p.Cert = nil
	}
	return p, err
}

// Prove makes a new connection: to the member, or from its host when the
// certificate is the one of the tools there.
func (f *Certificate) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		copied, err := exists(ctx, m.Host, aside(e, m, kept))
		if err != nil {
			return lab.Proof{}, err
		}
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		if !st.Running {
			if !copied && replaced(ctx, e, m) {
				gone = append(gone, m.Name+" is no member any more")
			} else {
				unclear = append(unclear, fmt.Sprintf("%s does not run (%s)", m.Name, st.Exit))
			}
			continue
		}
		r, err := f.connect(ctx, e, m)
		if err != nil {
			return lab.Proof{}, err
		}
		text := fmt.Sprintf("a new connection that needs certificate %s of %s is %s", f.Pair, m.Name, r)
		switch {
		case copied && !r.Accepted:
			bites = append(bites, text)
		case !copied && r.Accepted:
			gone = append(gone, text)
		default:
			unclear = append(unclear, fmt.Sprintf("%s; its old one is kept: %v", text, copied))
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// connect makes a new connection for which the certificate is needed.
func (f *Certificate) connect(ctx context.Context, e *lab.Env, m *lab.Member) (etcd.Reception, error) {
	who, err := etcd.Clients(e.Cluster)
	if err != nil {
		return etcd.Reception{}, err
	}
	port := etcd.ClientPort
	switch f.Pair {
	case "peer":
		port = etcd.PeerPort
	case "client":
		pair, err := etcd.GetPair(ctx, m, f.Pair)
		if err != nil {
			return etcd.Reception{}, err
		}
		shows, err := tls.X509KeyPair(pair.Cert, pair.Key)
		if err != nil {
			return etcd.Reception{Why: err.Error()}, nil // no tool connects with that
		}
		who.Shows = &shows
	}
	return etcd.Call(ctx, m, port, who)
}

// Heal puts back what was spoiled, see Certificate.
func (f *Certificate) Heal(ctx context.Context, e *lab.Env) error {
	return mend(ctx, e, f.Member, func(m *lab.Member) error { return f.heal(ctx, e, m) })
}

func (f *Certificate) heal(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := remove(ctx, e, m, aside(e, m, "copying")); err != nil {
		return err
	}
	copied := aside(e, m, kept)
	there, err := exists(ctx, m.Host, copied)
	if err != nil || !there {
		return err
	}
	var bad *lab.Failure
	switch err := etcd.Examine(ctx, m, f.Pair, 0); {
	case errors.As(err, &bad):
		old := *m
		old.PKI = copied
		pair, err := etcd.GetPair(ctx, &old, f.Pair)
		if err != nil {
			return err
		}
		if err := etcd.PutPair(ctx, m, f.Pair, pair); err != nil {
			return err
		}
		e.Note(m.Name, "its certificate %s is the old one again", f.Pair)
	case err != nil:
		return err
	default:
		e.Note(m.Name, "its certificate %s is in order: it was renewed, and the old one is dropped", f.Pair)
	}
	return remove(ctx, e, m, copied)
}

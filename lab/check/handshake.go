package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Handshake asks how a member takes a new connection. Who connects:
//
//	lab      a client of the lab: shows its certificate, believes its authorities
//	old new  the same, with a fresh certificate by that authority
//	host     the certificate client of the member's own host
//	plain    speaks no TLS
//	none     shows no certificate
//	foreign  shows one by an authority nobody knows
//	expired  shows one of the lab's that has ended
//	server   shows one of the lab's that is good for servers only
//
// The last five believe whatever the member shows.
type Handshake struct {
	Member   lab.Target `need:"yes" doc:"the members, each of them"`
	Port     string     `default:"client" doc:"client or peer"`
	With     string     `default:"lab" doc:"who connects: lab, old, new, host, plain, none, foreign, expired or server"`
	Accepted bool       `doc:"the connection is accepted, and a question is answered on it"`
	Refused  bool       `doc:"one side refuses the other, explicitly or by hanging up"`
	Shows    string     `doc:"old or new: the authority that issued the certificate the member shows"`
	Says     string     `doc:"text that is in the answer, or in why there is none"`
}

// callers are who may connect.
var callers = []string{"lab", "old", "new", "host", "plain", "none", "foreign", "expired", "server"}

// Valid implements the check of arguments.
func (h *Handshake) Valid() error {
	switch {
	case h.Port != etcd.ClientPort && h.Port != etcd.PeerPort:
		return fmt.Errorf("port: %q: expected client or peer", h.Port)
	case !slices.Contains(callers, h.With):
		return fmt.Errorf("with: %q: expected one of %s", h.With, strings.Join(callers, ", "))
	case h.Shows != "" && h.Shows != etcd.OldCA && h.Shows != etcd.NewCA:
		return fmt.Errorf("shows: %q: expected old or new", h.Shows)
	case h.Shows != "" && h.With == "plain":
		return fmt.Errorf("shows: expected with TLS only")
	case h.Shows != "" && !h.Accepted && !h.Refused:
		return nil
	}
	return either(h.Accepted, h.Refused)
}

// Doc implements lab.Check.
func (*Handshake) Doc() string {
	return "makes a new TLS connection to members and asks whether it is accepted, and what certificate is shown"
}

// Holds implements lab.Check.
func (h *Handshake) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, h.Member)
	if err != nil {
		return err
	}
	for _, m := range seats {
		if err := h.holds(ctx, e, m); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handshake) holds(ctx context.Context, e *lab.Env, m *lab.Member) error {
	who, err := h.caller(ctx, e, m)
	if err != nil {
		return err
	}
	r, err := etcd.Call(ctx, m, h.Port, who)
	if err != nil {
		return fmt.Errorf("could not look: %w", err)
	}
	what := fmt.Sprintf("new connection to the %s port of %s by a client: %s", h.Port, m.Name, h.With)
	text := r.Why
	if r.Accepted {
		text = r.Body
	}
	switch {
	case h.Accepted && !r.Accepted:
		return &lab.Failure{What: what, Want: "accepted", Got: r.Why}
	case h.Refused && r.Accepted:
		return &lab.Failure{What: what, Want: "refused", Got: fmt.Sprintf("accepted: %.200s", r.Body)}
	case !strings.Contains(text, h.Says):
		return &lab.Failure{What: what, Want: fmt.Sprintf("%q", h.Says), Got: fmt.Sprintf("%.300s", text)}
	}
	if h.Shows != "" {
		if r.Leaf == nil {
			return fmt.Errorf("could not look: %s showed no certificate: %s", m.Name, r.Why)
		}
		p, err := etcd.Authority(e.Cluster, h.Shows)
		if err != nil {
			return err
		}
		if !p.Issued(r.Leaf) {
			return &lab.Failure{What: what + ": authority of the certificate that is shown", Want: h.Shows, Got: r.Leaf.Issuer.CommonName}
		}
	}
	e.Note(m.Name, "%s: %s", what, r)
	return nil
}

// caller makes who connects.
func (h *Handshake) caller(ctx context.Context, e *lab.Env, m *lab.Member) (etcd.Caller, error) {
	lab, err := etcd.Clients(e.Cluster)
	if err != nil {
		return lab, err
	}
	request := etcd.Request{Name: etcd.User, Client: true}
	by := etcd.OldCA
	switch h.With {
	case "lab":
		return lab, nil
	case "plain":
		return etcd.Caller{Plain: true}, nil
	case "none":
		return etcd.Caller{}, nil
	case "host":
		pair, err := etcd.GetPair(ctx, m, "client")
		if err != nil {
			return etcd.Caller{}, err
		}
		return etcd.Stranger(pair)
	case "foreign":
		p, err := etcd.NewPKI(time.Hour)
		if err != nil {
			return etcd.Caller{}, err
		}
		pair, err := p.Sign(request)
		if err != nil {
			return etcd.Caller{}, err
		}
		return etcd.Stranger(pair)
	case "expired":
		request.Until = time.Now().Add(-time.Minute)
	case "server":
		request.Client, request.Server = false, true
	case "new":
		by = etcd.NewCA
	}
	p, err := etcd.Authority(e.Cluster, by)
	if err != nil {
		return etcd.Caller{}, err
	}
	pair, err := p.Sign(request)
	if err != nil {
		return etcd.Caller{}, err
	}
	who, err := etcd.Stranger(pair)
	if h.With == "old" || h.With == "new" {
		who.Trust = lab.Trust
	}
	return who, err
}

package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Secrets looks for secrets on members' hosts, below the lab's directory:
// private keys stand in key files alone, which are for their owner alone, and
// no two hosts have the same one; passwords stand nowhere, not in data or logs
// either.
type Secrets struct {
	Member    lab.Target `default:"all" doc:"the members"`
	Passwords []string   `doc:"names of passwords that were given to etcd, see do etcdctl"`
}

// Doc implements lab.Check.
func (*Secrets) Doc() string {
	return "asks whether private keys on members' hosts are readable for their owner alone, and passwords stand nowhere"
}

// Holds implements lab.Check.
func (s *Secrets) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, s.Member)
	if err != nil {
		return err
	}
	var secrets []string
	for _, name := range s.Passwords {
		secret, err := etcd.Password(e.Cluster, name)
		if err != nil {
			return err
		}
		secrets = append(secrets, secret)
	}
	owner := map[[32]byte]string{}
	for _, m := range seats {
		if err := keys(ctx, m, owner); err != nil {
			return err
		}
		if len(secrets) == 0 {
			continue
		}
		// On standard input: an argument could be seen by others. What etcd keeps
		// ready for the next WAL segment is large and empty.
		files, err := find(ctx, m, strings.Join(secrets, "\n"), "grep", "-rlaF", "--exclude-dir="+path.Base(m.Bin), "--exclude=*.tmp", "-f", "-", m.Host.Dir())
		if err != nil {
			return err
		}
		if len(files) > 0 {
			return &lab.Failure{What: fmt.Sprintf("passwords %s on %s", strings.Join(s.Passwords, ", "), m.Name), Want: "nowhere", Got: strings.Join(files, ", ")}
		}
	}
	return nil
}

// keys looks at the private keys of one host. owner says which host has which.
func keys(ctx context.Context, m *lab.Member, owner map[[32]byte]string) error {
	what := "private keys on " + m.Name
	// Text files only: a program may well contain the words.
	files, err := find(ctx, m, "", "grep", "-rlI", "-e", "PRIVATE KEY", m.Host.Dir())
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if m.PKI != "" {
			return fmt.Errorf("could not look: no key was found below %s", m.Host.Dir())
		}
		return nil
	}
	for _, f := range files {
		if path.Ext(f) != ".key" && path.Base(f) != "key.pem" { // etcd's own, of auto-tls
			return &lab.Failure{What: what, Want: "in key files alone", Got: f}
		}
		data, err := m.Host.Get(ctx, f)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		sum := sha256.Sum256(data)
		if who := owner[sum]; who != "" && who != m.Name {
			return &lab.Failure{What: what, Want: "its own", Got: fmt.Sprintf("%s is the same as on %s", f, who)}
		}
		owner[sum] = m.Name
	}
	open, err := find(ctx, m, "", append(append([]string{"find"}, files...), "(", "-perm", "-040", "-o", "-perm", "-004", ")")...)
	if err != nil {
		return err
	}
	if len(open) > 0 {
		return &lab.Failure{What: what, Want: "for their owner alone", Got: strings.Join(open, ", ") + ": others may read"}
	}
	return nil
}

// find runs a command that lists files, one per line. grep says 1 for none.
func find(ctx context.Context, m *lab.Member, stdin string, argv ...string) ([]string, error) {
	cmd := lab.Cmd{Argv: argv}
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin + "\n")
	}
	out, err := m.Host.Run(ctx, cmd)
	var exit *lab.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.Code == 1 && argv[0] == "grep") {
		return nil, fmt.Errorf("could not look: %w", err)
	}
	return strings.FieldsFunc(string(out.Stdout), func(r rune) bool { return r == '\n' }), nil
}

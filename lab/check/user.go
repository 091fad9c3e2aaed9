package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// User asks what a user of etcd may do. The user is somebody who shows a
// certificate with this name, or who gives a password. It changes nothing: the
// write it asks for is in a transaction that never holds, and etcd looks at
// what one may do before it looks at that.
type User struct {
	Name     string `need:"yes" doc:"the user"`
	Password string `doc:"name of the password to log in with, as given to do etcdctl; a certificate with the user's name is shown when absent"`
	Key      string `default:"etcdrill/probe" doc:"the key in question"`
	May      string `need:"yes" doc:"read, write, both or nothing"`
	Says     string `doc:"text in the refusal"`
}

// login is how long to log in and to ask may take: etcd makes the comparison of a
// password slow on purpose.
const login = 5 * time.Second

// Valid implements the check of arguments.
func (u *User) Valid() error {
	if !slices.Contains([]string{"read", "write", "both", "nothing"}, u.May) {
		return fmt.Errorf("may: %q: expected read, write, both or nothing", u.May)
	}
	return nil
}

// Doc implements lab.Check.
func (*User) Doc() string {
	return "asks what a user may do with a key, by trying as this user, with a certificate or a password"
}

// Touches says how much of an adopted cluster it changes.
func (*User) Touches() lab.Touch { return lab.Lasts }

// Holds implements lab.Check.
func (u *User) Holds(ctx context.Context, e *lab.Env) error {
	up, err := etcd.Answering(ctx, e)
	if err != nil {
		return err
	}
	secret := ""
	if u.Password != "" {
		if secret, err = etcd.Password(e.Cluster, u.Password); err != nil {
			return err
		}
	}
	try := func(do func(ctx context.Context, cli *clientv3.Client) error) error {
		ctx, cancel := context.WithTimeout(ctx, login)
		defer cancel()
		cli, err := etcd.ClientAs(ctx, e.Cluster, up[0], u.Name, secret)
		if err != nil {
			return err
		}
		defer cli.Close()
		return do(ctx, cli)
	}
	may := map[string]bool{}
	var refused []string
	for _, wish := range []struct {
		what string
		do   func(ctx context.Context, cli *clientv3.Client) error
	}{
		{"read", func(ctx context.Context, cli *clientv3.Client) error {
			_, err := cli.Get(ctx, u.Key)
			return err
		}},
		{"write", func(ctx context.Context, cli *clientv3.Client) error {
			_, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(u.Key), "=", -1)).Then(clientv3.OpPut(u.Key, "")).Commit()
			return err
		}},
	} {
		switch err := try(wish.do); {
		case err == nil:
			may[wish.what] = true
		case denied(err):
			refused = append(refused, fmt.Sprintf("%s: %s", wish.what, err))
		default:
			return fmt.Errorf("could not tell whether %s may %s: %s: %w", u.Name, wish.what, up[0].Name, err)
		}
	}
	got := map[[2]bool]string{{true, true}: "both", {true, false}: "read", {false, true}: "write", {false, false}: "nothing"}[[2]bool{may["read"], may["write"]}]
	all := strings.Join(refused, "; ")
	if err := wrong(fmt.Sprintf("what user %s may do with %s", u.Name, u.Key), u.May, got); err != nil {
		return err
	}
	if !strings.Contains(all, u.Says) {
		return &lab.Failure{What: "refusal of user " + u.Name, Want: fmt.Sprintf("%q", u.Says), Got: all}
	}
	e.Note(up[0].Name, "user %s may do with %s: %s. %s", u.Name, u.Key, got, all)
	return nil
}

// denied tells whether etcd refused because of who asks.
func denied(err error) bool {
	for _, no := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrUserNotFound} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

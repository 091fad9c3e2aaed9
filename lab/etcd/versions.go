package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/etcdrill/etcdrill/lab"
)

// Versions are what a member says about releases, such as 3.7.3; empty where
// it says nothing.
type Versions struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"` // what all members can do: the lowest minor among them
	Storage string `json:"storage"`     // of its data directory; since 3.6
}

// VersionsOf asks a member for its versions, at its client port.
func VersionsOf(ctx context.Context, c *lab.Cluster, m *lab.Member) (Versions, error) {
	var v Versions
	who := Caller{Plain: true}
	if c.TLS != nil {
		var err error
		if who, err = Clients(c); err != nil {
			return v, err
		}
	}
	r, err := Call(ctx, m, ClientPort, who)
	if err != nil {
		return v, err
	}
	if !r.Accepted {
		return v, fmt.Errorf("%s: versions: %s", m.Name, r)
	}
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil || v.Server == "" {
		return v, fmt.Errorf("%s: versions: %.200q", m.Name, r.Body)
	}
	return v, nil
}

// Downgrading asks one member whether a downgrade is enabled in its cluster. One
// of 3.5 and before never says so.
func Downgrading(ctx context.Context, c *lab.Cluster, m *lab.Member) (enabled bool, err error) {
	err = call(ctx, c, m, func(ctx context.Context, _ pb.KVClient, mt pb.MaintenanceClient) error {
		r, err := mt.Status(ctx, &pb.StatusRequest{})
		enabled = r.GetDowngradeInfo().GetEnabled()
		return err
	})
	return enabled, err
}

// Release asks the etcd in a directory of a member's host which one it is, such
// as 3.7.3.
func Release(ctx context.Context, e *lab.Env, m *lab.Member, dir string) (string, error) {
	out, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{path.Join(dir, "etcd"), "--version"}})
	if err != nil {
		return "", fmt.Errorf("release of etcd on %s: %w", m.Name, err)
	}
	return ReleaseIn(out.Stdout)
}

// ReleaseIn reads what `etcd --version` says.
func ReleaseIn(said []byte) (string, error) {
	_, version, ok := strings.Cut(string(said), "etcd Version: ")
	version, _, _ = strings.Cut(version, "\n")
	if version = strings.TrimSpace(version); !ok || version == "" {
		return "", fmt.Errorf("release of etcd: it says %.200q", said)
	}
	return version, nil
}

// Minor is a release without its patch: 3.7 of 3.7.3.
func Minor(version string) string {
	parts := strings.SplitN(strings.TrimSpace(version), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

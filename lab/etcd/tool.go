package etcd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// ToolCmd is the command for one of etcd's own tools ("etcdctl", "etcdutl") on
// a member's host, with the member's binaries: etcdctl talks to that member
// alone and shows its certificates by ETCDCTL_ variables, so that the argument
// vector is what an operator would type.
func ToolCmd(c *lab.Cluster, m *lab.Member, tool string, args ...string) lab.Cmd {
	cmd := lab.Cmd{Argv: []string{path.Join(m.Bin, tool)}}
	if tool == "etcdctl" {
		cmd.Argv = append(cmd.Argv, "--endpoints="+m.LocalURL)
		if m.PKI != "" {
			cmd.Env = []string{
				"ETCDCTL_CACERT=" + path.Join(m.PKI, trustFile),
				"ETCDCTL_CERT=" + path.Join(m.PKI, "client.crt"),
				"ETCDCTL_KEY=" + path.Join(m.PKI, "client.key"),
			}
		}
		if c.Spec.Slower > 0 { // its defaults are 2s and 5s
			cmd.Argv = append(cmd.Argv, "--dial-timeout="+c.Spec.Long(2*time.Second).String(), "--command-timeout="+c.Spec.Long(5*time.Second).String())
		}
	}
	cmd.Argv = append(cmd.Argv, args...)
	return cmd
}

// Tool runs one of etcd's own tools on a member's host and journals it. A tool
// that refused gives *lab.ExitError. Exit codes are never to be trusted alone:
// whoever calls looks at the effect.
func Tool(ctx context.Context, e *lab.Env, m *lab.Member, tool string, args ...string) (lab.Output, error) {
	return e.Run(ctx, m.Host, ToolCmd(e.Cluster, m, tool, args...))
}

// Health asks a member's health port, such as "/readyz?verbose", from the
// member's host, and returns the HTTP status and body. No answer is an error.
func Health(ctx context.Context, m *lab.Member, path string) (int, string, error) {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return m.Host.Dial(ctx, addr)
		},
		TLSClientConfig:   m.HealthTLS,
		DisableKeepAlives: true,
	}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.HealthURL+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, "", fmt.Errorf("%s: %s: %w", m.Name, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return resp.StatusCode, string(body), fmt.Errorf("%s: %s: %w", m.Name, path, err)
	}
	return resp.StatusCode, string(body), nil
}

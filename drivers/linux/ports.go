package linux

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// claims is the directory, on each host, in which labs claim their ports, those
// of other people and machines too: a link for each distance from the usual
// ports, to the directory of the lab that has it. A claim whose lab is gone is
// free. It does not outlive a boot, and need not: agents listen by then.
const claims = "/run/etcdrill-ports"

// survey refuses a host that cannot carry a lab, makes the lab's directory, and
// returns the ports that are listened on.
func survey(ctx context.Context, h lab.Host) (taken map[int]bool, err error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", `mkdir -p -m 0700 "$1" && id -u && uname -sm && ls -d /run/systemd/system && cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; :`, "sh", h.Dir()}})
	if err != nil {
		return nil, err
	}
	lines := strings.SplitN(string(out.Stdout), "\n", 4)
	switch {
	case len(lines) < 3 || !strings.HasPrefix(lines[1], "Linux "):
		return nil, fmt.Errorf("%s: expected a Linux host: %q", h.Name(), out.Stdout)
	case lines[0] != "0":
		return nil, fmt.Errorf("%s: expected root rights, got those of user %s: log in as root or allow sudo without a password", h.Name(), lines[0])
	case lines[2] != "/run/systemd/system":
		return nil, fmt.Errorf("%s: expected a host that runs systemd", h.Name())
	}
	return listening(lines[3]), nil
}

// claimScript takes the first distance that no lab has.
//
//	$1 directory of claims  $2 the lab's directory, which is there  $3… distances
const claimScript = `
mkdir -p "$1" && cd "$1" && exec 9<. && flock 9 || exit
lab=$2
shift 2
for by; do
	[ -d "$(readlink "$by")" ] && continue
	ln -sfn "$lab" "$by" && echo "$by"
	exit
done
exit 44
`

// claim takes ports that nobody listens on and no other lab has claimed, and
// does so at once for all who make labs on the host, wherever they are.
func claim(ctx context.Context, h lab.Host, dir string, taken map[int]bool) (Ports, error) {
	argv := []string{"sh", "-c", claimScript, "sh", dir, h.Dir()}
	for by := 0; by < 20000; by += 100 {
		if !slices.ContainsFunc(PortsAt(by).all(), func(port int) bool { return taken[port] }) {
			argv = append(argv, strconv.Itoa(by))
		}
	}
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: argv})
	if exit := (*lab.ExitError)(nil); errors.As(err, &exit) && exit.Code == 44 {
		return Ports{}, fmt.Errorf("%s: no free ports: look at %s there", h.Name(), dir)
	} else if errors.As(err, &exit) {
		return Ports{}, fmt.Errorf("%s: could not claim ports in %s: %s", h.Name(), dir, exit.Text())
	} else if err != nil {
		return Ports{}, err
	}
	by, err := strconv.Atoi(strings.TrimSpace(string(out.Stdout)))
	if err != nil {
		return Ports{}, fmt.Errorf("%s: ports: expected a number: %q", h.Name(), out.Stdout)
	}
	return PortsAt(by), nil
}

// listening reads the ports that are listened on from /proc/net/tcp.
func listening(table string) map[int]bool {
	out := map[int]bool{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "0A" {
			continue
		}
		_, port, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseInt(port, 16, 32); err == nil {
			out[int(n)] = true
		}
	}
	return out
}

package kernel

import (
	"context"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// removeScript takes away what a lab has in a kernel: $1 table, $2 start of the
// names of chains, $3 handle of the root qdisc. It fails when something is left.
// A tool that is missing has made nothing. The table goes last, since it is what
// is looked for.
const removeScript = `
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
roots() {
	tc qdisc show 2>/dev/null | while read -r _ _ handle _ device place _; do
		[ "$handle" = "$1" ] && [ "$place" = root ] && echo "$device"
	done
}
for device in $(roots "$3"); do tc qdisc del dev "$device" root; done
left=$(roots "$3")
for way in "INPUT $2-in" "OUTPUT $2-out"; do
	hook=${way% *} chain=${way#* }
	iptables -w -S "$chain" >/dev/null 2>&1 || continue
	iptables -w -D "$hook" -m comment --comment "$1" -j "$chain"
	iptables -w -F "$chain" && iptables -w -X "$chain" || left="$left $chain"
done
if nft list tables inet 2>/dev/null | grep -qxF "table inet $1"; then
	nft delete table inet "$1" || left="$left $1"
fi
[ -z "$left" ] || { echo "left in the kernel: $left" >&2; exit 1; }
`

func removal(n names) []string {
	return []string{"sh", "-c", removeScript, "sh", n.table, n.chain, n.root}
}

// Remove takes away all that a lab has in the kernel of a host. It may be called
// where there is nothing.
func Remove(ctx context.Context, h lab.Host, id string) error {
	_, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: removal(namesOf(id))})
	return err
}

// leftScript prints the names of tables, and the comments of jumps to chains.
const leftScript = `
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
nft list tables inet 2>/dev/null | sed -n "s/^table inet //p"
iptables -w -S 2>/dev/null | sed -n "s/.* --comment \"\{0,1\}\([^ \"]*\).*/\1/p"
:
`

// Left lists the labs that have something in the kernel of a host.
func Left(ctx context.Context, h lab.Host) ([]string, error) {
	out, err := h.Run(ctx, lab.Cmd{Dir: "/", Argv: []string{"sh", "-c", leftScript}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for line := range strings.Lines(string(out.Stdout)) {
		if id, ours := strings.CutPrefix(strings.TrimSpace(line), prefix); ours {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

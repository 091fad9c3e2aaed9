package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "say what this machine can and cannot do for drills, and how to get what it lacks",
		Long: `doctor looks at this machine, and with --driver ssh at those of the inventory.

The links between Linux hosts are cut by nft or iptables and slowed by tc, where
all hosts of a lab can do that, else by a proxy. ETCDRILL_LINKS=proxy chooses the
proxy, ETCDRILL_LINKS=kernel refuses hosts that would need it for cuts, and
ETCDRILL_LINKS=iptables leaves nft and tc alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			drv, err := a.open()
			if err != nil {
				return err
			}
			env := environment()
			for _, k := range []string{"etcdrill", "os", "kernel", "cpus"} {
				fmt.Fprintf(a.out, "%-9s %s\n", k, env[k])
			}
			caps := drv.Caps(cmd.Context())
			var names []string
			for c := range caps {
				names = append(names, string(c))
			}
			sort.Strings(names)
			fmt.Fprintf(a.out, "driver %s\n", drv.Name())
			if why := unusable(caps); why != "" {
				fmt.Fprintf(a.out, "  cannot be used here: %s\n", why)
				names = nil
			}
			for _, n := range names {
				if why := caps[lab.Cap(n)]; why != "" {
					fmt.Fprintf(a.out, "  no   %-8s %s\n", n, why)
				} else {
					fmt.Fprintf(a.out, "  yes  %s\n", n)
				}
			}
			if l, ok := drv.(linksBy); ok {
				fmt.Fprintf(a.out, "links     %s\n", l.LinksBy(cmd.Context()))
			} else {
				fmt.Fprintln(a.out, "links     found out when a lab is made, see its report")
			}
			sync, free, err := disk()
			if err != nil {
				return fmt.Errorf("disk: %w", err)
			}
			fmt.Fprintf(a.out, "disk      a synchronous 4 KiB write takes %s here; %d MiB free\n", sync.Round(10*time.Microsecond), free>>20)
			if sync > 20*time.Millisecond {
				fmt.Fprintln(a.out, "          that is slow: elections and latencies measured here say more about the disk than about etcd")
			}
			if d, ok := drv.(interface {
				Warnings(context.Context) ([]string, error)
			}); ok && names != nil {
				warnings, err := d.Warnings(cmd.Context())
				for _, w := range warnings {
					fmt.Fprintf(a.out, "warning   %s\n", w)
				}
				if err != nil {
					return err
				}
			}
			left, err := drv.Left(cmd.Context())
			if err != nil {
				return err
			}
			for _, l := range left {
				if !l.Keep && !l.Owned {
					fmt.Fprintf(a.out, "left over %s: etcdrill gc removes it\n", l.ID)
				}
			}
			return nil
		},
	}
}

// linksBy is a driver that knows before there is a lab what will make its
// links, as in lab.Cluster.
type linksBy interface {
	LinksBy(context.Context) string
}

// disk measures the median of some synchronous writes where labs would live.
func disk() (time.Duration, uint64, error) {
	dir, err := os.MkdirTemp("", "etcdrill-doctor-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	f, err := os.OpenFile(filepath.Join(dir, "sync"), os.O_CREATE|os.O_WRONLY|syscall.O_SYNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var took []time.Duration
	for range 21 {
		start := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(start))
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, 0, err
	}
	return took[len(took)/2], fs.Bavail * uint64(fs.Bsize), nil
}

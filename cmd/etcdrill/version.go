package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	etcd "go.etcd.io/etcd/api/v3/version"
)

// release is set by the linker for released binaries.
var release = ""

func version() string {
	if release != "" {
		return release
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "development"
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the versions of etcdrill and of the etcd inside",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			fmt.Fprintf(a.out, "etcdrill %s\netcd %s\n%s %s/%s\n", version(), etcd.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// environment is recorded in every run.
func environment() map[string]string {
	env := map[string]string{
		"etcdrill": version(),
		"os":       runtime.GOOS + "/" + runtime.GOARCH,
		"cpus":     fmt.Sprint(runtime.NumCPU()),
		"go":       runtime.Version(),
	}
	if k, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		env["kernel"] = string(k[:max(0, len(k)-1)])
	}
	return env
}

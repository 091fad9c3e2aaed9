package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// interruptible ends the context on the first interrupt, so that whoever runs
// heals and cleans up. The second one leaves at once and says how to clean up
// by hand.
func interruptible(ctx context.Context, talk io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		fmt.Fprintln(talk, "\netcdrill: interrupted: healing what is broken, then taking the lab down; interrupt again to leave at once")
		cancel()
		if _, ok := <-signals; ok {
			fmt.Fprintln(talk, "etcdrill: leaving; clean up with: etcdrill gc")
			os.Exit(exitInterrupted)
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); cancel() }
}

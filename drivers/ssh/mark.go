package ssh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// MarkFile is the file on a machine by which its owner allows etcdrill to
// break it. No lab is made where it is missing.
const MarkFile = "/etc/etcdrill-allowed"

// ErrUnmarked is matched by the error for a machine that carries no mark.
var ErrUnmarked = errors.New("not marked as a machine that etcdrill may break")

// Marked returns who allowed etcdrill to break the machine, and when. Without
// a mark the error matches ErrUnmarked and says how to set it.
func (h *Host) Marked(ctx context.Context) (string, error) {
	text, err := h.Get(ctx, MarkFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w: if it is yours and holds nothing of worth, run `%s`", h, ErrUnmarked,
			lab.Quote([]string{"etcdrill", "host", "mark", h.machine.Name, "--inventory", h.inventory}))
	}
	return strings.TrimSpace(string(text)), err
}

// Mark allows etcdrill to break the machine, on behalf of who.
func (h *Host) Mark(ctx context.Context, who string) error {
	text := fmt.Sprintf("etcdrill may break this machine: allowed by %s on %s.\nRemove this file to take that back.\n", who, time.Now().UTC().Format(time.RFC3339))
	return h.Put(ctx, MarkFile, 0o644, []byte(text))
}

// Unmark takes the mark away; nil when there is none.
func (h *Host) Unmark(ctx context.Context) error {
	_, err := h.Run(ctx, lab.Cmd{Argv: []string{"rm", "-f", MarkFile}, Dir: "/"})
	return err
}

// Each calls f for all hosts at once and waits for all of them. The error
// joins theirs, in the order of hosts, each beginning with the host's name.
func Each[H interface{ Name() string }](ctx context.Context, hosts []H, f func(ctx context.Context, h H) error) error {
	errs := make([]error, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() {
			if err := f(ctx, h); err != nil {
				if s := err.Error(); !strings.HasPrefix(s, h.Name()+":") && !strings.HasPrefix(s, h.Name()+" (") {
					err = fmt.Errorf("%s: %w", h.Name(), err)
				}
				errs[i] = err
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

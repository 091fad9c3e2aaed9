package linux

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Reading is what was read of a host's clock.
type Reading struct {
	Host  string        // as people know it
	Ahead time.Duration // of the clock here
	Give  time.Duration // that may be wrong by so much
}

// Read reads a host's clock.
func Read(ctx context.Context, h lab.Host) (r Reading, err error) {
	r.Host = h.Name()
	if s, ok := h.(fmt.Stringer); ok {
		r.Host = s.String()
	}
	r.Ahead, r.Give, err = lab.Clock(ctx, h)
	return r, err
}

// Fit refuses a host on which certificates made here are not valid.
func (r Reading) Fit() error {
	off, ends := r.Ahead.Abs().Round(time.Second), ""
	switch {
	case r.Ahead+r.Give < -etcd.Early:
		ends = fmt.Sprintf("%s behind the one here, where the lab's certificates are made: they are not valid yet there", off)
	case r.Ahead-r.Give > validity:
		ends = fmt.Sprintf("%s ahead of the one here, where the lab's certificates are made: they have ended there", off)
	default:
		return nil
	}
	return fmt.Errorf("%s: its clock is %s. Set it right (timedatectl set-ntp true), or set the one here", r.Host, ends)
}

// Skew says which clocks differ by more than a second, from the one here or
// from each other; nothing when none do for sure.
func Skew(all []Reading) string {
	first, last := time.Duration(0), time.Duration(0) // the clock here
	var says []string
	for _, r := range all {
		first, last = min(first, r.Ahead+r.Give), max(last, r.Ahead-r.Give)
		says = append(says, fmt.Sprintf("%s %+.1fs", r.Host, r.Ahead.Seconds()))
	}
	if last-first <= time.Second {
		return ""
	}
	return fmt.Sprintf("clocks differ by more than a second (from the one here: %s): what hosts logged cannot be put in order by its dates; let them synchronise (timedatectl set-ntp true)", strings.Join(says, ", "))
}

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Change is a key that is not the same in two stores.
type Change struct {
	What string `json:"what"` // added, changed or gone
	Key  string `json:"key"`
	// Object is what Kubernetes calls it, such as pods/default/nginx; empty for
	// other keys.
	Object string `json:"object,omitempty"`
	// Revisions of the key's last change before and after, 0 where it is not there.
	Before int64 `json:"before,omitempty"`
	After  int64 `json:"after,omitempty"`
}

// String is one line, such as "~ pods/default/nginx".
func (c Change) String() string {
	name := c.Key
	if c.Object != "" {
		name = c.Object
	}
	return fmt.Sprintf("%s %s", map[string]string{"added": "+", "changed": "~", "gone": "-"}[c.What], name)
}

// Diff lists what differs between two stores, in order of keys. A key that was
// written again with the same value is the same.
func Diff(before, after etcd.Keys) []Change {
	var out []Change
	for key, v := range before {
		w, ok := after[key]
		switch {
		case !ok:
			out = append(out, Change{What: "gone", Key: key, Object: Object(key), Before: v.Revision})
		case v.Sum != w.Sum:
			out = append(out, Change{What: "changed", Key: key, Object: Object(key), Before: v.Revision, After: w.Revision})
		}
	}
	for key, w := range after {
		if _, ok := before[key]; !ok {
			out = append(out, Change{What: "added", Key: key, Object: Object(key), After: w.Revision})
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Object is the name of the Kubernetes object that a key is of: kind, namespace
// where it has one, and name. Empty for keys that are not below /registry.
// API servers write /registry/KIND/…, /registry/GROUP/KIND/… for groups with a
// dot in them, and /registry/services/specs/… and /registry/services/endpoints/…
// for these two.
func Object(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) < 4 || parts[0] != "" || parts[1] != "registry" {
		return ""
	}
	parts = parts[2:]
	switch {
	case parts[0] == "services" && len(parts) > 2 && parts[1] == "specs":
		parts = append([]string{"services"}, parts[2:]...)
	case parts[0] == "services" && len(parts) > 2 && parts[1] == "endpoints":
		parts = parts[1:]
	case strings.Contains(parts[0], ".") && len(parts) > 2:
		parts = append([]string{parts[1] + "." + parts[0]}, parts[2:]...)
	}
	return strings.Join(parts, "/")
}

// Live is the word for the keys of the running cluster.
const Live = "live"

// KeysOf reads the keys of a snapshot, found and unpacked as by Verify, and
// compared with itself and its sidecar first; or of the running cluster, by the
// word live.
func KeysOf(ctx context.Context, e *lab.Env, v Verify) (_ etcd.Keys, _ int64, err error) {
	if v.Snapshot == Live {
		up, err := etcd.Answering(ctx, e)
		if err != nil {
			return nil, 0, err
		}
		return etcd.ReadKeys(ctx, e.Cluster, up[0], 0)
	}
	store, err := OpenStore(e, v.Store)
	if err != nil {
		return nil, 0, err
	}
	file, known, done, err := v.find(ctx, e, store)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	now := &Sidecar{}
	d, err := now.load(v.Snapshot, file)
	if err != nil {
		return nil, 0, err
	}
	if known != nil {
		if err := known.Same(v.Snapshot, now); err != nil {
			return nil, 0, err
		}
	}
	return d.Keys, d.Revision, nil
}

package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
)

// What a lab remembers of its past, in its directory on this machine: the
// highest revision that was ever seen, one number, and the ids of the clusters
// it has been, one per line.
func highestFile(c *lab.Cluster) string  { return filepath.Join(c.Dir, "highest-revision") }
func clustersFile(c *lab.Cluster) string { return filepath.Join(c.Dir, "clusters") }

// Highest is the highest revision ever recorded in a lab, 0 when none was. A
// restore must bump its revision past it (FE17).
func Highest(c *lab.Cluster) (int64, error) {
	data, err := os.ReadFile(highestFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", highestFile(c), err)
	}
	return n, nil
}

// Clusters are the ids of all clusters a lab is known to have been: a restore
// makes another one of it.
func Clusters(c *lab.Cluster) ([]string, error) {
	data, err := os.ReadFile(clustersFile(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(data)), err
}

// Record remembers what a look at a lab has seen, and a revision that was seen
// otherwise, and returns the highest one ever.
func Record(c *lab.Cluster, look []lab.Status, revision int64) (int64, error) {
	highest, err := Highest(c)
	if err != nil {
		return 0, err
	}
	known, err := Clusters(c)
	if err != nil {
		return 0, err
	}
	now, ids := max(highest, revision), slices.Clone(known)
	for _, s := range look {
		now = max(now, s.Revision)
		if s.Up && s.Cluster != "" && !slices.Contains(ids, s.Cluster) {
			ids = append(ids, s.Cluster)
		}
	}
	if len(ids) > len(known) {
		err = replace(clustersFile(c), []byte(strings.Join(ids, "\n")+"\n"))
	}
	if now > highest && err == nil {
		err = replace(highestFile(c), []byte(strconv.FormatInt(now, 10)+"\n"))
	}
	return now, err
}

// replace writes a file whole or not at all.
func replace(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/snapshot"
)

// rehearse runs the drill rehearse-my-snapshot with a file of the user's.
func (a *app) rehearse() *cobra.Command {
	var (
		store, identity, out, keep string
		quiet                      bool
	)
	cmd := &cobra.Command{
		Use:   "rehearse FILE",
		Short: "restore a snapshot of yours as a cluster in a lab, judge it, and take the lab down; the file is only read",
		Long: `rehearse proves a backup by restoring it: it verifies the file, boots it as a cluster
in a lab of its own, compares every key and value, looks that the members agree and
take a write, and reports as a drill does. The file is only read. With --store FILE is
the name or label of a snapshot there, or latest.`,
		Example: `  etcdrill rehearse /var/backups/etcd.db
  etcdrill rehearse latest --store 's3://backups/etcd?endpoint=https://s3.example.com'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			asJSON, err := a.json()
			if err != nil {
				return err
			}
			if k := lab.Keep(keep); k != lab.KeepNever && k != lab.KeepOnFailure && k != lab.KeepAlways {
				return usage("--keep %s: expected never, on-failure or always", keep)
			}
			file, done, err := a.rehearsed(cmd.Context(), args[0], store, identity)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, done()) }()
			before, err := fileSum(file)
			if err != nil {
				return usage("%s: expected the file of a snapshot, or with --store its name there", err)
			}
			drills, err := a.drills(&choice{set: map[string]string{"SNAPSHOT": file}}, []string{"rehearse-my-snapshot"})
			if err != nil {
				return err
			}
			drv, err := a.openNew()
			if err != nil {
				return err
			}
			b := &batch{app: a, driver: drv, out: out, keep: lab.Keep(keep), quiet: quiet || asJSON, json: asJSON}
			ended := b.run(cmd.Context(), []job{{drill: drills[0], seed: anySeed()}}, 1)
			after, err := fileSum(file)
			if err != nil || after != before {
				return errors.Join(ended, err, fmt.Errorf("%s is not what it was: SHA-256 %s before, %s now", args[0], before, after))
			}
			fmt.Fprintf(a.err, "%s is as it was, SHA-256 %s\n", args[0], before)
			for _, r := range b.reports {
				for _, s := range r.Steps {
					if s.Verb == "restore" && s.Verdict == lab.Pass {
						fmt.Fprintf(a.err, "restored on %d members in %.1fs\n", drills[0].Cluster.Members, s.Duration)
					}
				}
			}
			return ended
		},
	}
	f := cmd.Flags()
	f.StringVar(&store, "store", "", "take the snapshot out of a store: a directory on this machine, ssh://HOST/PATH, s3://BUCKET/PREFIX?endpoint=URL")
	f.StringVar(&identity, "identity", "", identityDoc)
	f.StringVar(&out, "out", "etcdrill-runs", "directory for the records, one directory per run")
	f.StringVar(&keep, "keep", "never", "keep the lab afterwards, to look around in it: never, on-failure or always")
	f.BoolVarP(&quiet, "quiet", "q", false, "no story, only the result")
	return cmd
}

// rehearsed finds what is to be rehearsed: a file, or a snapshot of a store,
// unpacked. done deletes what is a copy of it.
func (a *app) rehearsed(ctx context.Context, name, store, identity string) (file string, done func() error, err error) {
	if store == "" {
		file, err = filepath.Abs(name)
		return file, func() error { return nil }, err
	}
	s, err := snapshot.OpenStore(&lab.Env{Cluster: &lab.Cluster{}, Kit: a.kit}, store)
	if err != nil {
		return "", nil, usage("%s", err)
	}
	e, err := s.Find(ctx, name)
	if err == nil {
		file, done, err = e.Open(ctx, identity)
	}
	if err != nil {
		return "", nil, judged("rehearse", err)
	}
	file, err = filepath.Abs(file)
	return file, done, err
}

// fileSum is the SHA-256 of a file.
func fileSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

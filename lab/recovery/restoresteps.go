package recovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/operation"
)

// The steps of a Restore: what is done, once it is decided.

// Steps implements operation.Operation.
func (r *Restore) Steps(e *lab.Env) ([]operation.Step, error) {
	d := r.Decided
	if len(d.Places) != len(e.Seats) {
		return nil, fmt.Errorf("restore: it was decided for %d hosts, the lab has %d", len(d.Places), len(e.Seats))
	}
	for i, p := range d.Places {
		if p.Name != e.Seats[i].Name {
			return nil, fmt.Errorf("restore: it was decided for host %s, the lab has %s in its place", p.Name, e.Seats[i].Name)
		}
	}
	all, targets := r.all(e), r.targets(e)
	ran := r.those(e, func(p Place) bool { return p.Ran })
	limit := sized(d.Size)
	step := func(s operation.Step) operation.Step {
		s.Limit = limit
		return s
	}
	here := names(targets)
	return []operation.Step{
		step(operation.Step{
			Name:      "stop " + names(all),
			Shell:     ssh(all, func(*lab.Member) string { return "systemctl stop etcd" }),
			ShellUndo: ssh(ran, func(*lab.Member) string { return "systemctl start etcd" }),
			Before:    func(ctx context.Context, e *lab.Env) error { return r.stands(ctx, e, untouched) },
			Do:        func(ctx context.Context, e *lab.Env) error { return stop(ctx, e, all) },
			Gate:      func(ctx context.Context, e *lab.Env) error { return silent(ctx, all) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.startOld(ctx, e, ran) },
		}),
		step(operation.Step{
			Name:      "copy the snapshot to " + here,
			Shell:     r.copying(targets),
			ShellUndo: ssh(targets, func(m *lab.Member) string { return "rm " + r.upload(m) }),
			Before:    r.still(all, untouched),
			// That all have the same is looked at right before it is used, below:
			// when that is long after, too.
			Do:   func(ctx context.Context, e *lab.Env) error { return r.copy(ctx, e, targets) },
			Undo: func(ctx context.Context, e *lab.Env) error { return remove(ctx, e, targets, r.upload) },
		}),
		step(operation.Step{
			Name:      "restore beside the old data on " + here,
			Shell:     ssh(targets, func(m *lab.Member) string { return lab.Quote(append([]string{"etcdutl"}, r.etcdutl(e, m)...)) }),
			ShellUndo: ssh(targets, func(m *lab.Member) string { return "rm -r " + dirsOf(m, d.Token).fresh }),
			Before: func(ctx context.Context, e *lab.Env) error {
				return errors.Join(r.still(all, restoring)(ctx, e), r.sameFile(ctx, e, targets))
			},
			Do:   func(ctx context.Context, e *lab.Env) error { return r.restore(ctx, e, targets) },
			Gate: func(ctx context.Context, e *lab.Env) error { return r.alike(ctx, e, targets) },
			Undo: func(ctx context.Context, e *lab.Env) error {
				return remove(ctx, e, targets, func(m *lab.Member) string { return dirsOf(m, d.Token).fresh })
			},
		}),
		step(operation.Step{
			Name: "put the old data of " + names(all) + " aside and the restored in its place",
			Shell: append(ssh(r.those(e, func(p Place) bool { return !p.Away && p.Old != "" }), func(m *lab.Member) string {
				return lab.Quote(move(m.DataDir, dirsOf(m, d.Token).before))
			}), ssh(targets, func(m *lab.Member) string { return lab.Quote(move(dirsOf(m, d.Token).fresh, m.DataDir)) })...),
			ShellUndo: []string{"# the same backwards, on all of them"},
			Before:    r.still(all, swapping),
			Do:        func(ctx context.Context, e *lab.Env) error { return r.swap(ctx, e, all) },
			Gate:      r.still(all, swapped),
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.swapBack(ctx, e, all) },
		}),
		step(operation.Step{
			Name: "configure " + names(all),
			Shell: append(append(r.filing(all), ssh(targets, func(m *lab.Member) string {
				return "edit " + m.Config + "  # initial-cluster-token: " + d.Token + ", initial-cluster: " + r.join(e).String()
			})...), ssh(r.those(e, func(p Place) bool { return !p.Away && !p.Target && p.Config }), func(m *lab.Member) string { return "rm " + m.Config })...),
			ShellUndo: []string{"# the old configuration back, on all of them"},
			Before:    r.still(all, swapped),
			Do:        func(ctx context.Context, e *lab.Env) error { return r.configure(ctx, e, all) },
			Undo:      func(ctx context.Context, e *lab.Env) error { return r.configureBack(ctx, e, all) },
		}),
		step(operation.Step{
			Name:      "start " + here,
			Shell:     append(ssh(targets, func(*lab.Member) string { return "systemctl start etcd &" }), r.looking()...),
			ShellUndo: ssh(targets, func(*lab.Member) string { return "systemctl stop etcd" }),
			Forecast:  &operation.Forecast{Voters: len(targets), Up: len(targets)},
			Before:    func(ctx context.Context, e *lab.Env) error { return r.stands(ctx, e, swapped) },
			Do:        func(ctx context.Context, e *lab.Env) error { return start(ctx, e, targets) },
			Gate:      func(ctx context.Context, e *lab.Env) error { return r.serves(ctx, e, targets) },
			Undo: func(ctx context.Context, e *lab.Env) error {
				r.givenUp(ctx, e)
				return errors.Join(stop(ctx, e, targets), silent(ctx, targets))
			},
			Point: "the new cluster serves: going back would lose what it has acknowledged",
		}),
		step(operation.Step{
			Name:  "clear up",
			Shell: r.clearing(e),
			Do: func(ctx context.Context, e *lab.Env) error {
				err := remove(ctx, e, targets, r.upload)
				if r.Discard {
					err = errors.Join(err, remove(ctx, e, all, func(m *lab.Member) string { return dirsOf(m, d.Token).before }))
				} else {
					e.Note("", "the old data and configuration of %s lie in before-%s of their data directories: `etcdrill operations --discard` removes them", names(all), d.Token)
				}
				return err
			},
		}),
	}, nil
}

// looking are the commands that look at the new cluster.
func (r *Restore) looking() []string {
	if r.Decided.Bump == 0 {
		return []string{"etcdctl endpoint status  # cluster " + r.Decided.Cluster, "etcdctl endpoint hashkv --rev=R  # as the old cluster had"}
	}
	return []string{"etcdctl endpoint status  # cluster " + r.Decided.Cluster, fmt.Sprintf("etcdctl get --rev=%d x  # compacted", r.Decided.Revision)}
}

// copying are the commands that put the snapshot on hosts.
func (r *Restore) copying(targets []*lab.Member) []string {
	from := r.File
	if r.From != "" {
		from = r.From + ":" + r.File
	}
	sum := r.Decided.SHA256
	if sum == "" {
		sum = "as on " + r.From // it is yet to be taken
	}
	var out []string
	for _, m := range targets {
		out = append(out, "scp "+from+" "+m.Name+":"+r.upload(m), "ssh "+m.Name+" sha256sum "+r.upload(m)+"  # "+sum)
	}
	return out
}

// ssh is a command for each of some hosts, as an operator would type it.
func ssh(seats []*lab.Member, command func(*lab.Member) string) []string {
	var out []string
	for _, m := range seats {
		out = append(out, "ssh "+m.Name+" "+command(m))
	}
	return out
}

func names(seats []*lab.Member) string {
	var out []string
	for _, m := range seats {
		out = append(out, m.Name)
	}
	return strings.Join(out, ", ")
}

func (r *Restore) clearing(e *lab.Env) []string {
	out := ssh(r.targets(e), func(m *lab.Member) string { return "rm " + r.upload(m) })
	if r.Discard {
		out = append(out, ssh(r.all(e), func(m *lab.Member) string { return "rm -r " + dirsOf(m, r.Decided.Token).before })...)
	}
	return out
}

// stage is how far the directories are.
type stage int

const (
	untouched stage = iota // the old data is in its place, and nothing beside it
	restoring              // the same, and perhaps a part of the restored data beside it
	swapping               // the restored data is whole; one or the other is in place
	swapped                // the restored data is in its place, the old aside
)

// still wants the processes down and the directories as a stage has them.
func (r *Restore) still(all []*lab.Member, s stage) func(context.Context, *lab.Env) error {
	return func(ctx context.Context, e *lab.Env) error {
		return errors.Join(silent(ctx, all), r.stands(ctx, e, s))
	}
}

// stands compares whose data lies where with the plan, on all hosts: also those
// that have nothing to do with it, since a member that came up there meanwhile
// would not be stopped.
func (r *Restore) stands(ctx context.Context, e *lab.Env, s stage) error {
	return etcd.Each(r.those(e, func(p Place) bool { return !p.Away }), func(_ int, m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		is, err := Contents(ctx, m, d.data, d.fresh, d.before)
		if err != nil {
			return err
		}
		data, fresh, before := is[0], is[1], is[2]
		ok := false
		switch s {
		case untouched:
			ok = data == p.Old && fresh == "" && before == ""
		case restoring:
			ok = data == p.Old && before == "" // what is beside it is ours, whatever it is
		case swapping:
			ok = data == p.Old && fresh == p.New && before == "" || data == "" && fresh == p.New && before == p.Old || data == p.New && fresh == "" && before == p.Old
		case swapped:
			ok = data == p.New && fresh == "" && before == p.Old
		}
		if !p.Target && p.Old == "" {
			ok = data == "" && fresh == "" && before == ""
		}
		if ok {
			return nil
		}
		want := [...]string{
			untouched: named(p.Old),
			restoring: named(p.Old),
			swapping:  named(p.Old) + ", or aside and " + named(p.New) + " in its place",
			swapped:   named(p.New) + ", and aside " + named(p.Old),
		}[s]
		return &lab.Failure{What: "data directory of " + m.Name, Want: want, Got: fmt.Sprintf("%s, beside it %s, aside %s", named(data), named(fresh), named(before))}
	})
}

// copy puts the snapshot on all hosts, and looks meanwhile whether it is still
// the one that was decided on.
func (r *Restore) copy(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	return r.with(ctx, e, func(file string) error {
		both, ctx := errgroup.WithContext(ctx)
		both.Go(func() error {
			sum, _, err := summed(file)
			if err == nil && sum != r.Decided.SHA256 {
				err = &lab.Failure{What: "sha256 of " + r.File, Want: r.Decided.SHA256 + ", as when it was decided", Got: sum}
			}
			return err
		})
		both.Go(func() error {
			return etcd.Each(targets, func(_ int, m *lab.Member) error {
				e.Note(m.Name, "gets the snapshot, %d bytes", r.Decided.Size)
				return lab.Upload(ctx, m.Host, r.upload(m), 0o600, file)
			})
		})
		return both.Wait()
	})
}

// sameFile wants the very same snapshot on every host: three different ones
// make a cluster that serves and disagrees (N22).
func (r *Restore) sameFile(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	return etcd.Each(targets, func(_ int, m *lab.Member) error {
		out, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sha256sum", r.upload(m)}})
		if err != nil {
			return err
		}
		sum, _, _ := strings.Cut(string(out.Stdout), " ")
		if sum != r.Decided.SHA256 {
			return &lab.Failure{What: "sha256 of the snapshot on " + m.Name, Want: r.Decided.SHA256, Got: sum}
		}
		return nil
	})
}

// etcdutl are the arguments of the restore of one member. The revision bump
// and the mark go together or not at all (FE15).
func (r *Restore) etcdutl(e *lab.Env, m *lab.Member) []string {
	j := r.join(e)
	args := []string{"snapshot", "restore", r.upload(m), "--data-dir=" + dirsOf(m, r.Decided.Token).fresh, "--name=" + m.Name,
		"--initial-cluster=" + j.String(), "--initial-cluster-token=" + j.Token, "--initial-advertise-peer-urls=" + r.peerURL(e, m)}
	if r.Decided.Bump > 0 {
		args = append(args, "--bump-revision="+strconv.FormatInt(r.Decided.Bump, 10), "--mark-compacted")
	}
	if r.Copy {
		args = append(args, "--skip-hash-check")
	}
	return args
}

// restore makes the new data beside the old. A refused restore leaves a part
// behind, into which etcdutl does not restore again (FE13): so it begins with
// nothing.
func (r *Restore) restore(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	return etcd.Each(targets, func(_ int, m *lab.Member) error {
		d := dirsOf(m, r.Decided.Token)
		if err := runAll(ctx, e, m, [][]string{{"mkdir", "-p", "-m", "0700", d.data}, {"rm", "-rf", "--", d.fresh}}); err != nil {
			return err
		}
		if _, err := etcd.Tool(ctx, e, m, "etcdutl", r.etcdutl(e, m)...); err != nil {
			return err
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"chmod", "-R", "go=", d.fresh}})
		return err
	})
}

// alike looks at what was restored, before anything old is touched: it must be
// whose the plan says, and the same on all hosts, at the planned revision.
func (r *Restore) alike(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	if err := r.stands(ctx, e, swapping); err != nil {
		return err
	}
	all := make([]dbStatus, len(targets))
	err := etcd.Each(targets, func(i int, m *lab.Member) (err error) {
		all[i], err = statusOf(ctx, e, m, path.Join(dirsOf(m, r.Decided.Token).fresh, "member", "snap", "db"))
		return err
	})
	if err != nil {
		return err
	}
	for i, s := range all {
		if want := r.Decided.Revision + r.Decided.Bump; s.Revision != want {
			return &lab.Failure{What: "revision restored on " + targets[i].Name, Want: fmt.Sprint(want), Got: fmt.Sprint(s.Revision)}
		}
		if s != all[0] {
			return &lab.Failure{What: "database restored on " + targets[i].Name, Want: fmt.Sprintf("%+v, as on %s", all[0], targets[0].Name), Got: fmt.Sprintf("%+v", s)}
		}
	}
	return nil
}

// swap moves by rename alone, so that every moment of it can be told from the
// directories.
func (r *Restore) swap(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return etcd.Each(all, func(_ int, m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		is, err := there(ctx, m, path.Join(d.data, member), path.Join(d.fresh, member), path.Join(d.before, member), d.fresh)
		if err != nil {
			return err
		}
		data, fresh, before, beside := is[0], is[1], is[2], is[3]
		argvs := [][]string{{"mkdir", "-p", "-m", "0700", d.before}}
		if data && (fresh || !p.Target) {
			if before {
				return bothThere(m, d)
			}
			argvs = append(argvs, move(d.data, d.before))
		}
		if fresh {
			argvs = append(argvs, move(d.fresh, d.data))
		}
		if beside {
			argvs = append(argvs, []string{"rmdir", "--", d.fresh})
		}
		return runAll(ctx, e, m, append(argvs, []string{"sync", d.data}))
	})
}

// swapBack moves back, from any moment of swap.
func (r *Restore) swapBack(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return etcd.Each(all, func(_ int, m *lab.Member) error {
		p, d := r.place(m), dirsOf(m, r.Decided.Token)
		is, err := there(ctx, m, path.Join(d.data, member), path.Join(d.fresh, member), path.Join(d.before, member), d.before+"/.")
		if err != nil {
			return err
		}
		data, fresh, before, aside := is[0], is[1], is[2], is[3]
		if !aside {
			return nil // not begun, or undone already
		}
		var argvs [][]string
		if p.Target && !fresh && data {
			argvs, data = append(argvs, []string{"mkdir", "-p", "-m", "0700", d.fresh}, move(d.data, d.fresh)), false
		}
		if before {
			if data {
				return bothThere(m, d)
			}
			argvs = append(argvs, move(d.before, d.data))
		}
		if err := runAll(ctx, e, m, append(argvs, []string{"rmdir", "--", d.before}, []string{"sync", d.data})); err != nil {
			return err
		}
		now, err := Contents(ctx, m, d.data)
		if err == nil && now[0] != p.Old {
			err = &lab.Failure{What: "data directory of " + m.Name + " after the way back", Want: named(p.Old), Got: named(now[0])}
		}
		return err
	})
}

// member is the directory in which etcd keeps everything, in its data
// directory.
const member = "member"

// move is the command that moves it.
func move(from, to string) []string {
	return []string{"mv", "--", path.Join(from, member), path.Join(to, member)}
}

func bothThere(m *lab.Member, d dirs) error {
	return &lab.Failure{What: "data of " + m.Name, Want: "in its place or aside", Got: fmt.Sprintf("both %s/member and %s/member", d.data, d.before)}
}

func runAll(ctx context.Context, e *lab.Env, m *lab.Member, argvs [][]string) error {
	for _, argv := range argvs {
		if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: argv}); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the new configurations; the old one goes aside first. A
// host that is not to be a member any more has none afterwards.
func (r *Restore) configure(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	j := r.join(e)
	return etcd.Each(all, func(_ int, m *lab.Member) error {
		p, kept := r.place(m), path.Join(dirsOf(m, r.Decided.Token).before, "etcd.yaml")
		if p.Config {
			is, err := there(ctx, m, kept)
			if err != nil {
				return err
			}
			if !is[0] { // later it may be the new one already
				if err := runAll(ctx, e, m, [][]string{{"cp", "-p", "--", m.Config, kept + ".part"}, {"mv", "--", kept + ".part", kept}}); err != nil {
					return err
				}
			}
		}
		if err := r.putFiles(ctx, e, m); err != nil {
			return err
		}
		if !p.Target {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", m.Config}})
			return err
		}
		s := etcd.NewSettings(e.Spec, m, j)
		if saved, err := r.savedConfig(m); err != nil {
			return err
		} else if saved != nil {
			s = saved
		} else if p.Config {
			var err error
			if s, err = etcd.ReadSettings(ctx, m); err != nil {
				return err
			}
		}
		s.Set("initial-cluster", j.String())
		s.Set("initial-cluster-state", j.State)
		s.Set("initial-cluster-token", j.Token)
		s.Set("initial-advertise-peer-urls", r.peerURL(e, m))
		s.Delete("force-new-cluster") // it would do it again at every start (FE19)
		e.Note(m.Name, "configuration: initial-cluster %s, token %s", j, j.Token)
		return etcd.WriteSettings(ctx, m, s)
	})
}

func (r *Restore) configureBack(ctx context.Context, e *lab.Env, all []*lab.Member) error {
	return etcd.Each(all, func(_ int, m *lab.Member) error {
		p, kept := r.place(m), path.Join(dirsOf(m, r.Decided.Token).before, "etcd.yaml")
		if err := r.putFilesBack(ctx, e, m); err != nil {
			return err
		}
		if !p.Config {
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", m.Config}})
			return err
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `rm -f -- "$1.part"; if [ -e "$1" ]; then mv -- "$1" "$2"; fi`, "sh", kept, m.Config}})
		return err
	})
}

// savedConfig is the configuration that a saved state has for a member, nil
// when it has none.
func (r *Restore) savedConfig(m *lab.Member) (etcd.Settings, error) {
	for _, f := range r.Files[m.Name] {
		if f.Path == m.Config && f.Blob != "" {
			data, err := r.Source(f.Blob)
			if err != nil {
				return nil, err
			}
			return etcd.ParseSettings(m, data)
		}
	}
	return nil, nil
}

// others are the files of a host beside its configuration, and where what they
// were lies meanwhile.
func (r *Restore) others(m *lab.Member, do func(f File, kept string) error) error {
	for _, f := range r.Files[m.Name] {
		if f.Path == m.Config {
			continue
		}
		if err := do(f, path.Join(dirsOf(m, r.Decided.Token).before, "files", f.Path)); err != nil {
			return err
		}
	}
	return nil
}

// filing are the commands that make files as a saved state has them.
func (r *Restore) filing(all []*lab.Member) []string {
	var out []string
	for _, m := range all {
		for _, f := range r.Files[m.Name] {
			if f.Blob == "" {
				out = append(out, "ssh "+m.Name+" rm "+f.Path+"  # was not there then")
			} else {
				out = append(out, "scp STATE/"+f.Blob+" "+m.Name+":"+f.Path)
			}
		}
	}
	return out
}

// putFiles makes files as a saved state has them. What they were goes aside
// first, and where there was none a mark says so.
func (r *Restore) putFiles(ctx context.Context, e *lab.Env, m *lab.Member) error {
	units := false
	err := r.others(m, func(f File, kept string) error {
		units = units || strings.HasSuffix(f.Path, ".service")
		if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `[ ! -e "$2" ] && [ ! -e "$2.none" ] || exit 0
mkdir -p -- "$3" || exit
if [ -e "$1" ]; then cp -p -- "$1" "$2.part" && mv -- "$2.part" "$2"; else : >"$2.none"; fi`, "sh", f.Path, kept, path.Dir(kept)}}); err != nil {
			return err
		}
		if f.Blob == "" {
			e.Note(m.Name, "%s was not there then, and goes", f.Path)
			_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-f", "--", f.Path}})
			return err
		}
		data, err := r.Source(f.Blob)
		if err != nil {
			return err
		}
		e.Note(m.Name, "%s as it was saved", f.Path)
		return m.Host.Put(ctx, f.Path, f.Mode, data)
	})
	return errors.Join(err, reload(ctx, e, m, units))
}

func (r *Restore) putFilesBack(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if len(r.Files[m.Name]) == 0 {
		return nil
	}
	units := false
	err := r.others(m, func(f File, kept string) error {
		units = units || strings.HasSuffix(f.Path, ".service")
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `if [ -e "$2" ]; then mv -- "$2" "$1"; elif [ -e "$2.none" ]; then rm -f -- "$1"; fi`, "sh", f.Path, kept}})
		return err
	})
	if err != nil {
		return err
	}
	if err := reload(ctx, e, m, units); err != nil {
		return err
	}
	_, err = e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-rf", "--", path.Join(dirsOf(m, r.Decided.Token).before, "files")}})
	return err
}

// reload lets systemd read units that were changed.
func reload(ctx context.Context, e *lab.Env, m *lab.Member, units bool) error {
	if !units {
		return nil
	}
	_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"systemctl", "daemon-reload"}})
	return err
}

// startOld brings back what ran before, of one epoch.
func (r *Restore) startOld(ctx context.Context, e *lab.Env, ran []*lab.Member) error {
	if err := etcd.Each(r.all(e), func(_ int, m *lab.Member) error { // made where there was none
		if r.place(m).Dir {
			return nil
		}
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"sh", "-c", `if [ -d "$1" ]; then rmdir -- "$1"; fi`, "sh", m.DataDir}})
		return err
	}); err != nil {
		return err
	}
	if err := r.stands(ctx, e, untouched); err != nil {
		return err
	}
	if err := start(ctx, e, ran); err != nil {
		return err
	}
	if r.Decided.Served {
		return ready(ctx, e, ran)
	}
	return nil
}

// givenUp says what is lost when the new cluster is stopped again because it is
// not what was planned: whoever wrote to it since it was started.
func (r *Restore) givenUp(ctx context.Context, e *lab.Env) {
	from, now := r.Decided.Revision+r.Decided.Bump, int64(0)
	for _, s := range e.Look(ctx) {
		if s.Up && s.Cluster == r.Decided.Cluster {
			now = max(now, s.Revision)
		}
	}
	if now > from {
		e.Note("", "the new cluster had come from revision %d to %d: those %d revisions are given up with it", from, now, now-from)
	}
}

// remove deletes what an operation has made.
func remove(ctx context.Context, e *lab.Env, seats []*lab.Member, what func(*lab.Member) string) error {
	return etcd.Each(seats, func(_ int, m *lab.Member) error {
		_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"rm", "-rf", "--", what(m)}})
		return err
	})
}

// serves is the gate: the new cluster is one, it is the planned one, its
// members agree, it has everything that is in the snapshot, and whoever
// remembers the old one is told so.
func (r *Restore) serves(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	d := r.Decided
	if err := ready(ctx, e, targets); err != nil {
		return err
	}
	for _, m := range targets {
		l, err := etcd.Members(ctx, e.Cluster, false, m)
		if err != nil {
			return err
		}
		if got := etcd.HexID(l.Cluster); got != d.Cluster {
			return &lab.Failure{What: "cluster id of " + m.Name, Want: d.Cluster, Got: got}
		}
		if l.Voters() != len(targets) || l.Learners() != 0 {
			return &lab.Failure{What: "members known to " + m.Name, Want: fmt.Sprintf("%d voters", len(targets)), Got: fmt.Sprintf("%d voters, %d learners", l.Voters(), l.Learners())}
		}
	}
	err := lab.Until(ctx, "hashes that can be compared", func(ctx context.Context) error {
		hashes, err := etcd.Hashes(ctx, e.Cluster, targets...)
		if err == nil && !etcd.Equal(hashes) {
			err = &lab.Failure{What: "data of the restored members", Want: "equal", Got: etcd.Describe(hashes)}
		}
		return err
	})
	if err != nil {
		return err
	}
	cli, err := etcd.Client(e.Cluster, targets...)
	if err != nil {
		return err
	}
	defer cli.Close()
	from := d.Revision + d.Bump
	got, err := cli.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly(), clientv3.WithRev(from))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		// Taken up again later, when somebody has compacted the new cluster.
		e.Note("", "keys at revision %d cannot be counted any more: it is compacted", from)
	case err != nil:
		return fmt.Errorf("keys at revision %d: %w", from, err)
	case got.Count != d.Keys:
		return &lab.Failure{What: fmt.Sprintf("keys at revision %d", from), Want: fmt.Sprintf("%d, as in the snapshot", d.Keys), Got: fmt.Sprint(got.Count)}
	}
	if d.Bump == 0 {
		return r.unchanged(ctx, e, targets)
	}
	if _, err := cli.Get(ctx, "\x00", clientv3.WithRev(d.Revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		return &lab.Failure{What: fmt.Sprintf("a read at the old revision %d", d.Revision), Want: "told that it is compacted", Got: fmt.Sprint(err)}
	}
	w, err := etcd.OpenWatch(ctx, e.Cluster, etcd.WatchSpec{Key: "\x00", From: d.Highest + 1}, targets...)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := lab.Until(ctx, "an old watch to end", func(context.Context) error {
		if w.Ended() == nil {
			return &lab.Failure{What: fmt.Sprintf("a watch from the old revision %d", d.Highest+1), Want: "ended as compacted", Got: "it goes on"}
		}
		return nil
	}); err != nil {
		return err
	}
	if end := w.Ended(); !errors.Is(end, rpctypes.ErrCompacted) {
		return &lab.Failure{What: fmt.Sprintf("a watch from the old revision %d", d.Highest+1), Want: "ended as compacted", Got: end.Error()}
	}
	e.Journal.Add(lab.Event{Kind: lab.EventReturn, Return: &lab.Return{Revision: d.Revision, From: from}})
	lost := "nothing above it was seen"
	if d.Highest > d.Revision {
		lost = fmt.Sprintf("revision %d was seen, and what was written above %d is lost", d.Highest, d.Revision)
	}
	e.Note("", "cluster %s serves with %d keys of revision %d and goes on from revision %d; %s", d.Cluster, d.Keys, d.Revision, from, lost)
	return nil
}

// unchanged is the gate where nothing was to be lost and revisions go on: what
// the new members have up to the snapshot's revision is what the old ones had
// when they stood still.
func (r *Restore) unchanged(ctx context.Context, e *lab.Env, targets []*lab.Member) error {
	d := r.Decided
	return etcd.Each(targets, func(_ int, m *lab.Member) error {
		h, err := etcd.HashAt(ctx, e.Cluster, m, d.Revision)
		switch {
		case err == nil && h.Compact != d.Compacted:
			err = fmt.Errorf("%w: it is compacted at revision %d, the old members were at %d", etcd.ErrNotComparable, h.Compact, d.Compacted)
		case err == nil && h.Hash != d.Hash:
			return &lab.Failure{What: fmt.Sprintf("data of %s at revision %d", m.Name, d.Revision), Want: fmt.Sprintf("%08x, as the old members had", d.Hash), Got: fmt.Sprintf("%08x", h.Hash)}
		}
		if errors.Is(err, etcd.ErrNotComparable) && e.Look(ctx)[place(e, m.Name)].Revision > d.Revision {
			// Taken up again later: it is in use, and somebody has compacted it.
			e.Note(m.Name, "its data at revision %d cannot be compared any more: %s", d.Revision, err)
			return nil
		}
		if err == nil {
			e.Note(m.Name, "has at revision %d what the old members had: %08x", d.Revision, h.Hash)
		}
		return err
	})
}

package fault

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Corrupt damages what a member has on disk, while it is down: it kills the
// member first and leaves it down, so that the drill can start it on the
// damaged files and see what etcd makes of them (FF16). A copy of the whole
// data directory is kept aside.
//
// What it does to which file:
//
//	db-page   the first pages of the database are overwritten
//	db-value  one value in the database has another last byte; etcd does not
//	          notice by itself and serves it
//	db-empty  the database has no bytes
//	db-gone   the database is deleted
//	wal-flip  one byte in the middle of the WAL is flipped: its checksum is wrong
//	wal-tail  the WAL ends in the middle of its last entry
//	wal-gone  the WAL is deleted
//
// Healing brings the copy back, in a way that forgets no promise the member
// has made since: the WAL is what a member has promised to the others. So for
// a damaged database only the database is put back, and the WAL brings it up
// to date; for a damaged WAL all is put back, as the member cannot have made
// promises without one, unless it serves, having repaired it by itself. A
// member that was replaced meanwhile is left alone.
type Corrupt struct {
	Member lab.Target `need:"yes" doc:"whose files are damaged; it is killed first and left down"`
	What   string     `need:"yes" doc:"db-page, db-value, db-empty, db-gone, wal-flip, wal-tail or wal-gone"`
	Key    string     `doc:"db-value: whose value; the first key of the store when absent"`
}

// damages is the table of what can be damaged.
var damages = map[string]func(f *Corrupt, ctx context.Context, e *lab.Env, m *lab.Member) error{
	"db-page":  (*Corrupt).dbPage,
	"db-value": (*Corrupt).dbValue,
	"db-empty": (*Corrupt).dbEmpty,
	"db-gone":  (*Corrupt).dbGone,
	"wal-flip": (*Corrupt).walFlip,
	"wal-tail": (*Corrupt).walTail,
	"wal-gone": (*Corrupt).walGone,
}

const kept = "kept"

func dbFile(dir string) string { return path.Join(dir, "member", "snap", "db") }
func walDir(dir string) string { return path.Join(dir, "member", "wal") }

// Doc says what the fault does.
func (*Corrupt) Doc() string {
	return "damage a member's database or WAL while it is down; healing puts a kept copy back"
}

// Needs lists the abilities it must have.
func (*Corrupt) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Valid refuses arguments that do not go together.
func (f *Corrupt) Valid() error {
	if damages[f.What] == nil {
		var words []string
		for w := range damages {
			words = append(words, w)
		}
		sort.Strings(words)
		return oneOf("what", f.What, words...)
	}
	if f.Key != "" && f.What != "db-value" {
		return fmt.Errorf("what: %s: `key` is for db-value only", f.What)
	}
	return nil
}

// Shell shows the commands it amounts to.
func (f *Corrupt) Shell() (do, undo []string) {
	dir := "/var/lib/etcd"
	damage := map[string]string{
		"db-page":  "dd if=/dev/urandom of=" + dbFile(dir) + " bs=64k count=1 conv=notrunc",
		"db-value": "dd of=" + dbFile(dir) + " bs=1 seek=OFFSET count=1 conv=notrunc",
		"db-empty": "dd if=/dev/null of=" + dbFile(dir),
		"db-gone":  "rm " + dbFile(dir),
		"wal-flip": "dd of=" + walDir(dir) + "/LAST.wal bs=1 seek=OFFSET count=1 conv=notrunc",
		"wal-tail": "dd if=/dev/null of=" + walDir(dir) + "/LAST.wal bs=1 seek=OFFSET",
		"wal-gone": "rm -r " + walDir(dir),
	}[f.What]
	return operator(f.Member, "systemctl kill --signal=KILL etcd", "cp -a "+dir+" "+dir+".kept", damage),
		operator(f.Member, "systemctl stop etcd", "rm -r "+dir, "mv "+dir+".kept "+dir, "systemctl start etcd")
}

// Inject kills, copies and damages.
func (f *Corrupt) Inject(ctx context.Context, e *lab.Env) error {
	damage := damages[f.What]
	if damage == nil {
		return f.Valid()
	}
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	if err := withData(ctx, ms); err != nil {
		return err
	}
	for _, m := range ms {
		if err := damage(f, ctx, e, m); err != nil {
			return fmt.Errorf("%s: %s: %w", m.Name, f.What, err)
		}
	}
	return nil
}

// down kills a member and keeps a copy of its data.
func (f *Corrupt) down(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := kill(ctx, e, m); err != nil {
		return err
	}
	return keep(ctx, e, m, m.DataDir)
}

// keep copies a directory of a member aside. The copy gets its name when it is
// whole.
func keep(ctx context.Context, e *lab.Env, m *lab.Member, dir string) error {
	half := aside(e, m, "copying")
	if err := remove(ctx, e, m, half); err != nil {
		return err
	}
	if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"cp", "-a", "--", dir, half}}); err != nil {
		return err
	}
	if err := move(ctx, e, m, half, aside(e, m, kept)); err != nil {
		return err
	}
	// Nothing is damaged before there is something to put back.
	if there, err := exists(ctx, m.Host, aside(e, m, kept)); err != nil || !there {
		return errors.Join(err, fmt.Errorf("%s: the copy of %s is not there", m.Name, dir))
	}
	return nil
}

// overwrite writes bytes into a file at an offset and leaves the rest of it.
func overwrite(ctx context.Context, e *lab.Env, m *lab.Member, file string, offset int, data []byte) error {
	_, err := e.Run(ctx, m.Host, lab.Cmd{
		Argv:  []string{"dd", "of=" + file, "bs=1", "seek=" + strconv.Itoa(offset), "conv=notrunc"},
		Stdin: bytes.NewReader(data),
	})
	return err
}

// truncate cuts a file off at an offset.
func truncate(ctx context.Context, e *lab.Env, m *lab.Member, file string, offset int) error {
	_, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"dd", "if=/dev/null", "of=" + file, "bs=1", "seek=" + strconv.Itoa(offset)}})
	return err
}

func (f *Corrupt) dbPage(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	return overwrite(ctx, e, m, dbFile(m.DataDir), 0, bytes.Repeat([]byte{0xA5}, 64<<10))
}

func (f *Corrupt) dbEmpty(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	return truncate(ctx, e, m, dbFile(m.DataDir), 0)
}

func (f *Corrupt) dbGone(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	return remove(ctx, e, m, dbFile(m.DataDir))
}

func (f *Corrupt) walGone(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	return remove(ctx, e, m, walDir(m.DataDir))
}

// dbValue changes the last byte of a value. The store keeps a key as the
// protobuf message that the API returns, so that is what is looked for;
// bolt leaves old copies of pages behind, so every place where it stands is
// changed.
func (f *Corrupt) dbValue(ctx context.Context, e *lab.Env, m *lab.Member) error {
	kv, err := f.keyValue(ctx, e, m)
	if err != nil {
		return err
	}
	record := stored(kv)
	// The database is written ten times a second; what is not there yet would
	// come from the WAL again, undamaged.
	bound, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = lab.Until(bound, fmt.Sprintf("the value of %q to be in the database of %s", kv.Key, m.Name), func(ctx context.Context) error {
		data, err := m.Host.Get(ctx, dbFile(m.DataDir))
		if err == nil && !bytes.Contains(data, record) {
			err = errors.New("it is not there")
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	data, err := m.Host.Get(ctx, dbFile(m.DataDir))
	if err != nil {
		return err
	}
	last := len(record) - 1
	places := 0
	for from := 0; ; places++ {
		i := bytes.Index(data[from:], record)
		if i < 0 {
			break
		}
		if err := overwrite(ctx, e, m, dbFile(m.DataDir), from+i+last, []byte{record[last] ^ 1}); err != nil {
			return err
		}
		from += i + len(record)
	}
	if places == 0 {
		return fmt.Errorf("the value of %q is not in the database", kv.Key)
	}
	e.Note(m.Name, "the value of %q is changed in %d places", kv.Key, places)
	return nil
}

// keyValue reads the key whose value is to be damaged, from the member itself.
func (f *Corrupt) keyValue(ctx context.Context, e *lab.Env, m *lab.Member) (*mvccpb.KeyValue, error) {
	cli, err := etcd.Client(e.Cluster, m)
	if err != nil {
		return nil, err
	}
	defer cli.Close()
	call, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	key, opts := f.Key, []clientv3.OpOption{clientv3.WithSerializable()}
	if key == "" {
		key, opts = "\x00", append(opts, clientv3.WithFromKey(), clientv3.WithLimit(100))
	}
	got, err := cli.Get(call, key, opts...)
	if err != nil {
		return nil, fmt.Errorf("the value to damage: %w", err)
	}
	for _, kv := range got.Kvs {
		if len(kv.Value) > 0 {
			return kv, nil
		}
	}
	if f.Key != "" {
		return nil, fmt.Errorf("%s has no value for %q that could be damaged", m.Name, f.Key)
	}
	return nil, fmt.Errorf("%s has no value that could be damaged: write one first", m.Name)
}

// stored is a key and its value as they stand in the database, up to the last
// byte of the value: the fields of the protobuf message in order.
func stored(kv *mvccpb.KeyValue) []byte {
	b := binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(kv.Key)))
	b = append(b, kv.Key...)
	for i, n := range []int64{kv.CreateRevision, kv.ModRevision, kv.Version} {
		b = binary.AppendUvarint(append(b, byte(i+2)<<3), uint64(n))
	}
	b = binary.AppendUvarint(append(b, 5<<3|2), uint64(len(kv.Value)))
	return append(b, kv.Value...)
}

// Prove compares the files with the copy.
func (f *Corrupt) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		copied, err := exists(ctx, m.Host, aside(e, m, kept))
		if err != nil {
			return lab.Proof{}, err
		}
		if !copied {
			p, err := away(ctx, e, []*lab.Member{m})
			if err != nil {
				return p, err
			}
			if p.State == lab.Gone {
				gone = append(gone, p.Evidence)
			} else {
				unclear = append(unclear, "no copy is kept; "+p.Evidence)
			}
			continue
		}
		text, differs, err := f.differs(ctx, e, m)
		if err != nil {
			return lab.Proof{}, err
		}
		if differs {
			bites = append(bites, m.Name+": "+text)
		} else {
			unclear = append(unclear, m.Name+": "+text)
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// differs compares what was to be damaged with the copy.
func (f *Corrupt) differs(ctx context.Context, e *lab.Env, m *lab.Member) (string, bool, error) {
	part := "member/snap/db"
	if strings.HasPrefix(f.What, "wal-") {
		part = "member/wal"
	}
	now := path.Join(m.DataDir, part)
	there, err := exists(ctx, m.Host, now)
	if err != nil {
		return "", false, err
	}
	if !there {
		return part + " is gone, and there in the copy", true, nil
	}
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"diff", "-rq", path.Join(aside(e, m, kept), part), now}})
	if exit := (*lab.ExitError)(nil); errors.As(err, &exit) && exit.Code == 1 {
		return fmt.Sprintf("%s differs from the copy (%d lines of diff)", part, strings.Count(strings.TrimSpace(string(out.Stdout)), "\n")+1), true, nil
	}
	if err != nil {
		return "", false, err
	}
	return part + " is the same as the copy", false, nil
}

// Heal puts back what is needed of the copy, see Corrupt.
func (f *Corrupt) Heal(ctx context.Context, e *lab.Env) error {
	return mend(ctx, e, f.Member, func(m *lab.Member) error { return f.heal(ctx, e, m) })
}

func (f *Corrupt) heal(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := remove(ctx, e, m, aside(e, m, "copying")); err != nil {
		return err
	}
	copied := aside(e, m, kept)
	there, err := exists(ctx, m.Host, copied)
	if err != nil || !there {
		return err
	}
	if replaced(ctx, e, m) {
		e.Note(m.Name, "it was replaced: its old data is dropped")
		return remove(ctx, e, m, copied)
	}
	if strings.HasPrefix(f.What, "wal-") {
		return putBack(ctx, e, m, copied)
	}
	if err := m.Proc.Stop(ctx); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if data, err := exists(ctx, m.Host, walDir(m.DataDir)); err != nil {
		return err
	} else if !data { // the WAL is gone too, so there is nothing to keep
		if err := remove(ctx, e, m, m.DataDir); err != nil {
			return err
		}
		return move(ctx, e, m, copied, m.DataDir)
	}
	if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"cp", "-p", "--", dbFile(copied), dbFile(m.DataDir)}}); err != nil {
		return err
	}
	return remove(ctx, e, m, copied)
}

// walFlip flips the last byte of an entry that others follow.
func (f *Corrupt) walFlip(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	file, entries, err := lastEntries(ctx, m)
	if err != nil {
		return err
	}
	if len(entries) < 2 {
		return fmt.Errorf("%s has %d entries, expected at least 2: write something first", file, len(entries))
	}
	x := entries[(len(entries)-1)/2]
	return overwrite(ctx, e, m, file, x.end-1, []byte{x.last ^ 1})
}

// walTail cuts the last entry in the middle, and with it what follows.
func (f *Corrupt) walTail(ctx context.Context, e *lab.Env, m *lab.Member) error {
	if err := f.down(ctx, e, m); err != nil {
		return err
	}
	file, entries, err := lastEntries(ctx, m)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return fmt.Errorf("%s has no entry: write something first", file)
	}
	x := entries[len(entries)-1]
	return truncate(ctx, e, m, file, (x.start+x.end)/2)
}

// entry is a raft entry in a WAL segment: where its record begins and ends,
// and its last byte.
type entry struct {
	start, end int
	last       byte
}

// lastEntries reads the entries of a member's newest WAL segment that has any.
func lastEntries(ctx context.Context, m *lab.Member) (string, []entry, error) {
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"ls", walDir(m.DataDir)}})
	if err != nil {
		return "", nil, err
	}
	var segments []string
	for _, name := range strings.Fields(string(out.Stdout)) {
		if strings.HasSuffix(name, ".wal") {
			segments = append(segments, name)
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(segments)))
	for _, name := range segments {
		file := path.Join(walDir(m.DataDir), name)
		data, err := m.Host.Get(ctx, file)
		if err != nil {
			return "", nil, err
		}
		if found := walEntries(data); len(found) > 0 {
			return file, found, nil
		}
	}
	return "", nil, fmt.Errorf("no entry in %s: write something first", walDir(m.DataDir))
}

// walEntries finds the records of raft entries in a WAL segment. A segment is
// a row of frames: eight bytes little-endian, of which the lower 56 bits are
// the length of the record and the upper ones say how many bytes of padding
// follow; then the record, a protobuf message whose first field is its type,
// 2 for an entry, and whose last is the data. A length of zero is the
// preallocated rest.
func walEntries(data []byte) []entry {
	const entryType = 2
	var out []entry
	for at := 0; at+8 <= len(data); {
		frame := binary.LittleEndian.Uint64(data[at:])
		size, pad := int(frame&(1<<56-1)), 0
		if frame>>63 == 1 {
			pad = int(frame>>56) & 7
		}
		start := at + 8
		if size == 0 || size > len(data)-start {
			break
		}
		record := data[start : start+size]
		if len(record) > 2 && record[0] == 1<<3 && record[1] == entryType {
			out = append(out, entry{start: start, end: start + size, last: record[size-1]})
		}
		at = start + size + pad
	}
	return out
}

package ssh

// These are all the programs that run on a host before anything of ours is
// there. Each is one argument of sh; what they need comes as further arguments.
// They hold no single quotes and no backslashes outside of double quotes, so
// that quoting them is plain.

// runScript runs a command that ends with the connection it came over.
//
//	$1 this script  $2 name for a pipe, when there is input  $3 the lab's directory
//	$4 the directory to run in, when it is not that one  $5… the command
//
// File 0 is the lifeline: it ends when whoever asked is gone, or wants the end.
// With input it carries that in pieces, LENGTH newline BYTES, up to a length of
// 0, so that a break in the middle is not taken for the end of the input. dd
// reads exactly what it is told, which not every head does.
//
// The process group must be ours alone, for it is killed whole. The command
// takes the shell's place, so that its exit is the one that ssh reports. The
// watcher has no parent here, so that a command that waits for all its children
// does not wait for it; it ends when the command has, which it looks for once
// the lifeline has ended. What the command left running is not its business.
//
// Where there is no lab yet, or no more, the command runs in /proc: there no
// relative path does harm.
const runScript = `
fail() { echo "etcdrill: $1" >&2; exit 125; }
read -r _ _ _ _ group _ </proc/$$/stat || fail "no /proc: expected a Linux host"
[ "$group" = $$ ] || exec setsid sh -c "eval \"\$1\"" etcdrill "$@"
pipe=$2 lab=$3 dir=$4
shift 4
if [ -n "$dir" ]; then
	cd -- "$dir" 2>/dev/null || fail "cannot change to directory $dir"
else
	cd -- "$lab" 2>/dev/null || cd /proc || fail "cannot change to directory $lab"
fi
PATH=$lab/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
exec 3<&0
if [ -n "$pipe" ]; then
	mkfifo -m 600 "$pipe" || fail "cannot make a pipe for the input"
	( (
		rm -f "$pipe"
		while read -r n; do
			if [ "$n" = 0 ]; then
				exec >/dev/null
			elif ! dd bs="$n" count=1 iflag=fullblock; then
				exec >/dev/null
				cat
			fi
		done
		kill -0 $$ && kill -KILL 0
	) <&3 >"$pipe" 2>/dev/null 3<&- & )
	exec <"$pipe"
else
	( (
		read -r _
		kill -0 $$ && kill -KILL 0
	) <&3 >/dev/null 2>&1 3<&- & )
	exec </dev/null
fi
exec "$@" 3<&-
`

// putScript writes a file whole or not at all.
//
//	$1 path  $2 mode, octal  $3 SHA-256 of the content
//
// A connection that breaks ends the input early, and then the sum is wrong.
// The name of the new file has the writer's pid, so that a later call can tell
// one that is being written from one whose host was switched off meanwhile. It
// is synced before the rename: hosts of a lab lose their power.
const putScript = `
fail() { rm -f "$new"; echo "etcdrill: $1" >&2; exit 125; }
umask 077
dir=${1%/*}/
name=${1##*/}
new=
[ -d "$1" ] && fail "$1 is a directory"
mkdir -p -- "$dir" || fail "cannot make $dir"
for old in "$dir.$name.new."*; do
	[ -e "$old" ] && ! kill -0 "${old##*.}" 2>/dev/null && rm -f "$old"
done
new=$dir.$name.new.$$
trap "" HUP PIPE
cat >"$new" || fail "cannot write $new"
sum=$(sha256sum <"$new") || fail "cannot read $new again"
[ "${sum%% *}" = "$3" ] || fail "what arrived is not what was sent"
chmod "$2" "$new" || fail "cannot chmod $new"
sync "$new" 2>/dev/null || sync
mv -fT "$new" "$1" || fail "cannot rename $new to $1"
`

// getScript prints a file. Exit 44 says that there is none.
const getScript = `
[ -e "$1" ] || [ -L "$1" ] || exit 44
exec cat -- "$1"
`

// sumScript prints the SHA-256 and the mode of a file, nothing when there is
// none.
const sumScript = `
[ -f "$1" ] || exit 0
sha256sum <"$1" && stat -c %a -- "$1"
`

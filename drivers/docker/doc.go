// Package docker is the driver whose hosts are containers: each has systemd as
// its first process, an address of its own, and root, so all that is known
// about Linux hosts (package drivers/linux) works on them.
//
// A lab is one network with a subnet of its own, and for each host a container
// with a volume for [Host.Dir]. All carry the lab's id as a label, and that
// label, not a list, is what Down goes by. The engine may be on another
// machine: nothing is mounted from this one.
//
// An engine's exec is slow, a tenth of a second or more; it cannot be killed,
// and it does not tell a signal from an exit code. So a [Host] uses it once: it
// starts the etcdrill binary, which is part of the image, with [HostWord].
// That process serves commands, files and connections over its standard input
// and output until they are closed, and kills what still runs when they are:
// a killed etcdrill leaves no command behind.
package docker

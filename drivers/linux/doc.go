// Package linux makes labs on Linux machines that are reached as lab.Host with
// root rights, whatever they are: containers that play hosts, virtual machines,
// hardware. A driver brings the hosts; this package brings everything else.
//
// On each host everything of a lab lies below one directory and in two systemd
// units that carry the lab's name: etcd, which is never restarted behind the
// lab's back, and an agent, which is this very program under a hidden word.
// The agent carries the host's side of the links: peers talk through its SOCKS
// listener, clients through its front; but what the host's kernel can cut and
// slow it cuts and slows. Which of both it is is found out when a lab is made,
// the same for all its hosts. The agent serves the names of a lab that has any,
// attaches tracers, and is the dead man's switch: when the process that made
// the lab has not been heard of for a while, it undoes what was done to the
// host, stops the member, and runs what faults have armed for that case, such
// as a clock to be set right. A host whose control path is cut heals itself
// that way; who drills on it and lives after all is told, since the drill says
// nothing then.
//
// A cluster that somebody else made can be adopted, see [Adopt]: to be looked at,
// which leaves nothing on its hosts, or with an agent beside its members. They
// do not talk through it, so their links are cut by the kernel or not at all; and
// the dead man's switch lets them go on instead of ending them.
package linux

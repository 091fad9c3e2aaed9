// Package ssh is the driver for machines that are there already: Linux hosts
// of an inventory, reached over ssh. What is done on a host is written in
// drivers/linux; this package brings it there.
//
//	inventory.go  which machines there are          alias.go   what ~/.ssh/config says of them
//	keys.go       who they are and who we are       client.go  one connection per machine
//	host.go       lab.Host over it                  mark.go    leave to break a machine
//	driver.go     labs                               adopt.go   clusters that are there already
//
// Three rules hold everywhere:
//
//   - A machine is touched only when it is in the inventory and carries a mark
//     of its owner ([Host.Marked]), and it must be who it was: a changed host
//     key stops everything. One that is only looked at needs no mark.
//   - A command ends with whoever asked for it. It watches the connection it
//     came over, and when that is gone kills itself with all it started; input
//     that was cut off in the middle is never taken for the whole.
//   - Nothing is retried. A connection that was lost is made again for the next
//     command, and the one that was running fails and says so.
package ssh

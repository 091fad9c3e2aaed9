// Package etcd is knowledge of etcd over a [lab.Host]: how to give its members
// certificates and configuration, start them as a cluster, talk to them, look
// at them, and say whether they agree.
//
// What changes a cluster is done by etcd's own tools on a host ([Tool]), the
// way an operator would do it. What only looks uses the client library, or the
// plain health port of a member.
//
// Nothing here decides what is right: [Final] alone finds that a cluster does
// not stand as promised, and then only from explicit answers. An answer that
// did not come is an ordinary error.
package etcd

// Package etcd is knowledge of etcd over a [lab.Host]: how to give its members
// certificates and configuration, start them as a cluster, talk to them, look
// at them, and say whether they agree.
//
// What changes a cluster is done by etcd's own tools on a host ([Tool]), the
// way an operator would do it. What only looks uses the client library, or the
// plain health port of a member.
//
// Nothing here decides whether a cluster is as it should be: [Observer.Final]
// alone does, and only from explicit answers. A change whose effect is not what
// its tool claimed, or that would do damage, is a *lab.Failure as well. An
// answer that did not come is an ordinary error.
package etcd

// Package admin is what an administrator does to a cluster for nodes to come: with the kubeconfig that kubectl uses, and the
// rights of the user in it.
//
// [Connect] finds and reads the kubeconfig, every kind of authentication that client-go knows included, exec plugins too: it
// is a person's own file, on a person's own machine. The [Client] has the few verbs that the commands need for the few kinds
// of objects that they handle, over net/http: the whole clientset would double the program.
//
// An error that a person must do something about has a class and a remedy (package fault): what is wrong with the kubeconfig
// is [fault.Usage], a user that the API server does not know or that may not do it is [fault.Refused], and a server that
// does not prove to be the cluster's is [fault.Untrusted]. What a caller branches on wraps [ErrNotFound], [ErrExists] or
// [ErrConflict]. Nothing that failed is tried twice, since a person sits in front of it, but for a write that met another.
package admin

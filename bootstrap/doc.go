// Package bootstrap takes a machine that trusts nobody to a verified, authenticated connection.
//
// # From nothing to a verified cluster
//
// A [Discovery] yields a [Cluster]: API servers and the [Bundle] of CA certificates that vouches for them. There are
// three: [ByToken] (the ConfigMap cluster-info, believed for its signature and its [Pin]s), [Known] (a CA file or a
// [DiscoveryFile] of this machine) and [FromURL] (a discovery file from an https server). [Connect] runs one and
// returns the cluster with a [Connection] to it.
//
// # Credentials
//
// A [Credential] is asked for its [Proof] at each request and at each handshake, so that what was replaced meanwhile is taken
// up: a [BearerToken], a [BearerFile], a [CertificateFile], a [BasicAuth], or what the user of a [DiscoveryFile] has. Those
// that take more than a file are in packages of their own, oidc and execplugin. One that is for a proxy in front of the
// cluster goes [Via] that. EXAMPLES.md has each with the API server's arguments, the rights and the node's configuration.
//
// # What it promises
//
// Nothing is sent with a credential to a server that is not verified. A pin vouches for the certificates that it names
// and for no other. No secret is printed: it is a [Secret]. Input that came over the network cannot make this machine
// read a file, run a program or go without verification.
//
// # Round trips
//
// A join with discovery takes four to the issued certificate. Two connections are opened at once; cluster-info is
// asked for on the first, over HTTP/1.1, since an API server ends an anonymous HTTP/2 connection after its first
// answer (the feature UnauthenticatedHTTP2DOSMitigation of k8s.io/apiserver). The handshake of the second stops
// before its end, see [Trust], until the first has told which CA to trust, and then carries everything else.
//
//	1  TCP          TCP
//	2  TLS 1.3      TLS 1.3, up to the server's certificate
//	3  cluster-info    (waits)
//	4               verified; the request and the watch on it
//
// # After the join
//
// The CA bundle in use follows the cluster's: [FetchTrustBundle] reads what the cluster publishes, as the node;
// [FetchClusterInfoCA] is for clusters that publish no more than cluster-info. Both ask servers that the bundle in use
// vouches for, and [Reach] tells beforehand which servers another bundle would vouch for.
//
// # How it fails
//
// With an error of a class (package fault) when waiting cannot help, with any other when it can: the caller repeats
// the attempt.
package bootstrap

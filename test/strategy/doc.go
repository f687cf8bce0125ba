// Package strategy sets up every way in that Kubernetes knows, with the real counterpart of each: what the API server is
// configured with, what a joiner may do, and what the node has.
//
// # What it is for
//
// A [Bed] is one or two control planes of package testbed and what judges credentials beside them: an OpenID Connect
// provider over HTTPS (github.com/zitadel/oidc, in this process), nginx as an authenticating proxy, a factory's CA, and
// for the webhook a second control plane that reviews the first one's tokens. [Bed.Credential] makes what a node is
// given: the entry of its configuration, and its files. Tests and the demo join with that.
//
// # What it promises
//
// Nothing is left running; see package testbed. Every credential is judged by the API server or the proxy as it would be
// in a cluster: nothing here says yes in its place. Only what Options.Strategies names is set up, so that a demo of one
// shows the arguments of that one.
//
// A credential either can become any node (its user is in the group [Provisioners]), or is bound to one: its
// user is called system:node:NAME, without being in the group system:nodes, and is in the group [Joiners]. The cluster's
// own approver then approves the request for NAME and leaves any other pending.
//
// # How it fails
//
// Start returns an error with the end of the log of what did not come up. Static tokens are read once, at the start of
// an API server: who wants one names the node in Options.Nodes.
package strategy

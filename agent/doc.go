// Package agent composes bootstrap, csr and rotate into the one loop that this program is:
//
//	load what is on disk ─▶ decide ─▶ pick an identity or a credential ─▶ submit the request and watch it
//	        ▲                                                                       │
//	      sleep ◀── prove it over mTLS ◀── commit durably ◀── gate what was issued ◀─┘
//
// Joining is rotation with no current certificate. [Agent.Join] goes round the loop until the identity is durable and was
// seen to work; [Daemon.Run] never leaves it.
//
// # One keeper per certificate
//
// Each certificate has a keeper, which goes round the loop for it. The kubelet's client certificate is the first: it is the
// node's identity, which alone can be asked for with a credential, and the others are requested with it. What a pass decides follows
// from the disk, the configuration and the wall clock alone ([rotate.WhyReplace], [rotate.Window]).
//
// # The ladder
//
// The node's own certificate is used while it works: one 401 is not the end of it, several over distinct connections
// are. Below it is each configured credential in its order, read from its file at every attempt, first against the
// cluster as it was joined, whose CA bundle has followed the cluster's since, and then against the one that discovery finds.
// An identity that works is never replaced by one that has not passed the gate and authenticated.
//
// # Trust
//
// The CA bundle on disk follows the cluster's, over connections that the present bundle verifies: it is widened at once, and
// narrowed when the cluster has twice said the same and every server that answers is vouched for by what remains. A pin
// decides at discovery. What a pinned CA's server vouches for later is trusted without one, and said.
//
// # Waiting
//
// Every wait ends early when a file changes that matters, and looks at the wall clock at least once a minute. What is waited
// for, and what would end it, is in the log, in the status and in systemd's status line.
//
// # How it fails
//
// With an error of a class (package fault), which is the program's exit status and comes with a remedy. A join ends with it;
// a daemon ends with it at its start only, and later waits. Everything that can pass by itself is waited for, with jittered
// back-off.
package agent

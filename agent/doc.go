// Package agent composes bootstrap, csr and rotate into the one loop that this program is:
//
//	load what is on disk ─▶ decide ─▶ pick an identity or a credential ─▶ submit the request and watch it
//	        ▲                                                                       │
//	        └──── prove it over mTLS ◀── commit durably ◀── gate what was issued ◀──┘
//
// Joining is rotation with no current certificate. [Agent.Join] goes round the loop until the identity is durable and
// was seen to work.
//
// # How it fails
//
// With an error of a class (package fault), which is the program's exit status and comes with a remedy. Everything that
// can pass by itself is waited for, with jittered back-off, until the configured time is over; what is waited for is
// told to [Agent.Report].
package agent

// Package status is what is known of this machine's identity and of the agent that keeps it: one [Status], which the
// agent's socket serves, `nodejoin status` prints, and the metrics and the service manager's status line are made of.
//
// As JSON it is a stable format with the apiVersion and kind below. Fields may be added; those that are there keep their
// name, meaning and unit. Times are RFC 3339 in UTC with whole seconds, and one that is not known is left out. A
// duration has its unit in its name. No field holds a secret.
//
// # The verdict
//
// What is wrong, and what is waited for, is worked out in one place and in one order; [Status.Exit], [Status.Summary]
// and the head of [Status.Text] tell the same story:
//
//  1. the agent's loop makes no progress (class 1);
//  2. for each certificate in turn, the node's first: its problem (the problem's class, which one that may pass by itself
//     can have, too, or 1 where it has none); the request it waits for (6, or nothing as long as the certificate that is to be replaced still works);
//     with neither, that it cannot be used: 8 when it is unreadable or foreign, 5 when it was denied, 4 when the API server
//     refuses it, else 1;
//  3. a problem that belongs to no certificate, then one of the CA bundle (as above);
//  4. a clock that differs from the API server's by more than a minute (said, but no failure).
//
// The exit status is the first class of that list, and 0 when there is none: every certificate is valid and nothing is
// wrong. Whether the agent runs does not count; [Status.Running] tells.
//
// What comes from a server or from a file (a denial's message, a subject) is untrusted: text for people has it on one
// line, without control characters, and cut where it is endless.
package status

// The apiVersion and kind of the JSON document.
const (
	APIVersion = "nodejoin/v1alpha1"
	Kind       = "Status"
)

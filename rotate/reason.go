package rotate

import (
	"fmt"
	"strings"
	"time"
)

// Reason is why a certificate must be replaced now. "" is no reason.
type Reason string

// The reasons, in the order in which they are looked at.
const (
	Missing     Reason = "Missing"     // there is none
	Unreadable  Reason = "Unreadable"  // torn, empty, or key and certificate do not match
	Foreign     Reason = "Foreign"     // it is of another node, or of no node
	NotYetValid Reason = "NotYetValid" // by this machine's clock
	Expired     Reason = "Expired"     // by this machine's clock
)

// userPrefix is before a node's name in its certificate's common name.
const userPrefix = "system:node:"

// checks are asked in turn; the first that finds a reason ends the matter. Each takes the disk for granted as far as
// the ones before it have looked.
var checks = []func(d *Disk, node string, now time.Time) (Reason, string){
	func(d *Disk, _ string, _ time.Time) (Reason, string) {
		if d.Pair == nil && d.PairErr == nil {
			return Missing, "this machine has no certificate yet"
		}
		return "", ""
	},
	func(d *Disk, _ string, _ time.Time) (Reason, string) {
		if d.Pair == nil {
			return Unreadable, fmt.Sprintf("the certificate on disk cannot be used: %v", d.PairErr)
		}
		return "", ""
	},
	func(d *Disk, node string, _ time.Time) (Reason, string) {
		if name := d.Pair.NodeName(); name != node {
			return Foreign, fmt.Sprintf("the certificate on disk is of %q instead of the node %q", d.Pair.Leaf.Subject.CommonName, node)
		}
		return "", ""
	},
	func(d *Disk, _ string, now time.Time) (Reason, string) {
		if now.Before(d.Pair.Leaf.NotBefore) {
			return NotYetValid, fmt.Sprintf("the certificate becomes valid at %s", d.Pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		return "", ""
	},
	func(d *Disk, _ string, now time.Time) (Reason, string) {
		if !now.Before(d.Pair.Leaf.NotAfter) {
			return Expired, fmt.Sprintf("the certificate expired at %s", d.Pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		return "", ""
	},
}

// WhyReplace returns the reason why the certificate on disk cannot go on being the node's, with a message for a person,
// or "" if it can.
func WhyReplace(d *Disk, node string, now time.Time) (Reason, string) {
	for _, check := range checks {
		if reason, message := check(d, node, now); reason != "" {
			return reason, message
		}
	}
	return "", ""
}

// NodeName returns the name of the node that the certificate is of, or "" if it is of none: its common name is
// system:node:<name> and it is in the group system:nodes (the node authorizer's rule,
// https://kubernetes.io/docs/reference/access-authn-authz/node/).
func (p *KeyPair) NodeName() string {
	name, found := strings.CutPrefix(p.Leaf.Subject.CommonName, userPrefix)
	if !found || len(p.Leaf.Subject.Organization) != 1 || p.Leaf.Subject.Organization[0] != "system:nodes" {
		return ""
	}
	return name
}

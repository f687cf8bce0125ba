package rotate

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Reason is why a certificate must be replaced now. "" is no reason.
type Reason string

// The reasons, in the order in which they are looked at.
const (
	Missing     Reason = "Missing"     // there is none
	Unreadable  Reason = "Unreadable"  // torn, empty, or key and certificate do not match
	Foreign     Reason = "Foreign"     // it is of another subject: of another node, or of no node
	NotYetValid Reason = "NotYetValid" // by this machine's clock
	Expired     Reason = "Expired"     // by this machine's clock
	Changed     Reason = "Changed"     // it has other names or addresses than it should have by now
	Due         Reason = "Due"         // it is time to rotate it
)

// userPrefix is before a node's name in its certificate's common name.
const userPrefix = "system:node:"

// Wanted is what a certificate must be to go on being used.
type Wanted struct {
	CommonName   string
	Organization []string
	DNSNames     []string
	IPAddresses  []netip.Addr
	URIs         []string
	SpareNames   bool      // a certificate with more names, addresses or URIs than these is as good
	RotateAt     time.Time // zero: not before it expires
}

// checks are asked in turn; the first that finds a reason ends the matter. Each takes what was found for granted as far
// as the ones before it have looked.
var checks = []func(f *Found, want *Wanted, now time.Time) (Reason, string){
	func(f *Found, _ *Wanted, _ time.Time) (Reason, string) {
		if f.Pair == nil && f.PairErr == nil {
			return Missing, "this machine has no certificate yet"
		}
		return "", ""
	},
	func(f *Found, _ *Wanted, _ time.Time) (Reason, string) {
		if f.Pair == nil {
			return Unreadable, fmt.Sprintf("the certificate on disk cannot be used: %v", f.PairErr)
		}
		return "", ""
	},
	func(f *Found, want *Wanted, _ time.Time) (Reason, string) {
		subject := f.Pair.Leaf.Subject
		if subject.CommonName != want.CommonName || !sameSet(subject.Organization, want.Organization) {
			return Foreign, fmt.Sprintf("the certificate on disk is of %q in %q instead of %q in %q", subject.CommonName, subject.Organization, want.CommonName, want.Organization)
		}
		return "", ""
	},
	func(f *Found, _ *Wanted, now time.Time) (Reason, string) {
		if now.Before(f.Pair.Leaf.NotBefore) {
			return NotYetValid, fmt.Sprintf("the certificate becomes valid at %s", f.Pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
		}
		return "", ""
	},
	func(f *Found, _ *Wanted, now time.Time) (Reason, string) {
		if !now.Before(f.Pair.Leaf.NotAfter) {
			return Expired, fmt.Sprintf("the certificate expired at %s", f.Pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		return "", ""
	},
	func(f *Found, want *Wanted, _ time.Time) (Reason, string) {
		suits, has := sameSet, namesOf(f.Pair)
		if want.SpareNames {
			suits = holdsAll
		}
		if !suits(has.dnsNames(), want.dnsNames()) || !suits(has.addresses(), want.addresses()) || !suits(has.uris(), want.uris()) {
			return Changed, fmt.Sprintf("the certificate on disk is for %s and should be for %s", has.inWords(), want.inWords())
		}
		return "", ""
	},
	func(_ *Found, want *Wanted, now time.Time) (Reason, string) {
		if !want.RotateAt.IsZero() && !now.Before(want.RotateAt) {
			return Due, fmt.Sprintf("the certificate was to be rotated at %s", want.RotateAt.UTC().Format(time.RFC3339))
		}
		return "", ""
	},
}

// WhyReplace returns the reason why the certificate that was found is to be replaced, with a message for a person, or ""
// if it is not. All but [Due] and [Changed] say that it cannot be used.
func WhyReplace(f *Found, want Wanted, now time.Time) (Reason, string) {
	for _, check := range checks {
		if reason, message := check(f, &want, now); reason != "" {
			return reason, message
		}
	}
	return "", ""
}

// Usable reports whether a certificate with this reason to be replaced can be used until it is.
func (r Reason) Usable() bool { return r == "" || r == Due || r == Changed }

// dnsNames returns the DNS names in the form in which they can be compared (RFC 4343).
func (w *Wanted) dnsNames() []string {
	var names []string
	for _, name := range w.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	return names
}

// addresses returns the IP addresses in the form that they have in a certificate: without a zone, IPv4 as such.
func (w *Wanted) addresses() []string {
	var addresses []string
	for _, addr := range w.IPAddresses {
		addresses = append(addresses, addr.Unmap().WithZone("").String())
	}
	return addresses
}

// uris returns the URIs in the form that they have when they are read from a certificate.
func (w *Wanted) uris() []string {
	var uris []string
	for _, uri := range w.URIs {
		if u, err := url.Parse(uri); err == nil {
			uri = u.String()
		}
		uris = append(uris, uri)
	}
	return uris
}

func (w *Wanted) inWords() string {
	names := slices.Concat(w.DNSNames, w.addresses(), w.uris())
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

// namesOf returns the subject alternative names of a certificate.
func namesOf(p *KeyPair) *Wanted {
	w := &Wanted{DNSNames: p.Leaf.DNSNames}
	for _, ip := range p.Leaf.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			w.IPAddresses = append(w.IPAddresses, addr)
		}
	}
	for _, uri := range p.Leaf.URIs {
		w.URIs = append(w.URIs, uri.String())
	}
	return w
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// holdsAll reports whether all of b is in a.
func holdsAll(a, b []string) bool {
	return !slices.ContainsFunc(b, func(item string) bool { return !slices.Contains(a, item) })
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

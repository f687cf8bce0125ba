package bootstrap

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	pinScheme  = "sha256:"
	computePin = "compute it on a control-plane node: openssl x509 -in /etc/kubernetes/pki/ca.crt -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum"
)

// Pin is the SHA-256 of a certificate's DER-encoded SubjectPublicKeyInfo (RFC 7469, section 2.4), written as kubeadm
// writes it: "sha256:" and 64 hexadecimal digits. It vouches for the certificates with that key and for no other.
type Pin [sha256.Size]byte

// ParsePin reads "sha256:" and 64 hexadecimal digits of either case.
func ParsePin(text string) (Pin, error) {
	refuse := func(format string, args ...any) (Pin, error) {
		return Pin{}, fault.New(fault.Usage, computePin, format, args...)
	}
	digits, found := strings.CutPrefix(text, pinScheme)
	if !found {
		scheme, _, colon := strings.Cut(text, ":")
		if !colon {
			return refuse("the CA certificate hash does not begin with %q", pinScheme) // unquoted: it may be a token, misplaced
		}
		return refuse("the CA certificate hash %q is of kind %q: only %q is known", text, scheme, strings.TrimSuffix(pinScheme, ":"))
	}
	sum, err := hex.DecodeString(digits)
	if err != nil && !errors.Is(err, hex.ErrLength) {
		return refuse("the CA certificate hash %q is not hexadecimal", text)
	}
	if len(digits) != 2*sha256.Size {
		return refuse("the CA certificate hash %q has %d hexadecimal digits instead of %d", text, len(digits), 2*sha256.Size)
	}
	return Pin(sum), nil
}

// PinOf returns the pin of a certificate's key.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// String returns the pin as ParsePin reads it.
func (p Pin) String() string { return pinScheme + hex.EncodeToString(p[:]) }

// Pinned returns the certificates of b whose key is pinned, in their order. What is not pinned is left out: a bundle
// that holds a pinned certificate beside another does not vouch for the other.
func (b Bundle) Pinned(pins []Pin) Bundle {
	return Bundle{certs: slices.DeleteFunc(slices.Clone(b.certs), func(cert *x509.Certificate) bool {
		return !slices.Contains(pins, PinOf(cert))
	})}
}

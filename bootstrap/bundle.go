package bootstrap

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits on a CA bundle from outside: a cluster has a handful of CA certificates, in the midst of a rotation too.
const (
	maxBundleBytes = 1 << 20
	maxBundleCerts = 100
)

// Bundle is a list of CA certificates that vouch for a cluster's API servers.
type Bundle struct{ certs []*x509.Certificate }

// ParseBundle reads PEM. It refuses what cannot be a CA bundle: a private key, any other kind of block, a damaged
// block, a certificate that is no CA, none at all, too many, or only expired ones. Expired certificates beside live
// ones are left out, since a rotated CA leaves them behind.
func ParseBundle(data []byte, now time.Time) (Bundle, error) {
	bundle, err := parseCAs(data)
	if err != nil {
		return Bundle{}, err
	}
	return bundle.live(now)
}

// parseCAs is ParseBundle without a look at the clock.
func parseCAs(data []byte) (Bundle, error) {
	if len(data) > maxBundleBytes {
		return Bundle{}, fmt.Errorf("the CA bundle is larger than %d bytes", maxBundleBytes)
	}
	blocks := bytes.Count(data, []byte("-----BEGIN "))
	if blocks > maxBundleCerts {
		return Bundle{}, fmt.Errorf("the CA bundle has %d entries: more than %d", blocks, maxBundleCerts)
	}
	var bundle Bundle
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := parseCA(block)
		if err != nil {
			return Bundle{}, fmt.Errorf("entry %d of the CA bundle: %w", len(bundle.certs)+1, err)
		}
		bundle.certs = append(bundle.certs, cert)
	}
	switch {
	case len(bundle.certs) != blocks:
		return Bundle{}, errors.New("an entry of the CA bundle is damaged or cut off")
	case blocks == 0:
		return Bundle{}, errors.New("there is no PEM-encoded certificate in the CA bundle")
	}
	return bundle, nil
}

// live returns what has not expired of a bundle that is not empty. It is an error if that is nothing.
func (b Bundle) live(now time.Time) (Bundle, error) {
	live := Bundle{certs: slices.DeleteFunc(slices.Clone(b.certs), func(cert *x509.Certificate) bool { return now.After(cert.NotAfter) })}
	if live.IsZero() {
		last := b.certs[len(b.certs)-1]
		return Bundle{}, fmt.Errorf("the CA certificate %q expired at %s (this machine's clock says %s)",
			last.Subject, last.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return live, nil
}

func parseCA(block *pem.Block) (*x509.Certificate, error) {
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errors.New("it is a private key: a CA's key must not leave its control plane")
	}
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("it is a %q, not a CERTIFICATE", block.Type)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, fmt.Errorf("the certificate %q is not a CA certificate", cert.Subject)
	}
	return cert, nil
}

// IsZero reports whether the bundle holds no certificate.
func (b Bundle) IsZero() bool { return len(b.certs) == 0 }

// Certificates returns the certificates. The caller does not change them.
func (b Bundle) Certificates() []*x509.Certificate { return b.certs }

// Union returns the certificates of b and then those of o, each once.
func (b Bundle) Union(o Bundle) Bundle {
	var union Bundle
	for _, cert := range slices.Concat(b.certs, o.certs) {
		if !union.has(cert) {
			union.certs = append(union.certs, cert)
		}
	}
	return union
}

// Without returns the certificates of b that are not in o, in their order.
func (b Bundle) Without(o Bundle) Bundle {
	return Bundle{certs: slices.DeleteFunc(slices.Clone(b.certs), o.has)}
}

// Contains reports whether b holds every certificate of o: nothing that o vouches for is lost with b in its place.
func (b Bundle) Contains(o Bundle) bool { return o.Without(b).IsZero() }

// Equal reports whether both hold the same certificates, in whatever order and number.
func (b Bundle) Equal(o Bundle) bool { return b.Contains(o) && o.Contains(b) }

// has reports whether the bundle holds the certificate. Another one with the same subject and key is not the same: it
// may end later.
func (b Bundle) has(cert *x509.Certificate) bool { return slices.ContainsFunc(b.certs, cert.Equal) }

// Pool returns the certificates as trust anchors.
func (b Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range b.certs {
		pool.AddCert(cert)
	}
	return pool
}

// PEM returns the bundle as a file of CERTIFICATE blocks.
func (b Bundle) PEM() []byte {
	var out bytes.Buffer
	for _, cert := range b.certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}) // a bytes.Buffer takes everything
	}
	return out.Bytes()
}

// Subjects names the certificates, for a person.
func (b Bundle) Subjects() string {
	names := make([]string, len(b.certs))
	for i, cert := range b.certs {
		names[i] = cert.Subject.String()
	}
	return "the CA " + strings.Join(names, ", ")
}

// String names the certificates and their pins, for a person.
func (b Bundle) String() string {
	names := make([]string, len(b.certs))
	for i, cert := range b.certs {
		names[i] = fmt.Sprintf("%q (%s)", cert.Subject, PinOf(cert))
	}
	return strings.Join(names, ", ")
}

package bootstrap

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
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
	if len(data) > maxBundleBytes {
		return Bundle{}, fmt.Errorf("the CA bundle is larger than %d bytes", maxBundleBytes)
	}
	blocks := bytes.Count(data, []byte("-----BEGIN "))
	if blocks > maxBundleCerts {
		return Bundle{}, fmt.Errorf("the CA bundle has %d entries: more than %d", blocks, maxBundleCerts)
	}
	var (
		bundle  Bundle
		expired *x509.Certificate
		decoded int
	)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		decoded++
		cert, err := parseCA(block)
		if err != nil {
			return Bundle{}, fmt.Errorf("entry %d of the CA bundle: %w", decoded, err)
		}
		if now.After(cert.NotAfter) {
			expired = cert
			continue
		}
		bundle.certs = append(bundle.certs, cert)
	}
	switch {
	case decoded != blocks:
		return Bundle{}, errors.New("an entry of the CA bundle is damaged or cut off")
	case decoded == 0:
		return Bundle{}, errors.New("there is no PEM-encoded certificate in the CA bundle")
	case len(bundle.certs) == 0:
		return Bundle{}, fmt.Errorf("the CA certificate %q expired at %s (this machine's clock says %s)",
			expired.Subject, expired.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return bundle, nil
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

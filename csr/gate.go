package csr

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// ErrClock is wrapped in a refusal for the certificate's dates: by another clock it might pass.
var ErrClock = errors.New("the certificate's dates do not fit this machine's clock")

// ErrExpired is wrapped beside ErrClock where the certificate has expired: if the clock is right, its request has ended.
var ErrExpired = errors.New("it expired")

// Issued is a certificate that passed the gate.
type Issued struct {
	Leaf  *x509.Certificate
	Chain []byte // PEM: the leaf, then what the signer sent with it
	// Anchored says that the chain ends at a certificate of the cluster's CA bundle. Where clients are signed by a CA
	// of their own it does not, and then only authenticating with it shows that the cluster knows it.
	Anchored bool
}

// Gate decides whether what was issued may become an identity: a chain of certificates whose first one is for our key,
// has just the subject, usages and names that were asked for, is no CA, is valid now, and, from a signer of Kubernetes'
// own, is signed by the cluster's CA where the bundle can tell. It refuses with an error that says which of these does
// not hold. A signer may put names in another order; it may neither add nor leave out any. See [Template.Fits].
func Gate(chain []byte, t Template, key crypto.PublicKey, roots []*x509.Certificate, now time.Time) (*Issued, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, refuse("%w", err)
	}
	leaf := certs[0]
	for _, check := range []func() error{
		func() error { return checkKey(leaf, key) },
		func() error { return t.Fits(leaf) },
		func() error { return checkDates(leaf, now) },
	} {
		if err := check(); err != nil {
			return nil, refuse("%w", err)
		}
	}
	anchored, err := checkChain(certs, roots, now)
	if err != nil && ofKubernetes(t.SignerName) {
		return nil, refuse("%w", err)
	}
	var out bytes.Buffer
	for _, cert := range certs {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}) // a bytes.Buffer takes everything
	}
	return &Issued{Leaf: leaf, Chain: out.Bytes(), Anchored: anchored}, nil
}

func refuse(format string, args ...any) error {
	return fault.New(fault.Denied, "look at the cluster's signer (kubectl describe csr); nothing was written", "the issued certificate is refused: "+format, args...)
}

func parseChain(chain []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := chain
	for len(bytes.TrimSpace(rest)) != 0 {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is not a chain of PEM-encoded certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("it is empty")
	}
	return certs, nil
}

func checkKey(leaf *x509.Certificate, key crypto.PublicKey) error {
	if !sameKey(leaf.PublicKey, key) {
		return errors.New("it is for another key")
	}
	return nil
}

// Fits says why a certificate is not what the template asks for, or nil: its subject, its usages, its names. Its key,
// its dates and who signed it are not looked at, so that it also tells whether one that is in use is still wanted.
//
// The subject's common name and organizations are those asked for, whoever the signer is. The signers of Kubernetes'
// own add nothing to them; any other may state, say, its country.
func (t Template) Fits(leaf *x509.Certificate) error {
	t = t.canonical()
	if err := checkSubject(leaf.Subject, t); err != nil {
		return err
	}
	if err := checkUsages(leaf, t); err != nil {
		return err
	}
	names, err := namesOf(leaf.Extensions)
	if err != nil {
		return err
	}
	return compareNames(names, t.names())
}

func checkSubject(subject pkix.Name, t Template) error {
	if subject.CommonName != t.CommonName {
		return fmt.Errorf("its common name is %q instead of %q", subject.CommonName, t.CommonName)
	}
	if !sameSet(subject.Organization, t.Organization) {
		return fmt.Errorf("its organization is %q instead of %q", subject.Organization, t.Organization)
	}
	if !ofKubernetes(t.SignerName) {
		isCommonName := func(a pkix.AttributeTypeAndValue) bool { return a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) }
		if first := slices.IndexFunc(subject.Names, isCommonName); slices.ContainsFunc(subject.Names[first+1:], isCommonName) {
			return fmt.Errorf("its subject %q has two common names", subject)
		}
		return nil
	}
	if !isSubject(subject, t) {
		return fmt.Errorf("its subject %q has more in it than was asked for", subject)
	}
	return nil
}

func checkUsages(leaf *x509.Certificate, t Template) error {
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("it is a CA certificate")
	}
	var want []x509.ExtKeyUsage
	for _, usage := range t.Usages {
		if bit := keyUsages[usage]; leaf.KeyUsage&bit != bit {
			return fmt.Errorf("it lacks the key usage %q", usage)
		}
		if extended, ok := extendedUsages[usage]; ok {
			want = append(want, extended)
		}
	}
	found := slices.Clone(leaf.ExtKeyUsage)
	slices.Sort(found)
	slices.Sort(want)
	if !slices.Equal(found, slices.Compact(want)) || len(leaf.UnknownExtKeyUsage) != 0 {
		return fmt.Errorf("its extended key usages are not just those asked for (%q)", t.Usages)
	}
	return nil
}

func checkDates(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%w: it becomes valid in %s (%s)", ErrClock, leaf.NotBefore.Sub(now).Round(time.Second), leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return fmt.Errorf("%w: %w %s ago (%s)", ErrClock, ErrExpired, now.Sub(leaf.NotAfter).Round(time.Second), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkChain reports whether the chain ends at one of the roots. A chain that ends elsewhere is no error, since
// clients may have a CA of their own; one that claims to come from a root and does not is.
func checkChain(certs, roots []*x509.Certificate, now time.Time) (anchored bool, err error) {
	anchors, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range roots {
		anchors.AddCert(root)
	}
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err == nil {
		return true, nil
	}
	for _, cert := range certs {
		for _, root := range roots {
			if bytes.Equal(cert.RawIssuer, root.RawSubject) && (len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, root.SubjectKeyId)) {
				return false, fmt.Errorf("it names the cluster's CA %q as its issuer, but: %w", root.Subject, err)
			}
		}
	}
	return false, nil
}

package csr

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// minRSA is the shortest RSA key, in bits, for which a certificate is asked (NIST SP 800-57, part 1, table 2).
const minRSA = 2048

// ParseRequest prepares a request from a PKCS#10 request in PEM that the owner of a key has made elsewhere, with openssl
// for one. Signer, usages and lifetime are the template's; the subject is the PKCS#10 request's, and so the Template of
// the result says who it is for. The owner's signature is checked.
//
// It refuses what the result would not ask for: subject alternative names, and parts of the subject other than a common
// name and organizations. What else a PKCS#10 request may wish for, the cluster's signers leave out in any case.
func ParseRequest(data []byte, t Template) (*Request, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("there is no PEM block in it")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST": // the latter is openssl's of old
		return nil, fmt.Errorf("it is a %q, not a CERTIFICATE REQUEST", clip(block.Type))
	}
	if another, _ := pem.Decode(rest); another != nil {
		return nil, errors.New("there is more than one PEM block in it")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is no PKCS#10 request: %w", lineError{err})
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("its signature is not by its own key: %w", err)
	}
	if err := checkPublic(request); err != nil {
		return nil, err
	}
	names, err := namesOf(request.Extensions)
	if err != nil {
		return nil, err
	}
	if len(names) != 0 {
		return nil, fmt.Errorf("it has subject alternative names (%s), which a user has not", list(names))
	}
	t.CommonName, t.Organization = request.Subject.CommonName, request.Subject.Organization
	if t = t.canonical(); !isSubject(request.Subject, t) {
		return nil, fmt.Errorf("its subject %q has more in it than a common name (CN) and organizations (O), each once", clip(oneLine(request.Subject.String())))
	}
	name, err := t.name(request.PublicKey)
	if err != nil {
		return nil, err
	}
	pkcs10 := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes})
	return &Request{Template: t, Name: name, public: request.PublicKey, pkcs10: pkcs10}, nil
}

// checkPublic refuses a key that is too weak, or that Kubernetes cannot use.
func checkPublic(request *x509.CertificateRequest) error {
	switch key := request.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return fmt.Errorf("its RSA key has %d bits, fewer than %d", bits, minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("its key is of a kind that cannot be used (%s)", request.PublicKeyAlgorithm)
	}
	return nil
}

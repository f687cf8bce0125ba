package rotate

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// KeyPair is a private key and its certificate chain, of which the first certificate is for the key.
type KeyPair struct {
	Leaf *x509.Certificate

	certificate tls.Certificate
	pem         []byte
}

// What is wrong with a file that should hold a pair, where a person would call it by a name of its own.
var (
	ErrNoKey         = errors.New("there is a certificate without a private key")
	ErrNoCertificate = errors.New("there is a private key without a certificate")
	ErrMismatch      = errors.New("the private key does not match the certificate")
	ErrAltered       = errors.New("the certificate was changed after it was signed")
)

// ParseKeyPair reads a file of the form that the kubelet keeps: the chain, leaf first, then the key, all in PEM. A key
// that does not match the leaf is an error.
func ParseKeyPair(data []byte) (*KeyPair, error) {
	certificate, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("no usable key and certificate: %w", nameOf(err, data))
	}
	if certificate.Leaf == nil {
		return nil, errors.New("no usable key and certificate: the leaf is missing")
	}
	return &KeyPair{Leaf: certificate.Leaf, certificate: certificate, pem: data}, nil
}

// nameOf gives crypto/tls's complaint about data the name that it has here.
func nameOf(err error, data []byte) error {
	chain, key := splitPEM(data)
	switch {
	case len(chain) != 0 && len(key) == 0:
		return ErrNoKey
	case len(chain) == 0 && len(key) != 0:
		return ErrNoCertificate
	case len(chain) != 0 && strings.Contains(err.Error(), "does not match"): // crypto/tls has no sentinel for it
		return ErrMismatch
	}
	return err
}

// NewKeyPair joins a chain and a key, both in PEM. One text that holds both may be given twice.
func NewKeyPair(chain, key []byte) (*KeyPair, error) {
	if bytes.Equal(chain, key) {
		return ParseKeyPair(chain)
	}
	return ParseKeyPair(append(bytes.TrimRight(bytes.Clone(chain), "\n"), append([]byte("\n"), key...)...))
}

// TLS returns the pair as crypto/tls wants it.
func (p *KeyPair) TLS() *tls.Certificate { return &p.certificate }

// Key returns the private key.
func (p *KeyPair) Key() crypto.PrivateKey { return p.certificate.PrivateKey }

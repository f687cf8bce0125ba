package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// nodeUser is what the names of nodes begin with, as users (https://kubernetes.io/docs/reference/access-authn-authz/node/).
const nodeUser = "system:node:"

// maxKeyPairFile is far above any certificate with its chain and key.
const maxKeyPairFile = 256 << 10

// CertificateFile is a Credential of a client certificate that was issued beforehand, read at each use. Both may be in one
// file.
type CertificateFile struct {
	CertificatePath string // PEM: the certificate and its chain
	KeyPath         string // PEM, not encrypted; "" for CertificatePath
}

// Proof implements [Credential]. Every mistake is one of the operator's input, and no error repeats any of the key.
func (c *CertificateFile) Proof(context.Context) (*Proof, error) { return c.proof() }

// Check returns the mistake that Proof would.
func (c *CertificateFile) Check() error {
	_, err := c.proof()
	return err
}

func (c *CertificateFile) proof() (*Proof, error) {
	cert, err := c.read()
	if err != nil {
		return nil, fault.New(fault.Usage, cmp.Or(fault.Remedy(err), c.Remedy()), "%w", err)
	}
	return ProofOfCertificate(cert), nil
}

func (c *CertificateFile) read() (*tls.Certificate, error) {
	certPEM, mode, err := readFile(c.CertificatePath, maxKeyPairFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the client certificate: %w", err)
	}
	if c.KeyPath == "" || c.KeyPath == c.CertificatePath {
		if err := checkSecrecy(c.CertificatePath, mode); err != nil {
			return nil, err
		}
		pair, err := ParseKeyPair(certPEM, certPEM)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.CertificatePath, err)
		}
		return pair, nil
	}
	keyPEM, err := ReadSecret(c.KeyPath, maxKeyPairFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the client certificate's key: %w", err)
	}
	pair, err := ParseKeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with the key in %s: %w", c.CertificatePath, c.KeyPath, err)
	}
	return pair, nil
}

// String implements [Credential].
func (c *CertificateFile) String() string { return "the client certificate in " + c.CertificatePath }

// Remedy implements [Credential].
func (c *CertificateFile) Remedy() string {
	if c.KeyPath == "" || c.KeyPath == c.CertificatePath {
		return "put a valid certificate and its key, not encrypted, into " + c.CertificatePath + " (mode 0600)"
	}
	return "put a valid certificate into " + c.CertificatePath + " and its key, not encrypted, into " + c.KeyPath + " (mode 0600)"
}

// ParseKeyPair reads a certificate with its chain and its key, both PEM. The errors do not repeat any of the key.
func ParseKeyPair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	var keys int
	for block, rest := pem.Decode(keyPEM); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("the private key is encrypted, and nobody is there to give its passphrase: decrypt it with `openssl pkey`")
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			keys++
		}
	}
	switch {
	case keys == 0:
		return nil, errors.New("there is no private key in PEM")
	case keys > 1:
		return nil, fmt.Errorf("there are %d private keys", keys)
	case !bytes.Contains(certPEM, []byte("-----BEGIN CERTIFICATE-----")):
		return nil, errors.New("there is no certificate in PEM")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err != nil && strings.Contains(err.Error(), "does not match"):
		return nil, errors.New("the private key is not the certificate's")
	case err != nil:
		return nil, fmt.Errorf("the certificate or its key is damaged: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// ProofOfCertificate returns what shows a client certificate, whose leaf is parsed.
func ProofOfCertificate(cert *tls.Certificate) *Proof {
	return &Proof{
		Certificate: cert, NotBefore: cert.Leaf.NotBefore, NotAfter: cert.Leaf.NotAfter,
		About: fmt.Sprintf("of %q, issued by %q, whose CA must be in the API server's --client-ca-file", cert.Leaf.Subject, cert.Leaf.Issuer),
	}
}

// NodeOf returns the node that a client certificate makes its holder, or lets him ask to become; "" if it is none's.
func NodeOf(leaf *x509.Certificate) string {
	node, isNode := strings.CutPrefix(leaf.Subject.CommonName, nodeUser)
	if !isNode {
		return ""
	}
	return node
}

// BasicAuth is a Credential of a name and a password, for an authenticating proxy: no API server knows it any more. The
// password is read at each use.
type BasicAuth struct {
	Username     string
	PasswordPath string
}

// Proof implements [Credential]. One final newline is not of the password.
func (b *BasicAuth) Proof(context.Context) (*Proof, error) { return b.read() }

// Check returns the mistake that Proof would.
func (b *BasicAuth) Check() error {
	_, err := b.read()
	return err
}

func (b *BasicAuth) read() (*Proof, error) {
	data, err := ReadSecret(b.PasswordPath, maxTokenFile)
	if err != nil {
		return nil, fault.New(fault.Usage, cmp.Or(fault.Remedy(err), b.Remedy()), "cannot read the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" {
		return nil, fault.New(fault.Usage, b.Remedy(), "there is no password in %s", b.PasswordPath)
	}
	if strings.ContainsFunc(password, unicode.IsControl) {
		return nil, fault.New(fault.Usage, b.Remedy()+", alone on one line", "the password in %s has control characters or line breaks in it", b.PasswordPath)
	}
	return &Proof{Username: b.Username, Password: NewSecret(password)}, nil
}

// String implements [Credential].
func (b *BasicAuth) String() string {
	return fmt.Sprintf("the password of %s in %s", b.Username, b.PasswordPath)
}

// Remedy implements [Credential].
func (b *BasicAuth) Remedy() string {
	return "write the password of " + b.Username + " to " + b.PasswordPath + " (mode 0600)"
}

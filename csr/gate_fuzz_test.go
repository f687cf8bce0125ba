package csr

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a fuzzed certificate can be, one bit each.
const (
	withCA = 1 << iota
	withOtherKey
	withServerAuth
	withoutClientAuth
	byImpostor
	byStranger
	byMiddle
	withoutMiddle
	withOtherRoots
)

// FuzzGate builds a certificate of what the fuzzer says, damages a byte of it, and holds the gate's judgement against
// crypto/x509's own and the template.
func FuzzGate(f *testing.F) {
	f.Add(testTemplate.CommonName, "system:nodes", "", uint16(x509.KeyUsageDigitalSignature), uint16(0), int64(0), uint16(0), byte(0))
	f.Add(testTemplate.CommonName, "system:nodes,system:masters", "", uint16(x509.KeyUsageDigitalSignature), uint16(0), int64(0), uint16(0), byte(0))
	f.Add(testTemplate.CommonName, "system:nodes", "example.com", uint16(x509.KeyUsageDigitalSignature), uint16(0), int64(0), uint16(0), byte(0))
	for flag := uint16(1); flag <= withOtherRoots; flag <<= 1 {
		f.Add(testTemplate.CommonName, "system:nodes", "", uint16(x509.KeyUsageDigitalSignature), flag, int64(0), uint16(0), byte(0))
	}
	f.Add(testTemplate.CommonName, "system:nodes", "", uint16(x509.KeyUsageDigitalSignature), uint16(byMiddle), int64(3600), uint16(200), byte(1))
	root, stranger := newAuthority(f, "kubernetes", "root", nil), newAuthority(f, "stranger", "stranger", nil)
	impostor, middle := newAuthority(f, "kubernetes", "impostor", nil), newAuthority(f, "middle", "middle", root)
	impostor.cert.SubjectKeyId = root.cert.SubjectKeyId
	key, other := keyOf(f, "node").Public(), keyOf(f, "other").Public()
	f.Fuzz(func(t *testing.T, commonName, organizations, dns string, usage, flags uint16, shift int64, at uint16, damage byte) {
		has := func(flag uint16) bool { return flags&flag != 0 }
		signer, public := root, key
		switch {
		case has(byImpostor):
			signer = impostor
		case has(byStranger):
			signer = stranger
		case has(byMiddle):
			signer = middle
		}
		if has(withOtherKey) {
			public = other
		}
		if !isPrintable(commonName) || !isPrintable(organizations) || !isPrintable(dns) {
			t.Skip("x509 would not encode it")
		}
		leaf := signer.issue(t, public, func(c *x509.Certificate) {
			c.Subject.CommonName, c.Subject.Organization = commonName, nil
			if organizations != "" {
				c.Subject.Organization = strings.Split(organizations, ",")
			}
			if dns != "" {
				c.DNSNames = []string{dns}
			}
			c.KeyUsage, c.IsCA = x509.KeyUsage(usage&0x1ff), has(withCA)
			if has(withServerAuth) {
				c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			}
			if has(withoutClientAuth) {
				c.ExtKeyUsage = c.ExtKeyUsage[1:]
			}
		})
		chain := []*x509.Certificate{leaf}
		if signer == middle && !has(withoutMiddle) {
			chain = append(chain, middle.cert)
		}
		text := pemOf(chain...)
		text[int(at)%len(text)] ^= damage
		roots := []*x509.Certificate{root.cert}
		if has(withOtherRoots) {
			roots = []*x509.Certificate{stranger.cert}
		}
		now := testTime.Add(time.Duration(shift%(1<<30)) * time.Second)

		issued, err := Gate(text, testTemplate, key, roots, now)
		if err != nil {
			wantFault(t, err, 5, "the issued certificate is refused")
			if damage == 0 && agrees(leaf, key, now) && verifies(leaf, chain[1:], roots, now) {
				t.Errorf("refused, but nothing is wrong with it: %v", err)
			}
			return
		}
		if !agrees(issued.Leaf, key, now) {
			t.Errorf("accepted, but it is not what was asked for: %v", issued.Leaf.Subject)
		}
		again, err := parseChain(issued.Chain)
		if err != nil || !again[0].Equal(issued.Leaf) || !bytes.Equal(pemOf(again...), issued.Chain) {
			t.Fatalf("the chain is not the leaf's: %v", err)
		}
		if verifies(issued.Leaf, again[1:], roots, now) != issued.Anchored {
			t.Errorf("anchored: %t, against crypto/x509", issued.Anchored)
		}
	})
}

// agrees says whether a certificate is what the test's template asks for, apart from who signed it.
func agrees(leaf *x509.Certificate, key any, now time.Time) bool {
	return sameKey(leaf.PublicKey, key) && len(leaf.Subject.Names) == 2 &&
		leaf.Subject.ToRDNSequence().String() == "CN=system:node:node-1,O=system:nodes" &&
		slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) && len(leaf.UnknownExtKeyUsage) == 0 &&
		!leaf.IsCA && leaf.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == x509.KeyUsageDigitalSignature &&
		len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) == 0 &&
		!now.Before(leaf.NotBefore) && now.Before(leaf.NotAfter)
}

func verifies(leaf *x509.Certificate, between, roots []*x509.Certificate, now time.Time) bool {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, cert := range roots {
		options.Roots.AddCert(cert)
	}
	for _, cert := range between {
		options.Intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(options)
	return err == nil
}

func isPrintable(text string) bool {
	return len(text) < 200 && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

package csr

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/test/expect"
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
// crypto/x509's own and the template. asked and given are the names in the template and in the certificate, with a
// comma between two: IP addresses, URIs (what has a colon), DNS names.
func FuzzGate(f *testing.F) {
	const signs = uint16(x509.KeyUsageDigitalSignature)
	f.Add(testTemplate.CommonName, "system:nodes", "", "", signs, uint16(0), int64(0), uint16(0), byte(0))
	f.Add(testTemplate.CommonName, "system:nodes,system:masters", "", "", signs, uint16(0), int64(0), uint16(0), byte(0))
	f.Add(testTemplate.CommonName, "system:nodes", "", "example.com", signs, uint16(0), int64(0), uint16(0), byte(0))
	for flag := uint16(1); flag <= withOtherRoots; flag <<= 1 {
		f.Add(testTemplate.CommonName, "system:nodes", "", "", signs, flag, int64(0), uint16(0), byte(0))
	}
	f.Add(testTemplate.CommonName, "system:nodes", "", "", signs, uint16(byMiddle), int64(3600), uint16(200), byte(1))
	for _, names := range [][2]string{
		{"a.example.com", ""},
		{"a.example.com", "a.example.com"},
		{"a.example.com", "A.example.com,a.EXAMPLE.com"},
		{"a.example.com,192.0.2.1", "192.0.2.1,a.example.com"},
		{"a.example.com,192.0.2.1", "::ffff:192.0.2.1,a.example.com,2001:db8::1"},
		{"*.example.com", "a.example.com"},
		{"a.example.com", "*.example.com"},
		{"2001:db8::1,spiffe://example.com/a", "2001:db8:0::1,spiffe://example.com/a"},
		{"spiffe://example.com/a", "spiffe://example.com/b"},
		{"urn:x:y,b", "b,a@example.com"},
	} {
		f.Add(testTemplate.CommonName, "system:nodes", names[0], names[1], signs, uint16(withServerAuth|withoutClientAuth), int64(0), uint16(0), byte(0))
	}
	root, stranger := newAuthority(f, "kubernetes", "root", nil), newAuthority(f, "stranger", "stranger", nil)
	impostor, middle := newAuthority(f, "kubernetes", "impostor", nil), newAuthority(f, "middle", "middle", root)
	impostor.cert.SubjectKeyId = root.cert.SubjectKeyId
	key, other := keyOf(f, "node").Public(), keyOf(f, "other").Public()
	f.Fuzz(func(t *testing.T, commonName, organizations, asked, given string, usage, flags uint16, shift int64, at uint16, damage byte) {
		has := func(flag uint16) bool { return flags&flag != 0 }
		template, extended := testTemplate, x509.ExtKeyUsageClientAuth
		if asked != "" {
			template.DNSNames, template.IPAddresses, template.URIs = sortNames(asked)
			template.SignerName, template.Usages = "example.com/serving", []certificates.KeyUsage{"digital signature", "server auth"}
			extended = x509.ExtKeyUsageServerAuth
			if template.Check() != nil {
				t.Skip("it could not be asked for")
			}
		}
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
		if !isPrintable(commonName) || !isPrintable(organizations) || !isPrintable(given) {
			t.Skip("x509 would not encode it")
		}
		leaf := signer.issue(t, public, func(c *x509.Certificate) {
			c.Subject.CommonName, c.Subject.Organization = commonName, nil
			if organizations != "" {
				c.Subject.Organization = strings.Split(organizations, ",")
			}
			dns, addresses, uris := sortNames(given)
			c.DNSNames = dns
			for _, address := range addresses {
				c.IPAddresses = append(c.IPAddresses, address.AsSlice())
			}
			for _, text := range uris {
				uri, err := url.Parse(text)
				if err != nil || !isURI(uri.String()) {
					t.Skip("x509 would not take it back")
				}
				c.URIs = append(c.URIs, uri)
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

		issued, err := Gate(text, template, key, roots, now)
		if err != nil {
			expect.Fault(t, err, 5, "the issued certificate is refused")
			if damage == 0 && agrees(leaf, template, key, now) && verifies(leaf, chain[1:], roots, extended, now) {
				t.Errorf("refused, but nothing is wrong with it: %v", err)
			}
			return
		}
		if !agrees(issued.Leaf, template, key, now) {
			t.Errorf("accepted, but it is not what was asked for: %v", issued.Leaf.Subject)
		}
		again, err := parseChain(issued.Chain)
		if err != nil || !again[0].Equal(issued.Leaf) || !bytes.Equal(pemOf(again...), issued.Chain) {
			t.Fatalf("the chain is not the leaf's: %v", err)
		}
		if verifies(issued.Leaf, again[1:], roots, extended, now) != issued.Anchored {
			t.Errorf("anchored: %t, against crypto/x509", issued.Anchored)
		}
	})
}

// sortNames returns the names of a list by their kinds.
func sortNames(text string) (dns []string, addresses []netip.Addr, uris []string) {
	for name := range strings.SplitSeq(text, ",") {
		if address, err := netip.ParseAddr(name); err == nil {
			addresses = append(addresses, address.WithZone(""))
		} else if strings.Contains(name, ":") {
			uris = append(uris, name)
		} else if name != "" {
			dns = append(dns, name)
		}
	}
	return dns, addresses, uris
}

// agrees says whether a certificate is what a template asks for, apart from who signed it: by what crypto/x509 reads.
func agrees(leaf *x509.Certificate, template Template, key any, now time.Time) bool {
	extended := x509.ExtKeyUsageClientAuth
	if len(template.names()) != 0 {
		extended = x509.ExtKeyUsageServerAuth
	}
	return sameKey(leaf.PublicKey, key) && len(leaf.Subject.Names) == 2 &&
		leaf.Subject.ToRDNSequence().String() == "CN=system:node:node-1,O=system:nodes" &&
		slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{extended}) && len(leaf.UnknownExtKeyUsage) == 0 &&
		!leaf.IsCA && leaf.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign|x509.KeyUsageCRLSign) == x509.KeyUsageDigitalSignature &&
		hasJust(leaf, template) &&
		!now.Before(leaf.NotBefore) && now.Before(leaf.NotAfter)
}

// hasJust says whether a certificate is good for each host that a template names, and has no name beside these.
func hasJust(leaf *x509.Certificate, template Template) bool {
	if len(leaf.EmailAddresses) != 0 {
		return false
	}
	wanted := make(map[string]bool)
	for _, name := range template.DNSNames {
		if !slices.ContainsFunc(leaf.DNSNames, func(found string) bool { return strings.EqualFold(found, name) }) {
			return false
		}
		if strings.HasPrefix(name, "*.") {
			name = "any" + name[1:]
		}
		if leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	for _, address := range template.IPAddresses {
		if leaf.VerifyHostname(address.String()) != nil {
			return false
		}
		wanted[address.Unmap().String()] = true
	}
	for _, uri := range template.URIs {
		if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == uri }) {
			return false
		}
		wanted[uri] = true
	}
	for _, name := range leaf.DNSNames {
		if !slices.ContainsFunc(template.DNSNames, func(wanted string) bool { return strings.EqualFold(wanted, name) }) {
			return false
		}
	}
	for _, ip := range leaf.IPAddresses {
		if !wanted[ip.String()] {
			return false
		}
	}
	for _, uri := range leaf.URIs {
		if !wanted[uri.String()] {
			return false
		}
	}
	return true
}

func verifies(leaf *x509.Certificate, between, roots []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) bool {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{usage},
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

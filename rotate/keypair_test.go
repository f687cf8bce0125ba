package rotate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// parts returns the chain and the key of a pair.
func parts(tb testing.TB, pair *KeyPair) (chain, key []byte) {
	tb.Helper()
	at := bytes.Index(pair.pem, []byte("-----BEGIN EC PRIVATE KEY-----"))
	if at < 0 {
		tb.Fatalf("no key in %s", pair.pem)
	}
	return pair.pem[:at], pair.pem[at:]
}

func join(texts ...[]byte) []byte { return bytes.Join(texts, nil) }

func TestParseKeyPair(t *testing.T) {
	ours, other := pairNo(t, 0), pairNo(t, 1)
	chain, key := parts(t, ours)
	otherChain, otherKey := parts(t, other)
	for _, test := range []struct {
		name string
		data []byte
		good bool
	}{
		{"chain, then key", join(chain, key), true},
		{"key, then chain", join(key, chain), true},
		{"a chain of two", join(chain, otherChain, key), true},
		{"text around the blocks", join([]byte("subject=x\n"), chain, []byte("\n\n"), key, []byte("\n")), true},
		{"CRLF", bytes.ReplaceAll(join(chain, key), []byte("\n"), []byte("\r\n")), true},
		{"another's key", join(chain, otherKey), false},
		{"another's certificate first", join(otherChain, chain, key), false},
		{"no key", chain, false},
		{"no certificate", key, false},
		{"empty", nil, false},
		{"zeros", make([]byte, 1800), false},
		{"a certificate that is none", join(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), key), false},
		{"a key that is none", join(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pair, err := ParseKeyPair(test.data)
			if (err == nil) != test.good {
				t.Fatalf("got %v, %v", pair, err)
			}
			if err != nil {
				return
			}
			if !pair.Leaf.Equal(ours.Leaf) || pair.TLS().Leaf != pair.Leaf {
				t.Errorf("the leaf is %v", pair.Leaf.Subject)
			}
			public, ok := pair.Leaf.PublicKey.(*ecdsa.PublicKey)
			if private, isECDSA := pair.Key().(*ecdsa.PrivateKey); !ok || !isECDSA || !private.PublicKey.Equal(public) {
				t.Errorf("the key is %T", pair.Key())
			}
		})
	}
}

// TestParseKeyPairTorn cuts the file at every byte, and flips every byte.
func TestParseKeyPairTorn(t *testing.T) {
	pair := pairNo(t, 0)
	whole := len(bytes.TrimRight(pair.pem, "\n"))
	for n := range whole {
		if _, err := ParseKeyPair(pair.pem[:n]); err == nil {
			t.Errorf("accepted %d bytes of %d", n, whole)
		}
	}
	for n := range whole {
		damaged := bytes.Clone(pair.pem)
		damaged[n] ^= 0x04
		if got, err := ParseKeyPair(damaged); err == nil && !bytes.Equal(got.Leaf.Raw, pair.Leaf.Raw) && got.Leaf.CheckSignature(got.Leaf.SignatureAlgorithm, got.Leaf.RawTBSCertificate, got.Leaf.Signature) == nil {
			t.Errorf("accepted another certificate with byte %d flipped", n)
		}
	}
}

func TestNodeName(t *testing.T) {
	for _, test := range []struct {
		name, commonName string
		organizations    []string
		want             string
	}{
		{"a node", "system:node:node-1", []string{"system:nodes"}, "node-1"},
		{"a node with dots", "system:node:a.b.c", []string{"system:nodes"}, "a.b.c"},
		{"no group", "system:node:node-1", nil, ""},
		{"another group", "system:node:node-1", []string{"system:masters"}, ""},
		{"two groups", "system:node:node-1", []string{"system:nodes", "system:masters"}, ""},
		{"a user", "admin", []string{"system:nodes"}, ""},
		{"no name", "system:node:", []string{"system:nodes"}, ""},
		{"empty", "", nil, ""},
	} {
		pair := makePair(t, func(c *x509.Certificate) {
			c.Subject.CommonName, c.Subject.Organization = test.commonName, test.organizations
		})
		if got := pair.NodeName(); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func FuzzKeyPair(f *testing.F) {
	pair := pairNo(f, 0)
	chain, key := parts(f, pair)
	for _, seed := range [][]byte{pair.pem, chain, key, nil, join(chain, chain, key), pair.pem[:len(pair.pem)-80]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		pair, err := ParseKeyPair(data)
		if err != nil {
			return
		}
		signer, ok := pair.Key().(crypto.Signer)
		if !ok {
			t.Fatalf("a %T cannot sign", pair.Key())
		}
		if public, ok := pair.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
			t.Error("key and certificate do not match")
		}
		if _, err := x509.ParseCertificate(pair.Leaf.Raw); err != nil || !bytes.Equal(pair.TLS().Certificate[0], pair.Leaf.Raw) {
			t.Errorf("the leaf is not the first certificate: %v", err)
		}
		again, err := ParseKeyPair(pair.pem)
		if err != nil || again.Fingerprint() != pair.Fingerprint() {
			t.Errorf("written and read again: %v", err)
		}
		_ = pair.NodeName()
		_, _ = WhyReplace(&Found{Pair: pair}, wantedNode, testTime)
	})
}

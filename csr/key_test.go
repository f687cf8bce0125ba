package csr

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

func TestKey(t *testing.T) {
	tests := []struct {
		name  string
		block string // its type in PEM
		bits  int
	}{
		{"ECDSA-P256", "EC PRIVATE KEY", 256},
		{"ECDSA-P384", "EC PRIVATE KEY", 384},
		{"RSA-2048", "RSA PRIVATE KEY", 2048},
		{"RSA-3072", "RSA PRIVATE KEY", 3072},
		{"RSA-4096", "RSA PRIVATE KEY", 4096},
	}
	var names []string
	for _, test := range tests {
		names = append(names, test.name)
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			algorithm, err := ParseAlgorithm(test.name)
			if err != nil {
				t.Fatal(err)
			}
			key, err := GenerateKey(algorithm)
			if err != nil {
				t.Fatal(err)
			}
			bits := 0
			switch key := key.(type) {
			case *ecdsa.PrivateKey:
				bits = key.Params().BitSize
			case *rsa.PrivateKey:
				bits = key.N.BitLen()
			}
			if bits != test.bits {
				t.Errorf("a %T of %d bits, want %d", key, bits, test.bits)
			}
			data, err := MarshalKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if block, rest := pem.Decode(data); block == nil || block.Type != test.block || len(rest) != 0 {
				t.Errorf("got %q, want one block %q", data, test.block)
			}
			parsed, err := ParseKey(data)
			if err != nil {
				t.Fatal(err)
			}
			if !sameKey(parsed.Public(), key.Public()) {
				t.Error("another key was read than was written")
			}
			request, err := NewRequest(testTemplate, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := request.compare(request.object()); err != nil {
				t.Errorf("the request does not agree with itself: %v", err)
			}
		})
	}
	slices.Sort(names)
	if got := Algorithms(); !slices.Equal(got, names) {
		t.Errorf("Algorithms() = %q, want %q", got, names)
	}
	if _, err := ParseAlgorithm(string(DefaultAlgorithm)); err != nil {
		t.Error(err)
	}
}

func TestParseAlgorithmRefuses(t *testing.T) {
	for _, text := range []string{"", "ecdsa-p256", "RSA", "RSA-1024", "ECDSA-P256 ", "Ed25519"} {
		_, err := ParseAlgorithm(text)
		expect.Fault(t, err, fault.Usage, "is not known")
		if !strings.Contains(fault.Remedy(err), "ECDSA-P256, ECDSA-P384, RSA-2048") {
			t.Errorf("the remedy %q does not name the choices", fault.Remedy(err))
		}
	}
	if _, err := GenerateKey("RSA-1024"); err == nil {
		t.Error("made a key of an unknown algorithm")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	data, err := MarshalKey(keyOf(t, "node"))
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, "ca", "ca", nil)
	for name, text := range map[string]string{
		"empty":         "",
		"not PEM":       "key",
		"torn":          string(data[:len(data)/2]),
		"a certificate": string(pemOf(ca.cert)),
		"bits flipped":  strings.Replace(string(data), "M", "N", 3),
	} {
		if key, err := ParseKey([]byte(text)); err == nil {
			t.Errorf("%s: read a %T", name, key)
		}
	}
}

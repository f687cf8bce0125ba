package bootstrap

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var hexSum = strings.Repeat("0123456789abcdef", 4)

var badPins = []struct{ name, text, want string }{
	{"empty", "", `does not begin with "sha256:"`},
	{"the digits alone", hexSum, `does not begin with "sha256:"`},
	{"a token, misplaced", testTokenText, `does not begin with "sha256:"`},
	{"a secret, misplaced", testTokenSecret, `does not begin with "sha256:"`},
	{"SHA-1", "sha1:" + hexSum[:40], `of kind "sha1"`},
	{"SHA-512", "sha512:" + hex.EncodeToString(make([]byte, sha512.Size)), `of kind "sha512"`},
	{"upper-case kind", "SHA256:" + hexSum, `of kind "SHA256"`},
	{"no digits", "sha256:", "0 hexadecimal digits instead of 64"},
	{"one digit short", "sha256:" + hexSum[1:], "63 hexadecimal digits instead of 64"},
	{"two digits short", "sha256:" + hexSum[2:], "62 hexadecimal digits"},
	{"two digits long", "sha256:" + hexSum + "00", "66 hexadecimal digits"},
	{"not hexadecimal", "sha256:" + hexSum[1:] + "g", "not hexadecimal"},
	{"base64, as HPKP has it", "sha256:4ndA1bU2kSRcZmHQ7V3mVKvCzNKn9xjG0GVKvFrOX1E=", "not hexadecimal"},
	{"white space", "sha256: " + hexSum, "not hexadecimal"},
	{"final newline", "sha256:" + hexSum + "\n", "not hexadecimal"},
}

func TestParsePin(t *testing.T) {
	want := Pin(sha256.Sum256([]byte("a key")))
	for _, text := range []string{want.String(), "sha256:" + strings.ToUpper(hex.EncodeToString(want[:]))} {
		if got, err := ParsePin(text); err != nil || got != want {
			t.Errorf("ParsePin(%q) = %v, %v", text, got, err)
		}
	}
	for _, test := range badPins {
		t.Run(test.name, func(t *testing.T) {
			pin, err := ParsePin(test.text)
			wantFault(t, err, fault.Usage, test.want)
			if pin != (Pin{}) {
				t.Error("a pin came with the error")
			}
		})
	}
}

func TestPinOf(t *testing.T) {
	// What `openssl x509 -pubkey | openssl pkey -pubin -outform DER | sha256sum` prints: the hash of the key with its
	// algorithm, not of the certificate.
	ca := newAuthority(t, "ca")
	der, err := x509.MarshalPKIXPublicKey(&ca.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := PinOf(ca.cert), Pin(sha256.Sum256(der)); got != want {
		t.Errorf("PinOf = %s, want %s", got, want)
	}
}

func TestPinned(t *testing.T) {
	a, b, c := newAuthority(t, "same name"), newAuthority(t, "same name"), newAuthority(t, "c")
	renewed := reissue(t, a)
	for _, test := range []struct {
		name   string
		bundle Bundle
		pins   []Pin
		want   Bundle
	}{
		{"the pinned one", bundleOf(a), []Pin{a.pin()}, bundleOf(a)},
		{"a rogue one of the same name behind", bundleOf(a, b), []Pin{a.pin()}, bundleOf(a)},
		{"a rogue one of the same name in front", bundleOf(b, a), []Pin{a.pin()}, bundleOf(a)},
		{"two pinned, in the bundle's order", bundleOf(a, b, c), []Pin{c.pin(), a.pin()}, bundleOf(a, c)},
		{"a new certificate for the pinned key", bundleOf(a, renewed), []Pin{a.pin()}, bundleOf(a, renewed)},
		{"none pinned", bundleOf(a, b), []Pin{c.pin()}, Bundle{}},
		{"a pin of nothing", bundleOf(a), []Pin{{}}, Bundle{}},
		{"no pins", bundleOf(a), nil, Bundle{}},
		{"no certificates", Bundle{}, []Pin{a.pin()}, Bundle{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := string(test.bundle.PEM())
			got := test.bundle.Pinned(test.pins)
			if diff := cmp.Diff(string(test.want.PEM()), string(got.PEM())); diff != "" {
				t.Errorf("the pinned certificates (-want +got):\n%s", diff)
			}
			if string(test.bundle.PEM()) != before {
				t.Error("the bundle itself was changed")
			}
		})
	}
}

// reissue makes another certificate for the same key and name.
func reissue(t *testing.T, a *authority) *authority {
	t.Helper()
	template := *a.cert
	cert, err := sign(&template, &template, a.key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: a.key}
}

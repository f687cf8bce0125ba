package bootstrap

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// jwtOf returns what has the form of a JWT, with the tests' secret in the place of its signature.
func jwtOf(claims string) string {
	return jwsOf(`{"alg":"RS256"}`) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + testTokenSecret
}

func TestBearerFile(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name    string
		content string
		mode    os.FileMode
		want    string // "" for success
	}{
		{"private", testTokenSecret, 0o600, ""},
		{"a newline at the end", testTokenSecret + "\n", 0o600, ""},
		{"CRLF at the end", testTokenSecret + "\r\n", 0o400, ""},
		{"readable by the group", testTokenSecret, 0o640, ""},
		{"a bootstrap token", testTokenText, 0o600, ""},
		{"a JWT", jwtOf(`{"sub":"system:node:a"}`), 0o600, ""},
		{"of the greatest size", strings.Repeat("x", maxTokenFile), 0o600, ""},
		{"readable by others", testTokenSecret, 0o604, "open to every user of this machine (mode 0604)"},
		{"writable by others", testTokenSecret, 0o602, "open to every user of this machine (mode 0602)"},
		{"empty", "", 0o600, "is empty"},
		{"a newline alone", "\n", 0o600, "is empty"},
		{"two newlines at the end", testTokenSecret + "\n\n", 0o600, "white space"},
		{"two tokens", testTokenSecret + "\n" + testTokenSecret + "\n", 0o600, "white space"},
		{"the header of a request", "Bearer " + testTokenSecret, 0o600, "white space"},
		{"a space in front", " " + testTokenSecret, 0o600, "white space"},
		{"a tab at the end", testTokenSecret + "\t", 0o600, "white space"},
		{"a header smuggled in", testTokenSecret + "\r\nImpersonate-User: admin", 0o600, "white space"},
		{"NUL", testTokenSecret + "\x00", 0o600, "has characters in it that none has"},
		{"DEL", testTokenSecret + "\x7f", 0o600, "has characters in it that none has"},
		{"a vertical tab", testTokenSecret + "\v" + testTokenSecret, 0o600, "has characters in it that none has"},
		{"beyond ASCII", testTokenSecret + "\u00e4", 0o600, "has characters in it that none has"},
		{"a no-break space", testTokenSecret + "\u00a0", 0o600, "has characters in it that none has"},
		{"not even UTF-8", testTokenSecret + "\xff", 0o600, "has characters in it that none has"},
		{"too large", strings.Repeat("x", maxTokenFile+1), 0o600, "is larger than 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, dir, strings.ReplaceAll(test.name, " ", "-"), test.content, test.mode)
			credential := &BearerFile{path}
			proof, err := credential.Proof(t.Context())
			if test.want != "" {
				wantFault(t, err, fault.Usage, test.want)
				if !strings.Contains(err.Error(), path) || !strings.Contains(fault.Remedy(err), path) {
					t.Errorf("the file is not named: %v; %s", err, fault.Remedy(err))
				}
				if proof != nil {
					t.Error("a proof came with the error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := proof.Token.Reveal(), strings.TrimRight(test.content, "\r\n"); got != want {
				t.Errorf("the token is %q, want %q", got, want)
			}
			if got, want := credential.String(), "the bearer token in "+path; got != want {
				t.Errorf("String() = %q, want %q", got, want)
			}
			wantSilence(t, fmt.Sprintf("%s %s %v %+v %#v", credential, credential.Remedy(), *proof, proof, *proof))
		})
	}
	for path, want := range map[string]string{dir: "is a directory", os.DevNull: "is not a regular file"} {
		t.Run(want, func(t *testing.T) {
			_, err := (&BearerFile{path}).Proof(t.Context())
			wantFault(t, err, fault.Usage, path+" "+want)
		})
	}
	t.Run("missing", func(t *testing.T) {
		_, err := (&BearerFile{filepath.Join(dir, "absent")}).Proof(t.Context())
		wantFault(t, err, fault.Usage, "absent")
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the caller cannot tell that the file is missing: %v", err)
		}
	})
}

// A projected volume is a chain: token -> ..data/token, ..data -> ..2026_01_01, and ..data is what is replaced.
func TestBearerFileOfAProjectedVolume(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("..data/token", filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{testTokenSecret, otherToken.Secret.Reveal()} {
		generation := fmt.Sprintf("..%d", i)
		if err := os.Mkdir(filepath.Join(dir, generation), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, generation), "token", want, 0o600)
		if err := os.Symlink(generation, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		proof, err := (&BearerFile{filepath.Join(dir, "token")}).Proof(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if proof.Token != NewSecret(want) {
			t.Errorf("generation %d: another token", i)
		}
	}
	writeFile(t, filepath.Join(dir, "..1"), "token", testTokenSecret, 0o644)
	_, err := (&BearerFile{filepath.Join(dir, "token")}).Proof(t.Context())
	wantFault(t, err, fault.Usage, "(mode 0644)") // the file's, not the links'
}

func TestBearerFileAuthenticates(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
	credential := &BearerFile{writeFile(t, t.TempDir(), "token", jwtOf(`{}`)+"\n", 0o600)}
	resp, err := roundTrip(t, Authenticate(credential, connect(t, ca, s.Endpoint)), "/apis")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := s.received(); resp.StatusCode != http.StatusOK || len(got) != 1 || got[0].bearer != "Bearer "+jwtOf(`{}`) {
		t.Errorf("the requests are %+v", got)
	}
}

func TestTokenExplainsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock is at a full second
		in := func(d time.Duration) string { return fmt.Sprintf(`{"exp":%d}`, time.Now().Add(d).Unix()) }
		at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		for _, test := range []struct{ name, token, want string }{
			{"three hours ago", jwtOf(in(-3 * time.Hour)), "it expired at " + at(-3*time.Hour) + ", 3h0m0s ago by this machine's clock"},
			{"with a fraction", jwtOf(`{"exp":946684740.25}`), "it expired at 1999-12-31T23:59:00Z, 1m0s ago by this machine's clock"},
			{"in a second", jwtOf(in(time.Second)), ""},
			{"not yet", jwtOf(fmt.Sprintf(`{"nbf":%d}`, time.Now().Add(time.Hour).Unix())), "it is valid from " + at(time.Hour) + " on, in 1h0m0s by this machine's clock"},
			{"of an issuer", jwtOf(`{"iss":"https://a","aud":["b","c"]}`), `it is of the issuer "https://a" for the audience "b, c"; the API server may know another issuer, other keys or another audience, or want other claims`},
			{"of an issuer, for nobody", jwtOf(`{"iss":"https://a","aud":7}`), `it is of the issuer "https://a"; the API server may know another issuer, other keys or another audience, or want other claims`},
			{"no word of it", jwtOf(`{"iat":1}`), ""},
			{"a text", jwtOf(`{"exp":"946684740"}`), ""},
			{"zero", jwtOf(`{"exp":0}`), ""},
			{"negative", jwtOf(`{"exp":-1}`), ""},
			{"beyond all time", jwtOf(`{"exp":1e300}`), ""},
			{"not JSON", jwtOf(`exp`), ""},
			{"not base64", "a.%%%." + testTokenSecret, ""},
			{"four parts", jwtOf(in(-time.Hour)) + ".a", ""},
			{"two parts", jwsOf("{}") + "." + jwsOf(in(-time.Hour)), ""},
			{"none at all", "", ""},
		} {
			got := ProofOfToken(NewSecret(test.token)).Explain(time.Now(), 0)
			if got != test.want {
				t.Errorf("%s: %q, want %q", test.name, got, test.want)
			}
			wantSilence(t, got)
		}
		got := ProofOfToken(NewSecret(jwtOf(in(-time.Minute)))).Explain(time.Now(), -time.Hour)
		if want := "1m0s ago by this machine's clock (which the server's disagrees with by 1h0m0s)"; !strings.HasSuffix(got, want) {
			t.Errorf("with clocks that disagree: %q", got)
		}
	})
}

func TestClaim(t *testing.T) {
	for _, test := range []struct{ name, token, want, mistake string }{
		{"a text", jwtOf(`{"node":"a"}`), "a", ""},
		{"absent", jwtOf(`{"nodes":"a"}`), "", `no text under the claim "node"`},
		{"empty", jwtOf(`{"node":""}`), "", `no text under the claim "node"`},
		{"a list", jwtOf(`{"node":["a"]}`), "", `no text under the claim "node"`},
		{"no JWT", testTokenText, "", `is no JWT, which could have the claim "node"`},
		{"an array", jwtOf(`["node"]`), "", `is no JWT`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Claim(NewSecret(test.token), "node")
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			if (err != nil) != (test.mistake != "") || err != nil && !strings.Contains(err.Error(), test.mistake) {
				t.Errorf("%v, want %q", err, test.mistake)
			}
		})
	}
}

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

func TestReadBearerFile(t *testing.T) {
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
			credential, err := ReadBearerFile(path)
			if test.want != "" {
				wantFault(t, err, fault.Usage, test.want)
				if !strings.Contains(err.Error(), path) || !strings.Contains(fault.Remedy(err), path) {
					t.Errorf("the file is not named: %v; %s", err, fault.Remedy(err))
				}
				if credential != nil {
					t.Error("a credential came with the error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := credential.Token.Reveal(), strings.TrimRight(test.content, "\r\n"); got != want {
				t.Errorf("the token is %q, want %q", got, want)
			}
			if got, want := credential.String(), "the bearer token in "+path; got != want {
				t.Errorf("String() = %q, want %q", got, want)
			}
			wantSilence(t, fmt.Sprintf("%s %s %v %+v %#v", credential, credential.Remedy(), *credential, credential, *credential))
		})
	}
	for path, want := range map[string]string{dir: "is a directory", os.DevNull: "is not a regular file"} {
		t.Run(want, func(t *testing.T) {
			_, err := ReadBearerFile(path)
			wantFault(t, err, fault.Usage, path+" "+want)
		})
	}
	t.Run("missing", func(t *testing.T) {
		_, err := ReadBearerFile(filepath.Join(dir, "absent"))
		wantFault(t, err, fault.Usage, "absent")
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the caller cannot tell that the file is missing: %v", err)
		}
	})
}

// A projected volume is a chain: token -> ..data/token, ..data -> ..2026_01_01, and ..data is what is replaced.
func TestReadBearerFileOfAProjectedVolume(t *testing.T) {
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
		credential, err := ReadBearerFile(filepath.Join(dir, "token"))
		if err != nil {
			t.Fatal(err)
		}
		if credential.Token != NewSecret(want) {
			t.Errorf("generation %d: another token", i)
		}
	}
	writeFile(t, filepath.Join(dir, "..1"), "token", testTokenSecret, 0o644)
	_, err := ReadBearerFile(filepath.Join(dir, "token"))
	wantFault(t, err, fault.Usage, "(mode 0644)") // the file's, not the links'
}

func TestBearerFileAuthenticates(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := serve(t, serverOptions{certificate: ca.issue(t)}, named("s"))
	credential, err := ReadBearerFile(writeFile(t, t.TempDir(), "token", jwtOf(`{}`)+"\n", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := roundTrip(t, credential.Authenticate(connect(t, ca, s.Endpoint)), "/apis")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := s.received(); resp.StatusCode != http.StatusOK || len(got) != 1 || got[0].bearer != "Bearer "+jwtOf(`{}`) {
		t.Errorf("the requests are %+v", got)
	}
}

func TestBearerFileTellsOfAnExpiredToken(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { // whose clock is at a full second
		in := func(d time.Duration) string { return fmt.Sprintf(`{"exp":%d}`, time.Now().Add(d).Unix()) }
		for _, test := range []struct{ name, token, ago string }{
			{"three hours ago", jwtOf(in(-3 * time.Hour)), "3h0m0s"},
			{"just now", jwtOf(in(0)), "0s"},
			{"with a fraction", jwtOf(`{"exp":946684740.25}`), "1m0s"},
			{"in a second", jwtOf(in(time.Second)), ""},
			{"no word of it", jwtOf(`{"iat":1}`), ""},
			{"a text", jwtOf(`{"exp":"946684740"}`), ""},
			{"zero", jwtOf(`{"exp":0}`), ""},
			{"negative", jwtOf(`{"exp":-1}`), ""},
			{"beyond all time", jwtOf(`{"exp":1e300}`), ""},
			{"not JSON", jwtOf(`exp`), ""},
			{"not base64", "a.%%%." + testTokenSecret, ""},
			{"four parts", jwtOf(in(-time.Hour)) + ".a", ""},
			{"two parts", jwsOf("{}") + "." + jwsOf(in(-time.Hour)), ""},
		} {
			credential, err := ReadBearerFile(writeFile(t, dir, "token", test.token, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			want := "write a valid token to " + filepath.Join(dir, "token")
			if test.ago != "" {
				want += ": the one at hand expired " + test.ago + " ago by this machine's clock"
			}
			got := credential.Remedy()
			if got != want {
				t.Errorf("%s: the remedy is %q, want %q", test.name, got, want)
			}
			wantSilence(t, got+credential.String())
		}

		credential, err := ReadBearerFile(writeFile(t, dir, "token", jwtOf(in(time.Minute)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if got := credential.Remedy(); !strings.Contains(got, "expired 1m0s ago") {
			t.Errorf("it expired meanwhile, and the remedy is %q", got)
		}
	})
}

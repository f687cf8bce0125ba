package bootstrap

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/nodejoin/nodejoin/agent/fault"
)

var goodTokens = map[string]string{
	"plain":                 testTokenText,
	"with a final newline":  testTokenText + "\n",
	"with a final CRLF":     testTokenText + "\r\n",
	"of digits":             "012345.0123456789012345",
	"of the longest length": "abcdef.0123456789abcdef",
}

var badTokens = []struct{ name, text, want string }{
	{"empty", "", "is empty"},
	{"a newline alone", "\n", "is empty"},
	{"two final newlines", testTokenText + "\n\n", "white space"},
	{"leading space", " " + testTokenText, "white space"},
	{"trailing space", testTokenText + " ", "white space"},
	{"space for the dot", testTokenID + " " + testTokenSecret, "white space"},
	{"tab inside", testTokenID + ".\t" + testTokenSecret, "white space"},
	{"newline inside", testTokenID + ".\n" + testTokenSecret, "white space"},
	{"upper case", strings.ToUpper(testTokenText), "upper-case"},
	{"upper-case ID", strings.ToUpper(testTokenID) + "." + testTokenSecret, "upper-case"},
	{"no dot", testTokenID + testTokenSecret, "no dot"},
	{"the secret alone", testTokenSecret, "no dot"},
	{"two dots", testTokenText + ".x", "not of the form ID.SECRET with 6 and 16 characters (found 6 and 18)"},
	{"short ID", testTokenText[1:], "found 5 and 16"},
	{"long ID", "a" + testTokenText, "found 7 and 16"},
	{"no ID", "." + testTokenSecret, "found 0 and 16"},
	{"short secret", testTokenText[:len(testTokenText)-1], "found 6 and 15"},
	{"long secret", testTokenText + "a", "found 6 and 17"},
	{"no secret", testTokenID + ".", "found 6 and 0"},
	{"swapped halves", testTokenSecret + "." + testTokenID, "found 16 and 6"},
	{"a hyphen", testTokenID + "." + testTokenSecret[:15] + "-", "other than a-z and 0-9"},
	{"quoted", `"` + testTokenText + `"`, "found 7 and 17"},
	{"a NUL byte", testTokenText[:22] + "\x00", "other than a-z and 0-9"},
	{"invalid UTF-8", testTokenText[:22] + "\xff", "other than a-z and 0-9"},
	{"the bearer header", "Bearer " + testTokenText, "white space"},
}

func TestLooksLikeToken(t *testing.T) {
	for text, want := range map[string]bool{
		testTokenText: true, " " + testTokenText + "\r\n": true, strings.ToUpper(testTokenText): true,
		"": false, "worker-1": false, testTokenText + ":6443": false, testTokenText + ".example.com": false, testTokenSecret: false, "/" + testTokenText: false,
	} {
		if got := LooksLikeToken(text); got != want {
			t.Errorf("LooksLikeToken(%q) = %t", text, got)
		}
	}
}

func TestParseToken(t *testing.T) {
	for name, text := range goodTokens {
		t.Run(name, func(t *testing.T) {
			token, err := ParseToken(text)
			if err != nil {
				t.Fatal(err)
			}
			bare := strings.TrimRight(text, "\r\n")
			if got := token.Bearer().Reveal(); got != bare {
				t.Errorf("the bearer is %q, want %q", got, bare)
			}
			if got, want := token.String(), bare[:6]+".[redacted]"; got != want {
				t.Errorf("String() = %q, want %q", got, want)
			}
			if token.IsZero() {
				t.Error("a token that was parsed is zero")
			}
		})
	}
	for _, test := range badTokens {
		t.Run(test.name, func(t *testing.T) {
			token, err := ParseToken(test.text)
			wantFault(t, err, fault.Usage, test.want)
			if !token.IsZero() || !token.Secret.IsZero() {
				t.Error("a token came with the error")
			}
		})
	}
}

func TestTokenEqual(t *testing.T) {
	parsed, err := ParseToken(testTokenText + "\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		a, b Token
		want bool
	}{
		"read twice":     {testToken, parsed, true},
		"none":           {Token{}, Token{}, true},
		"none any more":  {testToken, Token{}, false},
		"another":        {testToken, otherToken, false},
		"another secret": {testToken, Token{ID: testTokenID, Secret: otherToken.Secret}, false},
		"another ID":     {testToken, Token{ID: otherToken.ID, Secret: testToken.Secret}, false},
	} {
		if got := test.a.Equal(test.b); got != test.want || got != (test.a == test.b) {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestCredentialNamesNoSecret(t *testing.T) {
	credential := testToken.Credential()
	if got, want := credential.String(), "the bootstrap token "+testTokenID; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	if !strings.Contains(credential.Remedy(), "kubeadm token create") {
		t.Errorf("the remedy does not say how to make a token: %q", credential.Remedy())
	}
	wantSilence(t, credential.String()+credential.Remedy())
}

func TestReadTokenFile(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name    string
		content string
		mode    os.FileMode
		want    string // "" for success
	}{
		{"private", testTokenText, 0o600, ""},
		{"read-only, with a newline", testTokenText + "\n", 0o400, ""},
		{"readable by the group", testTokenText + "\n", 0o640, ""},
		{"readable by others", testTokenText, 0o644, "open to every user of this machine (mode 0644)"},
		{"writable by others", testTokenText, 0o602, "open to every user of this machine (mode 0602)"},
		{"executable by others", testTokenText, 0o601, "open to every user"},
		{"empty", "", 0o600, "is empty"},
		{"a newline alone", "\n", 0o600, "is empty"},
		{"malformed", testTokenText + "x", 0o600, "found 6 and 17"},
		{"two tokens", testTokenText + "\n" + testTokenText + "\n", 0o600, "white space"},
		{"of the greatest size", strings.Repeat("x", maxTokenFile), 0o600, "no dot"},
		{"too large", strings.Repeat("x", maxTokenFile+1), 0o600, "is larger than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := writeFile(t, dir, strings.ReplaceAll(test.name, " ", "-"), test.content, test.mode)
			token, err := ReadTokenFile(path, nil)
			if test.want == "" {
				if err != nil || token != testToken {
					t.Fatalf("got %v, %v", token, err)
				}
				return
			}
			wantFault(t, err, fault.Usage, test.want)
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		_, err := ReadTokenFile(dir, nil)
		wantFault(t, err, fault.Usage, dir+" is a directory")
	})
	t.Run("missing", func(t *testing.T) {
		_, err := ReadTokenFile(filepath.Join(dir, "absent"), nil)
		wantFault(t, err, fault.Usage, "absent")
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the caller cannot tell that the file is missing: %v", err)
		}
	})
}

func TestReadTokenFromStandardInput(t *testing.T) {
	token, err := ReadTokenFile("-", strings.NewReader(testTokenText+"\n"))
	if err != nil || token != testToken {
		t.Fatalf("got %v, %v", token, err)
	}
	for _, test := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"empty", strings.NewReader(""), "standard input: the bootstrap token is empty"},
		{"malformed", strings.NewReader(testTokenSecret), "standard input: the bootstrap token has no dot"},
		{"too large", strings.NewReader(strings.Repeat(testTokenText, maxTokenFile)), "it is larger than"},
		{"endless", endless('q'), "it is larger than"},
		{"broken", iotest.ErrReader(errors.New("the terminal is gone")), "cannot read the token from standard input: the terminal is gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ReadTokenFile("-", test.in)
			wantFault(t, err, fault.Usage, test.want)
		})
	}
}

// endless is a reader of one byte, for ever.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

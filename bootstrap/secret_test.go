package bootstrap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// holder has a secret in every place that a printer may look into.
type holder struct {
	Exported   Secret
	Pointer    *Secret
	List       []Secret
	Map        map[string]Secret
	Key        map[Secret]bool
	Any        any
	Token      Token
	Credential *BearerToken
	unexported Secret
	nested     struct{ secret Secret }
	file       *DiscoveryFile
	private    any
}

func TestSecretIsNeverPrinted(t *testing.T) {
	secret := testToken.Secret
	config := &v1.Config{AuthInfos: []v1.NamedAuthInfo{{AuthInfo: v1.AuthInfo{Token: testTokenSecret}}}}
	file := DiscoveryFile{config: func() *v1.Config { return config }}
	full := holder{
		Exported: secret, Pointer: &secret, List: []Secret{secret}, Map: map[string]Secret{"a": secret}, Key: map[Secret]bool{secret: true},
		Any: secret, Token: testToken, Credential: testToken.Credential(), unexported: secret, file: &file, private: secret,
	}
	full.nested.secret = secret
	values := map[string]any{
		"a secret":             secret,
		"a pointer to one":     &secret,
		"a token":              testToken,
		"the bearer":           testToken.Bearer(),
		"a credential":         testToken.Credential(),
		"a credential's value": *testToken.Credential(),
		"a list":               []Secret{secret},
		"a map":                map[string]any{"token": testToken},
		"a struct":             full,
		"a pointer to one too": &full,
		"unexported fields":    struct{ a, b any }{secret, testToken},
		"a discovery file":     file,
		"one by its address":   &file,
		"an error":             fmt.Errorf("refused: %w", fmt.Errorf("%v: %w", testToken, errors.New(secret.String()))),
	}
	printers := map[string]func(any) string{
		"slog text": func(v any) string {
			var out bytes.Buffer
			slog.New(slog.NewTextHandler(&out, nil)).Info("said", "value", v, slog.Group("group", "value", v))
			return out.String()
		},
		"slog json": func(v any) string {
			var out bytes.Buffer
			slog.New(slog.NewJSONHandler(&out, nil)).Info("said", "value", v, slog.Group("group", "value", v))
			return out.String()
		},
		"json": func(v any) string {
			out, err := json.Marshal(v)
			return fmt.Sprint(string(out), err)
		},
		"yaml": func(v any) string {
			out, err := yaml.Marshal(v)
			return fmt.Sprint(string(out), err)
		},
		"Sprint": func(v any) string { return fmt.Sprint(v) },
	}
	for verb := range strings.FieldsSeq("%v %+v %#v %s %q %x %X %d %t %10.3s %p %T %U %c %w %!") {
		printers[verb] = func(v any) string { return fmt.Sprintf(verb, v) }
	}
	hex := fmt.Sprintf("%x", testTokenSecret)
	for name, value := range values {
		for how, show := range printers {
			t.Run(name+"/"+how, func(t *testing.T) {
				text := show(value)
				wantSilence(t, text)
				if strings.Contains(strings.ToLower(text), hex) {
					t.Errorf("the secret is in %q, in hexadecimal", text)
				}
			})
		}
	}
}

func TestSecretIsReplaced(t *testing.T) {
	secret := NewSecret(testTokenSecret)
	for how, text := range map[string]string{
		"%v":       fmt.Sprintf("%v", secret),
		"%#v":      fmt.Sprintf("%#v", secret),
		"%x":       fmt.Sprintf("%x", secret),
		"String":   secret.String(),
		"GoString": secret.GoString(),
		"LogValue": secret.LogValue().String(),
	} {
		if text != "[redacted]" {
			t.Errorf("%s gives %q, want [redacted]", how, text)
		}
	}
	out, err := json.Marshal(map[string]Secret{"token": secret})
	if got, want := string(out), `{"token":"[redacted]"}`; err != nil || got != want {
		t.Errorf("JSON is %s (%v), want %s", got, err, want)
	}
}

func TestSecretReveals(t *testing.T) {
	if got := NewSecret(testTokenSecret).Reveal(); got != testTokenSecret {
		t.Errorf("Reveal() = %q", got)
	}
	if a := NewSecret("a"); a != NewSecret(strings.ToLower("A")) || a == NewSecret("b") {
		t.Error("secrets are not equal as their values are")
	}
	for name, zero := range map[string]Secret{"zero value": {}, "empty text": NewSecret("")} {
		if !zero.IsZero() || zero.Reveal() != "" || zero != (Secret{}) {
			t.Errorf("%s: not zero", name)
		}
	}
	if NewSecret("a").IsZero() {
		t.Error("a secret is zero")
	}
}

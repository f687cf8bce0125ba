package config

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const allDefaults = `apiVersion: nodejoin/v1alpha1
kind: AgentConfiguration
credentials:
- bootstrapToken:
    file: /etc/nodejoin/token
rotation: agent
rotateAfter:
  minPercent: 70
  maxPercent: 90
deniedPause: 24h
certificates:
- name: kubelet-client
  keyAlgorithm: ECDSA-P256
  mode: "0600"
trust:
  follow: true
  interval: 1h
paths:
  kubeconfig: /etc/kubernetes/kubelet.conf
  certDir: /var/lib/kubelet/pki
  caFile: /etc/kubernetes/pki/ca.crt
  stateDir: /var/lib/nodejoin
  runtimeDir: /run/nodejoin
  kubeletConfig: /var/lib/kubelet/config.yaml
metrics:
  listen: 127.0.0.1:10263
log:
  format: text
  level: info
`

func TestDefaults(t *testing.T) {
	f := &File{}
	f.Default()
	text, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(allDefaults, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := Parse(text, "c.yaml")
	if diff := cmp.Diff(f, again); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// What is said stays, and the client's certificate comes first wherever it stood.
func TestDefaultsKeepWhatIsSaid(t *testing.T) {
	f, err := Parse([]byte(`credentials: [{bearerToken: {file: /t}}, {bootstrapToken: {singleUse: true}}]
rotation: kubelet
rotateAfter: {minPercent: 50}
deniedPause: 0
certificates:
- {name: a, signerName: a.b/c, directory: /a, commonName: a, mode: "0640", keyAlgorithm: RSA-2048, usages: [any]}
- {name: b, signerName: kubernetes.io/kube-apiserver-client, directory: /a, commonName: a}
- {name: kubelet-serving}
- {name: kubelet-client, lifetime: 1h}
- {name: c, signerName: a.b/c, directory: /a, commonName: a}
hooks: [{name: a, command: [/a]}, {name: b, command: [/a], timeout: 1m}]
paths: {certDir: /pki}
`), "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f.Default()
	var names []string
	for _, c := range f.Certificates {
		names = append(names, c.Name+" "+c.Mode+" "+c.KeyAlgorithm+" "+c.Lifetime.String()+" "+strings.Join(c.Usages, "+"))
	}
	if diff := cmp.Diff([]string{
		"kubelet-client 0600 ECDSA-P256 1h ", "a 0640 RSA-2048 0 any", "b 0600 ECDSA-P256 0 digital signature+client auth",
		"kubelet-serving 0600 ECDSA-P256 0 ", "c 0600 ECDSA-P256 0 digital signature+server auth",
	}, names); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	switch {
	case f.Credentials[0].BootstrapToken != nil || f.Credentials[1].BootstrapToken.File != DefaultTokenFile || !f.Credentials[1].BootstrapToken.SingleUse:
		t.Errorf("%+v", f.Credentials)
	case f.Rotation != RotationKubelet || f.RotateAfter != RotateAfter{50, 90} || *f.DeniedPause != 0:
		t.Errorf("%s, %+v, %s", f.Rotation, f.RotateAfter, f.DeniedPause)
	case f.Hooks[0].Timeout != Duration(30*time.Second) || f.Hooks[1].Timeout != Duration(time.Minute):
		t.Errorf("%+v", f.Hooks)
	case f.Paths.CertDir != "/pki" || f.Paths.StateDir != DefaultStateDir:
		t.Errorf("%+v", f.Paths)
	}
}

// A copy by assignment, of which the original is still in use, can be given defaults.
func TestDefaultsOfACopy(t *testing.T) {
	parse := func() *File {
		f, err := Parse([]byte("credentials: [{bootstrapToken: {}}]\ncertificates: [{name: kubelet-serving}, {name: kubelet-client}]\nhooks: [{name: a, command: [/a]}]\n"), "c.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := parse()
	withDefaults := *f
	withDefaults.Default()
	if diff := cmp.Diff(parse(), f); diff != "" {
		t.Errorf("the original (-want +got):\n%s", diff)
	}
	if withDefaults.Credentials[0].BootstrapToken.File == "" || withDefaults.Certificates[0].Name != KubeletClient || withDefaults.Hooks[0].Timeout == 0 {
		t.Errorf("%+v", withDefaults)
	}
}

func TestDurationString(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0": 0, "1ns": 1, "10s": 10 * time.Second, "1m": time.Minute, "10m": 10 * time.Minute, "1m10s": 70 * time.Second, "1h": time.Hour,
		"1h30m": 90 * time.Minute, "1h0m10s": time.Hour + 10*time.Second, "24h": 24 * time.Hour, "100h": 100 * time.Hour, "20h10m": 20*time.Hour + 10*time.Minute,
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := Duration(rapid.Int64Min(0).Draw(t, "d"))
		if again, err := time.ParseDuration(d.String()); err != nil || again != time.Duration(d) {
			t.Errorf("%d became %q, and that %d: %v", d, d.String(), again, err)
		}
	})
}

// Whatever text an argument has in it, it is written so that it is read again.
func TestMarshalAnyText(t *testing.T) {
	check := func(t interface{ Errorf(string, ...any) }, words []string) {
		f := &File{Hooks: []Hook{{Name: "a", Command: append([]string{"/a"}, words...)}}}
		text, err := f.Marshal()
		if err != nil {
			t.Errorf("%q: %v", words, err)
			return
		}
		again, err := Parse(text, "c.yaml")
		if diff := cmp.Diff(f, again); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s\n%s", err, diff, text)
		}
	}
	check(t, []string{
		"", " ", "on", "yes", "0600", "0x1", "1_000", "1:30", "null", "~", "<<", "2026-01-01", "1e3", "- a", "a: b", "#", "a #b", "*a", "&a", "!a", "%", "@", "`", "'", `"`, `\`,
		"a\nb", "\n", "a\n", " a\n  b\n\n", "\t", "\t\n", "a\r\nb", "\x01", "\x7f", "\u0085", "\u2028", "\uFEFF", "ä", "🙂", "{}", "[]", "---", "...", "?", "=",
	})
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.String().Filter(func(s string) bool {
			return !strings.ContainsRune(s, 0) && secretIn(s) == "" && !slices.ContainsFunc(strings.FieldsFunc(s, betweenWords), func(w string) bool { return secretIn(w) != "" })
		})
		check(t, rapid.SliceOfN(word, 1, 5).Draw(t, "words"))
	})
}

func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(allDefaults))
	f.Add([]byte("hooks: [{name: a, command: [/a, \"\\u2028\", 'b']}]\ncredentials: [{bearerToken: {file: /t}}]\n"))
	for _, test := range badForm {
		if len(test.text) < 1<<10 {
			f.Add([]byte(test.text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data, "c.yaml")
		if err != nil {
			mistakes, ok := errors.AsType[Mistakes](err)
			if !ok || len(mistakes) == 0 || len(mistakes) > mostMistakes+1 || fault.ClassOf(err) != fault.Usage || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("refused with %q", err)
			}
			for _, m := range mistakes {
				if m.Text == "" || m.Line > 1+strings.Count(string(data), "\n") || embeddedToken.MatchString(m.Text+" "+m.Path) {
					t.Errorf("refused with %+v", m)
				}
			}
			return
		}
		for range 2 { // as it is, then with its defaults
			text, err := file.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse(text, "c.yaml")
			if diff := cmp.Diff(file, again); err != nil || diff != "" {
				t.Fatalf("%v (-want +got):\n%s\n%s", err, diff, text)
			}
			file.Default()
		}
		twice := *file
		twice.Default()
		if diff := cmp.Diff(file, &twice); diff != "" {
			t.Errorf("defaults changed what was there (-want +got):\n%s", diff)
		}
	})
}

package bootstrap

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// tokenMistakes matches every error of ParseToken: nothing in it depends on the text, but for numbers.
var tokenMistakes = regexp.MustCompile(`^the bootstrap token (is empty|has white space in it|has upper-case letters: only a-z and 0-9 are allowed|` +
	`has no dot between its ID and its secret|is not of the form ID\.SECRET with 6 and 16 characters \(found \d+ and \d+\)|has characters other than a-z and 0-9)$`)

func FuzzToken(f *testing.F) {
	for _, text := range goodTokens {
		f.Add(text)
	}
	for _, test := range badTokens {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage || !tokenMistakes.MatchString(err.Error()) {
				t.Errorf("the error is %q", err)
			}
			return
		}
		secret := token.Secret.Reveal()
		if len(token.ID) != 6 || len(secret) != 16 || strings.Trim(token.ID+secret, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Errorf("accepted %q", text)
		}
		if got := token.Bearer().Reveal(); got != token.ID+"."+secret || got != strings.TrimRight(text, "\r\n") {
			t.Errorf("%q became %q", text, got)
		}
		if again, err := ParseToken(token.Bearer().Reveal()); err != nil || again != token {
			t.Errorf("not read again: %v", err)
		}
		if strings.Contains(token.String(), secret) {
			t.Errorf("String() tells the secret")
		}
	})
}

func FuzzPin(f *testing.F) {
	f.Add("sha256:" + hexSum)
	f.Add("sha256:" + strings.ToUpper(hexSum))
	for _, test := range badPins {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pin, err := ParsePin(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage || fault.Remedy(err) == "" || pin != (Pin{}) {
				t.Errorf("refused with %v, %v", pin, err)
			}
			return
		}
		if pin.String() != strings.ToLower(text) {
			t.Errorf("%q became %q", text, pin)
		}
		if again, err := ParsePin(pin.String()); err != nil || again != pin {
			t.Errorf("not read again: %v, %v", again, err)
		}
	})
}

func FuzzEndpoint(f *testing.F) {
	for _, test := range goodEndpoints {
		f.Add(test.text)
	}
	for _, test := range badEndpoints {
		f.Add(test.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseEndpoint(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Usage || !e.IsZero() || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("refused with %v, %v", e, err)
			}
			return
		}
		for _, form := range []string{e.String(), e.URL()} {
			if again, err := ParseEndpoint(form); err != nil || again != e {
				t.Errorf("%q became %q, which became %v, %v", text, form, again, err)
			}
		}
		u, err := url.Parse(e.URL())
		if err != nil || u.Host != e.String() || u.Hostname() != e.host || u.Port() != e.port || u.User != nil || u.Path != "" {
			t.Errorf("%q became the URL %q: %v", text, e.URL(), err)
		}
	})
}

func FuzzKubeconfig(f *testing.F) {
	good := kubeconfigOf(testServer, bundleOf(machineCA))
	for _, row := range kubeconfigRows(f) {
		if text := row.change(good); len(text) < 100_000 { // the largest are for the table alone
			f.Add([]byte(text))
		}
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, data []byte) {
		cluster, config, err := parseKubeconfig(data, "", now)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") || cluster != nil || config != nil {
				t.Errorf("refused with %v, %q", cluster, err)
			}
			return
		}
		if len(config.AuthInfos) != 0 {
			t.Error("it brought users")
		}
		checkCluster(t, cluster, now)
		// What may come over the network may stand in a file as well, and says the same there.
		local, _, err := parseKubeconfig(data, "/nonexistent", now)
		if err != nil || local.Endpoints[0] != cluster.Endpoints[0] || string(local.CA.PEM()) != string(cluster.CA.PEM()) {
			t.Errorf("as a file of this machine it is %+v, %v", local, err)
		}
	})
}

// checkCluster checks what may be found in a kubeconfig from the network: one server over TLS and a CA.
func checkCluster(t *testing.T, cluster *Cluster, now time.Time) {
	t.Helper()
	if len(cluster.Endpoints) != 1 || cluster.Endpoints[0].IsZero() {
		t.Errorf("the endpoints are %v", cluster.Endpoints)
	}
	checkBundle(t, cluster.CA, now)
	if err := CheckServerName(cluster.TLSServerName); err != nil {
		t.Error(err)
	}
	if proxy := cluster.ProxyURL; proxy != nil && proxy.Host == "" {
		t.Errorf("the proxy is %q", proxy)
	}
}

func FuzzClusterInfo(f *testing.F) {
	text := kubeconfigOf(testServer, bundleOf(machineCA))
	header := `{"alg":"HS256","kid":"` + testTokenID + `"}`
	good := dataOf(f, text, testToken)["jws-kubeconfig-"+testTokenID]
	for _, signature := range []string{
		good, good + "A", good[:40], "", "..", jwsOf(`{"alg":"none"}`) + "..",
		detached(`{"alg":"none"}`, text, ""), detached(header, text, ""), detached(header, text+" ", testTokenSecret),
		detached(`{"alg":"HS512","kid":"`+testTokenID+`"}`, text, testTokenSecret),
		dataOf(f, text, otherToken)["jws-kubeconfig-"+otherToken.ID],
	} {
		for _, id := range []string{testTokenID, otherToken.ID, ""} {
			f.Add(text, id, signature, []byte(nil))
		}
	}
	f.Add("{", testTokenID, dataOf(f, "{", testToken)["jws-kubeconfig-"+testTokenID], []byte(nil))
	f.Add("", "", "", []byte(`{"kind":"ConfigMap","data":{"kubeconfig":"a","jws-kubeconfig-`+testTokenID+`":"`+detached(header, "a", testTokenSecret)+`"}}`))
	f.Add("", "", "", []byte(`{"kind":"ConfigMap","data":{"kubeconfig":1}}`))
	now := time.Now()
	// body, where there is one, is the whole answer; else the answer is a ConfigMap with the other three.
	f.Fuzz(func(t *testing.T, kubeconfig, id, signature string, body []byte) {
		response := &answer{status: http.StatusOK, body: body}
		if len(body) == 0 {
			response = answerOf(t, map[string]string{"kubeconfig": kubeconfig, "jws-kubeconfig-" + id: signature})
		}
		got, err := (&ByToken{Token: testToken}).verifiedText(Endpoint{host: "cp1", port: "6443"}, response)
		var sent struct{ Data map[string]string }
		_ = json.Unmarshal(response.body, &sent) // what cannot be read has no data
		content := sent.Data["kubeconfig"]
		signed := content != "" && sent.Data["jws-kubeconfig-"+testTokenID] == detached(header, content, testTokenSecret)
		if err == nil && (!signed || got != content) {
			t.Fatalf("accepted without our signature: %q", response.body)
		}
		if err != nil {
			if signed && len(body) == 0 {
				t.Errorf("refused with our signature: %v", err)
			}
			if strings.Contains(err.Error(), testTokenSecret) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error is %q", err)
			}
			return
		}
		if cluster, _, err := parseKubeconfig([]byte(got), "", now); err == nil {
			checkCluster(t, cluster, now)
		}
	})
}

func FuzzBundle(f *testing.F) {
	f.Add(machineCA.pem())
	f.Add(join(machineCA.pem(), []byte("text\n"), newAuthority(f, "b").pem()))
	f.Add(join(newAuthority(f, "old", lasting(-48*time.Hour, -24*time.Hour)).pem(), machineCA.pem()))
	for _, test := range badBundles(f) {
		if len(test.data) < 100_000 { // the largest are for the table alone
			f.Add(test.data)
		}
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := ParseBundle(data, now)
		if err != nil {
			if !bundle.IsZero() || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("refused with %s, %q", bundle, err)
			}
			return
		}
		checkBundle(t, bundle, now)
	})
}

// checkBundle checks that a bundle holds live CA certificates alone, and that it is read as it is written.
func checkBundle(t *testing.T, bundle Bundle, now time.Time) {
	t.Helper()
	if bundle.IsZero() {
		t.Error("the bundle is empty")
	}
	for _, cert := range bundle.Certificates() {
		if !cert.IsCA || !cert.BasicConstraintsValid || now.After(cert.NotAfter) {
			t.Errorf("it holds %q: CA %t, until %s", cert.Subject, cert.IsCA, cert.NotAfter)
		}
		if !slices.Contains(bundle.Pinned([]Pin{PinOf(cert)}).Certificates(), cert) {
			t.Error("a certificate is not found by its pin")
		}
	}
	again, err := ParseBundle(bundle.PEM(), now)
	if err != nil || string(again.PEM()) != string(bundle.PEM()) || len(again.certs) != len(bundle.certs) {
		t.Errorf("not read again: %s, %v", again, err)
	}
}

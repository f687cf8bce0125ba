package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authorization "k8s.io/api/authorization/v1"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/agent/fault"
)

// reviewing returns an administrator's way to an API server that answers with a code whether somebody may do something.
func reviewing(t *testing.T, code int, allowed bool) *cluster {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		review := authorization.SelfSubjectAccessReview{Status: authorization.SubjectAccessReviewStatus{Allowed: allowed}}
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"+
		"clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]\nusers: [{name: u, user: {token: a}}]\n", server.URL, ca)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := admin.Connect(path)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{admin: client}
}

// Who may not approve is refused; where that cannot be asked, it is said, and gone on.
func TestCheckApprover(t *testing.T) {
	for _, test := range []struct {
		name    string
		code    int
		allowed bool
		class   fault.Class
		note    string
	}{
		{"allowed", http.StatusCreated, true, 0, ""},
		{"not allowed", http.StatusCreated, false, fault.Refused, ""},
		{"the question is not allowed", http.StatusForbidden, false, 0, "it is not known whether you may approve the request: cannot see what you may do: "},
		{"the question is not known", http.StatusNotFound, false, 0, "it is not known whether you may approve the request: cannot see what you may do: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			p := &program{stderr: &stderr}
			place := reviewing(t, test.code, test.allowed)
			for who, err := range map[string]error{
				"bundle": p.checkApprover(t.Context(), place),
				"user":   p.checkUsersApprover(t.Context(), &userOptions{approve: true}, place),
			} {
				if fault.ClassOf(err) != test.class {
					t.Errorf("%s: class %d, want %d: %v", who, fault.ClassOf(err), test.class, err)
				}
			}
			if text := stderr.String(); test.note == "" && text != "" || strings.Count(text, test.note) != 2 && test.note != "" {
				t.Errorf("it says %q", text)
			}
		})
	}
}

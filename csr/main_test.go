//go:build linux

package csr

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/testbed"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if plane.cp != nil {
		if err := plane.cp.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Groups of bootstrap tokens, beside the one that kubeadm's bindings name.
const (
	byHand   = "system:bootstrappers:by-hand"   // may request certificates, and nobody approves them by himself
	noWatch  = "system:bootstrappers:no-watch"  // may create and get requests alone; they are approved
	noRights = "system:bootstrappers:no-rights" // may do nothing
)

// plane is the control plane that all tests share. A test that runs in parallel with others leaves its components
// running.
var plane = &sharedPlane{tokens: make(map[string]string)}

type sharedPlane struct {
	start sync.Once
	cp    *testbed.ControlPlane
	err   error

	mu     sync.Mutex
	tokens map[string]string // by group
}

func controlPlane(t *testing.T) *testbed.ControlPlane {
	t.Helper()
	plane.start.Do(func() {
		if plane.cp, plane.err = testbed.Start(context.Background(), testbed.Options{}); plane.err == nil {
			plane.err = bindGroups(plane.cp)
		}
	})
	if plane.err != nil {
		t.Fatal(plane.err)
	}
	cp := plane.cp
	t.Cleanup(func() {
		if t.Failed() {
			for _, process := range []*testbed.Process{cp.Etcd, cp.APIServer, cp.ControllerManager} {
				t.Logf("%s, the end of its log:\n%s", process.Name, process.Tail(10))
			}
		}
	})
	return cp
}

func bindGroups(cp *testbed.ControlPlane) error {
	roles := cp.Client().RbacV1()
	_, err := roles.ClusterRoles().Create(context.Background(), &rbac.ClusterRole{
		ObjectMeta: meta.ObjectMeta{Name: "no-watch"},
		Rules: []rbac.PolicyRule{{
			Verbs: []string{"create", "get"}, APIGroups: []string{certificates.GroupName}, Resources: []string{resource},
		}},
	}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	for name, binding := range map[string][2]string{
		"by-hand":           {byHand, "system:node-bootstrapper"},
		"no-watch":          {noWatch, "no-watch"},
		"no-watch-approved": {noWatch, "system:certificates.k8s.io:certificatesigningrequests:nodeclient"},
	} {
		_, err := roles.ClusterRoleBindings().Create(context.Background(), &rbac.ClusterRoleBinding{
			ObjectMeta: meta.ObjectMeta{Name: name},
			RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: binding[1]},
			Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: binding[0]}},
		}, meta.CreateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

// tokenOf returns a bootstrap token of a group, one that the API server knows by now.
func tokenOf(t *testing.T, group string) string {
	t.Helper()
	cp := controlPlane(t)
	plane.mu.Lock()
	defer plane.mu.Unlock()
	if token, made := plane.tokens[group]; made {
		return token
	}
	token, err := cp.CreateToken(t.Context(), testbed.TokenOptions{Groups: []string{group}})
	if err != nil {
		t.Fatal(err)
	}
	transport := bearer{token, direct(t)}
	expect.Eventually(t, "the API server knows the token", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cp.URL+"/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode != http.StatusUnauthorized
	})
	plane.tokens[group] = token
	return token
}

// bearer authenticates with a token.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(req)
}

// patience bounds what a test waits for.
const patience = 30 * time.Second

// requests returns what a user agent has asked the API server, sorted: "create", "watch", and so on.
func requests(t *testing.T, agent string) []string {
	t.Helper()
	var verbs []string
	for _, event := range audit(t, agent, "RequestReceived") {
		verbs = append(verbs, event.Verb)
	}
	slices.Sort(verbs)
	return verbs
}

// creations returns how the API server has answered a user agent's POSTs, of which there are n.
func creations(t *testing.T, agent string, n int) []int {
	t.Helper()
	var codes []int
	expect.Eventually(t, fmt.Sprintf("%d answers are in the audit log", n), func() bool {
		codes = nil
		for _, event := range audit(t, agent, "ResponseComplete") {
			if event.Verb == "create" {
				codes = append(codes, event.ResponseStatus.Code)
			}
		}
		return len(codes) >= n
	})
	return codes
}

func audit(t *testing.T, agent, stage string) []testbed.AuditEvent {
	t.Helper()
	events, err := controlPlane(t).AuditEvents(t.Context(), func(e testbed.AuditEvent) bool {
		return e.UserAgent == agent && e.Stage == stage && strings.Contains(e.RequestURI, resource)
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authorization "k8s.io/api/authorization/v1"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/admin"
	"github.com/nodejoin/nodejoin/csr"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// manifest is an RBAC object as nodejoin manifests prints it, whichever it is of the four.
type manifest struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Rules           []rbac.PolicyRule `json:"rules,omitempty"`
	RoleRef         *rbac.RoleRef     `json:"roleRef,omitempty"`
	Subjects        []rbac.Subject    `json:"subjects,omitempty"`
}

// printed returns what nodejoin manifests prints with the given flags.
func printed(t *testing.T, flags ...string) []manifest {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nodejoin", append([]string{"manifests", "-o", "json"}, flags...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []manifest }
	if err := json.Unmarshal(out, &list); err != nil || len(list.Items) == 0 {
		t.Fatalf("%d items, %v", len(list.Items), err)
	}
	return list.Items
}

// missing is something that is taken away from manifests: a verb of a role, or a binding.
type missing struct{ object, verb string }

func (m missing) String() string { return strings.TrimSuffix(m.object+" "+m.verb, " ") }

// without returns the manifests without something, the roles under names of their own.
func without(objects []manifest, what missing, suffix string) []manifest {
	var rest []manifest
	for _, o := range objects {
		if o.RoleRef != nil {
			if strings.HasPrefix(o.Name, what.object) && what.verb == "" && what.object != "" {
				continue
			}
			ref := *o.RoleRef
			ref.Name += suffix
			o.RoleRef = &ref
		} else {
			rules := make([]rbac.PolicyRule, 0, len(o.Rules))
			for _, rule := range o.Rules {
				if o.Name == what.object {
					rule.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool { return verb == what.verb })
				}
				if len(rule.Verbs) != 0 {
					rules = append(rules, rule)
				}
			}
			o.Rules = rules
		}
		if o.RoleRef == nil || o.Kind == "RoleBinding" {
			o.Name += suffix
		}
		rest = append(rest, o)
	}
	return rest
}

// parts returns all that can be taken away.
func parts(objects []manifest) []missing {
	var all []missing
	for _, o := range objects {
		if o.RoleRef != nil {
			all = append(all, missing{object: o.Name})
		}
		for _, rule := range o.Rules {
			for _, verb := range rule.Verbs {
				all = append(all, missing{o.Name, verb})
			}
		}
	}
	return all
}

// bench is a control plane on which nobody may do anything, and the joiners that try what manifests are good for.
type bench struct {
	t  *testing.T
	cp *testbed.ControlPlane
}

func (b *bench) apply(objects []manifest) {
	b.t.Helper()
	var text bytes.Buffer
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			b.t.Fatal(err)
		}
		text.WriteString("---\n" + string(data) + "\n")
	}
	if err := b.cp.Apply(b.t.Context(), text.String()); err != nil {
		b.t.Fatal(err)
	}
	for _, o := range objects {
		b.granted(o, objects)
	}
}

// granted waits until the API server's authorizer has heard of a binding.
func (b *bench) granted(binding manifest, objects []manifest) {
	b.t.Helper()
	if binding.RoleRef == nil {
		return
	}
	role := slices.IndexFunc(objects, func(o manifest) bool { return o.RoleRef == nil && o.Name == binding.RoleRef.Name })
	for _, rule := range objects[role].Rules {
		for _, verb := range rule.Verbs {
			resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
			review := &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
				User: "somebody", Groups: []string{binding.Subjects[0].Name},
				ResourceAttributes: &authorization.ResourceAttributes{
					Group: rule.APIGroups[0], Resource: resource, Subresource: subresource, Verb: verb, Namespace: binding.Namespace,
				},
			}}
			if len(rule.ResourceNames) != 0 {
				review.Spec.ResourceAttributes.Name = rule.ResourceNames[0]
			}
			if subject := binding.Subjects[0]; subject.Kind == rbac.UserKind {
				review.Spec.User, review.Spec.Groups = subject.Name, nil
			}
			b.eventually(func() error {
				answer, err := b.cp.Client().AuthorizationV1().SubjectAccessReviews().Create(b.t.Context(), review, meta.CreateOptions{})
				if err == nil && !answer.Status.Allowed {
					err = fmt.Errorf("%s does not let anybody %s %s", binding.Name, verb, rule.Resources[0])
				}
				return err
			})
		}
	}
}

func (b *bench) eventually(check func() error) {
	b.t.Helper()
	if err := (&story{ctx: b.t.Context()}).eventually(check); err != nil {
		b.t.Fatal(err)
	}
}

// joiner is a machine with a credential.
type joiner struct {
	node, user string
	args       []string // that name the cluster and the credential
}

// join runs nodejoin join and returns its exit status and what it says.
func (b *bench) join(j joiner, root, timeout string, more ...string) (int, string) {
	b.t.Helper()
	args := slices.Concat([]string{"join", "--node-name", j.node, "--root", root, "--timeout", timeout}, j.args, more)
	cmd := exec.CommandContext(b.t.Context(), "nodejoin", args...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(out)
	} else if err != nil {
		b.t.Fatal(err)
	}
	return 0, string(out)
}

// What breaks.
const (
	nothing     = ""
	cannotAsk   = "it may not ask for a certificate"
	cannotGoOn  = "it may not go on with a request after an interruption"
	polls       = "it asks again and again while it waits"
	notApproved = "nobody approves"
	cannotFind  = "it may not read cluster-info"
)

// patient is how long a join may take that is expected to work, and brief how long one is given that is to wait in vain.
const patient, brief = "60s", "4s"

// joins tells what breaks when a machine joins and is approved by the cluster itself.
func (b *bench) joins(j joiner, timeout string) string {
	b.t.Helper()
	code, said := b.join(j, b.t.TempDir(), timeout)
	return b.broken(code, said)
}

// broken reads what nodejoin join says.
func (b *bench) broken(code int, said string) string {
	b.t.Helper()
	switch {
	case code == 0:
		return nothing
	case code == 4 && strings.Contains(said, "may not create certificate signing requests"):
		return cannotAsk
	case code == 4 && strings.Contains(said, "may not get certificate signing requests"):
		return cannotGoOn
	case code == 6:
		return notApproved
	case strings.Contains(said, "forbids anonymous users to read kube-public/cluster-info"):
		return cannotFind
	}
	b.t.Fatalf("exit status %d: %s", code, said)
	return ""
}

// waits tells what breaks when a machine waits for approval by a person, is interrupted, and goes on.
func (b *bench) waits(j joiner) string {
	b.t.Helper()
	root := b.t.TempDir()
	if broken := b.broken(b.join(j, root, brief)); broken != notApproved {
		return broken
	}
	looks, err := b.cp.AuditEvents(b.t.Context(), func(e testbed.AuditEvent) bool {
		return e.Stage == "RequestReceived" && e.User.Username == j.user && e.Verb == "get" && strings.Contains(e.RequestURI, "/certificatesigningrequests/")
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if len(looks) != 0 {
		return polls
	}
	b.approve(j.node)
	return b.broken(b.join(j, root, patient))
}

// approve approves what is asked for a node.
func (b *bench) approve(node string) {
	b.t.Helper()
	requests := b.cp.Client().CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(b.t.Context(), meta.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	at := slices.IndexFunc(list.Items, func(o certificates.CertificateSigningRequest) bool { return nodeOf(&o) == node })
	if at < 0 {
		b.t.Fatalf("there is no request of %s", node)
	}
	object := &list.Items[at]
	object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "ByHand",
	})
	if _, err := requests.UpdateApproval(b.t.Context(), object.Name, object, meta.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// way is a way to join.
type way struct {
	flag   string
	group  string                                    // that a variation's groups begin with
	joiner func(b *bench, node, group string) joiner // who is in a group
	breaks map[missing]string                        // what breaks without each part
}

// waysToJoin are the two. Each part has to be in breaks, and so to break something.
var waysToJoin = map[string]way{
	"bootstrap tokens": {
		flag: "--bootstrap-tokens", group: "system:bootstrappers:",
		joiner: func(b *bench, node, group string) joiner {
			token, err := b.cp.CreateToken(b.t.Context(), testbed.TokenOptions{Groups: []string{group}})
			if err != nil {
				b.t.Fatal(err)
			}
			id, _, _ := strings.Cut(token, ".")
			return joiner{node, "system:bootstrap:" + id, []string{b.cp.Endpoint, "--token", token, "--certificate-authority", b.cp.ServingCA.CertFile}}
		},
		breaks: map[missing]string{
			{}:                                      nothing,
			{"nodejoin:request", "create"}:          cannotAsk,
			{"nodejoin:request", "get"}:             cannotGoOn,
			{"nodejoin:request", "watch"}:           polls,
			{"nodejoin:approve-any-node", "create"}: notApproved,
			{"nodejoin:bootstrap-tokens:request", nothing}: cannotAsk,
			{"nodejoin:bootstrap-tokens:approve", nothing}: notApproved,
		},
	},
	"name-bound": {
		flag: "--name-bound", group: "joiners:",
		joiner: func(b *bench, node, group string) joiner {
			path := filepath.Join(b.t.TempDir(), "kubeconfig")
			if err := b.cp.WriteKubeconfig(path, testbed.Certificate{CommonName: "system:node:" + node, Organization: []string{group}}); err != nil {
				b.t.Fatal(err)
			}
			return joiner{node, "system:node:" + node, []string{"--discovery-file", path}}
		},
		breaks: map[missing]string{
			{}:                                       nothing,
			{"nodejoin:request", "create"}:           cannotAsk,
			{"nodejoin:request", "get"}:              cannotGoOn,
			{"nodejoin:request", "watch"}:            polls,
			{"nodejoin:approve-own-node", "create"}:  notApproved,
			{"nodejoin:name-bound:request", nothing}: cannotAsk,
			{"nodejoin:name-bound:approve", nothing}: notApproved,
		},
	},
}

// inOrder returns the variations in an order that is the same in every run.
func (w way) inOrder() []missing {
	return slices.SortedFunc(maps.Keys(w.breaks), func(a, b missing) int { return strings.Compare(a.String(), b.String()) })
}

// TestManifests shows that what nodejoin manifests prints is enough, and that nothing in it can be left out: every verb of
// every rule and every binding is taken away once, from a group of its own, and then something breaks, which is said what.
func TestManifests(t *testing.T) {
	cp := testbed.New(t, testbed.Options{NoBindings: true, NoClusterInfo: true})

	t.Run("joining", func(t *testing.T) {
		for name, w := range waysToJoin {
			objects := printed(t, w.flag)
			for _, part := range parts(objects) {
				if _, known := w.breaks[part]; !known {
					t.Errorf("%s: nobody knows what breaks without %s", name, part)
				}
			}
			prefix := map[string]string{"bootstrap tokens": "token", "name-bound": "bound"}[name]
			for i, part := range w.inOrder() {
				t.Run(name+" without "+part.String(), func(t *testing.T) {
					t.Parallel()
					b := &bench{t, cp}
					node := fmt.Sprintf("%s-%d", prefix, i)
					if broken := b.try(w, part, node); broken != w.breaks[part] {
						t.Errorf("%q breaks instead of %q", broken, w.breaks[part])
					}
				})
			}
		}
	})
	t.Run("rotation", func(t *testing.T) { testRotationManifests(&bench{t, cp}) })
	t.Run("cluster-info", func(t *testing.T) { testClusterInfoManifests(&bench{t, cp}) })
}

// try tells what breaks without a part.
func (b *bench) try(w way, part missing, node string) string {
	b.t.Helper()
	timeout := patient
	if w.breaks[part] == notApproved {
		timeout = brief
	}
	j := w.joiner(b, node, w.group+node)
	b.apply(without(printed(b.t, w.flag, "--group", w.group+node), part, ":"+node))
	if broken := b.joins(j, timeout); broken != nothing {
		return broken
	}
	if w.flag == "--name-bound" { // and then it is good for no other name
		other := j
		other.node += "-else"
		if broken := b.joins(other, brief); broken != notApproved {
			b.t.Errorf("it has become another node: %q", broken)
		}
	}
	byHand := node + "-by-hand"
	j = w.joiner(b, byHand, w.group+byHand)
	requests := slices.DeleteFunc(without(printed(b.t, w.flag, "--group", w.group+byHand), part, ":"+byHand), func(o manifest) bool {
		return strings.Contains(o.Name, "approve")
	})
	b.apply(requests)
	return b.waits(j)
}

// A node's next certificate is approved with what is printed for it, and not with less. The node has joined; it asks as the
// agent does when it rotates.
func testRotationManifests(b *bench) {
	objects := printed(b.t, "--rotation")
	path := filepath.Join(b.t.TempDir(), "kubelet.conf")
	if err := b.cp.WriteKubeconfig(path, testbed.Certificate{CommonName: "system:node:rotating", Organization: []string{"system:nodes"}}); err != nil {
		b.t.Fatal(err)
	}
	node, err := admin.Connect(path)
	if err != nil {
		b.t.Fatal(err)
	}
	client, err := csr.NewClient(node.Server(), node.Transport(), "test")
	if err != nil {
		b.t.Fatal(err)
	}
	rotate := func(timeout time.Duration) error {
		key, err := csr.GenerateKey(csr.DefaultAlgorithm)
		if err != nil {
			return err
		}
		request, err := csr.NewRequest(csr.KubeletClient("rotating", 0), key)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeoutCause(b.t.Context(), timeout, errors.New(notApproved))
		defer cancel()
		_, err = client.Obtain(ctx, request, nil)
		return err
	}
	want := []missing{{"nodejoin:approve-own-node", "create"}, {object: "nodejoin:rotation:approve"}}
	if got := parts(objects); !slices.Equal(got, want) {
		b.t.Errorf("%v is printed instead of %v", got, want)
	}
	for i, part := range want {
		rest := without(objects, part, fmt.Sprintf(":%d", i))
		b.apply(rest)
		if err := rotate(4 * time.Second); err == nil || err.Error() != notApproved {
			b.t.Errorf("without %s: %v", part, err)
		}
		b.unbind(rest) // a binding's role cannot be changed
	}
	b.apply(objects)
	if err := rotate(patience); err != nil {
		b.t.Error(err)
	}
}

// unbind deletes the ClusterRoleBindings among objects.
func (b *bench) unbind(objects []manifest) {
	b.t.Helper()
	for _, o := range objects {
		if o.Kind != "ClusterRoleBinding" {
			continue
		}
		if err := b.cp.Client().RbacV1().ClusterRoleBindings().Delete(b.t.Context(), o.Name, meta.DeleteOptions{}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A token finds the cluster with what is printed for it, and not with less.
func testClusterInfoManifests(b *bench) {
	objects := printed(b.t, "--cluster-info")
	w := waysToJoin["bootstrap tokens"]
	b.apply(without(printed(b.t, w.flag, "--group", w.group+"found"), missing{}, ":found"))
	if err := b.cp.PublishClusterInfo(b.t.Context(), b.cp.URL, b.cp.ServingCA.PEM); err != nil {
		b.t.Fatal(err)
	}
	token, err := b.cp.CreateToken(b.t.Context(), testbed.TokenOptions{Groups: []string{w.group + "found"}})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if err := b.cp.WaitSigned(ctx, token); err != nil {
		b.t.Fatal(err)
	}
	j := joiner{node: "found", args: []string{b.cp.Endpoint, "--token", token, "--discovery-token-ca-cert-hash", b.cp.ServingCA.Pin()}}
	want := []missing{{"nodejoin:cluster-info", "get"}, {object: "nodejoin:cluster-info"}}
	if got := parts(objects); !slices.Equal(got, want) {
		b.t.Errorf("%v is printed instead of %v", got, want)
	}
	for i, part := range want {
		b.apply(without(objects, part, fmt.Sprintf(":%d", i)))
		if broken := b.joins(j, brief); broken != cannotFind {
			b.t.Errorf("without %s: %q", part, broken)
		}
	}
	b.apply(objects)
	if broken := b.joins(j, patient); broken != nothing {
		b.t.Error(broken)
	}
}

package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/csr"
)

// The names of the ClusterRoles, which several ways share, and of the Role that lets everybody read cluster-info.
const (
	requestRole     = "nodejoin:request"
	approveAnyRole  = "nodejoin:approve-any-node"
	approveSelfRole = "nodejoin:approve-own-node"
	clusterInfoRole = "nodejoin:cluster-info"
)

// Ways are the ways to join and to stay joined for which a cluster is to have the rights.
type Ways struct {
	BootstrapTokens bool   // join with a bootstrap token, as any node
	NameBound       bool   // join with an identity that can become one node only
	Rotation        bool   // get the next certificate with the present one
	ClusterInfo     bool   // find the cluster by a bootstrap token
	Group           string // of the joiners, in the place of the way's own; "" for that
}

// IsZero reports whether no way is chosen.
func (w Ways) IsZero() bool {
	return !w.BootstrapTokens && !w.NameBound && !w.Rotation && !w.ClusterInfo
}

// Check refuses a group that cannot be meant.
func (w Ways) Check() error {
	switch {
	case w.Group == "":
		return nil
	case w.BootstrapTokens == w.NameBound:
		return fault.New(fault.Usage, "give --group together with one of --bootstrap-tokens and --name-bound", "the group %q is of one way to join, and it is not said which", w.Group)
	case w.BootstrapTokens:
		return checkGroup(w.Group)
	case strings.HasPrefix(w.Group, "system:"):
		return fault.New(fault.Usage, "choose a group of your own, as in "+review.JoinersGroup, "the group %q is Kubernetes' own, and may do more than to join", w.Group)
	}
	return nil
}

// Objects returns what a cluster needs for the ways, and nothing that one of them works without.
func (w Ways) Objects() []Object {
	var objects []Object
	add := func(more ...Object) { objects = append(objects, more...) }
	if w.BootstrapTokens || w.NameBound {
		add(clusterRole(requestRole, "", "create", "get", "watch"))
	}
	if w.BootstrapTokens {
		add(clusterRole(approveAnyRole, "nodeclient", "create"))
	}
	if w.NameBound || w.Rotation {
		add(clusterRole(approveSelfRole, "selfnodeclient", "create"))
	}
	if w.BootstrapTokens {
		group := w.groupOr(DefaultTokenGroup)
		add(w.bind("bootstrap-tokens:request", requestRole, group), w.bind("bootstrap-tokens:approve", approveAnyRole, group))
	}
	if w.NameBound {
		group := w.groupOr(review.JoinersGroup)
		add(w.bind("name-bound:request", requestRole, group), w.bind("name-bound:approve", approveSelfRole, group))
	}
	if w.Rotation {
		add(Ways{}.bind("rotation:approve", approveSelfRole, csr.NodesGroup))
	}
	if w.ClusterInfo {
		add(clusterInfoAccess()...)
	}
	for _, object := range objects {
		Typed(object)
	}
	return objects
}

func (w Ways) groupOr(usual string) string {
	if w.Group != "" {
		return w.Group
	}
	return usual
}

// bind binds a group to a ClusterRole. Another group than the usual one has a binding of its own.
func (w Ways) bind(name, role, group string) Object {
	name = "nodejoin:" + name
	if w.Group != "" {
		name += ":" + strings.NewReplacer("/", ":", "%", ":").Replace(w.Group) // which no name may hold
	}
	return &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: name},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: group}},
	}
}

func clusterRole(name, subresource string, verbs ...string) Object {
	resource := "certificatesigningrequests"
	if subresource != "" {
		resource += "/" + subresource
	}
	return &rbac.ClusterRole{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Rules:      []rbac.PolicyRule{{APIGroups: []string{certificates.GroupName}, Resources: []string{resource}, Verbs: verbs}},
	}
}

func clusterInfoAccess() []Object {
	about := meta.ObjectMeta{Namespace: meta.NamespacePublic, Name: clusterInfoRole}
	return []Object{
		&rbac.Role{ObjectMeta: about, Rules: []rbac.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{api.ConfigMapClusterInfo}, Verbs: []string{"get"},
		}}},
		&rbac.RoleBinding{
			ObjectMeta: about,
			RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: clusterInfoRole},
			Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: "system:anonymous"}},
		},
	}
}

// reasons say what each role is for.
var reasons = map[string]string{
	requestRole: "To ask for a certificate (create), to hear of the answer (watch: without it, every machine that waits asks again and\n" +
		"again), and to go on with the same request after an interruption (get).",
	approveAnyRole:  "To have the request approved, as whatever node it asks for.",
	approveSelfRole: "To have the request approved, as the node that the user name says, and as no other.",
	clusterInfoRole: "To read what is signed with bootstrap tokens: which CA is the cluster's.",
}

// Manifests returns objects as YAML documents with comments, ready for kubectl apply -f -.
func Manifests(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# The least rights with which nodes join: kubectl apply -f FILE\n")
	for i, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("cannot write a manifest: %w", err)
		}
		if i != 0 {
			out.WriteString("---\n")
		}
		_, binds := object.(*rbac.RoleBinding)
		if reason := reasons[object.GetName()]; reason != "" && !binds {
			out.WriteString("# " + strings.ReplaceAll(reason, "\n", "\n# ") + "\n")
		}
		out.Write(data)
	}
	return out.Bytes(), nil
}

// ListOf returns objects as one v1 List, for JSON or YAML.
func ListOf(objects []Object) (any, error) {
	list := struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{APIVersion: "v1", Kind: "List"}
	for _, object := range objects {
		data, err := json.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("cannot write a manifest: %w", err)
		}
		list.Items = append(list.Items, data)
	}
	return list, nil
}

package issue

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/review"
	"github.com/nodejoin/nodejoin/csr"
)

const (
	systemPrefix = "system:"
	masters      = "system:masters"
)

// clientUsages are what a client certificate is for.
var clientUsages = []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth}

// NodeTemplate returns the template of a joining certificate: it has the username of a node without being in the group
// of nodes, so that the cluster approves its holder's request for that node by itself, and for no other.
func NodeTemplate(node, group string, lifetime time.Duration) csr.Template {
	return csr.Template{
		SignerName: certificates.KubeAPIServerClientSignerName, CommonName: csr.NodeUser + node, Organization: []string{group},
		Usages: clientUsages, Lifetime: lifetime,
	}
}

// UserTemplate returns the template of a person's certificate.
func UserTemplate(name string, groups []string, lifetime time.Duration) csr.Template {
	return csr.Template{
		SignerName: certificates.KubeAPIServerClientSignerName, CommonName: name, Organization: groups,
		Usages: clientUsages, Lifetime: lifetime,
	}
}

// CheckUser refuses the name of a person that nobody may be given, or that cannot name an object of the API.
func CheckUser(name string) error {
	const remedy = "give the name by which the cluster is to know the person, for example jane or jane@example.com"
	if mistake := mistakeOf(name); mistake != "" {
		return fault.New(fault.Usage, remedy, "the user name %s", mistake)
	}
	if strings.HasPrefix(name, systemPrefix) {
		why := "names that begin with system: are those of Kubernetes' own components"
		if node, isNode := strings.CutPrefix(name, csr.NodeUser); isNode {
			return fault.New(fault.Usage, "for a machine: nodejoin bundle "+node, "the user name %q is a node's: %s", name, why)
		}
		return fault.New(fault.Usage, remedy, "the user name %q is refused: %s", name, why)
	}
	if strings.ContainsAny(name, "/%") || name == "." || name == ".." || strings.HasPrefix(name, "-") {
		return fault.New(fault.Usage, remedy, "the user name %q can name neither a file nor a RoleBinding", name)
	}
	return nil
}

// CheckGroups refuses groups that no person may be in.
func CheckGroups(groups []string) error {
	for _, group := range groups {
		if mistake := mistakeOf(group); mistake != "" {
			return fault.New(fault.Usage, "give a group of yours, for example --group developers", "a group %s", mistake)
		}
		if group == masters {
			return fault.New(fault.Usage, "bind what is needed instead, for example: --cluster-role cluster-admin",
				"the group %s is refused: it is above all authorization, no RoleBinding can take away what it may, and the cluster's signer does not sign it", masters)
		}
		if strings.HasPrefix(group, systemPrefix) {
			return fault.New(fault.Usage, "give a group of yours, for example --group developers",
				"the group %q is refused: groups that begin with system: are Kubernetes' own, and what they may changes with its versions", group)
		}
	}
	return nil
}

// CheckJoiners refuses a group with which a bundle would be more than a way to join.
func CheckJoiners(group string) error {
	const remedy = "leave --group out, or give one that has no other rights, for example " + review.JoinersGroup
	if mistake := mistakeOf(group); mistake != "" {
		return fault.New(fault.Usage, remedy, "the group %s", mistake)
	}
	if group == csr.NodesGroup {
		return fault.New(fault.Usage, remedy, "the group %s is refused: the bundle would be the node itself, and not a way to become it", csr.NodesGroup)
	}
	if strings.HasPrefix(group, systemPrefix) {
		return fault.New(fault.Usage, remedy, "the group %q is refused: groups that begin with system: are Kubernetes' own", group)
	}
	return nil
}

// mistakeOf says why a text cannot be a name in a certificate; "" if it can.
func mistakeOf(text string) string {
	const most = 253 // as long as the names of most of the API's objects may be
	switch {
	case text == "":
		return "is empty"
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Sprintf("%q has characters that cannot be seen in it", text)
	case strings.TrimSpace(text) != text:
		return fmt.Sprintf("%q has white space around it", text)
	case len(text) > most:
		return fmt.Sprintf("%q… is longer than %d characters", strings.ToValidUTF8(text[:40], ""), most)
	}
	return ""
}

// SameGroups reports whether two lists have the same groups, in whatever order.
func SameGroups(a, b []string) bool {
	sorted := func(list []string) []string {
		list = slices.Sorted(slices.Values(list))
		return slices.Compact(list)
	}
	return slices.Equal(sorted(a), sorted(b))
}

// CheckNamespace refuses what cannot be a namespace.
func CheckNamespace(name string) error {
	if len(validation.IsDNS1123Label(name)) != 0 {
		return fault.New(fault.Usage, "see which there are: kubectl get namespaces", "the namespace %q is not valid: it has lower-case letters, digits and '-'", name)
	}
	return nil
}

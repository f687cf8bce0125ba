package strategy

import (
	"fmt"
	"slices"
	"strings"
)

// The groups of joiners.
const (
	Joiners      = "nodejoin:joiners"      // whose user names are those of nodes
	Provisioners = "nodejoin:provisioners" // who may become any node
)

// Strategy is one way to authenticate before a machine has its certificate.
type Strategy struct {
	Name  string // as in `make demo STRATEGY=NAME`
	Title string // for a table
	// Unbindable says why the credential cannot be bound to one node's name. Empty: it can.
	Unbindable string
	// RBAC are the objects that let its holders join.
	RBAC string

	config bool     // the control plane with an AuthenticationConfiguration is asked
	proxy  bool     // nginx is between the node and the API server
	flags  []string // the API server's arguments that it is about, by prefix

	make func(maker) (*Credential, error)
}

var all = []Strategy{
	{
		Name: "bootstrap-token", Title: "bootstrap token",
		Unbindable: "its user is system:bootstrap:ID",
		RBAC:       provisioning("Group", "system:bootstrappers:kubeadm:default-node-token"),
		flags:      []string{"--enable-bootstrap-token-auth"}, make: maker.bootstrapToken,
	},
	{
		Name: "static-token", Title: "static token file",
		RBAC: bothWays, flags: []string{"--token-auth-file"}, make: maker.staticToken,
	},
	{
		Name: "service-account", Title: "service account token",
		Unbindable: "its user is system:serviceaccount:NAMESPACE:NAME",
		RBAC:       serviceAccount + provisioning("User", "system:serviceaccount:"+joinerNamespace+":"+joinerAccount),
		flags:      []string{"--service-account-"}, make: maker.serviceAccount,
	},
	{
		Name: "oidc", Title: "OpenID Connect: id_token, `--oidc-*` flags",
		RBAC: bothWays, flags: []string{"--oidc-"}, make: maker.idToken,
	},
	{
		Name: "oidc-cel", Title: "OpenID Connect: id_token, AuthenticationConfiguration with CEL",
		RBAC: bothWays, config: true, flags: []string{"--authentication-config"}, make: maker.idToken,
	},
	{
		Name: "oidc-refresh", Title: "OpenID Connect: refresh token",
		RBAC: bothWays, flags: []string{"--oidc-"}, make: maker.refreshToken,
	},
	{
		Name: "oidc-client-credentials", Title: "OpenID Connect: client credentials",
		RBAC: bothWays, config: true, flags: []string{"--authentication-config"}, make: maker.clientCredentials,
	},
	{
		Name: "client-certificate", Title: "X.509 client certificate",
		RBAC: bothWays, flags: []string{"--client-ca-file"}, make: maker.clientCertificate,
	},
	{
		Name: "proxy", Title: "authenticating proxy: client certificate",
		RBAC: bothWays, proxy: true, flags: []string{"--requestheader-"}, make: maker.proxyCertificate,
	},
	{
		Name: "proxy-basic", Title: "authenticating proxy: basic",
		RBAC: bothWays, proxy: true, flags: []string{"--requestheader-"}, make: maker.proxyBasic,
	},
	{
		Name: "proxy-bearer", Title: "authenticating proxy: bearer token",
		RBAC: bothWays, proxy: true, flags: []string{"--requestheader-"}, make: maker.proxyBearer,
	},
	{
		Name: "webhook", Title: "webhook",
		RBAC: bothWays, flags: []string{"--authentication-token-webhook-"}, make: maker.webhook,
	},
	{
		Name: "exec", Title: "exec plugin",
		RBAC: bothWays, flags: []string{"--oidc-"}, make: maker.exec,
	},
}

// All returns the strategies, in the order of a table.
func All() []Strategy { return slices.Clone(all) }

// Find returns a strategy. The error lists their names.
func Find(name string) (Strategy, error) {
	names := make([]string, len(all))
	for i, s := range all {
		if s.Name == name {
			return s, nil
		}
		names[i] = s.Name
	}
	return Strategy{}, fmt.Errorf("there is no strategy %q: choose from %s", name, strings.Join(names, ", "))
}

// provisioning returns the bindings that let a user or a group become any node.
func provisioning(kind, name string) string {
	return binding("nodejoin:request", "system:node-bootstrapper", kind, name) +
		binding("nodejoin:approve", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", kind, name)
}

// bothWays are the bindings for a group that may become any node, and for one whose members may become only their own.
var bothWays = binding("nodejoin:request", "system:node-bootstrapper", "Group", Provisioners) +
	binding("nodejoin:approve", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", "Group", Provisioners) +
	binding("nodejoin:request-own", "system:node-bootstrapper", "Group", Joiners) +
	binding("nodejoin:approve-own", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "Group", Joiners)

func binding(name, role, kind, subject string) string {
	suffix := strings.NewReplacer(":", "-").Replace(subject)
	return `---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "` + name + ":" + suffix + `"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "` + role + `"}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: ` + kind + `, name: "` + subject + `"}
`
}

const (
	joinerNamespace = "nodejoin"
	joinerAccount   = "joiner"

	serviceAccount = `---
apiVersion: v1
kind: Namespace
metadata: {name: ` + joinerNamespace + `}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ` + joinerAccount + `, namespace: ` + joinerNamespace + `}
`
)

package csr

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// TestForbiddenUsers gives each kind of user the remedy that is for it.
func TestForbiddenUsers(t *testing.T) {
	const (
		recognised = "the credential was recognised, but may not create certificate signing requests: "
		bind       = "bind the user to the ClusterRole system:node-bootstrapper: kubectl create clusterrolebinding "
		role       = " --clusterrole=system:node-bootstrapper "
		group      = "bind the user's group to the ClusterRole system:node-bootstrapper: kubectl create clusterrolebinding kubeadm:kubelet-bootstrap" + role + "--group=system:bootstrappers:kubeadm:default-node-token"
	)
	for _, test := range []struct{ name, user, want, remedy string }{
		{"a bootstrap token", "system:bootstrap:abcdef", recognised, group},
		{"nobody", "", recognised, group},
		{"a service account", "system:serviceaccount:kube-system:joiner", recognised, bind + "nodejoin:kubelet-bootstrap:kube-system.joiner" + role + "--serviceaccount=kube-system:joiner"},
		{"a node", "system:node:a", recognised, "let its group ask for its own certificate: nodejoin manifests --name-bound | kubectl apply -f -"},
		{"anonymous", "system:anonymous", "the credential was not recognised: the API server took this machine for an anonymous user: ", "look whether the API server is configured for this kind of credential"},
		{"an OpenID Connect user", "https://issuer.example.com#machine-1", recognised, bind + "nodejoin:kubelet-bootstrap" + role + "--user='https://issuer.example.com#machine-1'"},
		{"with a single quote", "oidc:o'brien", recognised, bind + "nodejoin:kubelet-bootstrap" + role + `--user='oidc:o'\''brien'`},
		{"with a double quote", `oidc:a"b`, recognised, bind + "nodejoin:kubelet-bootstrap" + role + `--user='oidc:a"b'`},
		{"with a backslash", `AD\machine`, recognised, bind + "nodejoin:kubelet-bootstrap" + role + `--user='AD\machine'`},
		{"beyond ASCII", "ärmel", recognised, bind + "nodejoin:kubelet-bootstrap" + role + "--user='ärmel'"},
		{"with a line break", "a\nb", recognised, bind + "nodejoin:kubelet-bootstrap" + role + `--user='"a\nb"'`},
	} {
		t.Run(test.name, func(t *testing.T) {
			words, err := json.Marshal(fmt.Sprintf("certificatesigningrequests.certificates.k8s.io is forbidden: User %q cannot create resource \"certificatesigningrequests\"", test.user))
			if err != nil {
				t.Fatal(err)
			}
			client := newClient(t, serve(answer{code: 403, body: status("Forbidden", string(words[1:len(words)-1]))}))
			_, err = client.create(t.Context(), newRequest(t, testTemplate).object())
			expect.Fault(t, err, fault.Refused, test.want)
			if got := fault.Remedy(err); !strings.HasPrefix(got, test.remedy) || test.user != "system:anonymous" && got != test.remedy {
				t.Errorf("the remedy is\n%s, want\n%s", got, test.remedy)
			}
		})
	}
}

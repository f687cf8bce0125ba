package admin

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// What a caller may want to tell apart. The errors that the verbs return wrap them.
var (
	ErrNotFound = errors.New("not found")           // 404: there is no such object, or no such namespace
	ErrExists   = errors.New("it is there already") // 409 to Create
	ErrConflict = errors.New("it was changed")      // 409 to Update
)

// maxWords bounds what is repeated of an answer, in characters.
const maxWords = 500

// line returns text on one line, and not all of a page of HTML.
func line(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }), " ")
	if words := []rune(text); len(words) > maxWords {
		return string(words[:maxWords]) + " ..."
	}
	return text
}

// unanswered returns the error of a request that has no answer.
func (c *Client) unanswered(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fault.New(fault.Untrusted, "compare the kubeconfig's CA with the cluster's: on a control-plane node it is /etc/kubernetes/pki/ca.crt",
			"%s is not to be trusted for the kubeconfig %s: %w", c.base.Host, c.kubeconfig, err)
	}
	if words := line(err.Error()); strings.HasPrefix(words, "getting credentials: ") { // client-go's, of an exec plugin
		return fault.New(fault.Refused, "log in as you do for kubectl, and see that it works: kubectl auth whoami", "the kubeconfig %s has no credential to show: %s", c.kubeconfig, words)
	}
	return fmt.Errorf("cannot reach %s, the API server of the kubeconfig %s: %w", c.base.Host, c.kubeconfig, err)
}

// refusal returns the error of an answer that is not what was asked for.
func (c *Client) refusal(r *request, code int, answer []byte) error {
	k := kindOf(r.on)
	what := r.describe()
	var status meta.Status
	said := ""
	if json.Unmarshal(answer, &status) == nil && status.Message != "" {
		said = ": " + line(status.Message)
	} // else it is something in between, whose page nobody wants to read
	switch {
	case code == http.StatusUnauthorized:
		return fault.New(fault.Refused, "log in anew, or "+giveKubeconfig, "%s does not know the user of the kubeconfig %s (401)%s", c.base.Host, c.kubeconfig, said)
	case code == http.StatusForbidden:
		return fault.New(fault.Refused, "use a kubeconfig whose user may (--kubeconfig), or have it allowed; to check: kubectl auth can-i "+r.canI(k), "your user may not %s%s", what, said)
	case code == http.StatusNotFound:
		return fmt.Errorf("cannot %s: %w%s", what, ErrNotFound, said)
	case code == http.StatusConflict && r.verb == "create":
		return fmt.Errorf("cannot %s: %w", what, ErrExists)
	case code == http.StatusConflict:
		return fmt.Errorf("cannot %s: %w%s", what, ErrConflict, said)
	case code == http.StatusUnprocessableEntity, code == http.StatusBadRequest:
		return fault.New(fault.Usage, "change what is asked for as the API server's words say", "the API server does not accept it: cannot %s%s", what, said)
	}
	return fmt.Errorf("cannot %s: %s answered %d %s%s", what, c.base.Host, code, http.StatusText(code), said)
}

// describe says what was asked for, as in "create the Secret kube-system/name".
func (r *request) describe() string {
	k := kindOf(r.on)
	object, ok := r.on.(Object)
	if !ok {
		return r.verb + " " + k.resource
	}
	name := object.GetName()
	if object.GetNamespace() != "" {
		name = object.GetNamespace() + "/" + name
	}
	return fmt.Sprintf("%s the %s %s", r.verb, k.name, name)
}

// canI returns the arguments of kubectl auth can-i that ask for the right.
func (r *request) canI(k kind) string {
	resource, namespace := k.resource, r.namespace
	if k.version.Group != "" {
		resource += "." + k.version.Group
	}
	if object, ok := r.on.(Object); ok {
		namespace = object.GetNamespace()
	}
	if namespace != "" {
		namespace = " --namespace " + namespace
	}
	return r.verb + " " + resource + namespace
}

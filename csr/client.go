package csr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	certificates "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	resource       = "certificatesigningrequests"
	requestTimeout = 30 * time.Second // for a request that is answered at once
)

// Client speaks certificates.k8s.io/v1, and nothing else: client-go's REST client with a scheme of that group alone,
// which halves the program against the full clientset.
type Client struct{ rest rest.Interface }

// NewClient returns a client that sends through transport. The host of server is for the URL only, if the transport
// replaces it.
func NewClient(server string, transport http.RoundTripper, userAgent string) (*Client, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(certificates.SchemeGroupVersion, &certificates.CertificateSigningRequest{}, &certificates.CertificateSigningRequestList{})
	meta.AddToGroupVersion(scheme, certificates.SchemeGroupVersion)
	meta.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // Status
	config := &rest.Config{
		Host:    server,
		APIPath: "/apis",
		QPS:     -1, // what may be sent is decided here, not by a rate
		ContentConfig: rest.ContentConfig{
			GroupVersion:         &certificates.SchemeGroupVersion,
			NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
		},
		WarningHandler: rest.NoWarnings{},
	}
	client, err := rest.RESTClientForConfigAndClient(config, &http.Client{
		Transport:     agentName{name: userAgent, next: transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make a client for %s: %w", server, err)
	}
	return &Client{rest: client}, nil
}

// agentName sets the User-Agent. A REST client that is given its own http.Client ignores the configuration's.
type agentName struct {
	name string
	next http.RoundTripper
}

func (a agentName) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", a.name)
	return a.next.RoundTrip(req)
}

// create sends a POST once. client-go's own retries are off: they would sleep for as long as a server says.
func (c *Client) create(ctx context.Context, object *certificates.CertificateSigningRequest) (*certificates.CertificateSigningRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	made := &certificates.CertificateSigningRequest{}
	err := c.rest.Post().Resource(resource).Body(object).MaxRetries(0).Do(ctx).Into(made)
	return made, explain(err, "create")
}

func (c *Client) get(ctx context.Context, name string) (*certificates.CertificateSigningRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found := &certificates.CertificateSigningRequest{}
	err := c.rest.Get().Resource(resource).Name(name).MaxRetries(0).Do(ctx).Into(found)
	if apierrors.IsNotFound(err) {
		return nil, ended(ErrGone, name, "was deleted, or collected after its time")
	}
	return found, explain(err, "get")
}

// watch opens a watch of one name. Without a resource version it begins with the object as it is, if it is there.
func (c *Client) watch(ctx context.Context, name, resourceVersion string) (watch.Interface, error) {
	return c.rest.Get().Resource(resource).MaxRetries(0).VersionedParams(&meta.ListOptions{
		Watch:           true,
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", name).String(),
		ResourceVersion: resourceVersion,
	}, meta.ParameterCodec).Watch(ctx)
}

// explain gives an error of the API server its class. What passes by itself (overload, a server that goes down, no
// answer at all) stays as it is.
func explain(err error, verb string) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // it would repeat the URL
	}
	if err == nil || apierrors.IsAlreadyExists(err) {
		return err
	}
	err = lineError{err} // a proxy's may be a page of HTML
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "is forbidden: User "): // these are not the authorizer's words
		return fault.New(fault.Refused, "read who says so, an admission rule of the cluster or a proxy in front of it, and change that or what is asked for",
			"the certificate signing request is forbidden, and not for want of a right to %s it: %w", verb, err)
	case apierrors.IsForbidden(err):
		return explainForbidden(err, verb)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fault.New(fault.Denied, "change what is asked for as the API server's words say", "the API server does not accept the request: %w", err)
	}
	return fmt.Errorf("cannot %s the certificate signing request: %w", verb, err)
}

// forbiddenUser finds the user in the words of the authorizer, as %q has it.
var forbiddenUser = regexp.MustCompile(`is forbidden: User ("(?:[^"\\]|\\.)*")`)

// explainForbidden says whom the API server took the credential for, and what to bind to which role.
func explainForbidden(err error, verb string) error {
	const role = "--clusterrole=system:node-bootstrapper "
	user := ""
	if m := forbiddenUser.FindStringSubmatch(err.Error()); m != nil {
		user = m[1]
		if name, err := strconv.Unquote(user); err == nil && !strings.ContainsFunc(name, unicode.IsControl) {
			user = name
		}
	}
	account, isAccount := strings.CutPrefix(user, "system:serviceaccount:")
	remedy := "bind the user to the ClusterRole system:node-bootstrapper: kubectl create clusterrolebinding "
	switch {
	case user == "system:anonymous":
		return fault.New(fault.Refused, "look whether the API server is configured for this kind of credential (its --token-auth-file, --oidc-*, --authentication-config, --client-ca-file), or whether something on the way takes it off",
			"the credential was not recognised: the API server took this machine for an anonymous user: %w", err)
	case isAccount:
		remedy += "nodejoin:kubelet-bootstrap:" + fault.Name(strings.ReplaceAll(account, ":", ".")) + " " + role + "--serviceaccount=" + fault.Word(account)
	case strings.HasPrefix(user, NodeUser):
		remedy = "let its group ask for its own certificate: nodejoin manifests --name-bound | kubectl apply -f -"
	case user == "" || strings.HasPrefix(user, "system:bootstrap:"):
		remedy = "bind the user's group to the ClusterRole system:node-bootstrapper: kubectl create clusterrolebinding kubeadm:kubelet-bootstrap " + role + "--group=system:bootstrappers:kubeadm:default-node-token"
	default:
		remedy += "nodejoin:kubelet-bootstrap " + role + "--user=" + fault.Word(user)
	}
	return fault.New(fault.Refused, remedy, "the credential was recognised, but may not %s certificate signing requests: %w", verb, err)
}

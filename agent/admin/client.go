package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 64 << 20 // bytes: a list of ten thousand requests is half of that
)

// FieldManager is who the API server says owns what [Client.Apply] has set.
const FieldManager = "nodejoin"

// Object is a pointer to an object of k8s.io/api: a Secret, a ConfigMap, or one of the four
// of RBAC.
type Object interface {
	meta.Object
	runtime.Object
}

// kind is where the objects of a type are.
type kind struct {
	version  schema.GroupVersion
	name     string // as in an object
	resource string // as in a path
}

// kindOf returns the kind of an object, or of the objects in a list.
func kindOf(object runtime.Object) kind {
	switch object.(type) {
	case *core.Secret, *core.SecretList:
		return kind{core.SchemeGroupVersion, "Secret", "secrets"}
	case *core.ConfigMap:
		return kind{core.SchemeGroupVersion, "ConfigMap", "configmaps"}
	case *rbac.Role:
		return kind{rbac.SchemeGroupVersion, "Role", "roles"}
	case *rbac.RoleBinding:
		return kind{rbac.SchemeGroupVersion, "RoleBinding", "rolebindings"}
	case *rbac.ClusterRole:
		return kind{rbac.SchemeGroupVersion, "ClusterRole", "clusterroles"}
	case *rbac.ClusterRoleBinding:
		return kind{rbac.SchemeGroupVersion, "ClusterRoleBinding", "clusterrolebindings"}
	}
	switch object.(type) { // of which there are none to be read
	case *authentication.SelfSubjectReview:
		return kind{authentication.SchemeGroupVersion, "SelfSubjectReview", "selfsubjectreviews"}
	case *authorization.SelfSubjectAccessReview:
		return kind{authorization.SchemeGroupVersion, "SelfSubjectAccessReview", "selfsubjectaccessreviews"}
	case *authorization.SubjectAccessReview:
		return kind{authorization.SchemeGroupVersion, "SubjectAccessReview", "subjectaccessreviews"}
	}
	panic(fmt.Sprintf("package admin does not know a %T", object)) // a defect of the caller, whatever the input
}

// path returns where the objects of a kind are, in a namespace unless it is "".
func (k kind) path(namespace string) string {
	path := "/apis/" + k.version.String()
	if k.version.Group == "" {
		path = "/api/" + k.version.Version
	}
	if namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	return path + "/" + k.resource
}

// Typed sets an object's apiVersion and kind, without which it cannot be applied, by this package or anybody, and returns it.
func Typed[T Object](object T) T {
	k := kindOf(object)
	object.GetObjectKind().SetGroupVersionKind(k.version.WithKind(k.name))
	return object
}

// Get reads the object that has the given one's name and namespace into it.
func (c *Client) Get(ctx context.Context, object Object) error {
	return c.send(ctx, request{verb: "get", method: http.MethodGet, on: object, one: true, out: object})
}

// List reads the objects of a namespace ("" for all) into a list. The selector, "" for none, is one of fields.
func (c *Client) List(ctx context.Context, list runtime.Object, namespace, fieldSelector string) error {
	query := url.Values{}
	if fieldSelector != "" {
		query.Set("fieldSelector", fieldSelector)
	}
	return c.send(ctx, request{verb: "list", method: http.MethodGet, on: list, namespace: namespace, query: query, out: list})
}

// Create makes an object, and fills it in as it was made. The error wraps [ErrExists] where there is one of that name.
func (c *Client) Create(ctx context.Context, object Object) error {
	return c.send(ctx, request{verb: "create", method: http.MethodPost, on: object, body: Typed(object), out: object})
}

// Update replaces an object, and fills it in as it is then. The error wraps [ErrConflict] where it was changed since it was
// read.
func (c *Client) Update(ctx context.Context, object Object) error {
	return c.send(ctx, request{verb: "update", method: http.MethodPut, on: object, one: true, body: Typed(object), out: object})
}

// Delete removes the object that has the given one's name and namespace.
func (c *Client) Delete(ctx context.Context, object Object) error {
	return c.send(ctx, request{verb: "delete", method: http.MethodDelete, on: object, one: true})
}

// Apply makes an object be as given, whether it is there or not, and fills it in as it is then: server-side apply, by force.
// What others have set beside is kept.
func (c *Client) Apply(ctx context.Context, object Object) error {
	query := url.Values{"fieldManager": {FieldManager}, "force": {"true"}}
	return c.send(ctx, request{verb: "patch", method: http.MethodPatch, on: object, one: true, query: query, body: Typed(object), out: object})
}

// request is one request to the API server.
type request struct {
	verb, method string
	on           runtime.Object // an object or a list: where it goes
	one          bool           // to the object itself, not to where all of its kind are
	namespace    string         // of a list; an object has its own
	query        url.Values
	body, out    runtime.Object // nil for nothing
}

func (r *request) path() string {
	namespace, name := r.namespace, ""
	if object, ok := r.on.(Object); ok {
		namespace, name = object.GetNamespace(), object.GetName()
	}
	path := kindOf(r.on).path(namespace)
	if r.one {
		path += "/" + url.PathEscape(name)
	}
	return path
}

func (c *Client) send(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var body io.Reader
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	address := strings.TrimSuffix(c.base.String(), "/") + r.path()
	if len(r.query) != 0 {
		address += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", UserAgent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/apply-patch+yaml") // of which JSON is a part
	}
	resp, err := c.transport.RoundTrip(req) // and not an http.Client's Do: redirects are not followed
	if err != nil {
		return c.unanswered(err)
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or given up
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the answer of %s broke off: %w", c.base.Host, err)
	case len(answer) > maxAnswer:
		return fmt.Errorf("the answer of %s is larger than %d bytes", c.base.Host, maxAnswer)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return c.refusal(&r, resp.StatusCode, answer)
	case r.out == nil:
		return nil
	}
	return c.decode(answer, r.out)
}

// decode reads an answer in the place of what out has been.
func (c *Client) decode(answer []byte, out runtime.Object) error {
	fresh := reflect.New(reflect.TypeOf(out).Elem())
	if err := json.Unmarshal(answer, fresh.Interface()); err != nil {
		return fmt.Errorf("%s answered something that is no object of Kubernetes: is it an API server?", c.base.Host)
	}
	reflect.ValueOf(out).Elem().Set(fresh.Elem())
	return nil
}

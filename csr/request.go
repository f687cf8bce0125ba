package csr

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// What became of a request, where a caller must tell it apart. All are wrapped in the errors that Obtain returns.
var (
	// ErrUnauthorized: the API server does not know the credential (401). Seen once it may be a balancer's answer.
	ErrUnauthorized = errors.New("the API server does not know the credential (401)")
	// ErrGone: the object was deleted or collected. A new request with a new key is in order.
	ErrGone = errors.New("the request is gone")
	// ErrFailed: the signer marked the request as failed. The key has done its service.
	ErrFailed = errors.New("the signer failed the request")
	// ErrDenied: an approver denied the request. Only an operator can want it asked again.
	ErrDenied = errors.New("the request was denied")
	// ErrReplaced: the object of that name is not the one that was asked for.
	ErrReplaced = errors.New("the request is not the one that was made")
)

// Request is one CertificateSigningRequest object, from submission to a terminal condition.
type Request struct {
	Template Template
	Key      crypto.Signer // nil where it is not on this machine: see ParseRequest
	Name     string        // of the API object; follows from Template and Key

	public crypto.PublicKey
	pkcs10 []byte
}

// Public returns the public key that the certificate is asked for.
func (r *Request) Public() crypto.PublicKey { return r.public }

// NewRequest prepares a request. Nothing is sent. The template is taken as it is: [Template.Check] says whether it makes
// sense.
func NewRequest(t Template, key crypto.Signer) (*Request, error) {
	t = t.canonical()
	name, err := t.name(key.Public())
	if err != nil {
		return nil, err
	}
	pkcs10, err := t.pkcs10(key)
	if err != nil {
		return nil, err
	}
	return &Request{Template: t, Key: key, Name: name, public: key.Public(), pkcs10: pkcs10}, nil
}

// ErrOtherWish says that a request for something else is under way.
var ErrOtherWish = errors.New("a request for something else is under way")

// MarshalPending returns what must be kept to go on with the request after a crash: its name and its key, in PEM.
func (r *Request) MarshalPending() ([]byte, error) {
	key, err := MarshalKey(r.Key)
	if err != nil {
		return nil, err
	}
	return append([]byte(r.Name+"\n"), key...), nil
}

// ResumeRequest returns the request that MarshalPending has kept, if it asks for what the template asks for with a key
// of the algorithm: else the error wraps [ErrOtherWish], since a second request beside one that lives could be approved
// in its place.
func ResumeRequest(data []byte, t Template, algorithm Algorithm) (*Request, error) {
	name, _, _ := strings.Cut(string(data), "\n")
	key, err := ParseKey(data)
	if err != nil {
		return nil, err
	}
	r, err := NewRequest(t, key)
	if err != nil {
		return nil, err
	}
	if r.Name != name || algorithmOf(key) != algorithm {
		return nil, fault.New(fault.Usage, "repeat the flags of the run that made it (--node-name, --lifetime, --key-algorithm), or give it up with --force", "%w: %s", ErrOtherWish, name)
	}
	return r, nil
}

// object returns the API object to be created.
func (r *Request) object() *certificates.CertificateSigningRequest {
	object := &certificates.CertificateSigningRequest{
		TypeMeta:   meta.TypeMeta{APIVersion: certificates.SchemeGroupVersion.String(), Kind: "CertificateSigningRequest"},
		ObjectMeta: meta.ObjectMeta{Name: r.Name},
		Spec: certificates.CertificateSigningRequestSpec{
			Request:    r.pkcs10,
			SignerName: r.Template.SignerName,
			Usages:     r.Template.usages(r.public),
		},
	}
	if r.Template.Lifetime != 0 {
		object.Spec.ExpirationSeconds = new(int32(r.Template.Lifetime / time.Second)) //nolint:gosec // ParseLifetime keeps it within 31 bits
	}
	return object
}

// compare checks that an object that was found under the request's name asks for just what the request asks for. Who
// submitted it is not compared: a request outlives the token that carried it, and what makes it ours is the signature
// by a key that never left this machine.
//
// Nor is the lifetime: an admission webhook may have a rule for it, and with or without the object's agreement the
// signer decides how long what it signs is valid.
func (r *Request) compare(found *certificates.CertificateSigningRequest) error {
	want := r.object()
	refuse := func(format string, args ...any) error {
		return fault.New(fault.Untrusted, "find out who made it: kubectl describe csr "+r.Name+"; the next run makes a new key and a new request",
			"%w", ended(ErrReplaced, r.Name, format, args...))
	}
	differ := func(what string, found, want any) error {
		return refuse("has the %s %v instead of %v", what, found, want)
	}
	if found.Name != want.Name {
		return differ("name", found.Name, want.Name)
	}
	if found.Spec.SignerName != want.Spec.SignerName {
		return differ("signer", found.Spec.SignerName, want.Spec.SignerName)
	}
	if !sameSet(found.Spec.Usages, want.Spec.Usages) {
		return differ("usages", found.Spec.Usages, want.Spec.Usages)
	}
	block, rest := pem.Decode(found.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		return differ("request", "something else", "a PKCS#10 request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return differ("request", err, "a PKCS#10 request")
	}
	if !isSubject(request.Subject, r.Template) {
		return differ("subject", request.Subject, r.Template.CommonName)
	}
	names, err := namesOf(request.Extensions)
	if err == nil {
		err = compareNames(names, r.Template.names())
	}
	if err != nil {
		return refuse("asks for other names: %v", err)
	}
	if !sameKey(request.PublicKey, r.public) {
		return differ("key", "another's", "ours")
	}
	if err := request.CheckSignature(); err != nil {
		return differ("signature", err, "a valid one")
	}
	return nil
}

// isSubject reports whether a subject is just what a template asks for.
func isSubject(subject pkix.Name, t Template) bool {
	parts := len(t.Organization)
	if t.CommonName != "" {
		parts++
	}
	return subject.CommonName == t.CommonName && sameSet(subject.Organization, t.Organization) && len(subject.Names) == parts
}

func seconds(object *certificates.CertificateSigningRequest) int32 {
	if object.Spec.ExpirationSeconds == nil {
		return 0
	}
	return *object.Spec.ExpirationSeconds
}

func sameSet[T ~string](a, b []T) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func sameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// Progress is what a request waits for.
type Progress struct {
	Name       string    // of the API object
	SignerName string    // who is to sign
	Created    time.Time // by the API server's clock
	Username   string    // who submitted it
	Approved   bool      // an approver has acted; the signer has not
	// Lifetime is what the object asks for, 0 for nothing. It is not the template's where something in the cluster, an
	// admission webhook for one, has changed it.
	Lifetime time.Duration
}

func (r *Request) progress(object *certificates.CertificateSigningRequest) Progress {
	return Progress{
		Name: r.Name, SignerName: object.Spec.SignerName,
		Created: object.CreationTimestamp.Time, Username: object.Spec.Username,
		Approved: condition(object, certificates.CertificateApproved) != nil,
		Lifetime: time.Duration(seconds(object)) * time.Second,
	}
}

// judge reads an object's conditions: the certificate chain when it is issued, an error when it never will be, and
// neither while it waits. Conditions that it does not know are ignored.
func (r *Request) judge(object *certificates.CertificateSigningRequest) ([]byte, error) {
	denied, failed, approved := condition(object, certificates.CertificateDenied), condition(object, certificates.CertificateFailed), condition(object, certificates.CertificateApproved)
	switch {
	case denied != nil && approved != nil:
		return nil, fault.New(fault.Denied, "kubectl delete csr "+r.Name, "%w", ended(ErrReplaced, r.Name, "is both approved and denied"))
	case denied != nil:
		return nil, fault.New(fault.Denied, "when the reason is gone, ask again with a new key: nodejoin join --force", "%w", endedBy(denied, ErrDenied, r.Name))
	case failed != nil:
		return nil, fault.New(fault.Denied, "read the reason; the next run makes a new key and a new request", "%w", endedBy(failed, ErrFailed, r.Name))
	case approved != nil && len(object.Status.Certificate) != 0:
		return object.Status.Certificate, nil
	}
	return nil, nil
}

func condition(object *certificates.CertificateSigningRequest, kind certificates.RequestConditionType) *certificates.CertificateSigningRequestCondition {
	for i, c := range object.Status.Conditions {
		if c.Type == kind && c.Status != core.ConditionFalse {
			return &object.Status.Conditions[i]
		}
	}
	return nil
}

// heartbeat is how often a caller is told that a request still waits. A read may take requestTimeout in between, so that
// it hears something at least once a minute.
const heartbeat = 20 * time.Second

// Obtain submits the request, or finds the one that is already there, and follows it until it is issued. It returns
// the certificate chain as the API server gave it, in PEM: see [Gate].
//
// report, if not nil, is told what is waited for: at the beginning, whenever that changes, and at least once a minute
// even if nothing does, by the loop that waits. Where it is silent for longer, that loop has died.
//
// The watch is opened at the same time as the request is submitted, since the name is known beforehand: from a
// verified connection to the issued certificate it takes one round trip and the cluster's own time.
func (c *Client) Obtain(ctx context.Context, r *Request, report func(Progress)) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	var last Progress
	tell := func() {
		if report != nil {
			report(last)
		}
	}
	follow := c.follow(ctx, r.Name, tell)
	defer follow.wait()
	defer cancel()

	object, err := c.submit(ctx, r)
	if err != nil {
		return nil, err
	}
	uid := object.UID
	for {
		if object.UID != uid { // a watch may begin with what was there before: ask
			if object, err = c.get(ctx, r.Name); err != nil {
				return nil, err
			}
		}
		if object.UID != uid {
			return nil, fault.New(fault.Untrusted, "find out who replaced it: kubectl describe csr "+r.Name+"; the next run makes a new request",
				"%w", ended(ErrReplaced, r.Name, "was replaced by another object of that name"))
		}
		if err := r.compare(object); err != nil {
			return nil, err
		}
		chain, err := r.judge(object)
		if err != nil || chain != nil {
			return chain, err
		}
		if now := r.progress(object); now != last {
			last = now
			tell()
		}
		if object, err = follow.next(ctx); err != nil {
			return nil, err
		}
	}
}

// submit creates the object. If one of that name is there already, it is that one that is returned.
func (c *Client) submit(ctx context.Context, r *Request) (*certificates.CertificateSigningRequest, error) {
	object, err := c.create(ctx, r.object())
	if apierrors.IsAlreadyExists(err) {
		if object, err = c.get(ctx, r.Name); err != nil {
			return nil, err
		}
		return object, nil
	}
	return object, err
}

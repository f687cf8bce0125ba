package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodejoin/nodejoin/bootstrap"
)

// Paths of the API.
const (
	requestsPath    = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	whoPath         = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	accessPath      = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	bundlesPath     = "/apis/certificates.k8s.io/v1/clustertrustbundles"
	clusterInfoPath = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
)

// collected is how long a cluster keeps a request that was issued.
const collected = time.Hour

// fakeCluster is an API server with its approver and its signer. It stands in for a real one, against which test/e2e runs,
// where that cannot be: in a synctest bubble there is no network, and no real one lies, refuses or denies at a given second.
// It is an [http.Handler], to be reached over TLS (serve) or, in a bubble, without any connection ([inProcess]).
type fakeCluster struct {
	tb     testing.TB
	signer *authority // signs clients' certificates
	clock  func() time.Time

	mu       sync.Mutex // guards what follows
	lifetime time.Duration
	tokens   map[string]string                             // users by bearer token
	roots    []*authority                                  // of clients; signer's at first
	revoked  map[string]bool                               // serial numbers that it does not know any more
	decide   func(*certificates.CertificateSigningRequest) // what becomes of a new request: sign, at first
	answer   func(*http.Request) error                     // before anything else; nil goes on
	offered  []*authority                                  // in its ClusterTrustBundle; none is 403
	info     string                                        // the kubeconfig in cluster-info; none is 403
	objects  map[string]*certificates.CertificateSigningRequest
	changed  chan struct{} // closed at the next change of an object
	created  []creation
	most     int // requests that lived at the same time
	seen     []string
	reviewed int // SelfSubjectReviews
}

// creation is a request that was made.
type creation struct {
	at   time.Time
	by   string // user
	name string
}

func newCluster(tb testing.TB) *fakeCluster {
	tb.Helper()
	c := &fakeCluster{
		tb: tb, signer: newAuthority(tb, "kubernetes"), clock: time.Now, lifetime: 24 * time.Hour,
		tokens: map[string]string{}, revoked: map[string]bool{}, objects: map[string]*certificates.CertificateSigningRequest{}, changed: make(chan struct{}),
	}
	c.roots = []*authority{c.signer}
	c.decide = c.sign
	return c
}

// with changes the cluster.
func (c *fakeCluster) with(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// sign approves and signs a request, as the cluster's own signer does it.
func (c *fakeCluster) sign(o *certificates.CertificateSigningRequest) {
	now := c.clock()
	o.Status.Conditions = append(o.Status.Conditions, certificates.CertificateSigningRequestCondition{Type: certificates.CertificateApproved, Status: core.ConditionTrue})
	block, _ := pem.Decode(o.Spec.Request)
	asked, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.tb.Error(err)
		return
	}
	lifetime := c.lifetime
	if o.Spec.ExpirationSeconds != nil {
		lifetime = time.Duration(*o.Spec.ExpirationSeconds) * time.Second
	}
	template := &x509.Certificate{
		Subject: asked.Subject, DNSNames: asked.DNSNames, IPAddresses: asked.IPAddresses, URIs: asked.URIs,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(lifetime), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, usage := range o.Spec.Usages {
		switch usage { //nolint:exhaustive // no other is asked for here
		case certificates.UsageClientAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case certificates.UsageServerAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
	}
	o.Status.Certificate = certPEM(c.signer.sign(c.tb, template, asked.PublicKey))
}

// leave leaves a request pending.
func (c *fakeCluster) leave(*certificates.CertificateSigningRequest) {}

// deny denies a request.
func (c *fakeCluster) deny(o *certificates.CertificateSigningRequest) {
	o.Status.Conditions = append(o.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateDenied, Status: core.ConditionTrue, Reason: "NotOurs", Message: "this machine is not in the inventory",
	})
}

// fail fails a request, as a signer does.
func (c *fakeCluster) fail(o *certificates.CertificateSigningRequest) {
	o.Status.Conditions = append(o.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateFailed, Status: core.ConditionTrue, Reason: "SignerValidationFailure", Message: "no",
	})
}

// act does something to the pending requests.
func (c *fakeCluster) act(what func(*certificates.CertificateSigningRequest)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects {
		if isLive(o) {
			what(o)
			c.touch(o)
		}
	}
}

// remove deletes the pending requests.
func (c *fakeCluster) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, o := range c.objects {
		if isLive(o) {
			delete(c.objects, name)
			c.touch(o)
		}
	}
}

func (c *fakeCluster) touch(o *certificates.CertificateSigningRequest) {
	version, _ := strconv.Atoi(o.ResourceVersion)
	o.ResourceVersion = strconv.Itoa(version + 1)
	close(c.changed)
	c.changed = make(chan struct{})
}

// isLive reports whether a request can still be issued.
func isLive(o *certificates.CertificateSigningRequest) bool {
	ended := slices.ContainsFunc(o.Status.Conditions, func(condition certificates.CertificateSigningRequestCondition) bool {
		return condition.Type != certificates.CertificateApproved
	})
	return !ended && len(o.Status.Certificate) == 0
}

// creations returns the requests that were made.
func (c *fakeCluster) creations() []creation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.created)
}

// wantOneAtATime checks invariant I4: there were never two live requests.
func (c *fakeCluster) wantOneAtATime() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most > 1 {
		c.tb.Errorf("I4: %d requests lived at the same time", c.most)
	}
}

// asked returns what was asked, "VERB path by user", with the paths that begin so.
func (c *fakeCluster) asked(prefix string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var asked []string
	for _, line := range c.seen {
		if _, path, _ := strings.Cut(line, " "); strings.HasPrefix(path, prefix) {
			asked = append(asked, line)
		}
	}
	return asked
}

const anonymous = "system:anonymous"

// user authenticates a request; "" is a 401.
func (c *fakeCluster) user(r *http.Request) string {
	if token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); found {
		return c.tokens[token]
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return anonymous
	}
	leaf := r.TLS.PeerCertificates[0]
	roots := x509.NewCertPool()
	for _, root := range c.roots {
		roots.AddCert(root.cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.clock(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || c.revoked[leaf.SerialNumber.Text(16)] {
		return ""
	}
	return leaf.Subject.CommonName
}

// ServeHTTP implements [http.Handler].
func (c *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	user, answer := c.user(r), c.answer
	if len(c.seen) < 1000 { // what a long test asks is not looked at
		c.seen = append(c.seen, r.Method+" "+r.URL.Path+" by "+user)
	}
	c.mu.Unlock()
	if answer != nil {
		if err := answer(r); err != nil {
			refuse(w, err)
			return
		}
	}
	name, isObject := strings.CutPrefix(r.URL.Path, requestsPath+"/")
	switch {
	case user == "":
		refuse(w, apierrors.NewUnauthorized("Unauthorized"))
	case r.URL.Path == clusterInfoPath:
		c.tellInfo(w)
	case user == anonymous:
		refuse(w, apierrors.NewForbidden(schema.GroupResource{}, "", errors.New("anonymous")))
	case r.URL.Path == whoPath:
		c.with(func() { c.reviewed++ })
		show(w, http.StatusCreated, authentication.SelfSubjectReview{Status: authentication.SelfSubjectReviewStatus{
			UserInfo: authentication.UserInfo{Username: user, Groups: []string{"system:nodes", "system:authenticated"}},
		}})
	case r.URL.Path == accessPath:
		show(w, http.StatusCreated, authorization.SelfSubjectAccessReview{Status: authorization.SubjectAccessReviewStatus{Allowed: true}})
	case r.URL.Path == bundlesPath:
		c.tellBundle(w)
	case r.URL.Path == requestsPath && r.Method == http.MethodPost:
		c.create(w, r, user)
	case r.URL.Path == requestsPath:
		c.watch(w, r)
	case isObject:
		c.mu.Lock()
		defer c.mu.Unlock()
		if o := c.objects[name]; o != nil {
			show(w, http.StatusOK, o)
			return
		}
		refuse(w, apierrors.NewNotFound(certificates.Resource("certificatesigningrequests"), name))
	default:
		refuse(w, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path))
	}
}

func show(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value) // whoever does not read it has gone
}

func refuse(w http.ResponseWriter, err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.TypeMeta = meta.TypeMeta{APIVersion: "v1", Kind: "Status"}
	show(w, int(status.Code), status)
}

func (c *fakeCluster) tellInfo(w http.ResponseWriter) {
	c.mu.Lock()
	info := c.info
	c.mu.Unlock()
	if info == "" {
		refuse(w, apierrors.NewForbidden(core.Resource("configmaps"), "cluster-info", errors.New("no")))
		return
	}
	show(w, http.StatusOK, map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]string{"kubeconfig": info}})
}

func (c *fakeCluster) tellBundle(w http.ResponseWriter) {
	c.mu.Lock()
	var bundle strings.Builder
	for _, a := range c.offered {
		bundle.Write(a.pem())
	}
	c.mu.Unlock()
	if bundle.Len() == 0 {
		refuse(w, apierrors.NewForbidden(certificates.Resource("clustertrustbundles"), "", errors.New("no")))
		return
	}
	show(w, http.StatusOK, map[string]any{"kind": "ClusterTrustBundleList", "apiVersion": "certificates.k8s.io/v1", "items": []any{map[string]any{
		"metadata": map[string]string{"name": "kubernetes.io:kube-apiserver-serving:a"},
		"spec":     map[string]string{"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": bundle.String()},
	}}})
}

func (c *fakeCluster) create(w http.ResponseWriter, r *http.Request, user string) {
	o := &certificates.CertificateSigningRequest{}
	if err := json.NewDecoder(r.Body).Decode(o); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	live := 1
	for name, other := range c.objects {
		switch {
		case now.Sub(other.CreationTimestamp.Time) >= collected && !isLive(other):
			delete(c.objects, name)
		case isLive(other) && name != o.Name && other.Spec.SignerName == o.Spec.SignerName:
			live++
		}
	}
	if c.objects[o.Name] != nil {
		refuse(w, apierrors.NewAlreadyExists(certificates.Resource("certificatesigningrequests"), o.Name))
		return
	}
	c.most = max(c.most, live)
	c.created = append(c.created, creation{now, user, o.Name})
	o.TypeMeta = meta.TypeMeta{APIVersion: certificates.SchemeGroupVersion.String(), Kind: "CertificateSigningRequest"}
	o.UID, o.CreationTimestamp, o.Spec.Username, o.ResourceVersion = types.UID(fmt.Sprint(len(c.created))), meta.NewTime(now), user, "0"
	c.objects[o.Name] = o
	c.decide(o)
	c.touch(o)
	show(w, http.StatusCreated, o)
}

// watch streams one object until the client has gone.
func (c *fakeCluster) watch(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	version := r.URL.Query().Get("resourceVersion")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush() // where it cannot be, what is written next is
	var last *certificates.CertificateSigningRequest
	for {
		c.mu.Lock()
		changed := c.changed
		var event []byte
		switch o := c.objects[name]; {
		case o != nil && o.ResourceVersion != version:
			version, last = o.ResourceVersion, o
			event, _ = json.Marshal(map[string]any{"type": "MODIFIED", "object": o})
		case o == nil && last != nil:
			event, _ = json.Marshal(map[string]any{"type": "DELETED", "object": last})
			last = nil
		}
		c.mu.Unlock()
		if event != nil {
			if _, err := w.Write(append(event, '\n')); err != nil {
				return
			}
			_ = flush.Flush()
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

// inProcess carries requests to a cluster without a connection, as a client with this certificate.
type inProcess struct {
	cluster     *fakeCluster
	certificate *x509.Certificate // nil for none
}

// RoundTrip implements [http.RoundTripper].
func (p inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	r.TLS = &tls.ConnectionState{}
	if p.certificate != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{p.certificate}
	}
	if req.URL.Query().Get("watch") == "" {
		recorder := httptest.NewRecorder()
		p.cluster.ServeHTTP(recorder, r)
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		return recorder.Result(), nil
	}
	body, out := io.Pipe()
	stream := &stream{header: http.Header{}, out: out, begun: make(chan int, 1)}
	context.AfterFunc(req.Context(), func() { _ = out.CloseWithError(req.Context().Err()) })
	go func() {
		p.cluster.ServeHTTP(stream, r)
		_ = out.Close()
	}()
	return &http.Response{StatusCode: <-stream.begun, Header: stream.header, Body: body, Request: req}, nil
}

// stream is an answer that is read while it is written.
type stream struct {
	header http.Header
	out    *io.PipeWriter
	begun  chan int
}

func (s *stream) Header() http.Header { return s.header }

func (s *stream) WriteHeader(code int) { s.begun <- code }

func (s *stream) Write(data []byte) (int, error) { return s.out.Write(data) }

func (s *stream) Flush() {}

// server is a cluster that is reached over TLS.
type server struct {
	Endpoint bootstrap.Endpoint
	http     *http.Server

	mu          sync.Mutex
	certificate *tls.Certificate
}

// present changes the certificate that the server presents to whoever connects from now on.
func (s *server) present(certificate *tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certificate = certificate
}

// serve starts a server of the cluster on the loopback interface, with a certificate of the CA.
func (c *fakeCluster) serve(ca *authority) *server {
	c.tb.Helper()
	tcp, err := (&net.ListenConfig{}).Listen(c.tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		c.tb.Fatal(err)
	}
	s := &server{certificate: ca.serving(c.tb)}
	if s.Endpoint, err = bootstrap.ParseEndpoint(tcp.Addr().String()); err != nil {
		c.tb.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	s.http = &http.Server{
		Handler: c, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{ClientAuth: tls.RequestClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.certificate, nil
		}},
	}
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		_ = s.http.ServeTLS(tcp, "", "") // until it is closed
	}()
	c.tb.Cleanup(func() {
		s.close()
		<-serving
	})
	return s
}

func (s *server) close() { _ = s.http.Close() }

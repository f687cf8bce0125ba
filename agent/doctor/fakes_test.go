package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

const (
	tokenID     = "k3l9m2"
	tokenSecret = "q7x2w9z4k8v3j6y5"
	nodeName    = "node-1"
)

// authority is a certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string, changes ...func(*x509.Certificate)) *authority {
	tb.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	for _, change := range changes {
		change(template)
	}
	a := &authority{}
	a.cert, a.key = sign(tb, template, nil)
	return a
}

// sign makes a key and a certificate for it; without a parent it is its own.
func sign(tb testing.TB, template *x509.Certificate, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.cert, parent.key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) bundle(tb testing.TB) bootstrap.Bundle {
	tb.Helper()
	bundle, err := bootstrap.ParseBundle(a.pem(), time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return bundle
}

// serving returns a certificate for the loopback address.
func (a *authority) serving(tb testing.TB, changes ...func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(300 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost"},
	}
	for _, change := range changes {
		change(template)
	}
	cert, key := sign(tb, template, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// pair returns the certificate of a node, valid since from and until to, from now.
func (a *authority) pair(tb testing.TB, node string, from, to time.Duration) *rotate.KeyPair {
	tb.Helper()
	cert, key := sign(tb, &x509.Certificate{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	pair, err := rotate.ParseKeyPair(append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...))
	if err != nil {
		tb.Fatal(err)
	}
	return pair
}

// expiring returns a change that makes a certificate end so long from now.
func expiring(in time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = time.Now().Add(in) }
}

// user is what the API server makes of a credential.
type user struct {
	name   string
	groups []string
	may    []string // create: "csr", "nodeclient", "selfnodeclient"
}

// apiServer stands in for an API server, with as much of one as is asked here. What a real one says is tested against a
// real one, in test/.
type apiServer struct {
	ca    *authority
	http  *httptest.Server
	name  string // HOST:PORT
	mu    sync.Mutex
	heard []string // paths and bearer tokens of all requests

	// What it is made of; read when it is asked.
	certificate  tls.Certificate
	users        map[string]user // by bearer token, or by common name
	refusals     int             // that many of the first requests get 401
	clusterInfo  map[string]string
	infoStatus   int // of cluster-info; 0 is 200
	trustBundle  []byte
	ahead        time.Duration // its clock
	undated      bool
	reviewStatus int // of reviews; 0 is 201
	selfStatus   int // of the one that tells a user who it is; 0 is 201
}

// newAPIServer starts one that is in order: it knows the token and the node.
func newAPIServer(tb testing.TB) *apiServer {
	tb.Helper()
	ca := newAuthority(tb, "kubernetes")
	s := &apiServer{ca: ca, certificate: ca.serving(tb), users: map[string]user{
		tokenID + "." + tokenSecret: {"system:bootstrap:" + tokenID, []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"}, []string{"csr", "nodeclient"}},
		"system:node:" + nodeName:   {"system:node:" + nodeName, []string{"system:nodes", "system:authenticated"}, []string{"csr", "selfnodeclient"}},
	}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.EnableHTTP2 = true
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.http.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { // Certificates is httptest's
		return &tls.Config{Certificates: []tls.Certificate{s.certificate}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"}}, nil
	}}
	s.http.StartTLS()
	tb.Cleanup(s.http.Close)
	s.name = s.http.Listener.Addr().String()
	s.publish(tb, ca.pem())
	return s
}

// publish signs a cluster-info with this CA for the tokens.
func (s *apiServer) publish(tb testing.TB, ca []byte) {
	tb.Helper()
	kubeconfig := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"","cluster":{"server":"https://%s","certificate-authority-data":%q}}]}`, s.name, base64Of(tb, ca))
	signature, err := jws.ComputeDetachedSignature(kubeconfig, tokenID, tokenSecret)
	if err != nil {
		tb.Fatal(err)
	}
	s.clusterInfo = map[string]string{"kubeconfig": kubeconfig, "jws-kubeconfig-" + tokenID: signature}
}

func base64Of(tb testing.TB, data []byte) string {
	tb.Helper()
	text, err := json.Marshal(data)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Trim(string(text), `"`)
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.heard = append(s.heard, r.URL.Path+" "+bearer)
	refuse := s.refusals > 0 && strings.Contains(r.URL.Path, "reviews")
	if refuse {
		s.refusals--
	}
	s.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(s.ahead).UTC().Format(http.TimeFormat))
	if s.undated {
		w.Header()["Date"] = nil
	}
	who, known := s.users[bearer]
	if len(r.TLS.PeerCertificates) != 0 {
		who, known = s.users[r.TLS.PeerCertificates[0].Subject.CommonName]
	}
	answer := func(status int, body any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	status := func(code int, message string) { answer(code, map[string]any{"kind": "Status", "message": message}) }
	switch {
	case r.URL.Path == "/readyz":
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasSuffix(r.URL.Path, "/configmaps/cluster-info"):
		if s.infoStatus != 0 {
			status(s.infoStatus, "no")
			return
		}
		answer(http.StatusOK, map[string]any{"kind": "ConfigMap", "data": s.clusterInfo})
	case refuse || !known:
		status(http.StatusUnauthorized, "Unauthorized")
	case strings.HasSuffix(r.URL.Path, "/clustertrustbundles"):
		if s.trustBundle == nil {
			status(http.StatusNotFound, "no")
			return
		}
		answer(http.StatusOK, map[string]any{"kind": "ClusterTrustBundleList", "items": []any{map[string]any{
			"metadata": map[string]any{"name": "x"}, "spec": map[string]any{"signerName": "kubernetes.io/kube-apiserver-serving", "trustBundle": string(s.trustBundle)},
		}}})
	case s.reviewStatus != 0:
		status(s.reviewStatus, "it is told to say that")
	case s.selfStatus != 0 && strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
		status(s.selfStatus, "it is told to say that")
	case strings.HasSuffix(r.URL.Path, "/selfsubjectreviews"):
		answer(http.StatusCreated, map[string]any{"status": map[string]any{"userInfo": map[string]any{"username": who.name, "groups": who.groups}}})
	case strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews"):
		var in struct {
			Spec struct {
				ResourceAttributes struct{ Verb, Group, Resource, Subresource string }
			}
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		what := in.Spec.ResourceAttributes
		asked := what.Subresource
		if asked == "" {
			asked = "csr"
		}
		allowed := what.Verb == "create" && what.Group == "certificates.k8s.io" && what.Resource == "certificatesigningrequests" && slices.Contains(who.may, asked)
		answer(http.StatusCreated, map[string]any{"status": map[string]any{"allowed": allowed}})
	default:
		status(http.StatusNotFound, r.URL.Path)
	}
}

// bearers returns the bearer tokens that arrived.
func (s *apiServer) bearers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bearers []string
	for _, request := range s.heard {
		if _, bearer, _ := strings.Cut(request, " "); bearer != "" {
			bearers = append(bearers, bearer)
		}
	}
	return bearers
}

func endpoint(tb testing.TB, name string) bootstrap.Endpoint {
	tb.Helper()
	e, err := bootstrap.ParseEndpoint(name)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func listenOn(tb testing.TB, network, address string) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), network, address)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// deadEndpoint refuses connections.
func deadEndpoint(tb testing.TB) bootstrap.Endpoint {
	tb.Helper()
	l := listenOn(tb, "tcp", "127.0.0.1:0")
	_ = l.Close()
	return endpoint(tb, l.Addr().String())
}

// silentEndpoint accepts connections and says nothing.
func silentEndpoint(tb testing.TB) bootstrap.Endpoint {
	tb.Helper()
	l := listenOn(tb, "tcp", "127.0.0.1:0")
	tb.Cleanup(func() { _ = l.Close() }) // with what nobody accepted
	return endpoint(tb, l.Addr().String())
}

func write(tb testing.TB, path, content string, mode os.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		tb.Fatal(err)
	}
}

// patient is a machine in order that has joined, for tests to make something wrong with.
type patient struct {
	Input
	dir    string
	host   host
	server *apiServer
}

func newPatient(tb testing.TB) *patient {
	tb.Helper()
	dir := tb.TempDir()
	server := newAPIServer(tb)
	token := bootstrap.Token{ID: tokenID, Secret: bootstrap.NewSecret(tokenSecret)}
	site := bootstrap.Cluster{Endpoints: []bootstrap.Endpoint{endpoint(tb, server.name)}}
	known := site
	known.CA = server.ca.bundle(tb)
	pins := []bootstrap.Pin{bootstrap.PinOf(server.ca.cert)}
	pair := server.ca.pair(tb, nodeName, -time.Hour, 100*24*time.Hour)
	p := &patient{dir: dir, server: server, Input: Input{
		Node: nodeName, ConfigFile: filepath.Join(dir, "etc/config.yaml"),
		Cluster: &known, Pins: pins,
		Accesses: []Access{{Discovery: &bootstrap.ByToken{Site: site, Token: token, Pins: pins}, Credential: token.Credential()}},
		Paths: rotate.Paths{
			Kubeconfig: filepath.Join(dir, "kubernetes/kubelet.conf"), CertDir: filepath.Join(dir, "pki"), CAFile: filepath.Join(dir, "kubernetes/pki/ca.crt"), StateDir: filepath.Join(dir, "state"),
		},
		RuntimeDir: filepath.Join(dir, "run"), KubeletConfig: filepath.Join(dir, "kubelet.yaml"), Secrets: []string{filepath.Join(dir, "etc/token")},
		Disk:     &rotate.Disk{Found: rotate.Found{Pair: pair, PairPath: filepath.Join(dir, "pki/current.pem")}, Kubeconfig: &rotate.Kubeconfig{Server: "https://" + server.name, Pair: pair}, Cluster: &rotate.Remembered{Server: "https://" + server.name}},
		Rotation: "agent", Hooks: []Hook{{"reload", []string{"/bin/sh", "-c", "exit 1"}}},
	}}
	for _, file := range []string{p.ConfigFile, p.Paths.CAFile} {
		write(tb, file, "x", 0o644)
	}
	for _, file := range []string{p.Secrets[0], p.Paths.Kubeconfig, p.Disk.PairPath, filepath.Join(p.Paths.StateDir, "kubelet-client.key.pending")} {
		write(tb, file, "x", 0o600)
	}
	if err := os.Chmod(p.Paths.StateDir, 0o700); err != nil {
		tb.Fatal(err)
	}
	p.kubelet(tb, "rotateCertificates: false\n")
	p.host = host{
		proc: filepath.Join(dir, "proc"), systemd: dir, systemctl: filepath.Join(dir, "systemctl"), config: filepath.Join(dir, "etc/config.yaml"),
		credentials: []string{filepath.Join(dir, "credentials"), filepath.Join(dir, "credstore")}, encrypted: []string{filepath.Join(dir, "credstore.encrypted")},
		name: func() (string, error) { return nodeName, nil }, clock: func() (bool, bool) { return true, true }, resolver: net.DefaultResolver,
	}
	p.process(tb, 812, "kubelet", "/usr/bin/kubelet", "--kubeconfig="+p.Paths.Kubeconfig, "--config="+p.KubeletConfig)
	p.unit(tb, "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\nStatusText=valid until tomorrow\n")
	write(tb, filepath.Join(p.host.proc, "locks"), "", 0o644)
	return p
}

// kubelet writes the kubelet's configuration.
func (p *patient) kubelet(tb testing.TB, content string) {
	tb.Helper()
	write(tb, p.KubeletConfig, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+content, 0o644)
}

// process makes a process in /proc.
func (p *patient) process(tb testing.TB, pid int, name string, args ...string) {
	tb.Helper()
	dir := filepath.Join(p.host.proc, fmt.Sprint(pid))
	write(tb, filepath.Join(dir, "comm"), name+"\n", 0o644)
	write(tb, filepath.Join(dir, "cmdline"), strings.Join(args, "\x00")+"\x00", 0o644)
}

// unit makes a systemctl that answers this.
func (p *patient) unit(tb testing.TB, properties string) {
	tb.Helper()
	write(tb, p.host.systemctl, "#!/bin/sh\n[ \"$1 $2\" != 'cat nodejoin.service' ] || exec cat "+filepath.Join(p.dir, "nodejoin.service")+
		"\n[ \"$1 $2\" = 'show nodejoin.service' ] || exit 7\ncat <<'EOF'\n"+properties+"EOF\n", 0o755)
}

// directives makes this what the unit and its drop-ins say of credentials.
func (p *patient) directives(tb testing.TB, text string) {
	tb.Helper()
	write(tb, filepath.Join(p.dir, "nodejoin.service"), "# /usr/lib/systemd/system/nodejoin.service\n[Service]\n"+text, 0o644)
}

// unjoin takes the identity away.
func (p *patient) unjoin() {
	p.Disk = &rotate.Disk{}
	p.Cluster.CA = bootstrap.Bundle{}
}

func (p *patient) examine(tb testing.TB) *Report {
	tb.Helper()
	return run(tb.Context(), p.Input, p.host)
}

func relay(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

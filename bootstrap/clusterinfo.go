package bootstrap

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/nodejoin/nodejoin/agent/fault"
)

const (
	clusterInfoPath = "/api/v1/namespaces/kube-public/configmaps/" + api.ConfigMapClusterInfo
	// requestTimeout bounds one request that is answered at once, its connection included.
	requestTimeout = 30 * time.Second
	// signingGrace is how long a token that cluster-info is not signed for may be one that was made just now: the
	// bootstrap signer needs a moment.
	signingGrace = time.Second
	// stuckGrace is how long servers that fail for now keep what another one says for good from being the last word: a
	// machine that is out of use may stay so for ever.
	stuckGrace = 10 * time.Second
)

// ByToken is the discovery by bootstrap token: the ConfigMap kube-public/cluster-info, which anyone may read, is
// fetched over a connection that nobody vouches for, and holds the cluster's CA. It is believed because it is signed
// with the token's secret (a detached JWS, RFC 7515 appendix F), because the CA certificates in it are pinned, and
// because the server that sent it proves to hold a certificate of such a CA for the name that the operator gave.
//
// kubeadm reaches the last point with a second request over a new connection, and compares the two answers. Here the
// certificate that the server presented on the first one is verified once the CA is known: the answer came over that
// very session, so one read is enough.
type ByToken struct {
	Site  Cluster // as the operator gave it: endpoints, asked in turn, server name and proxy; its CA is not looked at
	Token Token
	// Pins name the CA certificates to be trusted; certificates that are not pinned do not become part of the
	// cluster's bundle. Without pins SkipPins must be set, and then whoever holds a token can pose as the cluster.
	Pins     []Pin
	SkipPins bool
	Log      *slog.Logger

	unsignedSince time.Time // since when cluster-info has been signed for others and not for Token
	stuckSince    time.Time // since when some servers have failed for good and all others for now
	refusals      int       // 401 answers in a row
}

// Check refuses a discovery that nothing would keep from believing whoever holds a token.
func (d *ByToken) Check() error {
	if len(d.Pins) != 0 || d.SkipPins {
		return nil
	}
	return fault.New(fault.Usage, "give the hash with --discovery-token-ca-cert-hash ("+computePin+"), or the CA with --certificate-authority",
		"nothing tells which CA is the cluster's: a token alone would let anyone who holds one pose as the cluster")
}

// Candidate implements [Discovery].
func (d *ByToken) Candidate() *Cluster { return &d.Site }

// Discover implements [Discovery]: it asks the servers in turn until one answers.
func (d *ByToken) Discover(ctx context.Context) (*Cluster, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	var failures []error
	for i, server := range d.Site.Endpoints {
		Progress(ctx)
		cluster, err := d.ask(ctx, server)
		if err == nil {
			d.stuckSince = time.Time{}
			cluster.addEndpoints(orderedEndpoints(d.Site.Endpoints, i))
			return cluster, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if d.Log != nil && len(d.Site.Endpoints) > 1 {
			d.Log.Warn("discovery failed at an API server, trying the next", "endpoint", server.String(), "err", err)
		}
		failures = append(failures, err)
	}
	return nil, d.verdict(failures)
}

// verdict makes one error of one for each server. It is final if all are, or if some have been for stuckGrace.
func (d *ByToken) verdict(failures []error) error {
	err := allFailed(failures)
	first := slices.IndexFunc(failures, fault.IsFinal)
	if first < 0 || fault.IsFinal(err) {
		d.stuckSince = time.Time{}
		return err
	}
	if d.stuckSince.IsZero() {
		d.stuckSince = time.Now()
	}
	if stuck := time.Since(d.stuckSince); stuck >= stuckGrace {
		return fault.New(fault.ClassOf(failures[first]), fault.Remedy(failures[first]), "after %s, %w", stuck.Round(time.Second), err)
	}
	return err
}

// ask obtains the cluster from one server.
func (d *ByToken) ask(ctx context.Context, server Endpoint) (*Cluster, error) {
	transport := NewTransport(&tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         d.serverName(server),
		InsecureSkipVerify: true, //nolint:gosec // no credential is sent; the chain is verified below, once the CA is known
	}, d.Site.ProxyURL)
	answer, err := get(ctx, transport, server.URL()+clusterInfoPath, maxKubeconfig)
	if err != nil {
		return nil, err
	}
	text, err := d.verifiedText(server, answer)
	if err != nil {
		return nil, err
	}
	cluster, err := parseClusterInfo(server, text, time.Now())
	if err != nil {
		return nil, err
	}
	cluster.Override(d.Site)
	if d.SkipPins {
		return cluster, nil
	}
	offered := cluster.CA
	if cluster.CA = offered.Pinned(d.Pins); cluster.CA.IsZero() {
		return nil, fault.New(fault.Untrusted, "if the CA was rotated, get the new hash ("+computePin+"); if not, something between this machine and the cluster is lying",
			"no CA certificate of %s has a pinned key: it offers %s", server, offered)
	}
	if err := verifyPeer(answer.chain, cluster.CA.Pool(), d.serverName(server)); err != nil {
		return nil, fault.New(fault.Untrusted, fault.Remedy(err), "%s does not hold a certificate of the pinned CA: %w%s", server, err, answer.skew())
	}
	return cluster, nil
}

func (d *ByToken) serverName(server Endpoint) string {
	if d.Site.TLSServerName != "" {
		return d.Site.TLSServerName
	}
	return server.host
}

// verifiedText returns the kubeconfig in the answer if it is signed with the token.
func (d *ByToken) verifiedText(server Endpoint, answer *answer) (string, error) {
	if err := d.checkStatus(server, answer); err != nil {
		return "", err
	}
	data, err := configMapData(server, answer.body)
	if err != nil {
		return "", err
	}
	text := data[api.KubeConfigKey]
	if text == "" {
		return "", fmt.Errorf("cluster-info of %s has no kubeconfig in it yet", server)
	}
	signature, signed := data[api.JWSSignatureKeyPrefix+d.Token.ID]
	if !signed {
		return "", d.unsigned(server, data)
	}
	d.unsignedSince = time.Time{}
	// The signature is made again and compared as a whole, header included, so that nothing in it is ever parsed: an
	// "alg" of the sender's choice has no say.
	want, err := jws.ComputeDetachedSignature(text, d.Token.ID, d.Token.Secret.Reveal())
	if err != nil {
		return "", errors.New("the signature of cluster-info cannot be computed") // the cause might name the secret
	}
	if subtle.ConstantTimeCompare([]byte(signature), []byte(want)) != 1 {
		return "", fault.New(fault.Untrusted, "check the token's second half; "+makeToken,
			"cluster-info of %s is not signed with the secret of the token %s: the secret is wrong, or the server is not the cluster's", server, d.Token.ID)
	}
	return text, nil
}

// configMapData returns the data of an answer that is a ConfigMap.
func configMapData(server Endpoint, body []byte) (map[string]string, error) {
	var configMap struct {
		Kind string
		Data map[string]string
	}
	if err := json.Unmarshal(body, &configMap); err != nil || configMap.Kind != "ConfigMap" {
		return nil, fmt.Errorf("%s answered something that is no ConfigMap: is it an API server?", server)
	}
	return configMap.Data, nil
}

// parseClusterInfo reads the kubeconfig in cluster-info, which came over the network.
func parseClusterInfo(server Endpoint, text string, now time.Time) (*Cluster, error) {
	cluster, _, err := parseKubeconfig([]byte(text), "", now)
	if err != nil {
		return nil, fault.New(fault.Untrusted, "mend it: kubectl --namespace kube-public edit configmap cluster-info", "cluster-info of %s cannot be used: %w", server, err)
	}
	return cluster, nil
}

// unsigned tells a token that is not there from one whose signature is still to come.
func (d *ByToken) unsigned(server Endpoint, data map[string]string) error {
	others := false
	for key := range data {
		others = others || strings.HasPrefix(key, api.JWSSignatureKeyPrefix)
	}
	if !others {
		d.unsignedSince = time.Time{}
		return fault.Passing(fault.Untrusted, makeAnyToken, "cluster-info of %s is not signed for the token %s, nor for any other: the cluster has no live bootstrap token for signing, or its controller manager does not run", server, d.Token.ID)
	}
	if d.unsignedSince.IsZero() {
		d.unsignedSince = time.Now()
	}
	if time.Since(d.unsignedSince) < signingGrace {
		return fmt.Errorf("cluster-info of %s is not signed for the token %s yet", server, d.Token.ID)
	}
	return fault.New(fault.Untrusted, makeToken, "%s does not know the bootstrap token %s: it expired, was deleted, or belongs to another cluster", server, d.Token.ID)
}

// checkStatus reads the HTTP status. What a cluster answers while it is being set up is no final failure.
func (d *ByToken) checkStatus(server Endpoint, answer *answer) error {
	if answer.status != http.StatusUnauthorized {
		d.refusals = 0
	}
	switch answer.status {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		// One 401 may be a balancer's; a server without anonymous authentication repeats it.
		if d.refusals++; d.refusals >= 3 {
			return fault.New(fault.Untrusted, "give the CA instead: --certificate-authority FILE or --discovery-file FILE",
				"%s does not let anonymous users read cluster-info (401): discovery by token needs anonymous authentication", server)
		}
	case http.StatusForbidden:
		return fmt.Errorf("%s forbids anonymous users to read kube-public/cluster-info (403): the role kubeadm:bootstrap-signer-clusterinfo is missing, or the cluster is still being set up", server)
	case http.StatusNotFound:
		return fmt.Errorf("%s has no ConfigMap kube-public/cluster-info (404): the cluster was not made by kubeadm, or is still being set up", server)
	}
	return answer.failure(server.String())
}

// answer is one HTTP response, read whole.
type answer struct {
	status int
	body   []byte
	date   time.Time           // the server's clock; zero if it did not tell
	chain  []*x509.Certificate // as presented; nobody vouches for it yet
}

func (a *answer) failure(who string) error {
	return fmt.Errorf("%s answered %d %s", who, a.status, http.StatusText(a.status))
}

// skew says how far this machine's clock is from the server's, if it is worth a word. The server is not verified at
// that point: it is a hint and nothing depends on it.
func (a *answer) skew() string {
	if a.date.IsZero() {
		return ""
	}
	ahead := time.Since(a.date).Round(time.Second)
	switch {
	case ahead > time.Minute:
		return fmt.Sprintf("; this machine's clock is %s ahead of the server's", ahead)
	case ahead < -time.Minute:
		return fmt.Sprintf("; this machine's clock is %s behind the server's", -ahead)
	}
	return ""
}

// get makes one request on a connection of its own and reads at most limit bytes. Redirects are not followed.
func get(ctx context.Context, transport *http.Transport, address string, limit int64) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	transport.DisableKeepAlives = true
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "nodejoin") // as the audit log is to show it
	resp, err := client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // it would repeat the URL
		}
		return nil, fmt.Errorf("cannot ask %s: %w", req.URL.Host, err)
	}
	defer func() { _ = resp.Body.Close() }() // read whole, or given up
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("the answer of %s broke off: %w", req.URL.Host, err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("the answer of %s is larger than %d bytes", req.URL.Host, limit)
	}
	a := &answer{status: resp.StatusCode, body: body}
	if resp.TLS != nil {
		a.chain = resp.TLS.PeerCertificates
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.date = date
	}
	return a, nil
}

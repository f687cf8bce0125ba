package csr

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cloudflare/cfssl/csr"
	"github.com/cloudflare/cfssl/log"
	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// MinLifetime is the shortest lifetime that the API accepts (validation of spec.expirationSeconds in
// k8s.io/kubernetes/pkg/apis/certificates/validation).
const MinLifetime = 10 * time.Minute

// Template says what is asked for.
type Template struct {
	SignerName   string
	CommonName   string
	Organization []string
	Usages       []certificates.KeyUsage // key encipherment is added for an RSA key, as the kubelet does
	Lifetime     time.Duration           // whole seconds, MinLifetime or more; 0 leaves it to the signer
}

func init() {
	// cfssl logs through a global, to standard error. Nothing that it says at these levels is news to a caller that
	// gets the error; it is silenced before any goroutine can use it.
	log.Level = log.LevelFatal
}

// KubeletClient returns the template of a kubelet's client certificate, which makes its holder the node of that name
// (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/).
func KubeletClient(nodeName string, lifetime time.Duration) Template {
	return Template{
		SignerName:   certificates.KubeAPIServerClientKubeletSignerName,
		CommonName:   "system:node:" + nodeName,
		Organization: []string{"system:nodes"},
		Usages:       []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth},
		Lifetime:     lifetime,
	}
}

// ParseNodeName returns the name in the form that the kubelet gives it: trimmed of white space around it and in lower
// case. It must be a DNS subdomain (RFC 1123), as the name of a Node object must.
func ParseNodeName(text string) (string, error) {
	name := strings.ToLower(strings.TrimSpace(text))
	if mistakes := validation.IsDNS1123Subdomain(name); len(mistakes) != 0 {
		remedy := "give another name with --node-name: lower-case letters, digits, '-' and '.', at most 253 characters"
		switch {
		case name == "":
			return "", fault.New(fault.Usage, remedy, "the node name is empty")
		case strings.HasPrefix(name, "system:"):
			return "", fault.New(fault.Usage, "give the bare name of the node, without system:node:", "the node name %q is a user name", clip(name))
		}
		return "", fault.New(fault.Usage, remedy, "the node name %q is not a valid DNS subdomain (RFC 1123)", clip(name))
	}
	return name, nil
}

func clip(text string) string {
	if len(text) > 80 {
		return text[:80] + "…"
	}
	return text
}

// ParseLifetime checks a lifetime that is to be asked for; 0 is none.
func ParseLifetime(d time.Duration) (time.Duration, error) {
	const most = time.Duration(1<<31-1) * time.Second // spec.expirationSeconds is an int32
	switch {
	case d == 0:
		return 0, nil
	case d < MinLifetime:
		return 0, fault.New(fault.Usage, "ask for 10m or more, or leave it out to get the cluster's own",
			"the lifetime %s is shorter than the API allows (%s)", d, MinLifetime)
	case d > most:
		return 0, fault.New(fault.Usage, "ask for less", "the lifetime %s is longer than the API allows (%s)", d, most)
	}
	return d.Truncate(time.Second), nil
}

// usages returns the usages for a key of the given kind.
func (t Template) usages(public crypto.PublicKey) []certificates.KeyUsage {
	if _, ok := public.(*rsa.PublicKey); !ok {
		return t.Usages
	}
	return append([]certificates.KeyUsage{certificates.UsageKeyEncipherment}, t.Usages...)
}

// name returns the name of the API object for the given key: "node-csr-" and a digest of the key and everything that
// is asked for, so that the same wish always finds the same object. The kubelet makes its names in the same way from
// fewer fields (digestedName in k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap); signer and lifetime are here too
// since a request cannot be changed once it is there.
func (t Template) name(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("cannot encode the public key: %w", err)
	}
	hash := sha512.New512_256()
	write := func(field string) { // the delimiter is not in the alphabet of base64: fields cannot run into each other
		_, _ = hash.Write([]byte(base64.RawURLEncoding.EncodeToString([]byte(field)) + "|")) // a hash takes everything
	}
	write(string(der))
	write(t.SignerName)
	write(t.CommonName)
	for _, o := range t.Organization {
		write("O=" + o)
	}
	for _, u := range t.usages(public) {
		write("usage=" + string(u))
	}
	write(strconv.FormatInt(int64(t.Lifetime/time.Second), 10))
	return "node-csr-" + base64.RawURLEncoding.EncodeToString(hash.Sum(nil)), nil
}

// pkcs10 returns the request of RFC 2986 in PEM, signed by key.
func (t Template) pkcs10(key crypto.Signer) ([]byte, error) {
	request := &csr.CertificateRequest{CN: t.CommonName}
	for _, o := range t.Organization {
		request.Names = append(request.Names, csr.Name{O: o})
	}
	data, err := csr.Generate(key, request)
	if err != nil {
		return nil, fmt.Errorf("cannot make the certificate request: %w", err)
	}
	return data, nil
}

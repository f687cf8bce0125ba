package csr

import (
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudflare/cfssl/csr"
	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// MinLifetime is the shortest lifetime that the API accepts (validation of spec.expirationSeconds in
// k8s.io/kubernetes/pkg/apis/certificates/validation).
const MinLifetime = 10 * time.Minute

// Template says what is asked for. The order of what is in its lists does not matter, nor whether something is there
// twice.
type Template struct {
	SignerName   string
	CommonName   string
	Organization []string
	// DNSNames, IPAddresses and URIs are the subject alternative names. There are none of another kind.
	DNSNames    []string
	IPAddresses []netip.Addr
	URIs        []string
	// Usages are what is asked for; for the kubelet's signers, key encipherment is added where the key is an RSA key,
	// as the kubelet does.
	Usages   []certificates.KeyUsage
	Lifetime time.Duration // whole seconds, MinLifetime or more; 0 leaves it to the signer
}

// KubeletClient returns the template of a kubelet's client certificate, which makes its holder the node of that name
// (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/).
func KubeletClient(nodeName string, lifetime time.Duration) Template {
	return Template{
		SignerName:   certificates.KubeAPIServerClientKubeletSignerName,
		CommonName:   NodeUser + nodeName,
		Organization: []string{NodesGroup},
		Usages:       []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageClientAuth},
		Lifetime:     lifetime,
	}
}

// KubeletServing returns the template of the certificate with which a kubelet answers those that connect to it. It must
// be asked for with the node's own credential, and a stock cluster has nobody who approves it. There must be at least
// one name or address; names are of any case. The template has been checked.
func KubeletServing(nodeName string, dnsNames []string, addresses []netip.Addr, lifetime time.Duration) (Template, error) {
	t := Template{
		SignerName:   certificates.KubeletServingSignerName,
		CommonName:   NodeUser + nodeName,
		Organization: []string{NodesGroup},
		DNSNames:     dnsNames,
		IPAddresses:  addresses,
		Usages:       []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
		Lifetime:     lifetime,
	}.canonical()
	return t, t.Check()
}

// canonical returns the template in the form in which the same wish always looks the same: every list sorted, without
// repetitions and the caller's own; DNS names in lower case; IPv4 addresses as such; whole seconds.
func (t Template) canonical() Template {
	sorted := func(list []string) []string {
		list = slices.Clone(list)
		slices.Sort(list)
		return slices.Compact(list)
	}
	lower := slices.Clone(t.DNSNames)
	for i, name := range lower {
		lower[i] = strings.ToLower(name)
	}
	addresses := slices.Clone(t.IPAddresses)
	for i, address := range addresses {
		addresses[i] = address.Unmap()
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	usages := slices.Clone(t.Usages)
	slices.SortFunc(usages, compareUsages)
	t.Organization, t.DNSNames, t.URIs = sorted(t.Organization), sorted(lower), sorted(t.URIs)
	t.IPAddresses, t.Usages = slices.Compact(addresses), slices.Compact(usages)
	t.Lifetime = t.Lifetime.Truncate(time.Second)
	return t
}

// compareUsages puts usages in the order that the kubelet gives its own: key encipherment, the other key usages,
// extended key usages.
func compareUsages(a, b certificates.KeyUsage) int {
	rank := func(usage certificates.KeyUsage) int {
		switch _, isKey := keyUsages[usage]; {
		case usage == certificates.UsageKeyEncipherment:
			return 0
		case isKey:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
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
	t = t.canonical()
	_, isRSA := public.(*rsa.PublicKey)
	ofKubelet := t.SignerName == certificates.KubeAPIServerClientKubeletSignerName || t.SignerName == certificates.KubeletServingSignerName
	if !isRSA || !ofKubelet || slices.Contains(t.Usages, certificates.UsageKeyEncipherment) {
		return t.Usages
	}
	return append([]certificates.KeyUsage{certificates.UsageKeyEncipherment}, t.Usages...)
}

// Beginnings of the names of API objects. The kubelet names the requests for its client certificate alike.
const (
	prefixKubelet = "node-csr-"
	prefixOther   = "nodejoin-"
)

// name returns the name of the API object for the given key: a prefix and a digest of the key and everything that is
// asked for, so that the same wish always finds the same object. The kubelet makes its names in the same way from
// fewer fields (digestedName in k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap); signer and lifetime are here too
// since a request cannot be changed once it is there.
//
// What the digest of a template without subject alternative names is made of does not change between versions: a
// request that waits while the program is replaced must be found again.
func (t Template) name(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("cannot encode the public key: %w", err)
	}
	t = t.canonical()
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
	for _, name := range t.names() {
		write(name)
	}
	prefix := prefixOther
	if t.SignerName == certificates.KubeAPIServerClientKubeletSignerName {
		prefix = prefixKubelet
	}
	return prefix + base64.RawURLEncoding.EncodeToString(hash.Sum(nil)), nil
}

// pkcs10 returns the request of RFC 2986 in PEM, signed by key.
func (t Template) pkcs10(key crypto.Signer) ([]byte, error) {
	extensions, err := t.extensions()
	if err != nil {
		return nil, err
	}
	request := &csr.CertificateRequest{CN: t.CommonName, Extensions: extensions}
	for _, o := range t.canonical().Organization {
		request.Names = append(request.Names, csr.Name{O: o})
	}
	data, err := csr.Generate(key, request)
	if err != nil {
		return nil, fmt.Errorf("cannot make the certificate request: %w", err)
	}
	return data, nil
}

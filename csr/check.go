package csr

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// How the API server knows a node (https://kubernetes.io/docs/reference/access-authn-authz/node/): NodeUser and its name as a user,
// in the group NodesGroup.
const (
	NodeUser   = "system:node:"
	NodesGroup = "system:nodes"
)

// keyUsages and extendedUsages are all usages that the API knows (KeyUsage in k8s.io/api/certificates/v1), and what the
// cluster's own signer makes of them (k8s.io/kubernetes/pkg/controller/certificates/authority).
var (
	keyUsages = map[certificates.KeyUsage]x509.KeyUsage{
		certificates.UsageSigning:           x509.KeyUsageDigitalSignature,
		certificates.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
		certificates.UsageContentCommitment: x509.KeyUsageContentCommitment,
		certificates.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
		certificates.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
		certificates.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
		certificates.UsageCertSign:          x509.KeyUsageCertSign,
		certificates.UsageCRLSign:           x509.KeyUsageCRLSign,
		certificates.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
		certificates.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
	}
	extendedUsages = map[certificates.KeyUsage]x509.ExtKeyUsage{
		certificates.UsageAny:             x509.ExtKeyUsageAny,
		certificates.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
		certificates.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
		certificates.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
		certificates.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
		certificates.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
		certificates.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
		certificates.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
		certificates.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
		certificates.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
		certificates.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
		certificates.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
		certificates.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
	}
)

// Mistake is one thing that is wrong with a template.
type Mistake struct {
	Field string // of the [Template]
	Item  int    // of that field's list, from 0; -1 for the field as a whole
	Text  string // one line, without a final period
}

// Check makes one error of all that is wrong with a template, see [Template.Mistakes].
func (t Template) Check() error {
	found := t.Mistakes()
	if len(found) == 0 {
		return nil
	}
	texts := make([]string, len(found))
	for i, mistake := range found {
		texts[i] = mistake.Text
	}
	return fault.New(fault.Usage, "change what the configuration says of this certificate", "such a certificate cannot be asked for: %s", strings.Join(texts, "; "))
}

// Mistakes says what is wrong with a template, all at once: what the API server would not accept, what the cluster's own
// signers would fail, and what [Gate] would refuse however it is signed. A template of a signer that is not
// Kubernetes' own is held against what every request must be; what else that signer wants, it alone knows.
//
// Of the subject, it refuses the group system:masters, which is above all authorization, from every signer (Kubernetes'
// own signer for clients refuses it, too: the admission plugin CertificateSubjectRestriction). Other names that begin
// with "system:" are the approver's to judge.
func (t Template) Mistakes() []Mistake {
	var m mistakes
	m.checkSubject(t)
	m.checkNames(t)
	m.checkUsages(t)
	m.checkSigner(t.canonical())
	if _, err := ParseLifetime(t.Lifetime); err != nil {
		m.add("Lifetime", "%w", err)
	}
	return m
}

// mistakes are those of a template.
type mistakes []Mistake

// add adds a mistake of a field as a whole.
func (m *mistakes) add(field, format string, args ...any) { m.addItem(field, -1, format, args...) }

func (m *mistakes) addItem(field string, item int, format string, args ...any) {
	*m = append(*m, Mistake{field, item, fmt.Errorf(format, args...).Error()})
}

func (m *mistakes) checkSubject(t Template) {
	if t.CommonName != "" && !isPlain(t.CommonName) {
		m.add("CommonName", "the common name %q is not plain text without white space around it", clip(t.CommonName))
	}
	if t.CommonName == "" && len(t.names()) == 0 {
		m.add("CommonName", "it has neither a common name nor a subject alternative name")
	}
	for i, o := range t.Organization {
		switch {
		case !isPlain(o):
			m.addItem("Organization", i, "the organization %q is not plain text without white space around it", clip(o))
		case o == "system:masters":
			m.addItem("Organization", i, "the organization %q is above all authorization", o)
		}
	}
}

// isPlain reports whether a text may be part of a subject: not empty, printable, without white space around it.
func isPlain(text string) bool {
	return text != "" && utf8.ValidString(text) && strings.TrimSpace(text) == text &&
		!strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (m *mistakes) checkNames(t Template) {
	for i, name := range t.DNSNames {
		if _, err := netip.ParseAddr(name); err == nil {
			m.addItem("DNSNames", i, "the DNS name %q is an IP address: it belongs with the IP addresses", name)
		} else if !isDNSName(strings.ToLower(name)) {
			m.addItem("DNSNames", i, "the DNS name %q is not valid (RFC 1123): it has letters, digits, '-' and '.' alone, and '*' for the first label at most", clip(name))
		}
	}
	for i, address := range t.IPAddresses {
		if address = address.Unmap(); !address.IsValid() || address.Zone() != "" || address.IsUnspecified() || address.IsMulticast() {
			m.addItem("IPAddresses", i, "the IP address %q is not that of one machine", address)
		}
	}
	for i, uri := range t.URIs {
		switch u, err := url.Parse(uri); {
		case err != nil: // which repeats all of it
			m.addItem("URIs", i, "this is not a URI")
		case u.User != nil:
			m.addItem("URIs", i, "the URI has user information in it, which everybody could read in the certificate")
		case !isURI(uri):
			m.addItem("URIs", i, "the URI %q is not absolute and in its normal form (RFC 3986), as in spiffe://example.com/metrics", clip(uri))
		}
	}
}

// isDNSName reports whether a name may be asked for as a DNS name: a domain, or a wildcard for one label before it.
func isDNSName(name string) bool {
	return len(name) <= validation.DNS1123SubdomainMaxLength && isDomain(strings.TrimPrefix(name, "*."))
}

// isDomain reports whether a text consists of labels of RFC 1123 in lower case.
func isDomain(text string) bool {
	if len(text) > validation.DNS1123SubdomainMaxLength {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if len(validation.IsDNS1123Label(label)) != 0 {
			return false
		}
	}
	return true
}

// isURI reports whether a text is a URI that comes through a signer as it is: crypto/x509 parses and writes it anew,
// and takes no host that is neither a DNS name nor an IP address.
func isURI(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.User != nil || u.String() != text || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	if u.Host == "" {
		return u.Opaque != "" || u.Path != ""
	}
	address, err := netip.ParseAddr(u.Hostname())
	return !strings.HasSuffix(u.Host, ":") && (err == nil && address.Zone() == "" || isDomain(strings.ToLower(u.Hostname())))
}

func (m *mistakes) checkUsages(t Template) {
	if len(t.Usages) == 0 {
		m.add("Usages", "it has no usages")
	}
	for i, usage := range t.Usages {
		_, isKey := keyUsages[usage]
		_, isExtended := extendedUsages[usage]
		switch {
		case usage == certificates.UsageCertSign, usage == certificates.UsageCRLSign:
			m.addItem("Usages", i, "the usage %q is a CA's", usage)
		case !isKey && !isExtended:
			m.addItem("Usages", i, "the usage %q is not known", clip(string(usage)))
		}
	}
}

// checkSigner holds a template against the rules of Kubernetes' own signers (isKubeletServing and its like in
// k8s.io/kubernetes/pkg/controller/certificates/signer), or the signer's name against the API's.
func (m *mistakes) checkSigner(t Template) {
	switch t.SignerName {
	case certificates.KubeAPIServerClientKubeletSignerName:
		m.checkNode(t, certificates.UsageClientAuth)
		if names := t.names(); len(names) != 0 {
			m.add("SignerName", "the signer %s takes no subject alternative names (%s)", t.SignerName, list(names))
		}
	case certificates.KubeletServingSignerName:
		m.checkNode(t, certificates.UsageServerAuth)
		if len(t.DNSNames)+len(t.IPAddresses) == 0 {
			m.add("DNSNames", "the signer %s wants a DNS name or an IP address", t.SignerName)
		}
		if len(t.URIs) != 0 {
			m.add("URIs", "the signer %s takes no URIs", t.SignerName)
		}
	case certificates.KubeAPIServerClientSignerName:
		if t.CommonName == "" {
			m.add("CommonName", "the signer %s makes users, and a user has a common name", t.SignerName)
		}
		allowed := []certificates.KeyUsage{certificates.UsageKeyEncipherment, certificates.UsageDigitalSignature, certificates.UsageClientAuth}
		if !slices.Contains(t.Usages, certificates.UsageClientAuth) || slices.ContainsFunc(t.Usages, func(u certificates.KeyUsage) bool { return !slices.Contains(allowed, u) }) {
			m.add("Usages", "the signer %s wants the usage %q, and takes %q and %q beside it", t.SignerName, allowed[2], allowed[1], allowed[0])
		}
	default:
		if host, _, _ := strings.Cut(t.SignerName, "/"); host == "kubernetes.io" {
			m.add("SignerName", "the signer %q is none of Kubernetes' own", clip(t.SignerName))
		} else if !isSignerName(t.SignerName) {
			m.add("SignerName", "the signer name %q is not of the form example.com/name", clip(t.SignerName))
		}
	}
}

// checkNode checks what the kubelet's two signers want alike (ValidateKubeletServingCSR and ValidateKubeletClientCSR in
// k8s.io/kubernetes/pkg/apis/certificates).
func (m *mistakes) checkNode(t Template, extended certificates.KeyUsage) {
	node, isNode := strings.CutPrefix(t.CommonName, NodeUser)
	if !isNode || len(validation.IsDNS1123Subdomain(node)) != 0 {
		m.add("CommonName", "the signer %s wants a common name of the form %sNAME", t.SignerName, NodeUser)
	}
	if !slices.Equal(t.Organization, []string{NodesGroup}) {
		m.add("Organization", "the signer %s wants the organization %s", t.SignerName, NodesGroup)
	}
	without := slices.DeleteFunc(slices.Clone(t.Usages), func(u certificates.KeyUsage) bool { return u == certificates.UsageKeyEncipherment })
	if want := []certificates.KeyUsage{certificates.UsageDigitalSignature, extended}; !slices.Equal(without, want) {
		m.add("Usages", "the signer %s wants the usages %q and %q", t.SignerName, want[0], want[1])
	}
}

// isSignerName is ValidateSignerName of k8s.io/kubernetes/pkg/apis/core/validation.
func isSignerName(name string) bool {
	const longest = validation.DNS1123SubdomainMaxLength + 1 + validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 1
	domain, path, found := strings.Cut(name, "/")
	if !found || len(name) > longest || !strings.Contains(domain, ".") || !isDomain(domain) {
		return false
	}
	for label := range strings.SplitSeq(path, ".") {
		if len(validation.IsDNS1123Subdomain(label)) != 0 {
			return false
		}
	}
	return true
}

// ofKubernetes reports whether a signer is one that Kubernetes keeps for itself (IsKubernetesSignerName in
// k8s.io/kubernetes/pkg/apis/core/validation): those do as they are asked, or not at all.
func ofKubernetes(signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")
}

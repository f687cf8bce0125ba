package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

// usages are the values of KeyUsage in k8s.io/api/certificates/v1.
var usages = map[certificates.KeyUsage]bool{
	certificates.UsageSigning: true, certificates.UsageDigitalSignature: true, certificates.UsageContentCommitment: true,
	certificates.UsageKeyEncipherment: true, certificates.UsageKeyAgreement: true, certificates.UsageDataEncipherment: true,
	certificates.UsageCertSign: true, certificates.UsageCRLSign: true, certificates.UsageEncipherOnly: true,
	certificates.UsageDecipherOnly: true, certificates.UsageAny: true, certificates.UsageServerAuth: true,
	certificates.UsageClientAuth: true, certificates.UsageCodeSigning: true, certificates.UsageEmailProtection: true,
	certificates.UsageSMIME: true, certificates.UsageIPsecEndSystem: true, certificates.UsageIPsecTunnel: true,
	certificates.UsageIPsecUser: true, certificates.UsageTimestamping: true, certificates.UsageOCSPSigning: true,
	certificates.UsageMicrosoftSGC: true, certificates.UsageNetscapeSGC: true,
}

// reservedNames are those that a certificate cannot have, with the reason.
var reservedNames = map[string]string{
	OnCA:          "under hooks it is the CA bundle",
	OnKubeconfig:  "under hooks it is the kubeconfig",
	kubeletServer: "the files of " + KubeletServing + " are called so",
}

func (f *File) checkCertificates(r *report) {
	names := map[string]string{}
	for i, c := range f.Certificates {
		path := item("certificates", i)
		if why := reservedNames[c.Name]; why != "" {
			r.add(join(path, "name"), "%s is taken: %s", quote(c.Name), why)
		} else {
			r.name(join(path, "name"), c.Name, names)
		}
		c.check(r, path)
		switch {
		case c.BuiltIn():
			c.checkBuiltIn(r, path)
		case c.Name != "":
			c.checkOwn(r, path)
		}
	}
}

// check is for what every certificate may say.
func (c *Certificate) check(r *report, path string) {
	at := func(key string) string { return join(path, key) }
	if c.SignerName != "" {
		r.check(at("signerName"), checkSignerName(c.SignerName))
	}
	if c.CommonName != "" {
		r.check(at("commonName"), checkText(c.CommonName))
	}
	r.list(at("organizations"), c.Organizations, checkText)
	r.list(at("dnsNames"), c.DNSNames, checkDNSName)
	r.list(at("ipAddresses"), c.IPAddresses, checkIPAddress)
	r.list(at("uris"), c.URIs, checkURI)
	r.list(at("usages"), c.Usages, func(usage string) error {
		if !usages[certificates.KeyUsage(usage)] {
			return fmt.Errorf("%s is no usage that the API knows", quote(usage))
		}
		return nil
	})
	if _, err := csr.ParseLifetime(time.Duration(c.Lifetime)); err != nil {
		r.add(at("lifetime"), "%s: %s", err, fault.Remedy(err))
	}
	if c.KeyAlgorithm != "" {
		if _, err := csr.ParseAlgorithm(c.KeyAlgorithm); err != nil {
			r.add(at("keyAlgorithm"), "%s is not one of %s", quote(c.KeyAlgorithm), strings.Join(csr.Algorithms(), ", "))
		}
	}
	r.path(at("directory"), c.Directory)
	r.path(at("certificateFile"), c.CertificateFile)
	r.path(at("privateKeyFile"), c.PrivateKeyFile)
	r.account(at("owner"), c.Owner)
	r.account(at("group"), c.Group)
	if c.Mode != "" {
		r.check(at("mode"), checkMode(c.Mode))
	}
}

// checkBuiltIn refuses what the template of a built-in certificate says.
func (c *Certificate) checkBuiltIn(r *report, path string) {
	client := c.Name == KubeletClient
	for _, field := range []struct {
		key   string
		given bool
	}{
		{"signerName", c.SignerName != ""},
		{"commonName", c.CommonName != ""},
		{"organizations", len(c.Organizations) != 0},
		{"dnsNames", client && len(c.DNSNames) != 0},
		{"ipAddresses", client && len(c.IPAddresses) != 0},
		{"uris", len(c.URIs) != 0},
		{"machineNames", client && c.MachineNames},
		{"usages", len(c.Usages) != 0},
		{"directory", c.Directory != ""},
	} {
		if field.given {
			r.add(join(path, field.key), "%s is built in and has no %s of its own: leave it out", c.Name, field.key)
		}
	}
}

// checkOwn wants what a certificate with no template cannot do without.
func (c *Certificate) checkOwn(r *report, path string) {
	if c.SignerName == "" {
		r.add(join(path, "signerName"), "is missing: a certificate other than %s and %s needs a signer", KubeletClient, KubeletServing)
	}
	if c.Directory == "" {
		r.add(join(path, "directory"), "is missing: a certificate other than %s and %s needs a directory", KubeletClient, KubeletServing)
	}
	named := c.CommonName != "" || c.MachineNames || len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs) != 0
	for _, key := range []string{"dnsNames", "ipAddresses", "uris", "machineNames"} { // one that is wrong is there
		named = named || r.isBad(join(path, key))
	}
	if !named {
		r.add(join(path, "commonName"), "is missing: a certificate needs a commonName, dnsNames, ipAddresses, uris or machineNames")
	}
}

// link returns the path of the link to the newest pair, or "" where it is not known.
func (c *Certificate) link(certDir string) string {
	name, dir := c.Name, c.Directory
	if c.BuiltIn() {
		dir = certDir
	}
	if name == KubeletServing {
		name = kubeletServer
	}
	if name == "" || dir == "" {
		return ""
	}
	return filepath.Join(dir, name+"-current.pem")
}

// checkSignerName follows ValidateSignerName in k8s.io/kubernetes/pkg/apis/core/validation.
func checkSignerName(name string) error {
	domain, path, _ := strings.Cut(name, "/")
	valid := strings.Contains(domain, ".") && len(name) <= 2*validation.DNS1123SubdomainMaxLength+validation.DNS1123LabelMaxLength+2 &&
		len(validation.IsDNS1123Subdomain(domain)) == 0
	for label := range strings.SplitSeq(domain, ".") {
		valid = valid && len(validation.IsDNS1123Label(label)) == 0
	}
	for label := range strings.SplitSeq(path, ".") {
		valid = valid && len(validation.IsDNS1123Subdomain(label)) == 0
	}
	switch {
	case !valid:
		return fmt.Errorf("%s is not a signer's name: write it as in example.com/serving", quote(name))
	case name == "kubernetes.io/legacy-unknown":
		return fmt.Errorf("the API does not take requests for %s any more", name)
	}
	return nil
}

func checkText(text string) error {
	switch {
	case strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s has control characters in it", quote(text))
	case strings.TrimSpace(text) != text:
		return fmt.Errorf("%s has white space around it", quote(text))
	}
	return nil
}

func checkDNSName(name string) error {
	if checkIPAddress(name) == nil {
		return fmt.Errorf("%s is an IP address: it belongs under ipAddresses", quote(name))
	}
	if len(validation.IsDNS1123Subdomain(name)) != 0 && len(validation.IsWildcardDNS1123Subdomain(name)) != 0 {
		return fmt.Errorf("%s is not a DNS name of lower-case letters, digits, '-' and '.'", quote(name))
	}
	return nil
}

func checkIPAddress(text string) error {
	if addr, err := netip.ParseAddr(text); err != nil || addr.Zone() != "" {
		return fmt.Errorf("%s is not an IP address", quote(text))
	}
	return nil
}

func checkURI(text string) error {
	uri, err := url.Parse(text)
	switch {
	case err != nil || !plainText(text) || strings.Contains(text, " "):
		return errors.New("this is not a URI") // url.Error repeats the text
	case uri.User != nil:
		return errors.New("the URI has user information in it, which everybody could read in the certificate")
	case !uri.IsAbs() || uri.Host == "" && uri.Opaque == "" && uri.Path == "":
		return fmt.Errorf("%s is not an absolute URI: write it as in spiffe://example.com/metrics", quote(text))
	}
	return nil
}

var accountName = regexp.MustCompile(`^[\pL\pN_][\pL\pN\pM_.@\\+ -]*\$?$`)

// account checks the name or number of a user or group. Whether there is one is a matter of the machine.
func (r *report) account(path, name string) {
	const remedy = "write a name, or a number in quotes"
	if strings.Trim(name, "0123456789") == "" && name != "" {
		// The largest number is that which chown(2) takes for "leave it as it is".
		if id, err := strconv.ParseUint(name, 10, 32); err != nil || id == 1<<32-1 {
			r.add(path, "%s is out of range: %s", quote(name), remedy)
		}
		return
	}
	if name != "" && (len(name) > 256 || !accountName.MatchString(name) || strings.TrimSpace(name) != name) {
		r.add(path, "%s is no name: %s", quote(name), remedy)
	}
}

var octalMode = regexp.MustCompile(`^0?[0-7]{3}$`)

func checkMode(text string) error {
	if !octalMode.MatchString(text) {
		return fmt.Errorf("%s is not an octal mode: write it as in \"0640\"", quote(text))
	}
	mode, err := strconv.ParseUint(text, 8, 32)
	switch {
	case err != nil:
		return err
	case mode&0o022 != 0:
		return fmt.Errorf("%s lets others write", quote(text))
	case mode&0o004 != 0:
		return fmt.Errorf("%s lets everybody read the private key", quote(text))
	case mode&0o111 != 0:
		return fmt.Errorf("%s lets the file be executed", quote(text))
	case mode&0o400 == 0:
		return fmt.Errorf("%s does not let the owner read", quote(text))
	}
	return nil
}

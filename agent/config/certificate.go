package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

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
		c.checkTemplate(r, path)
	}
}

// check is for what every certificate may say.
func (c *Certificate) check(r *report, path string) {
	at := func(key string) string { return join(path, key) }
	anything := func(string) error { return nil } // but what checkTemplate refuses
	r.list(at("organizations"), c.Organizations, anything)
	r.list(at("dnsNames"), c.DNSNames, anything)
	r.list(at("ipAddresses"), c.IPAddresses, checkIPAddress)
	r.list(at("uris"), c.URIs, anything)
	r.list(at("usages"), c.Usages, anything)
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
	if c.CommonName == "" && len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs) == 0 && !c.mayHaveNames(r, path) {
		r.add(join(path, "commonName"), "is missing: a certificate needs a commonName, dnsNames, ipAddresses, uris or machineNames")
	}
}

// mayHaveNames reports whether the certificate has names that are not known here: the machine's, or some that are wrong.
func (c *Certificate) mayHaveNames(r *report, path string) bool {
	return c.MachineNames || slices.ContainsFunc([]string{"dnsNames", "ipAddresses", "uris", "machineNames"}, func(key string) bool { return r.isBad(join(path, key)) })
}

// keysOf are the keys that the fields of a template come from.
var keysOf = map[string]string{
	"SignerName": "signerName", "CommonName": "commonName", "Organization": "organizations", "DNSNames": "dnsNames",
	"IPAddresses": "ipAddresses", "URIs": "uris", "Usages": "usages", "Lifetime": "lifetime",
}

// checkTemplate refuses what could not be asked for, whatever the machine. Of a certificate without a name it is not
// known whether it has a template of its own.
func (c *Certificate) checkTemplate(r *report, path string) {
	complete := *c
	complete.fill()
	t := complete.Template()
	switch {
	case c.Name == KubeletClient:
		return // nothing of its template is said here
	case c.Name == KubeletServing:
		serving, _ := csr.KubeletServing("this-machine", nil, nil, 0) // checked below, with its names
		serving.DNSNames, serving.IPAddresses = append(t.DNSNames, "this-machine"), t.IPAddresses
		t = serving
	case c.mayHaveNames(r, path):
		t.DNSNames = append(t.DNSNames, "this-machine")
	}
	for _, m := range t.Mistakes() {
		at := join(path, keysOf[m.Field])
		switch {
		case m.Item >= 0:
			r.add(item(at, m.Item), "%s", m.Text)
		case c.Name != "":
			r.add(at, "%s", m.Text)
		}
	}
}

// Template returns what is asked for. Of a built-in certificate it has the names and the lifetime alone, since the rest
// follows from the node.
func (c *Certificate) Template() csr.Template {
	t := csr.Template{
		SignerName: c.SignerName, CommonName: c.CommonName, Organization: c.Organizations,
		DNSNames: slices.Clone(c.DNSNames), URIs: c.URIs, Lifetime: time.Duration(c.Lifetime),
	}
	for _, text := range c.IPAddresses {
		address, _ := netip.ParseAddr(text) // else none, which a template may not have
		t.IPAddresses = append(t.IPAddresses, address)
	}
	for _, usage := range c.Usages {
		t.Usages = append(t.Usages, certificates.KeyUsage(usage))
	}
	return t
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

func checkIPAddress(text string) error {
	if _, err := netip.ParseAddr(text); err != nil {
		return fmt.Errorf("%s is not an IP address", quote(text))
	}
	return nil
}

// accountName is compiled at its first use, since its classes of letters take a millisecond.
var accountName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[\pL\pN_][\pL\pN\pM_.@\\+ -]*\$?$`)
})

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
	if name != "" && (len(name) > 256 || !accountName().MatchString(name) || strings.TrimSpace(name) != name) {
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

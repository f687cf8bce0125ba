package csr

import (
	"cmp"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Kinds of subject alternative names: the tags of GeneralName in RFC 5280, 4.2.1.6. No other kind can be asked for.
const (
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
	tagIP    = 7
)

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// names returns the subject alternative names that the template asks for, each as its kind and its value
// ("DNS:example.com", "IP:192.0.2.1", "URI:spiffe://example.com/a"), sorted.
func (t Template) names() []string {
	t = t.canonical()
	var all []string
	for _, name := range t.DNSNames {
		all = append(all, "DNS:"+name)
	}
	for _, address := range t.IPAddresses {
		all = append(all, "IP:"+address.String())
	}
	for _, uri := range t.URIs {
		all = append(all, "URI:"+uri)
	}
	slices.Sort(all)
	return all
}

// extensions returns what the template asks for beside its subject: nothing, or the extension with its subject
// alternative names. It is encoded here, and not left to cfssl's Hosts, which guesses each name's kind from its looks:
// "/x" would become a URI and "a@b" an e-mail address.
func (t Template) extensions() ([]pkix.Extension, error) {
	t = t.canonical()
	var values []asn1.RawValue
	add := func(tag int, value []byte) {
		values = append(values, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value})
	}
	for _, name := range t.DNSNames {
		add(tagDNS, []byte(name))
	}
	for _, address := range t.IPAddresses {
		add(tagIP, address.AsSlice())
	}
	for _, uri := range t.URIs {
		add(tagURI, []byte(uri))
	}
	if len(values) == 0 {
		return nil, nil
	}
	der, err := asn1.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the subject alternative names: %w", err)
	}
	empty := t.CommonName == "" && len(t.Organization) == 0
	return []pkix.Extension{{Id: subjectAltName, Critical: empty, Value: der}}, nil
}

// namesOf returns the subject alternative names among the extensions of a certificate or a request, in the form that
// Template.names has. It reads them itself, since crypto/x509 knows four kinds and passes over the others.
func namesOf(extensions []pkix.Extension) ([]string, error) {
	var all []string
	for _, extension := range extensions {
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		var values []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &values); err != nil || len(rest) != 0 || len(values) == 0 {
			return nil, errors.New("its subject alternative names cannot be read")
		}
		for _, value := range values {
			all = append(all, nameOf(value))
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// nameOf returns one name. What is of another kind than those above, or not of the form that its kind asks for, gets a
// form that no template has.
func nameOf(value asn1.RawValue) string {
	if value.Class == asn1.ClassContextSpecific && !value.IsCompound {
		switch value.Tag {
		case tagDNS:
			return "DNS:" + strings.ToLower(string(value.Bytes)) // case does not matter (RFC 4343)
		case tagURI:
			return "URI:" + string(value.Bytes)
		case tagIP:
			if address, ok := netip.AddrFromSlice(value.Bytes); ok {
				return "IP:" + address.Unmap().String()
			}
		case tagEmail:
			return "email:" + string(value.Bytes)
		}
	}
	return fmt.Sprintf("another kind (%d): %x", value.Tag, value.Bytes)
}

// compareNames holds the names that a certificate or a request has against those that were asked for. Their order does
// not matter.
func compareNames(found, want []string) error {
	extra, missing := without(found, want), without(want, found)
	switch {
	case len(extra) != 0 && len(missing) != 0:
		return fmt.Errorf("it has subject alternative names for which nobody asked (%s), and lacks some (%s)", list(extra), list(missing))
	case len(extra) != 0:
		return fmt.Errorf("it has subject alternative names for which nobody asked: %s", list(extra))
	case len(missing) != 0:
		return fmt.Errorf("it lacks subject alternative names that were asked for: %s", list(missing))
	}
	return nil
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(name string) bool { return slices.Contains(b, name) })
}

// list returns names as a person reads them, not too many, on one line.
func list(names []string) string {
	const most = 5
	var text strings.Builder
	for i, name := range names {
		if i == most {
			_, _ = fmt.Fprintf(&text, " and %d more", len(names)-most) // a strings.Builder takes everything
			break
		}
		if i > 0 {
			text.WriteString(", ")
		}
		_, _ = fmt.Fprintf(&text, "%q", clip(name))
	}
	return cmp.Or(text.String(), "none")
}

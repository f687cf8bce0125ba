package rotate

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWhyReplace: a row for each reason, and for what is just none.
func TestWhyReplace(t *testing.T) {
	pair := pairNo(t, 0) // from an hour before testTime to an hour after
	from, to := pair.Leaf.NotBefore, pair.Leaf.NotAfter
	wanted := func(change func(*Wanted)) Wanted {
		want := wantedNode
		change(&want)
		return want
	}
	for _, test := range []struct {
		name    string
		found   Found
		want    Wanted
		now     time.Time
		reason  Reason
		message string
	}{
		{"in order", Found{Pair: pair}, wantedNode, testTime, "", ""},
		{"nothing there", Found{}, wantedNode, testTime, Missing, "this machine has no certificate yet"},
		{"nothing but an older one", Found{Spare: pair}, wantedNode, testTime, Missing, "this machine has no certificate yet"},
		{"torn", Found{PairErr: errors.New("torn")}, wantedNode, testTime, Unreadable, "the certificate on disk cannot be used: torn"},
		{"of another node", Found{Pair: pair}, wanted(func(w *Wanted) { w.CommonName = "system:node:node-2" }), testTime, Foreign, `is of "system:node:node-1" in ["system:nodes"] instead of "system:node:node-2" in ["system:nodes"]`},
		{"of a node in capitals", Found{Pair: pair}, wanted(func(w *Wanted) { w.CommonName = "system:node:Node-1" }), testTime, Foreign, `instead of "system:node:Node-1"`},
		{"of another group", Found{Pair: pair}, wanted(func(w *Wanted) { w.Organization = []string{"system:masters"} }), testTime, Foreign, `instead of "system:node:node-1" in ["system:masters"]`},
		{"of one group of two", Found{Pair: pair}, wanted(func(w *Wanted) { w.Organization = []string{"system:nodes", "x"} }), testTime, Foreign, `in ["system:nodes" "x"]`},
		{"of a group where none is wanted", Found{Pair: pair}, wanted(func(w *Wanted) { w.Organization = nil }), testTime, Foreign, "in []"},
		{"not valid for a second", Found{Pair: pair}, wantedNode, from.Add(-time.Second), NotYetValid, "the certificate becomes valid at 2026-03-14T14:09:26Z"},
		{"not valid since 1970", Found{Pair: pair}, wantedNode, time.Unix(0, 0), NotYetValid, "the certificate becomes valid at 2026-03-14T14:09:26Z"},
		{"at its first instant", Found{Pair: pair}, wantedNode, from, "", ""},
		{"at its last second", Found{Pair: pair}, wantedNode, to.Add(-1), "", ""},
		{"expired this instant", Found{Pair: pair}, wantedNode, to, Expired, "the certificate expired at 2026-03-14T16:09:26Z"},
		{"expired for years", Found{Pair: pair}, wantedNode, to.AddDate(2, 0, 0), Expired, "the certificate expired at 2026-03-14T16:09:26Z"},
		{"by the time of another zone", Found{Pair: pair}, wantedNode, to.In(time.FixedZone("east", 3600)), Expired, "the certificate expired at 2026-03-14T16:09:26Z"},
		{"a name too few", Found{Pair: pair}, wanted(func(w *Wanted) { w.DNSNames = []string{"node-1"} }), testTime, Changed, "the certificate on disk is for no name and should be for node-1"},
		{"due this instant", Found{Pair: pair}, wanted(func(w *Wanted) { w.RotateAt = testTime }), testTime, Due, "the certificate was to be rotated at 2026-03-14T15:09:26Z"},
		{"due for a while", Found{Pair: pair}, wanted(func(w *Wanted) { w.RotateAt = testTime.Add(-time.Minute) }), testTime, Due, "the certificate was to be rotated at 2026-03-14T15:08:26Z"},
		{"due in an instant", Found{Pair: pair}, wanted(func(w *Wanted) { w.RotateAt = testTime.Add(1) }), testTime, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			reason, message := WhyReplace(&test.found, test.want, test.now)
			if reason != test.reason || !strings.Contains(message, test.message) || (reason == "") != (message == "") {
				t.Errorf("got %q: %s; want %q: %s", reason, message, test.reason, test.message)
			}
		})
	}
}

// TestWhyReplaceOrder: with everything wrong, mending one thing after the other gives the reasons in their order.
func TestWhyReplaceOrder(t *testing.T) {
	before, after := testTime.Add(-2*time.Hour), testTime.Add(2*time.Hour)
	found := &Found{}
	want := Wanted{CommonName: "system:node:node-2", DNSNames: []string{"node-2"}, RotateAt: before}
	now := before
	for _, step := range []struct {
		reason Reason
		mend   func()
	}{
		{Missing, func() { found.PairErr = errors.New("torn") }},
		{Unreadable, func() { found.Pair = pairNo(t, 0) }}, // that there was an error does not count
		{Foreign, func() { want.CommonName, want.Organization = wantedNode.CommonName, wantedNode.Organization }},
		{NotYetValid, func() { now = after }},
		{Expired, func() { now = testTime }},
		{Changed, func() { want.DNSNames = nil }},
		{Due, func() { want.RotateAt = time.Time{} }},
		{"", func() {}},
	} {
		if got, message := WhyReplace(found, want, now); got != step.reason {
			t.Fatalf("got %q: %s; want %q", got, message, step.reason)
		}
		step.mend()
	}
}

// TestWhyReplaceNames: names are compared as sets, and each in the form in which it means something.
func TestWhyReplaceNames(t *testing.T) {
	addresses := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	pair := makePair(t, func(c *x509.Certificate) {
		c.DNSNames = []string{"node-1", "Node-1.Example.COM"}
		c.IPAddresses = []net.IP{net.ParseIP("10.0.0.7"), net.ParseIP("fe80::1")}
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/node/1"}}
	})
	is := Wanted{
		CommonName: wantedNode.CommonName, Organization: wantedNode.Organization,
		DNSNames: []string{"node-1", "node-1.example.com"}, IPAddresses: addresses("10.0.0.7", "fe80::1"), URIs: []string{"spiffe://example.com/node/1"},
	}
	const changed = true
	for _, test := range []struct {
		name    string
		change  func(*Wanted)
		changed bool
	}{
		{"the same", func(*Wanted) {}, !changed},
		{"capitals", func(w *Wanted) { w.DNSNames = []string{"NODE-1", "node-1.EXAMPLE.com"} }, !changed},
		{"another order", func(w *Wanted) {
			w.DNSNames, w.IPAddresses = []string{"node-1.example.com", "node-1"}, addresses("fe80::1", "10.0.0.7")
		}, !changed},
		{"twice", func(w *Wanted) {
			w.DNSNames, w.IPAddresses = append(w.DNSNames, "node-1", "Node-1"), append(w.IPAddresses, w.IPAddresses...)
		}, !changed},
		{"with a zone", func(w *Wanted) { w.IPAddresses = addresses("10.0.0.7", "fe80::1%eth0") }, !changed},
		{"with two zones", func(w *Wanted) { w.IPAddresses = addresses("10.0.0.7", "fe80::1%eth0", "fe80::1%eth1") }, !changed},
		{"IPv4 in IPv6", func(w *Wanted) { w.IPAddresses = addresses("::ffff:10.0.0.7", "fe80::1") }, !changed},
		{"an URI in another form", func(w *Wanted) { w.URIs = []string{"SPIFFE://example.com/node/1"} }, !changed},
		{"another name", func(w *Wanted) { w.DNSNames = []string{"node-1", "node-2.example.com"} }, changed},
		{"a name less", func(w *Wanted) { w.DNSNames = w.DNSNames[:1] }, changed},
		{"a name more", func(w *Wanted) { w.DNSNames = append(w.DNSNames, "node-2") }, changed},
		{"no name", func(w *Wanted) { w.DNSNames = nil }, changed},
		{"one of two twice", func(w *Wanted) { w.DNSNames = []string{"node-1", "node-1"} }, changed},
		{"another address", func(w *Wanted) { w.IPAddresses = addresses("10.0.0.8", "fe80::1") }, changed},
		{"an address less", func(w *Wanted) { w.IPAddresses = w.IPAddresses[:1] }, changed},
		{"an address more", func(w *Wanted) { w.IPAddresses = append(w.IPAddresses, netip.MustParseAddr("::1")) }, changed},
		{"an address as a name", func(w *Wanted) { w.DNSNames, w.IPAddresses = append(w.DNSNames, "10.0.0.7"), w.IPAddresses[1:] }, changed},
		{"another URI", func(w *Wanted) { w.URIs = []string{"spiffe://example.com/node/2"} }, changed},
		{"an URI in capitals where it counts", func(w *Wanted) { w.URIs = []string{"spiffe://example.com/Node/1"} }, changed},
		{"no URI", func(w *Wanted) { w.URIs = nil }, changed},
		{"an URI more, and not well formed", func(w *Wanted) { w.URIs = append(w.URIs, "::") }, changed},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := is
			want.DNSNames, want.IPAddresses, want.URIs = append([]string{}, is.DNSNames...), append([]netip.Addr{}, is.IPAddresses...), append([]string{}, is.URIs...)
			test.change(&want)
			reason, message := WhyReplace(&Found{Pair: pair}, want, testTime)
			if (reason == Changed) != test.changed || reason != Changed && reason != "" {
				t.Errorf("got %q: %s", reason, message)
			}
		})
	}
	_, message := WhyReplace(&Found{Pair: pair}, Wanted{CommonName: is.CommonName, Organization: is.Organization}, testTime)
	if want := "the certificate on disk is for node-1, Node-1.Example.COM, 10.0.0.7, fe80::1, spiffe://example.com/node/1 and should be for no name"; message != want {
		t.Errorf("got %q, want %q", message, want)
	}
}

// TestWhyReplaceLongIPv4: an IPv4 address is the same in a certificate that has it in sixteen bytes.
func TestWhyReplaceLongIPv4(t *testing.T) {
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: net.ParseIP("10.0.0.7").To16()}})
	if err != nil {
		t.Fatal(err)
	}
	pair := makePair(t, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}
	})
	if n := len(pair.Leaf.IPAddresses); n != 1 || len(pair.Leaf.IPAddresses[0]) != 16 {
		t.Fatalf("the certificate has %v", pair.Leaf.IPAddresses)
	}
	want := wantedNode
	want.IPAddresses = []netip.Addr{netip.MustParseAddr("10.0.0.7")}
	if reason, message := WhyReplace(&Found{Pair: pair}, want, testTime); reason != "" {
		t.Errorf("got %q: %s", reason, message)
	}
}

// TestWhyReplaceGroups: the groups of a subject are a set, too.
func TestWhyReplaceGroups(t *testing.T) {
	pair := makePair(t, func(c *x509.Certificate) { c.Subject.Organization = []string{"b", "a"} })
	for _, test := range []struct {
		groups []string
		reason Reason
	}{
		{[]string{"a", "b"}, ""},
		{[]string{"b", "a", "b"}, ""},
		{[]string{"a"}, Foreign},
		{[]string{"a", "b", "c"}, Foreign},
		{[]string{"a", "B"}, Foreign},
	} {
		want, before := Wanted{CommonName: wantedNode.CommonName, Organization: test.groups}, slices.Clone(test.groups)
		if reason, message := WhyReplace(&Found{Pair: pair}, want, testTime); reason != test.reason {
			t.Errorf("%q: got %q: %s", test.groups, reason, message)
		}
		if !slices.Equal(test.groups, before) {
			t.Errorf("what is wanted was %q and is %q", before, test.groups)
		}
	}
}

// TestUsable: all reasons but two say that the certificate cannot be used until it is replaced.
func TestUsable(t *testing.T) {
	for reason, want := range map[Reason]bool{
		"": true, Due: true, Changed: true,
		Missing: false, Unreadable: false, Foreign: false, NotYetValid: false, Expired: false, "Other": false,
	} {
		if got := reason.Usable(); got != want {
			t.Errorf("%q: %t", reason, got)
		}
	}
}

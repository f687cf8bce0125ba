package agent

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// bend signs a request as the cluster does, but for what is changed in the certificate, with its key, by a CA.
func (c *fakeCluster) bend(ca *authority, change func(template *x509.Certificate, key crypto.PublicKey) crypto.PublicKey) func(*certificates.CertificateSigningRequest) {
	return func(o *certificates.CertificateSigningRequest) {
		c.sign(o)
		block, _ := pem.Decode(o.Status.Certificate)
		template, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			c.tb.Error(err)
			return
		}
		template.RawSubject, template.AuthorityKeyId = nil, nil
		key := change(template, template.PublicKey)
		o.Status.Certificate = certPEM(ca.sign(c.tb, template, key))
	}
}

// TestNotTheCertificate has the signer issue what was not asked for: it is never written, the certificate that works stays, and
// what is asked again is bounded, until the signer is mended.
func TestNotTheCertificate(t *testing.T) {
	type template = x509.Certificate
	same := func(change func(*template)) func(*template, crypto.PublicKey) crypto.PublicKey {
		return func(cert *template, key crypto.PublicKey) crypto.PublicKey { change(cert); return key }
	}
	impostor := newAuthority(t, "kubernetes")
	impostor.cert.SubjectKeyId = nil // which would tell the two apart
	other := newKey(t).Public()
	for _, test := range []struct {
		name   string
		ca     *authority // nil for the cluster's
		change func(*template, crypto.PublicKey) crypto.PublicKey
		says   string
	}{
		{"for another key", nil, func(*template, crypto.PublicKey) crypto.PublicKey { return other }, "it is for another key"},
		{"of another node", nil, same(func(c *template) { c.Subject.CommonName = "system:node:node-2" }), `its common name is "system:node:node-2"`},
		{"of system:masters", nil, same(func(c *template) { c.Subject.Organization = []string{"system:masters"} }), "system:masters"},
		{"of system:masters, too", nil, same(func(c *template) { c.Subject.Organization = append(c.Subject.Organization, "system:masters") }), "system:masters"},
		{"not for clients", nil, same(func(c *template) { c.ExtKeyUsage = nil }), "extended key usages"},
		{"for servers", nil, same(func(c *template) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }), "extended key usages"},
		{"of a CA", nil, same(func(c *template) { c.IsCA, c.BasicConstraintsValid = true, true }), "it is a CA certificate"},
		{"with a name", nil, same(func(c *template) { c.DNSNames = []string{"kubernetes.default.svc"} }), "kubernetes.default.svc"},
		{"expired", nil, same(func(c *template) { c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Second) }), "it expired"},
		{"by a CA of the same name", impostor, same(func(*template) {}), "names the cluster's CA"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *host) {
				ca := test.ca
				if ca == nil {
					ca = h.cluster.signer
				}
				h.refuses(t, h.cluster.bend(ca, test.change), test.says)
			})
		})
	}
	t.Run("cut off", func(t *testing.T) {
		bubble(t, func(t *testing.T, h *host) {
			h.refuses(t, func(o *certificates.CertificateSigningRequest) {
				h.cluster.sign(o)
				o.Status.Certificate = o.Status.Certificate[:len(o.Status.Certificate)/2]
			}, "PEM")
		})
	})
}

// refuses checks that what a signer issues is refused.
func (h *host) refuses(t *testing.T, signer func(*certificates.CertificateSigningRequest), says string) {
	t.Helper()
	pair := h.overdue()
	h.join(pair)
	files := h.pairFiles()
	h.cluster.decide = signer
	agent := h.start()
	defer agent.stop()
	for range 60 {
		time.Sleep(time.Minute)
		h.wantCurrent(pair)
		if now := h.pairFiles(); !slices.Equal(now, files) {
			t.Fatalf("there are the files %v", now)
		}
	}
	view := agent.view()
	if p := view.Problem; p == nil || p.Class != fault.Denied || !strings.Contains(p.Text, says) || p.Remedy == "" {
		t.Errorf("the problem is %+v instead of one that says %q", p, says)
	}
	if made := h.cluster.creations(); len(made) > 15 {
		t.Errorf("%d requests in an hour", len(made))
	}
	h.cluster.with(func() { h.cluster.decide = h.cluster.sign })
	time.Sleep(2 * time.Hour) // the pause has grown to an hour at most, and half of it
	if leaf, err := h.current(); err != nil || leaf.Equal(pair.Leaf) {
		t.Errorf("it was not tried again: %v", err)
	}
	if view := agent.view(); view.Problem != nil {
		t.Errorf("the problem is still %+v", view.Problem)
	}
	h.cluster.wantOneAtATime()
}

// TestNotYetValid has the signer issue a certificate that begins in two hours: it is refused until then. Its request may be found
// good by another clock: there is none with another key, only that one again whenever the cluster has collected it.
func TestNotYetValid(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		pair := h.overdue()
		h.join(pair)
		begins := time.Now().Add(2 * time.Hour)
		h.cluster.decide = h.cluster.bend(h.cluster.signer, func(c *x509.Certificate, key crypto.PublicKey) crypto.PublicKey {
			c.NotBefore = begins
			return key
		})
		agent := h.start()
		defer agent.stop()
		time.Sleep(110 * time.Minute)
		h.wantCurrent(pair)
		if p := agent.view().Problem; p == nil || p.Class != fault.Denied || !strings.Contains(p.Text, "it becomes valid in") || !strings.Contains(p.Remedy, "timedatectl") {
			t.Errorf("the problem is %+v", p)
		}
		time.Sleep(15 * time.Minute)
		if leaf, err := h.current(); err != nil || leaf.Equal(pair.Leaf) {
			t.Errorf("it is not in use: %v", err)
		}
		made := h.cluster.creations()
		if other := slices.ContainsFunc(made, func(c creation) bool { return c.name != made[0].name }); other || len(made) > 3 {
			t.Errorf("requests: %v", made)
		}
	})
}

// TestUnknownSigner has the signer's CA be one that the API server does not accept clients of: the bundle cannot tell,
// authenticating can, and nothing is written.
func TestUnknownSigner(t *testing.T) {
	cluster := newCluster(t)
	h := newHost(t, cluster)
	pair := h.overdue()
	h.joinAt(pair, cluster.serve(cluster.signer))
	cluster.decide = cluster.bend(newAuthority(t, "stranger"), func(_ *x509.Certificate, key crypto.PublicKey) crypto.PublicKey { return key })
	a := h.agent()
	h.pass(t, a) // draws the deadline
	wantFault(t, a.identity.pass(t.Context()), fault.Denied, "the issued certificate is refused: the API server does not accept it (401)")
	h.wantCurrent(pair)
	if files := h.pairFiles(); len(files) != 1 || len(h.load().PendingKey) != 0 {
		t.Errorf("there are the files %v, and a pending key of %d bytes", files, len(h.load().PendingKey))
	}
}

// TestUnknownIssuer has a signer with a CA of its own that the API server accepts: the bundle cannot tell, authenticating
// can.
func TestUnknownIssuer(t *testing.T) {
	bubble(t, func(t *testing.T, h *host) {
		clients := newAuthority(t, "clients")
		h.cluster.roots = append(h.cluster.roots, clients)
		h.join(h.overdue())
		h.cluster.decide = h.cluster.bend(clients, func(_ *x509.Certificate, key crypto.PublicKey) crypto.PublicKey { return key })
		agent := h.start()
		defer agent.stop()
		time.Sleep(time.Minute)
		if leaf, err := h.current(); err != nil || !bytes.Equal(leaf.RawIssuer, clients.cert.RawSubject) {
			t.Errorf("it is not in use: %v", err)
		}
		if view := agent.view(); view.Problem != nil || view.Rotations != 1 {
			t.Errorf("the status is %+v with the problem %+v", view, view.Problem)
		}
	})
}

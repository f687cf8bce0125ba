package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"log"
	"math/big"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// discardLog keeps the complaints of a test's https server about its clients to itself.
var discardLog = log.New(io.Discard, "", 0)

// servingConfig returns the configuration of a server on 127.0.0.1 with a certificate of a CA.
func servingConfig(ca *testbed.CA) (*tls.Config, error) {
	certPEM, keyPEM, err := ca.Issue(testbed.Certificate{CommonName: "server", SANs: []string{"127.0.0.1"}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	return &tls.Config{Certificates: []tls.Certificate{pair}}, err
}

// requestOf returns the PKCS#10 request in an object.
func requestOf(object *certificates.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(object.Spec.Request)
	if block == nil {
		return nil, errors.New("there is no PEM in the request")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// issue [-ca unknown] [-common-name NAME] [-organization NAME] [-dns NAME] [-age D] [-left D] NAME signs a request in the
// place of the cluster's signer, with what is said taking the place of what was asked for, and approves it.
func cmdIssue(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("issue", flag.ContinueOnError)
	issuer := f.String("ca", "cluster", "")
	commonName := f.String("common-name", "", "")
	organization := f.String("organization", "", "")
	dns := f.String("dns", "", "")
	age := f.Duration("age", 5*time.Minute, "")
	left := f.Duration("left", time.Hour, "")
	name := parse(ts, f, args, 1)[0]

	requests := s.cp.Client().CertificatesV1().CertificateSigningRequests()
	object, err := requests.Get(s.ctx, name, meta.GetOptions{})
	ts.Check(err)
	request, err := requestOf(object)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetInt64(time.Now().UnixNano()),
		Subject:      request.Subject,
		NotBefore:    time.Now().Add(-*age),
		NotAfter:     time.Now().Add(*left),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},

		BasicConstraintsValid: true,
	}
	if *commonName != "" || *organization != "" {
		template.Subject = pkix.Name{CommonName: *commonName, Organization: []string{*organization}}
	}
	if *dns != "" {
		template.DNSNames = []string{*dns}
	}
	ca := s.cp.ClientCA
	if *issuer == "unknown" {
		ca, err = testbed.NewCA(ts.MkAbs("."), "unknown-ca")
		ts.Check(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, request.PublicKey, ca.Key)
	ts.Check(err)

	object.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	object, err = requests.UpdateStatus(s.ctx, object, meta.UpdateOptions{})
	ts.Check(err)
	object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "ByHand",
	})
	_, err = requests.UpdateApproval(s.ctx, name, object, meta.UpdateOptions{})
	ts.Check(err)
}

// pair [-ca unknown] [-ended D] NODE FILE puts another certificate and key for a node into a file: of a CA that nobody
// knows, or one that has expired some time ago.
func cmdPair(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("pair", flag.ContinueOnError)
	issuer := f.String("ca", "cluster", "")
	ended := f.Duration("ended", 0, "")
	rest := parse(ts, f, args, 2)
	ca := s.cp.ClientCA
	var err error
	if *issuer == "unknown" {
		ca, err = testbed.NewCA(ts.MkAbs("."), "unknown-ca")
		ts.Check(err)
	}
	certificate := testbed.Certificate{CommonName: "system:node:" + rest[0], Organization: []string{"system:nodes"}}
	if *ended != 0 {
		certificate.NotBefore, certificate.Lifetime = time.Now().Add(-*ended-24*time.Hour), -*ended
	}
	chain, key, err := ca.Issue(certificate)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(rest[1]), append(chain, key...), 0o600))
}

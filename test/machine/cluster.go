package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	certificates "k8s.io/api/certificates/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/strategy"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// byHand is a group of bootstrap tokens whose requests a person has to approve.
const byHand = "system:bootstrappers:by-hand"

// cluster is a control plane that machines reach over their network, and the administrator's nodejoin.
type cluster struct {
	*testbed.ControlPlane
	nodejoin string
}

// startClusters starts the control plane that most points share, and the one whose components are paused and whose CA moves.
func (b *bed) startClusters(ctx context.Context, s *setup) error {
	var starting sync.WaitGroup
	var failed [2]error
	if s.wants("1", "2", "3a", "3b", "6", "7", "8", "9") {
		starting.Go(func() { b.shared, failed[0] = b.startShared(ctx) })
	}
	if s.wants("4", "5") {
		starting.Go(func() { b.moving, failed[1] = b.startCluster(ctx, "moving") })
	}
	starting.Wait()
	err := errors.Join(failed[:]...)
	if err != nil {
		b.stopClusters()
	}
	return err
}

func (b *bed) stopClusters() {
	for _, c := range []*cluster{b.shared, b.moving} {
		if c != nil {
			if err := c.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "machine:", err)
			}
		}
	}
}

// startShared starts an OpenID Connect provider, and a cluster that knows what it signs.
func (b *bed) startShared(ctx context.Context) (_ *cluster, err error) {
	if b.provider, err = strategy.StartProvider(ctx, filepath.Join(b.dir, "provider"), gateway); err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "authentication.yaml")
	if err := os.WriteFile(file, []byte(b.provider.AuthenticationConfiguration()), 0o600); err != nil {
		return nil, err
	}
	return b.startCluster(ctx, "shared", "--authentication-config="+file)
}

// startCluster starts a cluster whose API server has some more arguments.
func (b *bed) startCluster(ctx context.Context, name string, args ...string) (*cluster, error) {
	cp, err := testbed.Start(ctx, testbed.Options{Dir: filepath.Join(b.dir, name), Address: gateway, APIServerArgs: args})
	if err != nil {
		return nil, err
	}
	c := &cluster{ControlPlane: cp, nodejoin: b.nodejoin}
	_, err = cp.Client().RbacV1().ClusterRoleBindings().Create(ctx, &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: "by-hand"},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.GroupKind, Name: byHand}},
	}, meta.CreateOptions{})
	if err != nil {
		return nil, errors.Join(err, cp.Stop())
	}
	manifests, err := c.admin(ctx, "manifests", "--name-bound")
	if err == nil {
		err = cp.Apply(ctx, manifests)
	}
	if err != nil {
		return nil, errors.Join(err, cp.Stop())
	}
	return c, nil
}

// admin runs nodejoin as the administrator, and returns what it prints.
func (c *cluster) admin(ctx context.Context, args ...string) (string, error) {
	cmd := grouped(exec.CommandContext(ctx, c.nodejoin, args...))
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return output(cmd)
}

// requests returns the certificate signing requests for a node's identity, the oldest first.
func (c *cluster) requests(ctx context.Context, node string) ([]certificates.CertificateSigningRequest, error) {
	list, err := c.Client().CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	mine := slices.DeleteFunc(list.Items, func(r certificates.CertificateSigningRequest) bool {
		return r.Spec.SignerName != certificates.KubeAPIServerClientKubeletSignerName || commonName(&r) != "system:node:"+node
	})
	slices.SortFunc(mine, func(a, b certificates.CertificateSigningRequest) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return mine, nil
}

// commonName returns whom a request is for, or "".
func commonName(r *certificates.CertificateSigningRequest) string {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return ""
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return ""
	}
	return request.Subject.CommonName
}

// condition says how far a request has got.
func condition(r *certificates.CertificateSigningRequest) string {
	text := "Pending"
	for _, c := range r.Status.Conditions {
		text = string(c.Type)
	}
	if len(r.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}

// asked returns how many requests for certificates a machine has made, by the audit log.
func (c *cluster) asked(ctx context.Context, m *machine) (int, error) {
	events, err := c.asking(ctx, m)
	return len(events), err
}

// asking returns the moments in the audit log at which a machine has made a request for a certificate. An agent that goes on
// with a request sends it again, and is answered that it exists: that makes none.
func (c *cluster) asking(ctx context.Context, m *machine) ([]testbed.AuditEvent, error) {
	return c.AuditEvents(ctx, func(e testbed.AuditEvent) bool {
		return e.Stage == "ResponseComplete" && e.Verb == "create" && slices.Contains(e.SourceIPs, m.address) &&
			strings.HasPrefix(e.RequestURI, "/apis/certificates.k8s.io/v1/certificatesigningrequests") &&
			e.ResponseStatus.Code == http.StatusCreated
	})
}

// refused returns what was not allowed to a machine since a moment: 401 and 403. An API server that has just started allows little
// until it is ready: what it refused in an outage does not count.
func (c *cluster) refused(ctx context.Context, m *machine, since time.Time, outages []testbed.Outage) ([]string, error) {
	events, err := c.AuditEvents(ctx, func(e testbed.AuditEvent) bool {
		code := e.ResponseStatus.Code
		return (code == http.StatusUnauthorized || code == http.StatusForbidden) && slices.Contains(e.SourceIPs, m.address) && e.StageTimestamp.After(since) &&
			!slices.ContainsFunc(outages, func(o testbed.Outage) bool { return e.StageTimestamp.After(o.From) && e.StageTimestamp.Before(o.To) })
	})
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%d %s %s %s", e.ResponseStatus.Code, e.User.Username, e.Verb, e.RequestURI))
	}
	return lines, err
}

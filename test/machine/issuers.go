package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/test/strategy"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// issuers is the story of two machines whose user data is that of the examples in the package, with a cluster's own values in
// the place of the examples': one has a JWT and gets the package from a web server, the other one asks an OpenID Connect
// provider. Then the watchdog is tried on them.
type issuers struct {
	*bed
	c         *cluster
	jwt, oidc *machine
	secrets   []string
	server    *http.Server
	url, sum  string // of the package
	volume    string // where the state directory of the first is mounted
}

func (b *bed) tellOfIssuers(ctx context.Context, next func(number, title string) *point) {
	s := &issuers{bed: b, c: b.shared}
	p := next("9", "User data from the package's examples: a JWT, with the package from a web server; a client of an OpenID Connect provider")
	defer s.close()
	if !p.do(ctx, "prepare the machines", s.prepare) {
		return
	}
	p.machines = []*machine{s.jwt, s.oidc}
	s.join(ctx, p)
	if !p.ok() {
		return
	}
	w := &watchdog{m: s.jwt, idle: s.oidc, volume: s.volume}
	w.tell(ctx, next("6", "The watchdog restarts an agent of which one loop hangs, and leaves alone one with nothing to do"))
}

func (s *issuers) prepare(ctx context.Context) (err error) {
	if err := s.serve(ctx); err != nil {
		return err
	}
	if s.jwt, err = s.machine(ctx, "jwt"); err != nil {
		return err
	}
	if s.oidc, err = s.machine(ctx, "oidc"); err != nil {
		return err
	}
	if s.volume, err = s.jwt.separateState(ctx); err != nil {
		return err
	}
	byJWT, err := s.withJWT(s.jwt.name)
	if err != nil {
		return err
	}
	byClient, err := s.withClient(s.oidc.name)
	if err != nil {
		return err
	}
	// Their host names say nothing of what nodes they are to be.
	err = errors.Join(s.jwt.seedAs("image", byJWT), s.oidc.seedAs("image", byClient), s.oidc.copyIn(s.older, "/opt/nodejoin.deb"))
	for _, m := range []*machine{s.jwt, s.oidc} {
		err = errors.Join(err, m.trust(s.provider.CA), m.hurryWatchdog())
	}
	return err
}

// serve has a web server offer the package. It ends with close.
func (s *issuers) serve(ctx context.Context) error {
	deb, err := os.ReadFile(s.older)
	if err != nil {
		return err
	}
	certificate, key, err := s.provider.CA.Issue(testbed.Certificate{CommonName: "packages", SANs: []string{gateway}})
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", gateway+":0")
	if err != nil {
		return err
	}
	s.url, s.sum = "https://"+listener.Addr().String()+"/nodejoin.deb", fmt.Sprintf("%x", sha256.Sum256(deb))
	s.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/nodejoin.deb" {
				http.NotFound(w, r)
				return
			}
			_, _ = w.Write(deb) // who does not get it says so
		}),
		ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = s.server.ServeTLS(listener, "", "") }() // it ends with close
	return nil
}

func (s *issuers) close() {
	if s.server != nil {
		_ = s.server.Close() // of this process alone
	}
}

// trust has a machine that is off trust a CA, as an image has its company's.
func (m *machine) trust(ca *testbed.CA) error {
	const path = "/etc/ssl/certs/ca-certificates.crt"
	all, err := m.read(path)
	if err != nil {
		return err
	}
	return m.write(path, all+string(ca.PEM), 0o644)
}

// claims are what the provider says of a machine, see strategy.Provider.AuthenticationConfiguration.
func claims(node string) map[string]any { return map[string]any{"role": "machine", "node": node} }

// withJWT returns the user data of jwt.yaml, with the installation of bootstrap-token-deb-url.yaml.
func (s *issuers) withJWT(node string) (string, error) {
	token, err := s.provider.Sign(strategy.Token{Subject: node, Audience: strategy.Audience, Claims: claims(node)})
	if err != nil {
		return "", err
	}
	s.secrets = append(s.secrets, token, token[strings.LastIndex(token, ".")+1:])
	return s.userData("jwt.yaml", "bootstrap-token-deb-url.yaml", map[string]string{
		"HEADER.CLAIMS.SIGNATURE":                   token,
		"https://pkgs.example.com/nodejoin.deb":     s.url,
		"SHA256:" + strings.Repeat("0", len(s.sum)): "SHA256:" + s.sum,
	})
}

// withClient returns the user data of oidc.yaml, with the installation of bootstrap-token-deb.yaml.
func (s *issuers) withClient(node string) (string, error) {
	secret := rand.Text()
	s.provider.Register(strategy.Client{ID: node, Secret: secret, Audience: strategy.Audience, Claims: claims(node)})
	s.secrets = append(s.secrets, secret)
	return s.userData("oidc.yaml", "bootstrap-token-deb.yaml", map[string]string{
		"THE SECRET OF THE CLIENT":  secret,
		"clientID: worker-1":        "clientID: " + node,
		"https://login.example.com": s.provider.Issuer,
	})
}

// userData returns an example of user data, with the commands that install the package in another example, for the shared
// cluster. Each of the values takes the place of something in the example.
func (s *issuers) userData(example, installs string, values map[string]string) (string, error) {
	text, err := s.example("cloud-init/" + example)
	if err != nil {
		return "", err
	}
	other, err := s.example("cloud-init/" + installs)
	if err != nil {
		return "", err
	}
	const commands, after = "runcmd:\n", "- [systemctl, daemon-reload]\n"
	_, install, found := strings.Cut(other, commands)
	install, _, ends := strings.Cut(install, after)
	if !found || !ends || install == "" || !strings.Contains(text, commands+after) {
		return "", fmt.Errorf("%s or %s has other commands than those that are known here", example, installs)
	}
	text = strings.Replace(text, commands, commands+install, 1)
	const indent = "    "
	ca := indent + strings.ReplaceAll(strings.TrimSpace(string(s.c.ServingCA.PEM)), "\n", "\n"+indent)
	values["10.0.0.1:6443"] = s.c.Endpoint
	values[indent+"-----BEGIN CERTIFICATE-----\n"+indent+"THE CA OF THE CLUSTER\n"+indent+"-----END CERTIFICATE-----"] = ca
	return fill(text, values)
}

// example returns a file of the package's examples, as it is shipped.
func (b *bed) example(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.shipped, "usr/share/doc/nodejoin/examples", path))
	return string(text), err
}

// fill puts values in the place of what stands in an example, each of which must be there.
func fill(text string, values map[string]string) (string, error) {
	for placeholder, value := range values {
		if !strings.Contains(text, placeholder) {
			return "", fmt.Errorf("there is no %q in the example", placeholder)
		}
		text = strings.ReplaceAll(text, placeholder, value)
	}
	return text, nil
}

func (s *issuers) join(ctx context.Context, p *point) {
	began := time.Now()
	p.check(ctx, "they boot at the same time", func(ctx context.Context) (string, error) {
		return "", bootAll(ctx, s.jwt, s.oidc)
	})
	for _, one := range []struct {
		m    *machine
		what string
	}{
		{s.jwt, "jwt.yaml with what bootstrap-token-deb-url.yaml installs: the machine joins, as the node in its JWT"},
		{s.oidc, "oidc.yaml with what bootstrap-token-deb.yaml installs: the machine joins, as the node that the provider's token names"},
	} {
		p.check(ctx, one.what, func(ctx context.Context) (string, error) { return one.m.joins(ctx, began) })
		s.c.checkAsked(ctx, p, one.m, 1)
	}
	p.check(ctx, "with another sum than the package's, the first of those commands leaves nothing to install", s.otherSum)
	p.check(ctx, "nothing has failed, and no log has the JWT or the client's secret", func(ctx context.Context) (string, error) {
		first, err := s.jwt.isQuiet(ctx, s.secrets...)
		if err != nil {
			return "", err
		}
		second, err := s.oidc.isQuiet(ctx, s.secrets...)
		return s.jwt.name + ": " + first + "\n" + s.oidc.name + ": " + second, err
	})
}

// otherSum runs the download as cloud-init does, for another sum.
func (s *issuers) otherSum(ctx context.Context) (string, error) {
	const file = "/run/other.deb"
	_, err := s.jwt.run(ctx, "/usr/lib/apt/apt-helper", "download-file", s.url, file, "SHA256:"+strings.Repeat("0", len(s.sum)))
	if err == nil {
		return "", errors.New("apt-helper is content with it")
	}
	if !strings.Contains(err.Error(), "Hash Sum mismatch") {
		return "", err
	}
	if _, err := s.jwt.run(ctx, "test", "!", "-e", file); err != nil {
		return "", fmt.Errorf("there is a file all the same: %w", err)
	}
	return "apt-helper: Hash Sum mismatch", nil
}

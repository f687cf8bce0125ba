package strategy

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nodejoin/nodejoin/test/internal/port"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// Proxy is nginx in front of an API server. It has three addresses, for three ways to say who one is. Whoever it has
// made sure of it names to the API server in X-Remote-User, X-Remote-Group and X-Remote-Extra-*; of the request's own
// headers only those that the API is about are passed on.
type Proxy struct {
	Process *testbed.Process
	CA      *testbed.CA // of its own certificate
	// ByCertificate asks for a certificate of the factory's, ByPassword for basic authentication, ByToken for a bearer
	// token; each is HOST:PORT.
	ByCertificate, ByPassword, ByToken string

	dir  string
	held []*port.Held

	mu        sync.Mutex // guards the file of passwords
	passwords string
}

// HaveNginx returns nil when a Proxy can run on this machine, else why it cannot.
func HaveNginx() error {
	for program, debian := range map[string]string{"nginx": "nginx-light", "openssl": "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w; install the package %s", err, debian)
		}
	}
	return nil
}

// provisioner is the user of the proxy that may become any node; every other is called as its node.
const provisioner = "provisioner"

// nginxConf lets nginx run in the foreground as one process, which dies with the test: with a master and workers, the
// workers would outlive a master that is killed.
const nginxConf = `daemon off;
master_process off;
worker_processes 1;
pid $DIR/nginx.pid;
error_log stderr notice;
events {}
http {
  access_log off;
  client_body_temp_path $DIR/body;
  proxy_temp_path $DIR/proxy;
  fastcgi_temp_path $DIR/fastcgi;
  uwsgi_temp_path $DIR/uwsgi;
  scgi_temp_path $DIR/scgi;

  # Who is it, for the API server?
  map $ssl_client_s_dn $certified {
    "~^CN=(?<name>[a-z0-9.-]+),O=machines$" "system:node:$name";
    "~^CN=[a-z0-9.-]+,O=provisioners$" "provisioner";
  }
  map $remote_user $known {
    "" "";
    "provisioner" "provisioner";
    default "system:node:$remote_user";
  }
  map $http_authorization $bearer {
    include $DIR/tokens.map;
  }

  ssl_certificate $DIR/proxy.crt;
  ssl_certificate_key $DIR/proxy.key;
  ssl_protocols TLSv1.2 TLSv1.3;

  # To the API server: as this proxy, which it knows by its certificate; a watch as it comes.
  proxy_ssl_certificate $DIR/upstream.crt;
  proxy_ssl_certificate_key $DIR/upstream.key;
  proxy_ssl_trusted_certificate $DIR/apiserver-ca.crt;
  proxy_ssl_verify on;
  proxy_ssl_name localhost; # it does not look at the IP addresses of a certificate
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  proxy_http_version 1.1;
  proxy_buffering off;
  proxy_read_timeout 1h;

  # Nothing of the request's own headers but this: neither X-Remote-* nor Impersonate-* nor Authorization.
  proxy_pass_request_headers off;
  proxy_set_header Host $proxy_host;
  proxy_set_header Connection "";
  proxy_set_header Accept $http_accept;
  proxy_set_header Content-Type $content_type;
  proxy_set_header User-Agent $http_user_agent;

  server { # by a certificate of the factory's
    listen $BY_CERTIFICATE ssl reuseport;
    ssl_client_certificate $DIR/factory-ca.crt;
    ssl_verify_client optional;
    error_page 495 =401 /refused; # one that has expired; by itself nginx says 400
    location = /refused { internal; return 401 "this certificate is not accepted\n"; }
    if ($ssl_client_verify != SUCCESS) { return 401 "a certificate of the factory is wanted\n"; }
    if ($certified = "") { return 403 "this certificate is nobody's\n"; }
    set $group "nodejoin:joiners";
    if ($certified = "provisioner") { set $group "nodejoin:provisioners"; }
    location / {
      proxy_set_header X-Remote-User $certified;
      proxy_set_header X-Remote-Group $group;
      proxy_set_header X-Remote-Extra-Proxied "certificate $ssl_client_serial";
      proxy_pass https://$APISERVER;
    }
  }
  server { # by user and password
    listen $BY_PASSWORD ssl reuseport;
    location / {
      auth_basic "machines";
      auth_basic_user_file $DIR/htpasswd;
      set $group "nodejoin:joiners";
      if ($known = "provisioner") { set $group "nodejoin:provisioners"; }
      proxy_set_header X-Remote-User $known;
      proxy_set_header X-Remote-Group $group;
      proxy_set_header X-Remote-Extra-Proxied "password";
      proxy_pass https://$APISERVER;
    }
  }
  server { # by a bearer token
    listen $BY_TOKEN ssl reuseport;
    if ($bearer = "") { return 401 "a token is wanted\n"; }
    set $group "nodejoin:joiners";
    if ($bearer = "provisioner") { set $group "nodejoin:provisioners"; }
    location / {
      proxy_set_header X-Remote-User $bearer;
      proxy_set_header X-Remote-Group $group;
      proxy_set_header X-Remote-Extra-Proxied "token";
      proxy_pass https://$APISERVER;
    }
  }
}
`

// upstream is what a proxy needs to know of its API server, and what knows whom.
type upstream struct {
	apiServer string // HOST:PORT
	ca        []byte // verifies the API server
	frontCA   *testbed.CA
	factory   *testbed.CA
	tokens    map[string]string // user by token
}

// startProxy starts nginx on files in a directory.
func startProxy(ctx context.Context, dir string, up upstream) (*Proxy, error) {
	if err := HaveNginx(); err != nil {
		return nil, err
	}
	p := &Proxy{dir: dir}
	if err := p.start(ctx, up); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *Proxy) start(ctx context.Context, up upstream) error {
	for _, address := range []*string{&p.ByCertificate, &p.ByPassword, &p.ByToken} {
		held, err := port.Hold("127.0.0.1")
		if err != nil {
			return err
		}
		p.held = append(p.held, held)
		*address = held.Address()
	}
	if err := p.write(up); err != nil {
		return fmt.Errorf("prepare nginx: %w", err)
	}
	program, err := exec.LookPath("nginx")
	if err != nil {
		return err
	}
	p.Process = &testbed.Process{
		Name: "nginx", Path: program, Args: []string{"-p", p.dir, "-c", filepath.Join(p.dir, "nginx.conf"), "-e", "stderr"},
		Log: filepath.Join(p.dir, "nginx.log"), Ready: p.listens,
	}
	return p.Process.Start(ctx)
}

func (p *Proxy) listens(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.ByToken)
	if err == nil {
		conn.Close()
	}
	return err
}

func (p *Proxy) write(up upstream) (err error) {
	if p.CA, err = testbed.NewCA(p.dir, "proxy-ca"); err != nil {
		return err
	}
	if _, _, err = p.CA.IssueFiles(p.dir, "proxy", testbed.Certificate{CommonName: "proxy", SANs: []string{"127.0.0.1"}}); err != nil {
		return err
	}
	if _, _, err = up.frontCA.IssueFiles(p.dir, "upstream", testbed.Certificate{CommonName: proxyName}); err != nil {
		return err
	}
	var tokens strings.Builder
	for token, user := range up.tokens {
		fmt.Fprintf(&tokens, "\"Bearer %s\" \"%s\";\n", token, user)
	}
	values := map[string]string{
		"DIR": p.dir, "APISERVER": up.apiServer,
		"BY_CERTIFICATE": p.ByCertificate, "BY_PASSWORD": p.ByPassword, "BY_TOKEN": p.ByToken,
	}
	conf := os.Expand(nginxConf, func(name string) string {
		if value, ours := values[name]; ours {
			return value
		}
		return "$" + name
	})
	for name, text := range map[string]string{
		"nginx.conf": conf, "tokens.map": tokens.String(), "htpasswd": "",
		"apiserver-ca.crt": string(up.ca), "factory-ca.crt": string(up.factory.PEM),
	} {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// SetPassword gives a user of the proxy a password, after which the ones before it are refused. An empty password is
// none: the user is locked out.
func (p *Proxy) SetPassword(ctx context.Context, user, password string) error {
	hash := "!"
	if password != "" {
		cmd := exec.CommandContext(ctx, "openssl", "passwd", "-6", "-stdin")
		cmd.Stdin = strings.NewReader(password + "\n")
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("hash a password: %w", err)
		}
		hash = strings.TrimSpace(string(out))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept strings.Builder
	for line := range strings.Lines(p.passwords) {
		if !strings.HasPrefix(line, user+":") {
			kept.WriteString(line)
		}
	}
	p.passwords = kept.String() + user + ":" + hash + "\n"
	file := filepath.Join(p.dir, "htpasswd") // nginx reads it at every request
	if err := os.WriteFile(file+".new", []byte(p.passwords), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (p *Proxy) stop() {
	if p.Process != nil {
		p.Process.Kill()
	}
	for _, held := range p.held {
		held.Close()
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent"
	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

func (p *program) joinCommand() *cobra.Command {
	var o agent.Options
	cmd := &cobra.Command{
		Use:   "join [HOST:PORT]",
		Short: "Make this machine a node of a cluster",
		Long: `join obtains a kubelet client certificate and writes it, the CA bundle and the kubeconfig where a kubelet starts on
them. It takes the line that "kubeadm token create --print-join-command" prints, with the first word changed.

It can be run again at any time: on a machine that has joined it returns at once, and after an interruption it goes on
with the same key and the same request.

` + exitHelp,
		Example: `  nodejoin join 10.0.0.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:...
  nodejoin join api.example.com:6443 --token-file /etc/nodejoin/token --certificate-authority ca.crt
  nodejoin join --discovery-file cluster.yaml --token-file -`,
		Args: oneServer,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Servers = append(args, o.Servers...)
			return p.join(cmd, &o, args)
		},
	}
	addJoinFlags(cmd, &o)
	cmd.Flags().DurationVar(&o.Timeout, "timeout", agent.DefaultTimeout, "how long to wait for the cluster and for approval")
	cmd.Flags().BoolVar(&o.Force, "force", false, "get a new certificate with a new key, whatever there is")
	p.addConfigFlags(cmd, &o)
	return cmd
}

// oneServer lets one API server be an argument.
func oneServer(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fault.New(fault.Usage, "give each further API server with --server; see: "+cmd.CommandPath()+" --help", "there are %d arguments instead of one HOST:PORT", len(args))
	}
	return nil
}

func addJoinFlags(cmd *cobra.Command, o *agent.Options) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.NodeName, "node-name", "", "name of the node (default this host's name)")
	f.StringSliceVar(&o.Servers, "server", nil, "API server as HOST:PORT; may be repeated, tried in turn")
	f.StringVar(&o.Token, "token", "", "bootstrap token, for both --discovery-token and --tls-bootstrap-token; others on this machine can see it: prefer --token-file")
	f.StringVar(&o.TokenFile, "token-file", "", "file with the bootstrap token, - for standard input (default the systemd credential \"token\", else "+agent.DefaultTokenFile+")")
	f.BoolVar(&o.TokenSingleUse, "token-single-use", false, "remove the token file once the identity was seen to work")
	f.StringVar(&o.DiscoveryToken, "discovery-token", "", "bootstrap token that signs cluster-info")
	f.StringVar(&o.TLSBootstrapToken, "tls-bootstrap-token", "", "bootstrap token that authenticates the request")
	f.StringSliceVar(&o.CACertHashes, "discovery-token-ca-cert-hash", nil, "SHA-256 of the CA certificate's public key, as sha256:<hex>; may be repeated")
	f.BoolVar(&o.SkipCAVerification, "discovery-token-unsafe-skip-ca-verification", false, "trust the CA that cluster-info names without knowing its hash")
	f.StringVar(&o.DiscoveryFile, "discovery-file", "", "kubeconfig with the cluster: a file, or an https URL")
	f.StringVar(&o.Bundle, "bundle", "", "what \"nodejoin bundle\" made for this node: cluster, name and credential in one file")
	f.StringVar(&o.BearerTokenFile, "bearer-token-file", "", "file with a bearer token of any other kind: of a service account, of an OpenID Connect provider, static, or judged by a webhook")
	f.StringVar(&o.ClientCertificate, "client-certificate", "", "file with a client certificate that was issued beforehand")
	f.StringVar(&o.ClientKey, "client-key", "", "file with its key (default the same file)")
	f.StringVar(&o.CertificateAuthority, "certificate-authority", "", "CA bundle that verifies the API server (default the one at --ca-file, if it is there)")
	f.StringVar(&o.TLSServerName, "tls-server-name", "", "name that the API server's certificate carries (default the server's own)")
	f.StringVar(&o.ProxyURL, "proxy-url", "", "proxy on the way to the API server, http:// or socks5:// (the environment is not asked)")
	f.StringVar(&o.KeyAlgorithm, "key-algorithm", "", fmt.Sprintf("kind of the private key: %s (default %s)", strings.Join(csr.Algorithms(), ", "), csr.DefaultAlgorithm))
	f.DurationVar(&o.Lifetime, "lifetime", 0, "lifetime to ask for, 10m or more (default the cluster's)")
}

// joinFlags are the flags that say how to join, and not where this machine's files are.
var joinFlags = []string{
	"node-name", "server", "token", "token-file", "token-single-use", "discovery-token", "tls-bootstrap-token", "discovery-token-ca-cert-hash",
	"discovery-token-unsafe-skip-ca-verification", "discovery-file", "bundle", "bearer-token-file", "client-certificate", "client-key", "certificate-authority", "tls-server-name", "proxy-url", "key-algorithm", "lifetime",
}

// checkForce refuses what an agent that runs on this machine would not heed.
func checkForce(ctx context.Context, cmd *cobra.Command, config *agent.Config, args []string) error {
	given := slices.Clone(args)
	for _, name := range joinFlags {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) == 0 || !agent.IsRunning(ctx, config) {
		return nil
	}
	return fault.New(fault.Usage, "put it into the configuration file, or stop the agent first: nodejoin service stop",
		"an agent runs on this machine, and its configuration says how it joins: %s cannot be heeded", strings.Join(given, ", "))
}

func (p *program) join(cmd *cobra.Command, o *agent.Options, args []string) error {
	if o.Timeout == 0 {
		return fault.New(fault.Usage, "give a time above zero, for example 15m", "the time-out is zero")
	}
	config, _, err := p.configure(cmd, *o, len(args) != 0)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	if o.Force {
		if err := checkForce(ctx, cmd, config, args); err != nil {
			return err
		}
	}
	progress := newProgress(p.stderr)
	joiner := agent.New(config, p.logger())
	joiner.Report = progress.tell
	identity, err := (*agent.Identity)(nil), agent.ErrNotRunning
	if o.Force { // by the agent that holds this machine
		identity, err = agent.ForceJoin(ctx, config, joiner.Report)
	}
	if errors.Is(err, agent.ErrNotRunning) {
		identity, err = joiner.Join(ctx)
	}
	progress.stop()
	if err != nil {
		return err
	}
	return p.print(identity, describe(identity))
}

func describe(i *agent.Identity) string {
	done := "This machine is the node " + i.Node
	if i.Joined {
		done = "This machine has joined as the node " + i.Node
	}
	left := time.Until(i.NotAfter)
	return fmt.Sprintf("%s of %s\n  certificate  %s (serial %s)\n  valid until  %s (%s)\n  kubeconfig   %s\n",
		done, i.Server, i.Certificate, i.Serial, i.NotAfter.Format(time.RFC3339), inWords(left), i.Kubeconfig)
}

// inWords rounds a time to what a person wants to know of it.
func inWords(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return d.Round(time.Second).String()
}

// A wait is said when it has lasted a moment, since most end before anybody could read of them, and again every few
// seconds while it lasts.
const (
	saidAfter  = time.Second
	stillEvery = 5 * time.Second
	lookEvery  = saidAfter / 4
)

// progress prints what the agent does and waits for.
type progress struct {
	out io.Writer

	mu    sync.Mutex
	last  agent.Notice
	since time.Time       // when last was told
	once  map[string]bool // notices that were printed and need not be again
	said  time.Time       // when last was printed; zero if it was not
	done  chan struct{}
	ended sync.WaitGroup
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, once: map[string]bool{}, done: make(chan struct{})}
	p.ended.Go(p.repeat)
	return p
}

func (p *progress) tell(n agent.Notice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n == p.last || p.once[n.Text] {
		return
	}
	p.last, p.since, p.said = n, time.Now(), time.Time{}
	if !n.Waiting {
		p.once[n.Text] = true
		p.print(p.since)
	}
}

// print says the last notice. The remedy of one may be a manifest of many lines.
func (p *progress) print(now time.Time) {
	if p.said.IsZero() {
		fmt.Fprintf(p.out, "nodejoin: %s\n", oneLine(p.last.Text))
		if p.last.Remedy != "" {
			fmt.Fprintf(p.out, "  remedy: %s\n", p.last.Remedy)
		}
	} else {
		fmt.Fprintf(p.out, "nodejoin: still waiting after %s: %s\n", now.Sub(p.since).Round(time.Second), oneLine(p.last.Text))
	}
	p.said = now
}

func (p *progress) repeat() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-ticker.C:
			p.mu.Lock()
			if p.last.Waiting && (p.said.IsZero() && now.Sub(p.since) >= saidAfter || !p.said.IsZero() && now.Sub(p.said) >= stillEvery) {
				p.print(now)
			}
			p.mu.Unlock()
		}
	}
}

func (p *progress) stop() {
	close(p.done)
	p.ended.Wait()
}

package doctor

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/rotate"
)

// Limit is the most that all checks take together when nothing answers.
const Limit = 15 * time.Second

// Input is what is known of the machine. The zero value of each field is "not known" or "none".
type Input struct {
	Node       string // name of the node that this machine is or would be
	ConfigFile string // that was read
	ConfigErr  error  // why it cannot be used, or what else was said; the checks go on with what is there

	// Cluster is where the API servers are and, once that is known, the CA that vouches for them: the node's own after it
	// has joined. With nil, or without endpoints, it is what the first of Accesses discovers.
	Cluster *bootstrap.Cluster
	Pins    []bootstrap.Pin
	// Accesses are the ways in that are configured, in their order.
	Accesses   []Access
	FixedTrust bool // the CA bundle does not follow the cluster's

	Paths         rotate.Paths
	RuntimeDir    string // as it stands in files, as all paths here but Secrets
	KubeletConfig string
	Secrets       []string // files that hold a credential, on this machine
	Disk          *rotate.Disk
	DiskErr       error // why the store must not be used at all

	Rotation string   // who rotates the kubelet's client certificate: "agent" or "kubelet"
	Serving  []string // files that hold the serving certificate that is kept for the kubelet, the link and copies; none if it is not kept
	Hooks    []Hook

	UserAgent string           // "nodejoin"
	Now       func() time.Time // time.Now
}

// Access is a way to the cluster for a machine without a certificate: whom to trust, and what to show.
type Access struct {
	Discovery     bootstrap.Discovery
	DiscoveryErr  error // why there is none
	Credential    bootstrap.Credential
	CredentialErr error // why there is none
	// Lacking says that there is none since no token lies where one is looked for; systemd may hand one to the service.
	Lacking bool
	// Via is the server that the credential is for, and is shown to alone; nil for the cluster's own.
	Via *bootstrap.Via
	// Spends says that the credential is not to be tried: its use would change it.
	Spends bool
}

// Hook is a command that runs after a change.
type Hook struct {
	Name    string
	Command []string
}

// host is the parts of the machine that tests put others in the place of.
type host struct {
	proc      string // /proc
	systemd   string // a directory that is there where systemd runs
	systemctl string // the command
	config    string // that the service's unit looks at before it starts
	// Directories of credentials: those that systemd itself was given and those of files, and those of encrypted ones.
	credentials, encrypted []string
	name                   func() (string, error)
	clock                  func() (synchronised, known bool)
	resolver               *net.Resolver
}

// examination is one run of all checks. What several of them need is found out once, when the first one asks.
type examination struct {
	Input
	host host

	handed     func() string       // what hands the service its token
	discovered func() []discovered // one for each of Accesses
	paths      func() []path       // the way to each API server, or to the proxy before them
	servers    func() []server     // one for each API server
	asNode     func() identity
}

// Run makes all checks and returns when the last one has ended, after Limit at the latest.
func Run(ctx context.Context, in Input) *Report { return run(ctx, in, thisHost()) }

func run(ctx context.Context, in Input, h host) *Report {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	if in.Now == nil {
		in.Now = time.Now
	}
	if in.Cluster != nil && len(in.Cluster.Endpoints) == 0 {
		in.Cluster = nil
	}
	if in.UserAgent == "" {
		in.UserAgent = "nodejoin"
	}
	e := &examination{Input: in, host: h}
	e.handed = sync.OnceValue(func() string { return e.findHanded(ctx) })
	e.discovered = sync.OnceValue(func() []discovered { return e.discover(ctx) })
	e.paths = sync.OnceValue(func() []path { return e.tryPaths(ctx) })
	e.servers = sync.OnceValue(func() []server { return e.tryServers(ctx) })
	e.asNode = sync.OnceValue(func() identity { return e.askAsNode(ctx) })

	checks := e.checks(ctx)
	found := make([]findings, len(checks))
	var running sync.WaitGroup
	for i, check := range checks {
		running.Go(func() { check.make(&found[i]) })
	}
	running.Wait()
	report := &Report{Findings: []Finding{}}
	for i, check := range checks {
		for _, f := range found[i] {
			f.Check = check.name
			report.Findings = append(report.Findings, f)
		}
	}
	return report
}

// check is one of the checks.
type check struct {
	name string
	make func(*findings)
}

// checks returns all checks, in the order of their findings: from what the operator wrote over the way to the cluster to
// what becomes of the certificate on this machine.
func (e *examination) checks(ctx context.Context) []check {
	return []check{
		{"configuration", e.checkConfig},
		{"node name", e.checkName},
		{"dns", e.checkDNS},
		{"connect", e.checkConnect},
		{"discovery", e.checkDiscovery},
		{"tls", e.checkTLS},
		{"ca", e.checkCA},
		{"clock", e.checkClock},
		{"credential", func(f *findings) { e.checkCredentials(ctx, f) }},
		{"certificate", e.checkCertificate},
		{"kubeconfig", e.checkKubeconfig},
		{"rotation", e.checkRotation},
		{"trust", func(f *findings) { e.checkTrust(ctx, f) }},
		{"files", e.checkFiles},
		{"disk", e.checkDisk},
		{"kubelet", e.checkKubelet},
		{"lock", func(f *findings) { e.checkLock(ctx, f) }},
		{"service", func(f *findings) { e.checkService(ctx, f) }},
		{"watching", e.checkWatching},
		{"hooks", e.checkHooks},
	}
}

// joined reports whether this machine has a certificate of its node that is valid now: what it needs only to join is then
// needed to recover alone.
func (e *examination) joined() bool {
	if e.Disk == nil || e.Disk.Pair == nil {
		return false
	}
	pair, now := e.Disk.Pair, e.Now()
	return pair.NodeName() == e.Node && !now.Before(pair.Leaf.NotBefore) && now.Before(pair.Leaf.NotAfter)
}

// toJoin is the level of a failure that keeps a machine from joining.
func (e *examination) toJoin() Level {
	if e.joined() {
		return Warning
	}
	return Failure
}

// later is put before what only a machine needs that has not joined, or whose certificate has expired.
func (e *examination) later() string {
	if e.joined() {
		return "needed only once this node's certificate has expired: "
	}
	return ""
}

// on returns the place on this machine of a path as it stands in files.
func (e *examination) on(path string) string { return filepath.Join(e.Paths.Root, path) }

// elsewhere reports whether the files are not this machine's own: what runs here then has nothing to do with them.
func (e *examination) elsewhere() bool {
	return e.Paths.Root != "" && filepath.Clean(e.Paths.Root) != "/"
}

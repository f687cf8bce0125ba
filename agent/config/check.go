package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
	"github.com/nodejoin/nodejoin/csr"
)

const (
	mostDuration  = 10 * 365 * 24 * time.Hour
	leastInterval = time.Second
	mostTimeout   = 24 * time.Hour
	longestPath   = 4095 // PATH_MAX of limits.h, without its final NUL
	longestSocket = 107  // sun_path of unix(7), likewise
	socketName    = "/nodejoin.sock"
)

// check reports what the types cannot say. Fields that were left out are zero here.
func (f *File) check(r *report) {
	f.checkVersion(r)
	if f.NodeName != "" {
		_, err := csr.ParseNodeName(f.NodeName)
		r.check("nodeName", err)
	}
	f.Cluster.check(r)
	for i, c := range f.Credentials {
		c.check(r, item("credentials", i))
	}
	r.oneOf("rotation", f.Rotation, RotationAgent, RotationKubelet)
	f.RotateAfter.check(r)
	if f.DeniedPause != nil && *f.DeniedPause != 0 {
		r.atLeast("deniedPause", *f.DeniedPause, leastInterval)
	}
	f.checkCertificates(r)
	if r.given("trust.interval") {
		r.atLeast("trust.interval", f.Trust.Interval, leastInterval)
	}
	f.checkHooks(r)
	f.Paths.check(r)
	f.checkClashes(r)
	if f.Metrics.Listen != nil {
		paths := f.Paths
		paths.fill()
		r.check("metrics.listen", CheckListen(*f.Metrics.Listen, paths.RuntimeDir))
	}
	r.oneOf("log.format", f.Log.Format, "text", "json")
	r.oneOf("log.level", f.Log.Level, "debug", "info", "warn", "error")
}

// checkVersion wants both or neither of apiVersion and kind.
func (f *File) checkVersion(r *report) {
	for _, field := range []struct{ path, value, want, other string }{
		{"apiVersion", f.APIVersion, APIVersion, f.Kind},
		{"kind", f.Kind, Kind, f.APIVersion},
	} {
		switch {
		case field.value != "" && field.value != field.want:
			r.add(field.path, "%s is not known: this version of nodejoin reads %s", quote(field.value), field.want)
		case field.value == "" && field.other != "":
			r.add(field.path, "is missing: write %s: %s", field.path, field.want)
		}
	}
}

func (c *Cluster) check(r *report) {
	servers := map[bootstrap.Endpoint]string{}
	for i, text := range c.Servers {
		path := item("cluster.servers", i)
		server, err := bootstrap.ParseEndpoint(text)
		switch first := servers[server]; {
		case err != nil:
			r.check(path, err)
		case first != "":
			r.add(path, "this is the same server as %s", first)
		default:
			servers[server] = path
		}
	}
	r.check("cluster.tlsServerName", bootstrap.CheckServerName(c.TLSServerName))
	proxy, err := bootstrap.ParseProxyURL(c.ProxyURL)
	if err != nil {
		r.add("cluster.proxyURL", "%s: %s", err, fault.Remedy(err))
	} else if proxy != nil && proxy.User != nil {
		r.add("cluster.proxyURL", "the proxy's URL has user information in it, which everybody could read here")
	}
	pins := map[bootstrap.Pin]string{}
	for i, text := range c.CACertHashes {
		path := item("cluster.caCertHashes", i)
		pin, err := bootstrap.ParsePin(text)
		switch first := pins[pin]; {
		case err != nil:
			r.check(path, err)
		case first != "":
			r.add(path, "this is the same hash as %s", first)
		default:
			pins[pin] = path
		}
	}
	r.path("cluster.certificateAuthority", c.CertificateAuthority)
	if bootstrap.IsURL(c.DiscoveryFile) {
		_, err := bootstrap.ParseDiscoveryURL(c.DiscoveryFile, bootstrap.Cluster{})
		r.check("cluster.discoveryFile", err)
	} else {
		r.path("cluster.discoveryFile", c.DiscoveryFile)
	}
	c.checkConflicts(r)
}

// checkConflicts refuses more than one answer to what the cluster is trusted for.
func (c *Cluster) checkConflicts(r *report) {
	const file, ca, pins, skip = "discoveryFile", "certificateAuthority", "caCertHashes", "unsafeSkipCAVerification"
	has := map[string]bool{
		file: c.DiscoveryFile != "", "servers": len(c.Servers) != 0,
		ca: c.CertificateAuthority != "", pins: len(c.CACertHashes) != 0, skip: c.UnsafeSkipCAVerification,
	}
	for _, pair := range [][2]string{{file, "servers"}, {file, pins}, {file, ca}, {file, skip}, {ca, pins}, {ca, skip}, {pins, skip}} {
		if has[pair[0]] && has[pair[1]] {
			r.add("cluster."+pair[1], "excludes cluster.%s: leave one of them out", pair[0])
		}
	}
}

func (a RotateAfter) check(r *report) {
	for _, field := range []struct {
		path  string
		value int
	}{{"rotateAfter.minPercent", a.MinPercent}, {"rotateAfter.maxPercent", a.MaxPercent}} {
		if r.given(field.path) && (field.value < 1 || field.value > 99) {
			r.add(field.path, "%d is not between 1 and 99", field.value)
		}
	}
	least, most := a.MinPercent, a.MaxPercent
	fill(&least, DefaultMinPercent)
	fill(&most, DefaultMaxPercent)
	if least > most {
		path := "rotateAfter.maxPercent"
		if !r.given(path) {
			path = "rotateAfter.minPercent"
		}
		r.add(path, "minPercent is %d and maxPercent is %d, which is less", least, most)
	}
}

func (f *File) checkHooks(r *report) {
	changes := []string{OnCA, OnKubeconfig, KubeletClient}
	for _, c := range f.Certificates {
		changes = append(changes, c.Name)
	}
	names := map[string]string{}
	for i, h := range f.Hooks {
		path := item("hooks", i)
		r.name(join(path, "name"), h.Name, names)
		r.list(join(path, "on"), h.On, func(on string) error {
			if !slices.Contains(changes, on) {
				return fmt.Errorf("%s is no certificate of this file, nor %s or %s", quote(on), OnCA, OnKubeconfig)
			}
			return nil
		})
		h.checkCommand(r, join(path, "command"))
		if timeout := join(path, "timeout"); r.given(timeout) {
			switch {
			case h.Timeout <= 0:
				r.add(timeout, "a hook needs a time limit above zero")
			case time.Duration(h.Timeout) > mostTimeout:
				r.add(timeout, "%s is longer than %s", h.Timeout, Duration(mostTimeout))
			}
		}
	}
}

func (h *Hook) checkCommand(r *report, path string) {
	if len(h.Command) == 0 {
		r.add(path, "is missing: give the program and its arguments")
		return
	}
	r.path(item(path, 0), h.Command[0])
	if h.Command[0] == "" {
		r.add(item(path, 0), "there is no program")
	}
	for i, word := range h.Command[1:] {
		at := item(path, i+1)
		if strings.ContainsRune(word, 0) {
			r.add(at, "there is a NUL byte, which no argument can have in it")
		}
		if slices.ContainsFunc(strings.FieldsFunc(word, betweenWords), bootstrap.LooksLikeToken) {
			r.add(at, "a bootstrap token stands here: %s", ownFile)
		}
	}
}

// betweenWords reports whether char can stand beside a token in a command.
func betweenWords(char rune) bool {
	return unicode.IsSpace(char) || strings.ContainsRune("='\":,;", char)
}

func (p *Paths) check(r *report) {
	for _, field := range p.fields() {
		r.path(field.path, field.value)
	}
	if len(p.RuntimeDir)+len(socketName) > longestSocket {
		r.add("paths.runtimeDir", "is too long: the path of the socket in it may have %d bytes", longestSocket)
	}
}

type pathField struct {
	path  string
	value string
}

func (p *Paths) fields() []pathField {
	return []pathField{
		{"paths.kubeconfig", p.Kubeconfig},
		{"paths.certDir", p.CertDir},
		{"paths.caFile", p.CAFile},
		{"paths.stateDir", p.StateDir},
		{"paths.runtimeDir", p.RuntimeDir},
		{"paths.kubeletConfig", p.KubeletConfig},
	}
}

// checkClashes refuses two uses of one path of which at least one writes.
func (f *File) checkClashes(r *report) {
	used := map[string]string{} // by which field each path is
	paths := f.Paths
	paths.fill()
	for _, field := range paths.fields() {
		r.claim(used, field.value, field.path)
	}
	for _, file := range f.reads() {
		if used[file.value] == "" {
			used[file.value] = file.path
		}
	}
	client := Certificate{Name: KubeletClient} // whether it has an entry or not
	r.claim(used, client.link(paths.CertDir), "the link to the certificate "+KubeletClient)
	for i, c := range f.Certificates {
		r.claim(used, c.link(paths.CertDir), "the link to the certificate "+c.Name)
		r.claim(used, c.CertificateFile, item("certificates", i)+".certificateFile")
		r.claim(used, c.PrivateKeyFile, item("certificates", i)+".privateKeyFile")
	}
}

// reads returns the files that are only read. The CA bundle may be one of them and yet be kept up to date.
func (f *File) reads() []pathField {
	files := []pathField{{"cluster.certificateAuthority", f.Cluster.CertificateAuthority}, {"cluster.discoveryFile", f.Cluster.DiscoveryFile}}
	if len(f.Credentials) == 0 {
		files = append(files, pathField{"the file of the bootstrap token", DefaultTokenFile})
	}
	for i, c := range f.Credentials {
		for _, file := range c.files() {
			files = append(files, pathField{join(item("credentials", i), file.path), file.value})
		}
	}
	return files
}

// claim notes that a path is a field's alone, and reports that it is not at the one of the two that is in the file.
func (r *report) claim(used map[string]string, value, field string) {
	other := used[value]
	switch {
	case value == "":
	case other == "":
		used[value] = field
	case r.given(field):
		r.add(field, "this is also %s", other)
	case r.given(other):
		r.add(other, "this is also %s", field)
	}
}

// CheckListen refuses an address for metrics at which more than this machine is served, or the status already. "" is
// none.
func CheckListen(text, runtimeDir string) error {
	const form = "give a loopback address as in 127.0.0.1:10263, unix: and the path of a socket, or \"\" for none"
	if path, unix := strings.CutPrefix(text, "unix:"); unix {
		if err := checkPath(path); err != nil {
			return err
		}
		if len(path) > longestSocket {
			return fmt.Errorf("the path of a socket has at most %d bytes", longestSocket)
		}
		if path == filepath.Join(runtimeDir, socketName) {
			return fmt.Errorf("%s is the socket that nodejoin status asks, which has the metrics, too: give another path, or \"\" for none", quote(path))
		}
		return nil
	}
	if text == "" {
		return nil
	}
	address, err := netip.ParseAddrPort(text)
	switch {
	case err != nil || address.Addr().Zone() != "":
		return fmt.Errorf("%s is not IP:PORT: %s", quote(text), form)
	case !address.Addr().IsLoopback():
		return fmt.Errorf("%s could be reached from other machines, without encryption and authentication: %s", quote(text), form)
	case address.Port() == 0:
		return fmt.Errorf("%s has no port between 1 and 65535", quote(text))
	}
	return nil
}

var errEmpty = errors.New("there is nothing in it")

// The rest are checks of one field each.

func (r *report) oneOf(path, value string, known ...string) {
	if value != "" && !slices.Contains(known, value) {
		r.add(path, "%s is not one of %s", quote(value), strings.Join(known, ", "))
	}
}

func (r *report) atLeast(path string, value Duration, least time.Duration) {
	if time.Duration(value) < least {
		r.add(path, "%s is shorter than %s", value, Duration(least))
	}
}

// name checks a name that stands in file names and in metrics, and that no other of the list has.
func (r *report) name(path, name string, others map[string]string) {
	switch {
	case name == "":
		r.add(path, "is missing")
	case len(validation.IsDNS1123Label(name)) != 0:
		r.add(path, "%s is not a name of at most 63 lower-case letters, digits and '-', with no '-' at its ends", quote(name))
	case others[name] != "":
		r.add(path, "%s is there twice: it is also %s", quote(name), others[name])
	default:
		others[name] = path
	}
}

// list checks each item, and that none is there twice.
func (r *report) list(path string, items []string, check func(string) error) {
	seen := make(map[string]bool, len(items))
	for i, text := range items {
		switch {
		case seen[text]:
			r.add(item(path, i), "%s is there twice", quote(text))
		case text == "":
			r.check(item(path, i), errEmpty)
		default:
			r.check(item(path, i), check(text))
		}
		seen[text] = true
	}
}

// path checks one that may be left out.
func (r *report) path(path, value string) {
	if value != "" {
		r.check(path, checkPath(value))
	}
}

// secretFile checks the path of a file that holds a secret, and does not repeat it: it may be the secret.
func (r *report) secretFile(path, value string) {
	if value != "" && checkPath(value) != nil {
		r.add(path, "is not the absolute path of a file")
	}
}

func checkPath(path string) error {
	switch {
	case strings.ContainsFunc(path, unicode.IsControl):
		return fmt.Errorf("the path %s has control characters in it", quote(path))
	case len(path) > longestPath:
		return fmt.Errorf("the path has more than %d bytes", longestPath)
	case !isAbsolute(path):
		return fmt.Errorf("the path %s is not absolute", quote(path))
	case path == "/":
		return errors.New("the path is the root directory")
	case clean(path) != path:
		return fmt.Errorf("the path %s is not in its simplest form: write %s", quote(path), quote(clean(path)))
	}
	return nil
}

package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Kubelet is what a kubelet is told about its certificates. The zero value is the kubelet's own defaults: it rotates
// nothing (SetDefaults_KubeletConfiguration in k8s.io/kubernetes v1.37.2, pkg/kubelet/apis/config/v1beta1, leaves
// rotateCertificates and serverTLSBootstrap at false), but kubeadm writes "rotateCertificates: true" whatever it is told
// (cmd/kubeadm/app/componentconfigs/kubelet.go).
type Kubelet struct {
	// Config is the configuration file that was read, "" for none.
	Config string
	// Process is the kubelet that runs; nil if none was seen.
	Process *Process

	RotateCertificates bool // its client certificate
	ServerTLSBootstrap bool // it requests its serving certificate, and rotates it
	// TLSCertFile and TLSPrivateKeyFile are where it reads its serving certificate, "" for nowhere.
	TLSCertFile, TLSPrivateKeyFile string

	sources map[string]string // of each of the settings that were found: what says so, for a person
}

// RotatesItself reports whether the kubelet rotates its client certificate, and what says so.
func (k *Kubelet) RotatesItself() (rotates bool, why string) {
	return k.RotateCertificates, k.why(rotateCertificates, k.RotateCertificates)
}

// RotatesServing reports whether the kubelet requests and rotates its serving certificate, and what says so.
func (k *Kubelet) RotatesServing() (rotates bool, why string) {
	return k.ServerTLSBootstrap, k.why(serverTLSBootstrap, k.ServerTLSBootstrap)
}

func (k *Kubelet) why(name string, value bool) string {
	switch source := k.sources[name]; {
	case source != "" && k.Process != nil && !filepath.IsAbs(source): // a flag of the process
		return source
	case source != "":
		return fmt.Sprintf("%s has %s: %t", source, name, value)
	case k.Config != "":
		return fmt.Sprintf("%s does not set %s, which is then false", k.Config, name)
	}
	return fmt.Sprintf("nothing sets the kubelet's %s, which is then false", name)
}

// The fields of the KubeletConfiguration that matter here.
const (
	rotateCertificates = "rotateCertificates"
	serverTLSBootstrap = "serverTLSBootstrap"
	tlsCertFile        = "tlsCertFile"
	tlsPrivateKeyFile  = "tlsPrivateKeyFile"
)

// maxConfig is far above any kubelet's configuration, which is a few kilobytes.
const maxConfig = 1 << 20

// KubeletConfig reads a kubelet's configuration file (KubeletConfiguration of kubelet.config.k8s.io). Fields that are not
// known are none of its business. root is put before path and not before what it says. A file that is missing is
// [fs.ErrNotExist].
func KubeletConfig(path, root string) (*Kubelet, error) {
	k := &Kubelet{Config: path}
	if err := k.readFile(path, root); err != nil {
		return nil, err
	}
	return k, nil
}

// ReadKubelet returns what is known of this machine's kubelet, in the kubelet's own order of precedence: the configuration
// file, its drop-ins (--config-dir), its flags. The files are those of the kubelet that runs, else the one at path. With
// a root it is about another machine's files, and no process is looked at. Where no kubelet runs and the file is missing,
// the error is [fs.ErrNotExist]. procDir is where the processes are, /proc, and kubeconfig which of them counts first: see
// [FindKubelet].
func ReadKubelet(path, root, procDir, kubeconfig string) (*Kubelet, error) {
	if root != "" && filepath.Clean(root) != "/" {
		return KubeletConfig(path, root)
	}
	p := FindKubelet(procDir, kubeconfig)
	if p == nil {
		return KubeletConfig(path, "")
	}
	k := &Kubelet{Process: p}
	if config := p.path("config"); config != "" {
		k.Config = config
		if err := k.readFile(config, ""); err != nil {
			return nil, err
		}
	}
	if dir := p.path("config-dir"); dir != "" {
		if err := k.readDropIns(dir); err != nil {
			return nil, err
		}
	}
	k.applyFlags()
	return k, nil
}

// readDropIns puts the files of a drop-in directory over what is there, as mergeKubeletConfigurations of the kubelet does:
// in lexical order, those of subdirectories among them.
func (k *Kubelet) readDropIns(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".conf" {
			return err
		}
		return k.readFile(path, "")
	})
}

// readFile puts what a file says over what is there.
func (k *Kubelet) readFile(path, root string) error {
	f, err := os.Open(filepath.Join(root, path))
	if err != nil {
		return fmt.Errorf("cannot read the kubelet's configuration: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing can be lost
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("cannot read the kubelet's configuration: %w", err)
	}
	if len(data) > maxConfig {
		return fmt.Errorf("the kubelet's configuration %s is larger than %d bytes", path, maxConfig)
	}
	var config map[string]any // and not a struct: the kubelet minds the case of names
	if err := yaml.Unmarshal(data, &config); err != nil {
		return fmt.Errorf("the kubelet's configuration %s is damaged: %w", path, err)
	}
	version, _ := config["apiVersion"].(string)
	if config["kind"] != "KubeletConfiguration" || !strings.HasPrefix(version, "kubelet.config.k8s.io/") {
		return fmt.Errorf("%s is no KubeletConfiguration of kubelet.config.k8s.io", path)
	}
	return k.apply(config, path)
}

// apply puts the settings of a file over what is there. null takes a setting back to its default.
func (k *Kubelet) apply(config map[string]any, path string) error {
	if k.sources == nil {
		k.sources = map[string]string{}
	}
	wrong := func(name, kind string) error {
		return fmt.Errorf("the kubelet's configuration %s is damaged: %s is no %s", path, name, kind)
	}
	for name, into := range map[string]*bool{rotateCertificates: &k.RotateCertificates, serverTLSBootstrap: &k.ServerTLSBootstrap} {
		value, there := config[name]
		if !there {
			continue
		}
		set, ok := value.(bool)
		if !ok && value != nil {
			return wrong(name, "boolean")
		}
		*into, k.sources[name] = set, path
	}
	for name, into := range map[string]*string{tlsCertFile: &k.TLSCertFile, tlsPrivateKeyFile: &k.TLSPrivateKeyFile} {
		value, there := config[name]
		if !there {
			continue
		}
		file, ok := value.(string)
		if !ok && value != nil {
			return wrong(name, "string")
		}
		if file != "" && !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file) // resolveRelativePaths in pkg/kubelet/kubeletconfig/configfiles
		}
		*into, k.sources[name] = file, path
	}
	return nil
}

// applyFlags puts the flags of the kubelet that runs over what its files say.
func (k *Kubelet) applyFlags() {
	if k.sources == nil {
		k.sources = map[string]string{}
	}
	for _, flag := range []struct {
		flag, name string
		into       *bool
	}{
		{"rotate-certificates", rotateCertificates, &k.RotateCertificates},
		{"rotate-server-certificates", serverTLSBootstrap, &k.ServerTLSBootstrap},
	} {
		if value, given := k.Process.isOn(flag.flag); given {
			*flag.into, k.sources[flag.name] = value, fmt.Sprintf("the kubelet that runs (PID %d) has --%s=%t", k.Process.PID, flag.flag, value)
		}
	}
	if file := k.Process.path("tls-cert-file"); file != "" {
		k.TLSCertFile = file
	}
	if file := k.Process.path("tls-private-key-file"); file != "" {
		k.TLSPrivateKeyFile = file
	}
}

// Process is a kubelet that runs.
type Process struct {
	PID  int
	Args []string // the first is the program
	dir  string   // it was started in; "" if that may not be seen
}

// FindKubelet returns the kubelet of this machine that runs, or nil if none is seen. procDir is /proc. It reads what every
// process may read of every other one. A kubelet in a container (of a cluster in containers on this machine) has a PID
// namespace of its own and is not this machine's. Of several, the one with this kubeconfig is returned.
func FindKubelet(procDir, kubeconfig string) *Process {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return nil
	}
	var found *Process
	for _, entry := range entries { // sorted by name: the order is always the same
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p := readProcess(filepath.Join(procDir, entry.Name()), pid)
		if p != nil && (found == nil || p.rank(kubeconfig) > found.rank(kubeconfig)) {
			found = p
		}
	}
	return found
}

// rank says how likely it is that this is the kubelet that is looked for.
func (p *Process) rank(kubeconfig string) int {
	switch {
	case !p.isService():
		return 0
	case p.Kubeconfig() != kubeconfig:
		return 1
	}
	return 2
}

// readProcess returns the process if it is a kubelet.
func readProcess(dir string, pid int) *Process {
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil || strings.TrimSpace(string(comm)) != "kubelet" {
		return nil
	}
	commandLine, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(commandLine) == 0 { // ended, and not yet waited for
		return nil
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) || inContainer(string(status)) {
		return nil
	}
	p := &Process{PID: pid, Args: strings.Split(strings.TrimSuffix(string(commandLine), "\x00"), "\x00")}
	p.dir, _ = os.Readlink(filepath.Join(dir, "cwd")) // takes more rights than the rest
	return p
}

// inContainer reports whether a process has a number of its own in another PID namespace (proc(5), NSpid).
func inContainer(status string) bool {
	for line := range strings.Lines(status) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			return len(strings.Fields(numbers)) > 1
		}
	}
	return false
}

// isService tells the kubelet that keeps this machine's pods from one that somebody asks for its version, and from a shell
// script of the same name that has started it.
func (p *Process) isService() bool {
	if filepath.Base(p.Args[0]) != "kubelet" {
		return false
	}
	for _, name := range []string{"kubeconfig", "config", "config-dir", "bootstrap-kubeconfig", "pod-manifest-path"} {
		if _, given := p.Flag(name); given {
			return true
		}
	}
	return false
}

// Flag returns the value of a flag on the command line, where the last one counts, and whether it was given.
func (p *Process) Flag(name string) (value string, given bool) {
	for i, valued := range p.flags(name) {
		value, given = valued.text, true
		if !valued.inline && i+1 < len(p.Args) {
			value = p.Args[i+1]
		}
	}
	return value, given
}

// isOn returns the value of a flag that is a switch, and whether it was given. It stands after the flag's "=" or nowhere.
func (p *Process) isOn(name string) (on, given bool) {
	for _, valued := range p.flags(name) {
		if !valued.inline {
			on, given = true, true
		} else if value, err := strconv.ParseBool(valued.text); err == nil {
			on, given = value, true
		}
	}
	return on, given
}

// flagValue is what follows a flag's "=", if that is there.
type flagValue struct {
	text   string
	inline bool
}

// flags yields the places where a flag stands on the command line.
func (p *Process) flags(name string) iter.Seq2[int, flagValue] {
	return func(yield func(int, flagValue) bool) {
		for i := 1; i < len(p.Args) && p.Args[i] != "--"; i++ {
			arg, found := strings.CutPrefix(p.Args[i], "--")
			flag, text, inline := strings.Cut(arg, "=")
			flag = strings.ReplaceAll(flag, "_", "-") // WordSepNormalizeFunc in k8s.io/component-base/cli/flag
			if found && flag == name && !yield(i, flagValue{text, inline}) {
				return
			}
		}
	}
}

// Kubeconfig returns the kubeconfig that the kubelet was told to use, "" for none.
func (p *Process) Kubeconfig() string { return p.path("kubeconfig") }

// CertDir returns the directory of the kubelet's certificates.
func (p *Process) CertDir() string {
	if dir := p.path("cert-dir"); dir != "" {
		return dir
	}
	return "/var/lib/kubelet/pki" // NewKubeletFlags in k8s.io/kubernetes/cmd/kubelet/app/options
}

// NodeName returns the name that the kubelet was told to have (--hostname-override), "" for the host's.
func (p *Process) NodeName() string {
	name, _ := p.Flag("hostname-override")
	return strings.ToLower(strings.TrimSpace(name)) // GetHostname in k8s.io/kubernetes/pkg/util/node
}

// path returns the value of a flag that names a file, made absolute.
func (p *Process) path(name string) string {
	file, _ := p.Flag(name)
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join("/", p.dir, file)
}

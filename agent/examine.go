package agent

import (
	"context"
	"slices"

	"github.com/nodejoin/nodejoin/agent/doctor"
	"github.com/nodejoin/nodejoin/rotate"
)

// serviceCredentials is where root finds what systemd has handed to the service, while that runs (systemd.exec(5)).
const serviceCredentials = "/run/credentials/nodejoin.service"

// Examine looks at everything that can keep this machine from joining or from rotating. Nothing is changed. With wrong, the
// configuration file cannot be used for that reason, and config is what was said elsewhere.
func Examine(ctx context.Context, config *Config, wrong error) *doctor.Report {
	return examine(ctx, config.seenFromOutside(serviceCredentials), wrong)
}

func examine(ctx context.Context, config *Config, wrong error) *doctor.Report {
	a := New(config, discard())
	in := doctor.Input{
		Node: a.node(), ConfigFile: config.options.ConfigFile, ConfigErr: wrong,
		Pins: config.pins, FixedTrust: config.options.FixedTrust,
		Paths: config.paths, RuntimeDir: config.options.RuntimeDir, KubeletConfig: config.kubeletConfig, Secrets: config.credentialPaths(),
		Rotation: string(config.rotation), UserAgent: config.userAgent, Now: a.now,
	}
	in.RuntimeDir = orDefault(in.RuntimeDir, DefaultRuntimeDir)
	if in.Disk, in.DiskErr = a.store.Load(); in.DiskErr == nil {
		in.DiskErr = a.settleName(in.Disk)
		in.Node = a.node()
	}
	if in.DiskErr == nil && in.Disk.Pair == nil && !slices.ContainsFunc(config.accesses(), func(x *access) bool { return x.spends }) {
		_, _ = a.nameByCredential(ctx) // what is wrong with a credential is found when that is looked at
		in.Node = a.node()
	}
	if in.Cluster = a.clusterJoined(in.Disk); in.Cluster == nil && len(config.site.Endpoints) != 0 {
		in.Cluster = new(config.site)
	}
	for _, x := range config.accesses() {
		in.Accesses = append(in.Accesses, doctor.Access{Discovery: x.discovery, DiscoveryErr: x.discoveryErr, Credential: x.credential, CredentialErr: x.credentialErr, Lacking: x.lacksUsual(), Via: x.via, Spends: x.spends})
	}
	for _, k := range a.keepers[1:] {
		if k.name == ServingName {
			in.Serving = servingFiles(k.slot)
		}
	}
	for _, hook := range config.options.Hooks {
		in.Hooks = append(in.Hooks, doctor.Hook{Name: hook.Name, Command: hook.Command})
	}
	return doctor.Run(ctx, in)
}

// servingFiles returns the files that a kubelet can be given as its serving certificate.
func servingFiles(slot *rotate.Slot) []string {
	files := []string{slot.CurrentPath()}
	for _, path := range []string{slot.CertificateFile, slot.PrivateKeyFile} {
		if path != "" {
			files = append(files, path)
		}
	}
	return files
}

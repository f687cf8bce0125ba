package bootstrap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd/api/v1"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// DiscoveryFile is a kubeconfig of this machine, as kubeadm's --discovery-file and the kubelet's --bootstrap-kubeconfig:
// one cluster, and what may authenticate to it.
type DiscoveryFile struct {
	Cluster Cluster

	path   string
	dir    string // that relative paths start from
	mode   fs.FileMode
	config func() *v1.Config // a function, into which no printer looks: the users have secrets in them as plain text
}

// ReadDiscoveryFile reads the cluster. Every mistake is one of the operator's input. The users are for Bearer: another
// credential may be at hand.
func ReadDiscoveryFile(path string, now time.Time) (*DiscoveryFile, error) {
	const remedy = "write a kubeconfig with one cluster: its server and certificate-authority-data"
	data, mode, err := readFile(path, maxKubeconfig)
	if err != nil {
		return nil, fault.New(fault.Usage, remedy, "cannot read the discovery file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fault.New(fault.Usage, remedy, "cannot read the discovery file: %w", err)
	}
	cluster, config, err := parseKubeconfig(data, dir, now)
	if err != nil {
		return nil, fault.New(fault.Usage, remedy, "the discovery file %s cannot be used: %w", path, err)
	}
	cluster.Source = "the discovery file " + path
	return &DiscoveryFile{Cluster: *cluster, path: path, dir: dir, mode: mode, config: func() *v1.Config { return config }}, nil
}

// Bearer returns the bearer token of the file's user: the one of the current context, or else the only one. It is zero
// where there is no user, or nothing in it. Every mistake is one of the operator's input, and so is any other kind of
// credential, and a token that every user of this machine can read.
func (f *DiscoveryFile) Bearer() (Secret, error) {
	token, err := f.bearer()
	if err != nil {
		return Secret{}, fault.New(fault.Usage, cmp.Or(fault.Remedy(err), "give its user a token (kubectl config set-credentials), or give one with --token"),
			"the user of the discovery file %s cannot be used: %w", f.path, err)
	}
	return token, nil
}

func (f *DiscoveryFile) bearer() (Secret, error) {
	user, err := userOf(f.config())
	if err != nil {
		return Secret{}, err
	}
	switch {
	case user.Exec != nil:
		return Secret{}, errors.New("it has an exec plugin, which is not supported")
	case user.AuthProvider != nil:
		return Secret{}, errors.New("it has an auth-provider, which is not supported")
	case user.Username != "" || user.Password != "":
		return Secret{}, errors.New("it has a password, which Kubernetes does not know any more")
	case user.ClientCertificate != "" || len(user.ClientCertificateData) != 0 || user.ClientKey != "" || len(user.ClientKeyData) != 0:
		return Secret{}, errors.New("it has a client certificate, which is not supported")
	case user.Impersonate != "" || user.ImpersonateUID != "" || len(user.ImpersonateGroups) != 0 || len(user.ImpersonateUserExtra) != 0:
		return Secret{}, errors.New("it impersonates another")
	}
	if user.Token != "" {
		if err := checkSecrecy(f.path, f.mode); err != nil {
			return Secret{}, err
		}
	}
	switch {
	case user.TokenFile != "": // it wins over the token, as everywhere in client-go
		return readBearer(resolve(user.TokenFile, f.dir))
	case user.Token != "":
		return parseBearer("its token", user.Token)
	}
	return Secret{}, nil
}

// userOf returns the user of the current context, or else the only one; the zero value where there is none.
func userOf(config *v1.Config) (v1.AuthInfo, error) {
	context, err := contextOf(config)
	if err != nil {
		return v1.AuthInfo{}, err
	}
	if context.AuthInfo == "" && len(config.AuthInfos) > 1 {
		return v1.AuthInfo{}, fmt.Errorf("there are %d, and no current context says which", len(config.AuthInfos))
	}
	for _, user := range config.AuthInfos {
		if context.AuthInfo == "" || user.Name == context.AuthInfo {
			return user.AuthInfo, nil
		}
	}
	if context.AuthInfo != "" {
		return v1.AuthInfo{}, fmt.Errorf("the current context names %q, which is not there", context.AuthInfo)
	}
	return v1.AuthInfo{}, nil
}

// readBearer reads a tokenFile, as client-go does without the white space around the token.
func readBearer(path string) (Secret, error) {
	data, mode, err := readFile(path, maxTokenFile)
	if err != nil {
		return Secret{}, fmt.Errorf("its tokenFile: %w", err)
	}
	if err := checkSecrecy(path, mode); err != nil {
		return Secret{}, err
	}
	return parseBearer("its tokenFile "+path, strings.TrimSpace(string(data)))
}

// parseBearer refuses what cannot stand in the header of a request. what names the text, which is not repeated.
func parseBearer(what, text string) (Secret, error) {
	if mistake := bearerMistake(text); mistake != "" {
		return Secret{}, fmt.Errorf("%s %s", what, mistake)
	}
	return NewSecret(text), nil
}

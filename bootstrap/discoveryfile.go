package bootstrap

import (
	"cmp"
	"context"
	"crypto/x509"
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

// Credential returns what the file's user authenticates with, the one of the current context or else the only one: a token
// or a client certificate; nil where there is no user, or nothing in it. Every mistake is one of the operator's input, and
// so is any other kind of credential, and a secret that every user of this machine can read.
func (f *DiscoveryFile) Credential() (Credential, error) {
	proof, err := f.proof()
	if err != nil {
		return nil, err
	}
	if proof == nil {
		return nil, nil //nolint:nilnil // none is an answer
	}
	return &fileUser{f.path, proof.Certificate != nil}, nil
}

// Leaf returns the client certificate of the file's user; nil where it has none that can be used.
func (f *DiscoveryFile) Leaf() *x509.Certificate {
	proof, err := f.read()
	if err != nil || proof == nil || proof.Certificate == nil {
		return nil
	}
	return proof.Certificate.Leaf
}

// fileUser is the user of a discovery file, which is read at each use.
type fileUser struct {
	path          string
	isCertificate bool
}

// Proof implements [Credential].
func (u *fileUser) Proof(context.Context) (*Proof, error) {
	f, err := ReadDiscoveryFile(u.path, time.Now())
	if err != nil {
		return nil, err
	}
	proof, err := f.proof()
	if proof == nil && err == nil {
		return nil, fault.New(fault.Usage, u.Remedy(), "the discovery file %s has no user any more", u.path)
	}
	return proof, err
}

// String implements [Credential].
func (u *fileUser) String() string {
	if u.isCertificate {
		return "the client certificate in " + u.path
	}
	return "the token in " + u.path
}

// Remedy implements [Credential].
func (u *fileUser) Remedy() string {
	if u.isCertificate {
		return "have a new one made (nodejoin bundle NODE) and put it into " + u.path
	}
	return "put a new token into " + u.path
}

func (f *DiscoveryFile) proof() (*Proof, error) {
	proof, err := f.read()
	if err != nil {
		return nil, fault.New(fault.Usage, cmp.Or(fault.Remedy(err), "give its user a token or a client certificate (kubectl config set-credentials), or give a token with --token"),
			"the user of the discovery file %s cannot be used: %w", f.path, err)
	}
	return proof, nil
}

// read reads what the user has; nil for nothing.
func (f *DiscoveryFile) read() (*Proof, error) {
	user, err := userOf(f.config())
	if err != nil {
		return nil, err
	}
	hasCertificate := user.ClientCertificate != "" || len(user.ClientCertificateData) != 0 || user.ClientKey != "" || len(user.ClientKeyData) != 0
	switch {
	case user.Exec != nil:
		return nil, fault.New(fault.Usage, "name the program in nodejoin's configuration file, as credentials: [{exec: {command: [/PATH]}}]",
			"it has an exec plugin, and only those are run that the configuration file names")
	case user.AuthProvider != nil:
		return nil, errors.New("it has an auth-provider, which Kubernetes does not know any more")
	case user.Username != "" || user.Password != "":
		return nil, errors.New("it has a password, which Kubernetes does not know any more")
	case user.Impersonate != "" || user.ImpersonateUID != "" || len(user.ImpersonateGroups) != 0 || len(user.ImpersonateUserExtra) != 0:
		return nil, errors.New("it impersonates another")
	case hasCertificate && (user.Token != "" || user.TokenFile != ""):
		return nil, errors.New("it has both a token and a client certificate: leave one of them out")
	}
	if user.Token != "" || len(user.ClientKeyData) != 0 {
		if err := checkSecrecy(f.path, f.mode); err != nil {
			return nil, err
		}
	}
	var token Secret
	switch {
	case hasCertificate:
		return f.readKeyPair(&user)
	case user.TokenFile != "": // it wins over the token, as everywhere in client-go
		token, err = readBearer(resolve(user.TokenFile, f.dir))
	case user.Token != "":
		token, err = parseBearer("its token", user.Token)
	default:
		return nil, nil //nolint:nilnil // there is nothing
	}
	if err != nil {
		return nil, err
	}
	return ProofOfToken(token), nil
}

// readKeyPair reads the user's client certificate. Data wins over files, as everywhere in client-go.
func (f *DiscoveryFile) readKeyPair(user *v1.AuthInfo) (*Proof, error) {
	certPEM, keyPEM := user.ClientCertificateData, user.ClientKeyData
	var err error
	if len(certPEM) == 0 && user.ClientCertificate != "" {
		if certPEM, _, err = readFile(resolve(user.ClientCertificate, f.dir), maxKeyPairFile); err != nil {
			return nil, fmt.Errorf("its client-certificate: %w", err)
		}
	}
	if len(keyPEM) == 0 && user.ClientKey != "" {
		if keyPEM, err = ReadSecret(resolve(user.ClientKey, f.dir), maxKeyPairFile); err != nil {
			return nil, fmt.Errorf("its client-key: %w", err)
		}
	}
	pair, err := ParseKeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("its client certificate: %w", err)
	}
	return ProofOfCertificate(pair), nil
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

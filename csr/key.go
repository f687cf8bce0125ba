package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"

	"github.com/cloudflare/cfssl/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Algorithm is a kind of private key, named as in kubeadm's ClusterConfiguration.encryptionAlgorithm.
type Algorithm string

// DefaultAlgorithm is what a kubelet uses.
const DefaultAlgorithm Algorithm = "ECDSA-P256"

var algorithms = map[Algorithm]csr.KeyRequest{
	"ECDSA-P256": {A: "ecdsa", S: 256},
	"ECDSA-P384": {A: "ecdsa", S: 384},
	"RSA-2048":   {A: "rsa", S: 2048},
	"RSA-3072":   {A: "rsa", S: 3072},
	"RSA-4096":   {A: "rsa", S: 4096},
}

// Algorithms returns the names of all algorithms, sorted.
func Algorithms() []string {
	names := make([]string, 0, len(algorithms))
	for name := range algorithms {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// ParseAlgorithm reads an algorithm's name.
func ParseAlgorithm(text string) (Algorithm, error) {
	if _, known := algorithms[Algorithm(text)]; !known {
		return "", fault.New(fault.Usage, "choose one of "+strings.Join(Algorithms(), ", "), "the key algorithm %q is not known", text)
	}
	return Algorithm(text), nil
}

// GenerateKey makes a new private key.
func GenerateKey(algorithm Algorithm) (crypto.Signer, error) {
	request, known := algorithms[algorithm]
	if !known {
		return nil, fmt.Errorf("unknown key algorithm %q", algorithm)
	}
	key, err := request.Generate()
	if err != nil {
		return nil, fmt.Errorf("cannot make a %s key: %w", algorithm, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// algorithmOf returns the algorithm that a key is of, or "" for one that is not known.
func algorithmOf(key crypto.Signer) Algorithm {
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		return Algorithm("ECDSA-" + strings.ReplaceAll(public.Params().Name, "-", ""))
	case *rsa.PublicKey:
		return Algorithm(fmt.Sprintf("RSA-%d", public.Size()*8))
	}
	return ""
}

// MarshalKey returns the key as PEM, in the form that the kubelet writes (SEC 1 for ECDSA, PKCS #1 for RSA).
func MarshalKey(key crypto.Signer) ([]byte, error) {
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, fmt.Errorf("cannot write the key: %w", err)
	}
	return data, nil
}

// ParseKey reads a PEM private key that can sign.
func ParseKey(data []byte) (crypto.Signer, error) {
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

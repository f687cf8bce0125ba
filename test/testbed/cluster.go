package testbed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
)

// DefaultTokenGroup is the group that kubeadm's bindings name, and that bootstrap tokens are in by default.
const DefaultTokenGroup = "system:bootstrappers:kubeadm:default-node-token"

// clusterInfoReader is kubeadm's name for the Role, and for its binding, that lets everybody read cluster-info.
const clusterInfoReader = "kubeadm:bootstrap-signer-clusterinfo"

// kubeadmBindings are the ClusterRoleBindings (name, role, group) that let a node join and rotate.
var kubeadmBindings = [][3]string{
	{"kubeadm:kubelet-bootstrap", "system:node-bootstrapper", DefaultTokenGroup},
	{"kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", DefaultTokenGroup},
	{"kubeadm:node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"},
}

// publish makes the objects that kubeadm init makes and that a joining node needs.
func (cp *ControlPlane) publish(ctx context.Context) error {
	if !cp.options.NoBindings {
		if err := cp.bind(ctx); err != nil {
			return err
		}
	}
	if cp.options.NoClusterInfo {
		return nil
	}
	if err := cp.exposeClusterInfo(ctx); err != nil {
		return err
	}
	return cp.PublishClusterInfo(ctx, cp.URL, cp.ServingCA.PEM)
}

func (cp *ControlPlane) bind(ctx context.Context) error {
	for _, binding := range kubeadmBindings {
		_, err := cp.Client().RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: binding[0]},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: binding[1]},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: binding[2]}},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make the ClusterRoleBinding %s: %w", binding[0], err)
		}
	}
	return nil
}

func (cp *ControlPlane) exposeClusterInfo(ctx context.Context) error {
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: clusterInfoReader, Namespace: metav1.NamespacePublic},
		Rules: []rbacv1.PolicyRule{{
			Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"},
			ResourceNames: []string{bootstrapapi.ConfigMapClusterInfo},
		}},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: clusterInfoReader, Namespace: metav1.NamespacePublic},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: clusterInfoReader},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "system:anonymous"}},
	}
	err := inNamespace(ctx, func(ctx context.Context) error {
		_, err := cp.Client().RbacV1().Roles(role.Namespace).Create(ctx, role, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("make the Role %s: %w", role.Name, err)
	}
	err = inNamespace(ctx, func(ctx context.Context) error {
		_, err := cp.Client().RbacV1().RoleBindings(binding.Namespace).Create(ctx, binding, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("make the RoleBinding %s: %w", binding.Name, err)
	}
	return nil
}

// inNamespace creates an object. The API server makes kube-system and kube-public a moment after it is ready, so
// NotFound is tried again; an object that exists already is as good as a new one.
func inNamespace(ctx context.Context, create func(context.Context) error) error {
	var final error
	err := poll(ctx, func(ctx context.Context) error {
		final = create(ctx)
		if apierrors.IsNotFound(final) {
			return final
		}
		return nil
	})
	if err != nil {
		return err
	}
	if apierrors.IsAlreadyExists(final) {
		return nil
	}
	return final
}

// PublishClusterInfo publishes kube-public/cluster-info for a server URL and a CA bundle, and drops what was published
// before, its signatures included. The bootstrap signer then signs it anew for every token; see WaitSigned.
func (cp *ControlPlane) PublishClusterInfo(ctx context.Context, server string, caPEM []byte) error {
	kubeconfig, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"": {Server: server, CertificateAuthorityData: caPEM}},
	})
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	maps := cp.Client().CoreV1().ConfigMaps(metav1.NamespacePublic)
	info := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: bootstrapapi.ConfigMapClusterInfo, Namespace: metav1.NamespacePublic},
		Data:       map[string]string{bootstrapapi.KubeConfigKey: string(kubeconfig)},
	}
	err = inNamespace(ctx, func(ctx context.Context) error {
		_, err := maps.Create(ctx, info, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			_, err = maps.Update(ctx, info, metav1.UpdateOptions{}) // no resource version: the last write wins
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("publish cluster-info: %w", err)
	}
	return nil
}

// TokenOptions describe a bootstrap token. The zero value is what kubeadm token create makes, for an hour.
type TokenOptions struct {
	Token       string        // ID.SECRET; empty: random
	TTL         time.Duration // zero: one hour; negative: expired already, which the API server refuses to authenticate
	Forever     bool          // the token does not expire, whatever TTL says
	Groups      []string      // nil: DefaultTokenGroup
	Description string
	NoSigning   bool // cluster-info is not signed with the token
	NoAuth      bool // the token does not authenticate
}

// CreateToken makes a bootstrap token and returns it, ID.SECRET. It does not wait until cluster-info is signed with it.
func (cp *ControlPlane) CreateToken(ctx context.Context, options TokenOptions) (string, error) {
	token := options.Token
	if token == "" {
		var err error
		if token, err = bootstraputil.GenerateBootstrapToken(); err != nil {
			return "", fmt.Errorf("make a bootstrap token: %w", err)
		}
	}
	id, secret, _ := strings.Cut(token, ".")
	data := map[string]string{bootstrapapi.BootstrapTokenIDKey: id, bootstrapapi.BootstrapTokenSecretKey: secret}
	if !options.Forever {
		ttl := options.TTL
		if ttl == 0 {
			ttl = time.Hour
		}
		data[bootstrapapi.BootstrapTokenExpirationKey] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
	}
	groups := options.Groups
	if groups == nil {
		groups = []string{DefaultTokenGroup}
	}
	if len(groups) > 0 {
		data[bootstrapapi.BootstrapTokenExtraGroupsKey] = strings.Join(groups, ",")
	}
	if options.Description != "" {
		data[bootstrapapi.BootstrapTokenDescriptionKey] = options.Description
	}
	if !options.NoSigning {
		data[bootstrapapi.BootstrapTokenUsageSigningKey] = "true"
	}
	if !options.NoAuth {
		data[bootstrapapi.BootstrapTokenUsageAuthentication] = "true"
	}
	secretObject := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: bootstraputil.BootstrapTokenSecretName(id), Namespace: metav1.NamespaceSystem},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: data,
	}
	err := inNamespace(ctx, func(ctx context.Context) error {
		_, err := cp.Client().CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, secretObject, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("make the bootstrap token %s: %w", id, err)
	}
	return token, nil
}

// DeleteToken deletes a bootstrap token, given whole or by its ID.
func (cp *ControlPlane) DeleteToken(ctx context.Context, token string) error {
	id, _, _ := strings.Cut(token, ".")
	name := bootstraputil.BootstrapTokenSecretName(id)
	if err := cp.Client().CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete the bootstrap token %s: %w", id, err)
	}
	return nil
}

// WaitSigned waits until cluster-info is signed with a bootstrap token, given whole or by its ID.
func (cp *ControlPlane) WaitSigned(ctx context.Context, token string) error {
	id, _, _ := strings.Cut(token, ".")
	err := poll(ctx, func(ctx context.Context) error {
		info, err := cp.Client().CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if info.Data[bootstrapapi.JWSSignatureKeyPrefix+id] == "" {
			return errors.New("cluster-info is not signed")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the signature with the bootstrap token %s: %w", id, err)
	}
	return nil
}

package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/admin/cloudinit"
	"github.com/nodejoin/nodejoin/agent/config"
	"github.com/nodejoin/nodejoin/bootstrap"
)

// Invitation is what a machine must know to join with a bootstrap token. Whoever holds it can join as any node.
type Invitation struct {
	Cluster *bootstrap.Cluster
	Node    string // "" for what the machine calls itself
	Token   bootstrap.Token
	Expires *time.Time // nil for never
}

// ClusterForNodes returns the cluster as nodes are told of it, from cluster-info, else from the kubeconfig; published says
// whether it was the former, without which no node can find the cluster by a token.
func (c *Client) ClusterForNodes(ctx context.Context) (cluster *bootstrap.Cluster, published bool, err error) {
	cluster, err = c.ClusterInfo(ctx)
	if !errors.Is(err, ErrNotFound) {
		return cluster, err == nil, err
	}
	cluster, err = c.cluster.ForNodes(time.Now())
	return cluster, false, err
}

// Command returns the command line with which a machine joins, the token in it.
func (i *Invitation) Command() string {
	words := []string{"nodejoin", "join", i.Cluster.Endpoints[0].String(), "--token", i.Token.Bearer().Reveal()}
	for _, pin := range pinsOf(i.Cluster) {
		words = append(words, "--discovery-token-ca-cert-hash", pin)
	}
	if i.Cluster.TLSServerName != "" {
		words = append(words, "--tls-server-name", i.Cluster.TLSServerName)
	}
	if i.Node != "" {
		words = append(words, "--node-name", i.Node)
	}
	return strings.Join(words, " ")
}

// UserData returns cloud-init's user data with which a machine joins at its first boot.
func (i *Invitation) UserData(machine cloudinit.Machine) ([]byte, error) {
	until := "for ever, or until it is deleted: nodejoin token delete " + i.Token.ID
	if i.Expires != nil {
		until = "until " + i.Expires.Format(time.RFC3339)
	}
	who := "a node"
	if i.Node != "" {
		who = "the node " + i.Node
	}
	data := cloudinit.UserData{
		Comment: fmt.Sprintf("It makes a machine %s of %s, and keeps it one.\nIt holds a bootstrap token: whoever reads it can join as any node, %s.",
			who, i.Cluster.Endpoints[0], until),
		Config: &config.File{
			NodeName: i.Node,
			Cluster:  config.Cluster{Servers: []string{i.Cluster.Endpoints[0].String()}, TLSServerName: i.Cluster.TLSServerName, CACertHashes: pinsOf(i.Cluster)},
		},
		Files:   []cloudinit.File{{Path: cloudinit.TokenFile, Content: []byte(i.Token.Bearer().Reveal())}},
		Machine: machine,
	}
	return data.Marshal()
}

// BundleUserData returns cloud-init's user data with which a machine joins at its first boot with a bundle: a kubeconfig that
// is good for one node, until some time.
func BundleUserData(node string, until time.Time, bundle []byte, machine cloudinit.Machine) ([]byte, error) {
	const path = "/etc/nodejoin/bundle.conf"
	data := cloudinit.UserData{
		Comment: fmt.Sprintf("It makes a machine the node %s, and keeps it one.\nIt holds a private key: whoever reads it can join as this node, until %s.",
			node, until.Format(time.RFC3339)),
		Config:  &config.File{Cluster: config.Cluster{DiscoveryFile: path}},
		Files:   []cloudinit.File{{Path: path, Content: bundle}},
		Machine: machine,
	}
	return data.Marshal()
}

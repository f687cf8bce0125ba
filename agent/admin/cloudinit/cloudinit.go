// Package cloudinit writes the user data with which a new machine becomes a node at its first boot, and stays one.
//
// # What the user data does
//
// cloud-init works in an order of its own (https://cloudinit.readthedocs.io/en/latest/explanation/boot.html), and the user
// data says what is done where:
//
//   - before the network is there for others, cloud-init writes nodejoin's configuration, the files with its credential and
//     the key of a package repository. An agent that the image has is started after that (network-online.target), and finds
//     them;
//   - after that it installs nodejoin, where an [Install] says how. The configuration that is there wins over the package's,
//     which has nothing but comments in it;
//   - at the end it enables nodejoin.service and starts it, where that has not happened yet. It does not wait for the
//     identity: somebody may have to approve it, and that may be somebody who waits for this machine.
//
// A kubelet.service, where there is one, gets a drop-in (package systemd has it as an example) with which it waits for the
// identity. One that the image starts is stopped before it has run, and started again with the drop-in. An image without a
// kubelet is a node all the same; that there is none is in cloud-init's log.
//
// # What it promises
//
// A secret is in a file of mode 0600 alone, and never in a command: cloud-init logs what it runs. It still is in the user
// data, which the machine, and often everything on it, can read for as long as the machine lives: give it a credential that
// ends soon.
//
// # How it fails
//
// On the machine the last command is the one that fails when there is no agent, so that "cloud-init status" says error. Here,
// what nodejoin or cloud-init would refuse is an error, and nothing is written.
package cloudinit

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/nodejoin/nodejoin/agent/config"
)

// configFile is where nodejoin looks for its configuration.
const configFile = "/etc/nodejoin/config.yaml"

// TokenFile is where it looks for a bootstrap token. It is a path of the new machine's, whatever writes the user data.
const TokenFile = "/etc/nodejoin/token" //nolint:gosec // a path

// Modes of files.
const (
	secret = "0600"
	public = "0644"
)

// File is a text file of the machine.
type File struct {
	Path    string // absolute
	Content []byte // text
	Public  bool   // whether others than root may read it, as they may a CA
}

// Machine is what a machine has to do beside joining. The zero value is one that has nodejoin in its image, and a kubelet.
type Machine struct {
	Install   Install
	NoKubelet bool // leaves kubelet.service alone
}

// UserData is what a machine is told at its first boot.
type UserData struct {
	Comment string       // of any number of lines, for whoever reads it
	Config  *config.File // one that nodejoin accepts
	Files   []File       // those that the configuration names
	Machine
}

// document is cloud-init's cloud-config (https://cloudinit.readthedocs.io/en/latest/reference/modules.html).
type document struct {
	BootCommand []command           `yaml:"bootcmd,omitempty"`
	WriteFiles  []file              `yaml:"write_files"`
	Apt         *apt                `yaml:"apt,omitempty"`
	YumRepos    map[string]yumRepos `yaml:"yum_repos,omitempty"`
	Packages    []string            `yaml:"packages,omitempty,flow"`
	RunCommand  []command           `yaml:"runcmd"`
}

// command is one that cloud-init runs without a shell's looking at its arguments.
type command []string

// MarshalYAML puts a command on one line.
func (c command) MarshalYAML() (any, error) {
	node := yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, word := range c {
		node.Content = append(node.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: word})
	}
	return node, nil
}

// file is an entry of write_files.
type file struct {
	Path        string    `yaml:"path"`
	Owner       string    `yaml:"owner"`
	Permissions string    `yaml:"permissions"`
	Defer       bool      `yaml:"defer,omitempty"` // written after the packages are installed
	Content     yaml.Node `yaml:"content"`
}

func newFile(path, permissions string, content []byte) file {
	text := strings.TrimSuffix(string(content), "\n") + "\n"
	return file{
		Path: path, Owner: "root:root", Permissions: permissions,
		Content: yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.LiteralStyle},
	}
}

// Marshal returns the user data as text. It fails where nodejoin would refuse the configuration.
func (u *UserData) Marshal() ([]byte, error) {
	text, err := u.Config.Marshal()
	if err != nil {
		return nil, err
	}
	if _, err := config.Parse(text, configFile); err != nil {
		return nil, fmt.Errorf("the configuration for the node is not valid: %w", err)
	}
	var d document
	for _, f := range u.Files {
		mode := secret
		if f.Public {
			mode = public
		}
		d.WriteFiles = append(d.WriteFiles, newFile(f.Path, mode, f.Content))
	}
	d.WriteFiles = append(d.WriteFiles, newFile(configFile, public, text))
	u.Install.addTo(&d)
	if !u.NoKubelet {
		d.addKubelet()
	}
	d.RunCommand = append(d.RunCommand, command{"systemctl", "enable", "--now", "--no-block", "nodejoin.service"})

	var data bytes.Buffer
	data.WriteString("#cloud-config\n")
	for words := range strings.SplitSeq(u.Comment, "\n") {
		data.WriteString(strings.TrimSpace("# "+words) + "\n")
	}
	encoder := yaml.NewEncoder(&data)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(&d); err != nil {
		return nil, err
	}
	return data.Bytes(), encoder.Close()
}

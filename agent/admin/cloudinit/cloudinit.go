// Package cloudinit writes the user data with which a new machine joins at its first boot: cloud-init writes nodejoin's
// configuration and the files with its credential, and then runs nodejoin join, which must be installed in the image.
//
// A secret is in a file of mode 0600 alone, and never in a command: cloud-init logs what it runs. It still is in the user
// data, which the machine, and often everything on it, can read for as long as the machine lives: give it a credential that
// ends soon.
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

// Secret is a file that only root may read.
type Secret struct {
	Path    string // absolute
	Content []byte // text
}

// file is an entry of cloud-init's write_files
// (https://cloudinit.readthedocs.io/en/latest/reference/modules.html#write-files).
type file struct {
	Path        string    `yaml:"path"`
	Owner       string    `yaml:"owner"`
	Permissions string    `yaml:"permissions"`
	Content     yaml.Node `yaml:"content"`
}

func newFile(path, permissions string, content []byte) file {
	text := strings.TrimSuffix(string(content), "\n") + "\n"
	return file{path, "root:root", permissions, yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.LiteralStyle}}
}

// UserData returns the user data of a machine with a configuration and the files with secrets that it names. It fails where
// nodejoin would refuse the configuration. comment, of any number of lines, is for whoever reads it.
func UserData(comment string, configuration *config.File, secrets ...Secret) ([]byte, error) {
	text, err := configuration.Marshal()
	if err != nil {
		return nil, err
	}
	if _, err := config.Parse(text, configFile); err != nil {
		return nil, fmt.Errorf("the configuration for the node is not valid: %w", err)
	}
	var document struct {
		WriteFiles []file     `yaml:"write_files"`
		RunCommand [][]string `yaml:"runcmd,flow"`
	}
	for _, secret := range secrets {
		document.WriteFiles = append(document.WriteFiles, newFile(secret.Path, "0600", secret.Content))
	}
	document.WriteFiles = append(document.WriteFiles, newFile(configFile, "0644", text))
	document.RunCommand = [][]string{{"nodejoin", "join"}}

	var data bytes.Buffer
	data.WriteString("#cloud-config\n")
	for words := range strings.SplitSeq(comment, "\n") {
		data.WriteString(strings.TrimSpace("# "+words) + "\n")
	}
	encoder := yaml.NewEncoder(&data)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(&document); err != nil {
		return nil, err
	}
	return data.Bytes(), encoder.Close()
}

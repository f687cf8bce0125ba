package issue

import (
	"encoding/base64"

	"go.yaml.in/yaml/v3"
)

// valueOf returns the value of a key in a mapping, or in the mapping that a document is; nil if there is none.
func valueOf(node *yaml.Node, key string) *yaml.Node {
	if node.Kind == yaml.DocumentNode && len(node.Content) == 1 {
		node = node.Content[0]
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// set puts data into a mapping under inline, in the place of what is there or of the path that is under byPath.
func set(node *yaml.Node, byPath, inline string, data []byte) {
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: base64.StdEncoding.EncodeToString(data)}
	remove := byPath
	if valueOf(node, inline) == nil && valueOf(node, byPath) != nil {
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == byPath {
				node.Content[i].Value, remove = inline, ""
			}
		}
	}
	kept := node.Content[:0]
	done := false
	for i := 0; i+1 < len(node.Content); i += 2 {
		switch key := node.Content[i]; key.Value {
		case remove:
		case inline:
			kept, done = append(kept, key, value), true
		default:
			kept = append(kept, key, node.Content[i+1])
		}
	}
	if !done {
		kept = append(kept, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: inline}, value)
	}
	node.Content = kept
}

package config

import (
	"bytes"
	"encoding"
	"fmt"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Marshal returns the configuration as YAML, in the order of the reference. What is empty is left out; [File.Default]
// leaves little empty.
func (f *File) Marshal() ([]byte, error) {
	node, err := encode(reflect.ValueOf(f).Elem())
	if err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	var data bytes.Buffer
	encoder := yaml.NewEncoder(&data)
	encoder.SetIndent(2)
	encoder.CompactSeqIndent()
	if err := encoder.Encode(node); err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	return data.Bytes(), encoder.Close()
}

// encode is the inverse of report.decode.
func encode(value reflect.Value) (*yaml.Node, error) {
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	if text, ok := reflect.TypeAssert[encoding.TextMarshaler](value); ok {
		data, err := text.MarshalText()
		return &yaml.Node{Kind: yaml.ScalarNode, Value: string(data)}, err
	}
	switch value.Kind() {
	case reflect.Struct:
		node := &yaml.Node{Kind: yaml.MappingNode}
		for i := range value.NumField() {
			if value.Field(i).IsZero() {
				continue
			}
			content, err := encode(value.Field(i))
			if err != nil {
				return nil, err
			}
			key := &yaml.Node{Kind: yaml.ScalarNode, Value: keyOf(value.Type().Field(i))}
			node.Content = append(node.Content, key, content)
		}
		return node, nil
	case reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range value.Len() {
			content, err := encode(value.Index(i))
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, content)
		}
		return node, nil
	case reflect.String:
		if !plainText(value.String()) {
			return &yaml.Node{Kind: yaml.ScalarNode, Value: value.String(), Style: yaml.DoubleQuotedStyle}, nil
		}
		node := &yaml.Node{}
		return node, node.Encode(value.String()) // which puts in quotes what some parser might take for another type
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatBool(value.Bool())}, nil
	case reflect.Int:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatInt(value.Int(), 10)}, nil
	default:
		return nil, fmt.Errorf("a %s has no form in YAML here", value.Type())
	}
}

// plainText reports whether text is of printable ASCII alone.
func plainText(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

package cli

import (
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"
)

// print writes a result to standard output: value as JSON or YAML, or text.
func (p *program) print(value any, text string) error {
	var data []byte
	var err error
	switch p.output {
	case "json":
		data, err = json.MarshalIndent(value, "", "  ")
	case "yaml":
		data, err = yaml.Marshal(value)
	default:
		data = []byte(text)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	if len(data) == 0 || data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	return p.printRaw(data)
}

// printRaw writes a result that has one form only.
func (p *program) printRaw(data []byte) error {
	if _, err := p.stdout.Write(data); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

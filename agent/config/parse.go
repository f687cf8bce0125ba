package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxSize is the size of the largest configuration that is read, in bytes.
const MaxSize = 1 << 20

// Parse reads and checks a configuration. name is what its errors call it, a path as a rule. No default is filled in.
//
// An error is of the class [fault.Usage] and holds [Mistakes].
func Parse(data []byte, name string) (*File, error) {
	r := &report{file: name, lines: map[string]int{}, bad: map[string]bool{}}
	f := &File{}
	if root := r.parseDocument(data); root != nil {
		r.lines[""] = root.Line
		r.decode(root, "", reflect.ValueOf(f).Elem())
		f.check(r)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return f, nil
}

// parseDocument returns the content of the one document, or nil where there is none or it cannot be read.
func (r *report) parseDocument(data []byte) *yaml.Node {
	if text, at := mistakeOfBytes(data); text != "" {
		r.addAt(1+bytes.Count(data[:at], []byte("\n")), "", text)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	document, err := nextDocument(decoder)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			r.addSyntax(err, data)
		}
		return nil
	}
	switch next, err := nextDocument(decoder); {
	case err == nil:
		r.addAt(next.Line, "", "there is more than one document")
	case !errors.Is(err, io.EOF):
		r.addSyntax(err, data)
	}
	if len(document.Content) == 0 || isNull(document.Content[0]) {
		return nil
	}
	return document.Content[0]
}

// mistakeOfBytes says why data is no text that is to be parsed, and from which byte on.
func mistakeOfBytes(data []byte) (text string, at int) {
	if len(data) > MaxSize {
		return fmt.Sprintf("it is larger than %d bytes", MaxSize), 0
	}
	for at < len(data) {
		char, size := utf8.DecodeRune(data[at:])
		switch {
		case char == utf8.RuneError && size == 1:
			return "there is a byte that is not UTF-8", at
		case char == 0:
			return "there is a NUL byte", at
		case char == '\r' && !bytes.HasPrefix(data[at+1:], []byte("\n")), strings.ContainsRune("\u0085\u2028\u2029", char):
			return fmt.Sprintf("there is a line break (%U) that most programs do not show as one", char), at
		case !isPrintable(char) && (char != byteOrderMark || at != 0):
			return fmt.Sprintf("there is a control character (%U)", char), at
		}
		at += size
	}
	return "", 0
}

const byteOrderMark = '\uFEFF'

// isPrintable reports whether YAML allows a character (YAML 1.2, section 5.1).
func isPrintable(char rune) bool {
	switch {
	case char < ' ':
		return char == '\t' || char == '\n' || char == '\r'
	case char > '~' && char < '\u00A0':
		return false
	}
	return char != byteOrderMark && char != '\uFFFE' && char != '\uFFFF'
}

// nextDocument reads a document. The parser reports some states that it did not foresee by a panic of its own, which
// must not end the agent that reads its configuration again.
func nextDocument(decoder *yaml.Decoder) (document *yaml.Node, err error) {
	defer func() {
		if state := recover(); state != nil {
			err = errors.New("it cannot be parsed")
		}
	}()
	document = &yaml.Node{}
	err = decoder.Decode(document)
	return document, err
}

var (
	syntaxLine    = regexp.MustCompile(`^line (\d+): `)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// addSyntax reports an error of the parser, which does not say the line where it is the first.
func (r *report) addSyntax(err error, data []byte) {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // it is digits
		text = text[len(m[0]):]
	}
	if m := unknownAnchor.FindStringSubmatch(text); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		r.addAt(1+bytes.Count(before, []byte("\n")), "", noAliases)
		return
	}
	r.addAt(line, "", "this is not YAML: "+text)
}

const noAliases = "anchors and aliases are not allowed: write it out"

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

var durationType = reflect.TypeFor[Duration]()

// decode reads node into a value of this package's types, and notes the line of each field. What is wrong is left zero.
func (r *report) decode(node *yaml.Node, path string, into reflect.Value) {
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "":
		r.add(path, noAliases)
		return
	case node.Style&yaml.TaggedStyle != 0:
		r.add(path, "tags are not allowed")
		return
	case isNull(node): // as if it were left out
		return
	case node.Kind == yaml.ScalarNode && secretIn(node.Value) != "":
		r.add(path, "%s stands here: %s", secretIn(node.Value), ownFile)
		return
	}
	if into.Kind() == reflect.Pointer {
		into.Set(reflect.New(into.Type().Elem()))
		into = into.Elem()
	}
	switch {
	case into.Type() == durationType:
		r.decodeDuration(node, path, into)
	case into.Kind() == reflect.Struct:
		r.decodeMapping(node, path, into)
	case into.Kind() == reflect.Slice:
		r.decodeList(node, path, into)
	default:
		r.decodeScalar(node, path, into)
	}
}

func (r *report) decodeMapping(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.MappingNode {
		r.addType(node, path, "a mapping of keys to values")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		at := join(path, keyText(key))
		switch {
		case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			r.addAt(key.Line, path, "a key is not a plain word")
			continue
		case secretIn(key.Value) != "":
			r.addAt(key.Line, path, secretIn(key.Value)+" stands in the place of a key: "+ownFile)
			continue
		case key.Tag == "!!merge":
			r.addAt(key.Line, path, "merge keys are not allowed: write it out")
			continue
		case seen[key.Value] != 0:
			r.addAt(key.Line, at, fmt.Sprintf("this key is there twice, first on line %d", seen[key.Value]))
			continue
		}
		seen[key.Value] = key.Line
		r.lines[at] = key.Line
		field, hint := fieldOf(into, key.Value)
		if !field.IsValid() {
			r.add(at, "unknown key%s", hint)
			continue
		}
		r.decode(value, at, field)
	}
}

var plainKey = regexp.MustCompile(`^[\w-]{1,64}$`)

// keyText returns a key as it stands in a path.
func keyText(key *yaml.Node) string {
	if plainKey.MatchString(key.Value) {
		return key.Value
	}
	return embeddedToken.ReplaceAllString(quote(key.Value), "[redacted]")
}

// fieldOf returns the field of a struct that has the given key, or else which key may have been meant.
func fieldOf(value reflect.Value, key string) (field reflect.Value, hint string) {
	for i := range value.NumField() {
		name := keyOf(value.Type().Field(i))
		if name == key {
			return value.Field(i), ""
		}
		if strings.EqualFold(name, key) || name == key+"s" || name+"s" == key {
			hint = fmt.Sprintf(" (is it %s?)", name)
		}
	}
	return reflect.Value{}, hint
}

// keyOf returns the key of a struct's field in the file.
func keyOf(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

func (r *report) decodeList(node *yaml.Node, path string, into reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		r.addType(node, path, "a list")
		return
	}
	if len(node.Content) == 0 {
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content)))
	for i, content := range node.Content {
		at := item(path, i)
		r.lines[at] = content.Line
		if isNull(content) {
			r.add(at, "this item of the list is empty")
			continue
		}
		r.decode(content, at, into.Index(i))
	}
}

func (r *report) decodeDuration(node *yaml.Node, path string, into reflect.Value) {
	const remedy = "write it as in 90s, 15m or 24h"
	switch {
	case node.Kind != yaml.ScalarNode:
		r.add(path, "must be a duration, not %s: %s", typeOf(node), remedy)
		return
	case isNumber(node) && node.Value != "0":
		r.add(path, "a duration needs a unit: %s", remedy)
		return
	}
	d, err := time.ParseDuration(node.Value)
	switch {
	case err != nil:
		r.add(path, "%s is not a duration: %s", quote(node.Value), remedy)
	case d < 0:
		r.add(path, "%s is negative", quote(node.Value))
	case d > mostDuration:
		r.add(path, "%s is longer than ten years", quote(node.Value))
	}
	into.SetInt(int64(d))
}

func isNumber(node *yaml.Node) bool { return node.Tag == "!!int" || node.Tag == "!!float" }

func (r *report) decodeScalar(node *yaml.Node, path string, into reflect.Value) {
	kind, tag := into.Kind(), node.Tag
	switch {
	case kind == reflect.String && tag == "!!str":
		into.SetString(node.Value)
	case kind == reflect.Bool && tag == "!!bool":
		into.SetBool(strings.EqualFold(node.Value, "true"))
	case kind == reflect.Int && tag == "!!int":
		number, err := strconv.ParseInt(node.Value, 10, 32)
		if err != nil {
			r.add(path, "%s is not a decimal number in range", quote(node.Value))
		}
		into.SetInt(number)
	case kind == reflect.String && node.Kind == yaml.ScalarNode:
		r.add(path, "must be a string, not %s: put it in quotes", typeOf(node))
	default:
		r.addType(node, path, map[reflect.Kind]string{reflect.String: "a string", reflect.Bool: "true or false", reflect.Int: "a whole number"}[kind])
	}
}

const ownFile = "put it into a file of its own (mode 0600)"

// addType reports a value of a wrong type, and does not repeat it.
func (r *report) addType(node *yaml.Node, path, want string) {
	r.add(path, "must be %s, not %s", want, typeOf(node))
}

func typeOf(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a mapping"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Tag == "!!int":
		return "a number"
	case node.Tag == "!!float":
		return "a fraction"
	case node.Tag == "!!bool":
		return "true or false"
	case node.Tag == "!!timestamp":
		return "a date"
	}
	return "a string"
}

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// Load reads files of JSON or YAML over the defaults. Keys of later files replace those of earlier
// ones. It returns a warning for each key that has no effect. The result is neither complete nor
// validated.
func Load(paths []string) (Config, []string, error) {
	cfg := Default()
	var warnings []string
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return cfg, nil, fmt.Errorf("read config: %w", err)
		}
		w, err := decode(raw, &cfg)
		if err != nil {
			return cfg, nil, fmt.Errorf("config file %s: %w", path, err)
		}
		for _, line := range w {
			if !slices.Contains(warnings, line) {
				warnings = append(warnings, line)
			}
		}
	}
	return cfg, warnings, nil
}

// decode reads one file into cfg. It is strict: unknown keys, repeated keys and wrong types are
// errors that name the key. Errors never quote a value, because a secret may stand in the wrong
// place.
func decode(raw []byte, cfg *Config) (warnings []string, err error) {
	asJSON, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML, or repeats a key: %w", place(err))
	}
	if err := oneDocument(raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML: %w", place(err))
	}
	if tree == nil {
		return nil, nil
	}
	d := decoder{}
	d.value("", tree, reflect.ValueOf(cfg).Elem())
	if len(d.errs) > 0 {
		return nil, errors.New(strings.Join(d.errs, "\n  "))
	}
	return d.warnings, nil
}

// oneDocument returns an error if a file has a second YAML document, because only the first one is
// read.
func oneDocument(raw []byte) error {
	dec := yamlv3.NewDecoder(bytes.NewReader(raw))
	for n := 1; ; n++ {
		var doc yamlv3.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is neither JSON nor YAML: %w", place(err))
		}
		if n > 1 && !doc.IsZero() && len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" {
			return fmt.Errorf("line %d: a second YAML document begins, but only one is read: use one file for each, with --config for each", doc.Content[0].Line)
		}
	}
}

var lineNumber = regexp.MustCompile(`line \d+`)

// place returns the line number of a parser's error. The rest of the error may quote values.
func place(err error) error {
	if at := lineNumber.FindString(err.Error()); at != "" {
		return errors.New("see " + at)
	}
	return errors.New("its syntax is wrong")
}

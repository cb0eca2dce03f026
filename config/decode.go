package config

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// ignoredKeys are keys of Gitpod's schema that mean nothing to us.
var ignoredKeys = []string{
	"$schema", "server.services.http", "orchestrator.subassemblyBucketName", "orchestrator.subassemblyBucketPrefix",
}

// LoadConfig reads files of JSON or YAML over the defaults; later ones win. It
// answers a warning for each key that has no effect.
func LoadConfig(paths []string) (Config, []string, error) {
	cfg := DefaultConfig()
	var warnings []string
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return cfg, nil, fmt.Errorf("read config: %w", err)
		}
		w, err := decodeConfig(raw, &cfg)
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

// decodeConfig reads one file, strictly: unknown and repeated keys and wrong
// types are errors that name the key. Values are never quoted, they may be
// secrets in the wrong place.
func decodeConfig(raw []byte, cfg *Config) (warnings []string, err error) {
	asJSON, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML, or repeats a key: %w", firstLine(err))
	}
	if err := oneDocument(raw); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML: %w", firstLine(err))
	}
	if tree == nil {
		return nil, nil
	}
	d := decoder{}
	d.into("", tree, reflect.ValueOf(cfg).Elem())
	if len(d.errs) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(d.errs, "\n  "))
	}
	return d.warnings, nil
}

// oneDocument refuses a file whose second document would be left unread.
func oneDocument(raw []byte) error {
	dec := yamlv3.NewDecoder(bytes.NewReader(raw))
	for n := 1; ; n++ {
		var doc yamlv3.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is neither JSON nor YAML: %w", firstLine(err))
		}
		if n > 1 && !doc.IsZero() && len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" {
			return fmt.Errorf("line %d: it holds a second YAML document, only one is read: use one file for each, with --config for each", doc.Content[0].Line)
		}
	}
}

var lineNumber = regexp.MustCompile(`line \d+`)

// firstLine keeps of a parser's error where it is: the rest may quote values.
func firstLine(err error) error {
	if at := lineNumber.FindString(err.Error()); at != "" {
		return errors.New("see " + at)
	}
	return errors.New("its syntax is wrong")
}

type decoder struct {
	errs, warnings []string
}

func (d *decoder) fail(key, what string) {
	d.errs = append(d.errs, fmt.Sprintf("%s: %s", key, what))
}

func (d *decoder) into(key string, from any, to reflect.Value) {
	if slices.Contains(ignoredKeys, key) {
		d.warnings = append(d.warnings, fmt.Sprintf("config key %s has no effect here", key))
		return
	}
	if from == nil {
		return
	}
	if u, ok := to.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, isString := from.(string)
		if !isString {
			d.fail(key, "must be a string, such as 30s")
		} else if err := u.UnmarshalText([]byte(s)); err != nil {
			d.fail(key, "is no duration; write it like 30s, 10m or 1h30m")
		}
		return
	}
	if raw, ok := to.Addr().Interface().(*Raw); ok {
		*raw, _ = json.Marshal(from) // it was JSON
		return
	}
	switch to.Kind() {
	case reflect.Struct:
		d.object(key, from, to)
	case reflect.Map:
		d.mapping(key, from, to)
	case reflect.String:
		set(d, key, "a string", from, func(s string) { to.SetString(s) })
	case reflect.Bool:
		set(d, key, "true or false", from, func(b bool) { to.SetBool(b) })
	case reflect.Int, reflect.Int64:
		set(d, key, "a whole number", from, func(n json.Number) {
			v, err := n.Int64()
			if err != nil {
				d.fail(key, "must be a whole number")
			}
			to.SetInt(v)
		})
	case reflect.Float64:
		set(d, key, "a number", from, func(n json.Number) {
			v, err := n.Float64()
			if err != nil {
				d.fail(key, "must be a number")
			}
			to.SetFloat(v)
		})
	case reflect.Slice:
		set(d, key, "a list of strings", from, func(list []any) {
			out := make([]string, 0, len(list))
			for _, v := range list {
				set(d, key, "a list of strings", v, func(s string) { out = append(out, s) })
			}
			to.Set(reflect.ValueOf(out))
		})
	default:
		d.fail(key, "cannot be read: this program knows no values of type "+to.Type().String())
	}
}

func set[T any](d *decoder, key, want string, from any, store func(T)) {
	v, ok := from.(T)
	if !ok {
		d.fail(key, "must be "+want)
		return
	}
	store(v)
}

func (d *decoder) object(key string, from any, to reflect.Value) {
	m, ok := from.(map[string]any)
	if !ok {
		if key == "" {
			key = "the file"
		}
		d.fail(key, "must be an object of keys")
		return
	}
	fields := map[string]int{}
	for i := range to.NumField() {
		name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get("json"), ",")
		fields[name] = i
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := strings.TrimPrefix(key+"."+name, ".")
		i, known := fields[name]
		if !known {
			d.errs = append(d.errs, fmt.Sprintf("unknown key %q%s", path, nearest(key, name, fields)))
			continue
		}
		d.into(path, m[name], to.Field(i))
	}
}

// mapping reads an object whose keys are names of the user's own. It replaces
// what was there.
func (d *decoder) mapping(key string, from any, to reflect.Value) {
	set(d, key, "an object of keys", from, func(m map[string]any) {
		to.Set(reflect.MakeMap(to.Type()))
		for _, name := range slices.Sorted(maps.Keys(m)) {
			one := reflect.New(to.Type().Elem()).Elem()
			d.into(key+"."+name, m[name], one)
			to.SetMapIndex(reflect.ValueOf(name), one)
		}
	})
}

// nearest suggests the known key that is least different.
func nearest(prefix, name string, fields map[string]int) string {
	best, cost := "", max(len(name)/2, 3)+1
	for f := range fields {
		if c := distance(strings.ToLower(name), strings.ToLower(f)); c < cost || (c == cost && best != "" && f < best) {
			best, cost = f, c
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", strings.TrimPrefix(prefix+"."+best, "."))
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

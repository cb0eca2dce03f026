package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// writeDefaults writes every key with its default, after a comment with its meaning, as YAML that a
// node accepts.
func WriteDefaults(w io.Writer) {
	printYAML(w, reflect.ValueOf(DefaultConfig()), "")
}

// writeSchema writes the JSON schema (draft 2020-12) of a configuration file.
func WriteSchema(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	s := schemaOf(reflect.ValueOf(DefaultConfig()), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return enc.Encode(s)
}

// printYAML prints a struct with the doc of each key before it.
func printYAML(w io.Writer, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if ignored(f) {
			continue
		}
		fmt.Fprintf(w, "%s# %s\n", indent, f.Tag.Get("doc"))
		if f.Type.Kind() == reflect.Struct {
			fmt.Fprintf(w, "%s%s:\n", indent, name)
			printYAML(w, v.Field(i), indent+"  ")
			continue
		}
		raw, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			raw = []byte("null")
		}
		fmt.Fprintf(w, "%s%s: %s\n", indent, name, raw)
	}
}

// ignored reports keys that are accepted for the sake of Gitpod's files alone.
func ignored(f reflect.StructField) bool {
	return strings.HasPrefix(f.Tag.Get("doc"), "Accepted and ignored")
}

// schemaOf derives a JSON schema with defaults from the default configuration.
func schemaOf(v reflect.Value, doc string) map[string]any {
	t := v.Type()
	s := map[string]any{}
	if doc != "" {
		s["description"] = doc
	}
	if t.Kind() == reflect.Struct {
		props := map[string]any{}
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			props[name] = schemaOf(v.Field(i), f.Tag.Get("doc"))
			if ignored(f) {
				delete(props[name].(map[string]any), "default")
			}
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", props, false
		return s
	}
	if t.Kind() != reflect.Interface {
		s["default"] = v.Interface()
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		s["type"], s["pattern"] = "string", `^-?([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`
	case t.Kind() == reflect.String:
		s["type"] = "string"
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		s["type"] = "integer"
	case t == reflect.TypeFor[Raw](): // as Kubernetes has it
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(reflect.Zero(t.Elem()), "")
	case t.Kind() == reflect.Float64:
		s["type"] = "number"
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", map[string]any{"type": "string"}
	}
	return s
}

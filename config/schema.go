package config

import (
	"encoding/json"
	"io"
	"reflect"
	"strings"
)

// WriteSchema writes the JSON schema (draft 2020-12) of a configuration file.
func WriteSchema(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	s := schemaOf(reflect.ValueOf(Default()), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return enc.Encode(s)
}

// schemaOf returns the JSON schema of a value, which is also the default. doc is its description.
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
	case t == reflect.TypeFor[Raw](): // any value
	case t.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", schemaOf(reflect.Zero(t.Elem()), "")
	case t.Kind() == reflect.Float64:
		s["type"] = "number"
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", map[string]any{"type": "string"}
	}
	return s
}

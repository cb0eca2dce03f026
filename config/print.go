package config

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// WriteDefaults writes every key with its default as YAML that a node accepts. A comment with its
// meaning stands before each key. Keys that are accepted and ignored are left out.
func WriteDefaults(w io.Writer) {
	printYAML(w, reflect.ValueOf(Default()), "")
}

// printYAML prints a struct, with the doc tag of each key before it.
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

// ignored reports whether a key is accepted only because Gitpod's files have it.
func ignored(f reflect.StructField) bool {
	return strings.HasPrefix(f.Tag.Get("doc"), "Accepted and ignored")
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
)

func newConfigCommand() *cobra.Command {
	var schema bool
	var check []string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the default configuration, its JSON schema, or check a file",
		Long: `Prints every key with its default and meaning, as YAML that can be edited and used.

Exit status: 0 success, 2 the checked file is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(check) > 0:
				cfg, warnings, err := LoadConfig(check)
				if err == nil {
					cfg.complete()
					err = cfg.Validate()
				}
				for _, w := range warnings {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
				}
				if err != nil {
					return exitError{exitUsage, err}
				}
				fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
				return nil
			case schema:
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				s := schemaOf(reflect.ValueOf(DefaultConfig()), "")
				s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
				return enc.Encode(s)
			}
			cfg := DefaultConfig()
			printYAML(cmd.OutOrStdout(), reflect.ValueOf(cfg), "")
			return nil
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON schema")
	cmd.Flags().StringSliceVar(&check, "check", nil, "check these files instead of printing")
	return cmd
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

package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// ignoredKeys are keys of Gitpod's schema that have no effect here.
var ignoredKeys = []string{
	"$schema", "server.services.http", "orchestrator.subassemblyBucketName", "orchestrator.subassemblyBucketPrefix",
}

// decoder stores a tree of JSON values in a struct by its json tags, and gathers errors and
// warnings. Unlike encoding/json it reports all errors of a file, with their keys.
type decoder struct {
	errs, warnings []string
}

func (d *decoder) fail(key, text string) {
	d.errs = append(d.errs, key+": "+text)
}

// value stores from, the value of key, in to.
func (d *decoder) value(key string, from any, to reflect.Value) {
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
			d.fail(key, "is not a duration; write it like 30s, 10m or 1h30m")
		}
		return
	}
	if raw, ok := to.Addr().Interface().(*Raw); ok {
		*raw, _ = json.Marshal(from) // it comes from JSON
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
		d.fail(key, "cannot be read: values of type "+to.Type().String()+" are not supported")
	}
}

// set calls store with from if it has type T. want names the type in the error.
func set[T any](d *decoder, key, want string, from any, store func(T)) {
	v, ok := from.(T)
	if !ok {
		d.fail(key, "must be "+want)
		return
	}
	store(v)
}

// object stores a JSON object in a struct.
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
	for _, name := range slices.Sorted(maps.Keys(m)) {
		path := strings.TrimPrefix(key+"."+name, ".")
		i, known := fields[name]
		if !known {
			d.errs = append(d.errs, fmt.Sprintf("unknown key %q%s", path, nearest(key, name, fields)))
			continue
		}
		d.value(path, m[name], to.Field(i))
	}
}

// mapping stores a JSON object in a map: its keys are chosen by the user. It replaces the map.
func (d *decoder) mapping(key string, from any, to reflect.Value) {
	set(d, key, "an object of keys", from, func(m map[string]any) {
		to.Set(reflect.MakeMap(to.Type()))
		for _, name := range slices.Sorted(maps.Keys(m)) {
			one := reflect.New(to.Type().Elem()).Elem()
			d.value(key+"."+name, m[name], one)
			to.SetMapIndex(reflect.ValueOf(name), one)
		}
	})
}

// nearest returns a hint that names the known key with the least distance to name, or "" if none is
// near.
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

// distance returns the Levenshtein distance.
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

package config

import (
	"strings"
	"testing"
)

// Fuzz_Config decodes and validates files of any content. They are accepted, or refused with an
// error that does not quote a value, which may be a secret.
func Fuzz_Config(f *testing.F) {
	for _, text := range []string{
		`{"orchestrator": {"baseImageRepository": "r/b", "pullSecret": "x"}, "server": {"services": {"grpc": {"address": ":8080"}}}}`,
		"name: a\ncluster:\n  peers: [a:1, b:2]\n  expect: 3\nregistry:\n  hosts:\n    h: {mirrors: [m]}\n", "a: 1\n---\nb: 2", "&a [*a]", "[]", "null", "kubernetes: {}",
	} {
		f.Add(text)
	}
	const secret = "correct-horse-battery"
	f.Fuzz(func(t *testing.T, text string) {
		for _, raw := range []string{text, strings.ReplaceAll(text, ": ", ": "+secret)} {
			cfg := Default()
			_, err := decode([]byte(raw), &cfg)
			if err == nil {
				_ = cfg.Validate() // must not panic; it may quote values, because they are in the right place
				continue
			}
			if err.Error() == "" || raw != text && !strings.Contains(text, secret) && strings.Contains(err.Error(), secret) {
				t.Errorf("%q is refused with %q", raw, err)
			}
		}
	})
}

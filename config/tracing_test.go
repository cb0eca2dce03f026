package config

import (
	"slices"
	"testing"
)

// Test_Tracing_Config checks that tracing is off by default and that errors name their keys.
func Test_Tracing_Config(t *testing.T) {
	if c := Default().Tracing; c.Endpoint != "" || c.SampleRatio != 1 {
		t.Errorf("the default is %+v", c)
	}
	for conf, want := range map[string][]string{
		"{}": nil,
		"tracing: {endpoint: 'collector:4317', sampleRatio: 0}":                               nil,
		"tracing: {endpoint: 'collector:4317', tls: {ca: /ca.pem}}":                           nil,
		"tracing: {endpoint: 'collector:4317', tls: {ca: /ca.pem, crt: /c.pem, key: /k.pem}}": nil,
		"tracing: {endpoint: 'http://collector'}":                                             {"tracing.endpoint"},
		"tracing: {endpoint: 'http://collector:4317'}":                                        {"tracing.endpoint"},
		"tracing: {endpoint: ':4317'}":                                                        {"tracing.endpoint"},
		"tracing: {sampleRatio: 1.5}":                                                         {"tracing.sampleRatio"},
		"tracing: {sampleRatio: -0.1}":                                                        {"tracing.sampleRatio"},
		"tracing: {tls: {ca: /ca.pem, crt: /c.pem}}":                                          {"tracing.tls"},
		"tracing: {tls: {crt: /c.pem, key: /k.pem}}":                                          {"tracing.tls"},
	} {
		cfg := Default()
		if _, err := decode([]byte(conf), &cfg); err != nil {
			t.Fatal(err)
		}
		var wrong []string
		cfg.Tracing.validate(func(key, _ string, _ ...any) { wrong = append(wrong, key) })
		if !slices.Equal(wrong, want) {
			t.Errorf("%s: refused for %q, want %q", conf, wrong, want)
		}
	}
}

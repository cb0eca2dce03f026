package config

import (
	"strings"
	"testing"
)

// Test_WebPage_On checks the default of http.ui and the errors of the page's keys.
func Test_WebPage_On(t *testing.T) {
	for _, c := range []struct{ conf, want string }{
		{"{}", "off"},
		{"http: {address: ':8081'}", "on"},
		{"http: {address: none}", "off"},
		{"http: {address: ':8081', publicURL: 'https://ib.example.com'}", "off"},
		{"http: {address: ':8081', publicURL: 'https://ib.example.com', ui: 'on'}", "on"},
		{"http: {address: ':8081', ui: 'off'}", "off"},
		{"{http: {address: ':8081'}, orchestrator: {wsman: {address: 'ws-manager:8080'}}}", "off"},
		{"{http: {address: ':8081'}, server: {services: {grpc: {tls: {clientAuth: require, caPath: /ca.pem}}}}}", "off"},
		{"{http: {address: ':8081', tls: {clientAuth: require, caPath: /ca.pem}}, server: {services: {grpc: {tls: {clientAuth: require, caPath: /ca.pem}}}}}", "on"},
	} {
		cfg := Default()
		if _, err := decode([]byte(c.conf), &cfg); err != nil {
			t.Fatal(err)
		}
		if cfg.Complete(); cfg.HTTP.UI != c.want {
			t.Errorf("%s: the page is %s, want %s", c.conf, cfg.HTTP.UI, c.want)
		}
	}
	for _, conf := range []string{
		"http: {ui: 'on'}",
		"http: {address: ':8081', ui: sometimes}",
		"http: {address: ':8081', nodes: ['node:8081']}",
		"{http: {address: ':8081', ui: 'on'}, server: {services: {grpc: {tls: {clientAuth: require, caPath: /ca.pem}}}}}",
	} {
		cfg := Default()
		if _, err := decode([]byte(conf), &cfg); err != nil {
			t.Fatal(err)
		}
		cfg.Complete()
		var wrong []string
		cfg.validateWebPage(func(key, _ string, _ ...any) { wrong = append(wrong, key) })
		if len(wrong) != 1 {
			t.Errorf("%s: refused for %q", conf, wrong)
		}
	}
}

// Test_Config_PprofOnlyForOperators checks that pprof may listen outside of loopback only if the
// port can identify operators.
func Test_Config_PprofOnlyForOperators(t *testing.T) {
	cfg := Default()
	if cfg.PprofAddress != "" {
		t.Errorf("pprof is on by default at %s", cfg.PprofAddress)
	}
	cfg.PprofAddress = "0.0.0.0:6060"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "pprofAddress") {
		t.Errorf("without certificates: %v", err)
	}
	cfg.Server.Services.GRPC.TLS = ServerTLS{CAPath: "ca", CertPath: "crt", KeyPath: "key"}
	if err := cfg.Validate(); err != nil && strings.Contains(err.Error(), "pprofAddress") {
		t.Errorf("with certificates: %v", err)
	}
}

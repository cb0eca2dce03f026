package config

import (
	"net"
	"strconv"
)

// TracingConfig says where spans of builds go (docs/tracing.md).
type TracingConfig struct {
	Endpoint    string       `json:"endpoint" doc:"host:port of a collector's OTLP port for gRPC, such as otel-collector:4317. Empty: nothing is traced."`
	TLS         WSManagerTLS `json:"tls" doc:"CA of the collector, and the certificate and key that this node shows it, if any; read again for each connection. Without a CA the connection is plain text."`
	SampleRatio float64      `json:"sampleRatio" doc:"Which part of the calls begins a trace, 0 to 1. A call that comes with a trace context follows its caller."`
}

func (t TracingConfig) validate(bad func(key, format string, args ...any)) {
	host, port, _ := net.SplitHostPort(t.Endpoint)
	if _, err := strconv.ParseUint(port, 10, 16); t.Endpoint != "" && (host == "" || err != nil) {
		bad("tracing.endpoint", "%q is no address; write host:port", t.Endpoint)
	}
	if !(t.SampleRatio >= 0 && t.SampleRatio <= 1) { // NaN too
		bad("tracing.sampleRatio", "must be between 0 and 1")
	}
	if (t.TLS.Cert == "") != (t.TLS.Key == "") || t.TLS.Cert != "" && t.TLS.CA == "" {
		bad("tracing.tls", "needs ca, or ca, crt and key, or none of them")
	}
}

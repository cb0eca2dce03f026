package config

import (
	"net"
	"strconv"
)

// Tracing describes where the spans of builds are sent (docs/tracing.md).
type Tracing struct {
	Endpoint    string   `json:"endpoint" doc:"host:port of the gRPC port of an OTLP collector, such as otel-collector:4317. Empty: no traces."`
	TLS         TLSFiles `json:"tls" doc:"CA of the collector, and an optional client certificate with its key. The files are read again for each connection. Without a CA the connection is plain text."`
	SampleRatio float64  `json:"sampleRatio" doc:"Fraction of the calls that begin a trace, 0 to 1. A call with a trace context follows the decision of its caller."`
}

func (t Tracing) validate(bad report) {
	host, port, _ := net.SplitHostPort(t.Endpoint)
	if _, err := strconv.ParseUint(port, 10, 16); t.Endpoint != "" && (host == "" || err != nil) {
		bad("tracing.endpoint", "%q is not an address; write host:port", t.Endpoint)
	}
	if !(t.SampleRatio >= 0 && t.SampleRatio <= 1) { // also refuses NaN
		bad("tracing.sampleRatio", "must be between 0 and 1")
	}
	if (t.TLS.Cert == "") != (t.TLS.Key == "") || t.TLS.Cert != "" && t.TLS.CA == "" {
		bad("tracing.tls", "needs ca, or ca, crt and key, or none of them")
	}
}

// Package otlp exports spans to a collector with OTLP over gRPC. If the collector is down, is slow
// or refuses spans, the package drops and counts them; the end of a span never blocks. The package
// removes possible secrets from spans before the export: attributes other than those of package
// tracing and of RPC, texts of errors, and the trace state of clients.
package otlp

// Package otlp exports spans to a collector by OTLP over gRPC. A collector
// that is down, slow or refuses costs spans, which are counted, and never time
// of those who end them. What leaves the process is looked through once more:
// attributes that are not ours or of RPC, texts of errors, and the trace state
// of clients stay here.
package otlp

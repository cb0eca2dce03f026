// Package tracing creates the spans of a build: one trace from the call that requests the build,
// over the commits and the decisions of the leader, to the end of the last attempt, on all nodes
// that take part (docs/tracing.md).
//
// A span is a child of the span of its context and uses the same provider. Only the three
// components that begin or resume a trace know a provider: the API, the loop of the leader, and the
// loop of the owner. Without a trace, the functions allocate nothing. The trace of a build outlives
// the call and the node: the replicated record contains its W3C traceparent.
//
// The package has no exporter; package tracing/otlp has.
package tracing

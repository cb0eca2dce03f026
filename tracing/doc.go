// Package tracing makes the spans of a build's way through the cluster: one
// trace from the call that asks for it, over the commits and decisions, to the
// end of its last attempt, on whatever nodes that happens (docs/tracing.md).
//
// A span is started under the one of the context, by that one's provider: no
// part but the three that begin a trace or take one up (the API, the leader's
// loop, the owner's) knows a provider, and where nothing is traced nothing is
// allocated. A build's trace outlives the call and its node as a traceparent of
// the W3C in the replicated record.
//
// Here are no exporters: those are in tracing/otlp.
package tracing

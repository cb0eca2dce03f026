package otlp

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// scrubbed is a span without texts of other processes: the error of a daemon can contain the
// command line of a build step, with its arguments.
type scrubbed struct{ sdktrace.ReadOnlySpan }

// keepAttributes are the key prefixes of attributes that are exported: those of package tracing and
// those of RPC.
var keepAttributes = []string{"image_builder.", "rpc.", "server.", "network.peer."}

// Attributes returns the attributes that are known to contain no secrets.
func (s scrubbed) Attributes() []attribute.KeyValue {
	return slices.DeleteFunc(slices.Clone(s.ReadOnlySpan.Attributes()), func(kv attribute.KeyValue) bool {
		return !slices.ContainsFunc(keepAttributes, func(p string) bool { return strings.HasPrefix(string(kv.Key), p) })
	})
}

// Status returns the status without its text.
func (s scrubbed) Status() sdktrace.Status {
	return sdktrace.Status{Code: s.ReadOnlySpan.Status().Code}
}

// Events returns no events, because they contain texts.
func (s scrubbed) Events() []sdktrace.Event { return nil }

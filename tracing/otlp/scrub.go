package otlp

import (
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// scrubbed is a span without what others may have put into it: an error of a
// daemon can hold the command line of a build step, with its arguments.
type scrubbed struct{ sdktrace.ReadOnlySpan }

// keepAttributes are the beginnings of keys of attributes that are exported:
// ours (package tracing), and those of calls.
var keepAttributes = []string{"image_builder.", "rpc.", "server.", "network.peer."}

// Attributes are those that are known to hold no secrets.
func (s scrubbed) Attributes() []attribute.KeyValue {
	return slices.DeleteFunc(slices.Clone(s.ReadOnlySpan.Attributes()), func(kv attribute.KeyValue) bool {
		return !slices.ContainsFunc(keepAttributes, func(p string) bool { return strings.HasPrefix(string(kv.Key), p) })
	})
}

// Status has no text.
func (s scrubbed) Status() sdktrace.Status {
	return sdktrace.Status{Code: s.ReadOnlySpan.Status().Code}
}

// Events are none: they are for texts.
func (s scrubbed) Events() []sdktrace.Event { return nil }
